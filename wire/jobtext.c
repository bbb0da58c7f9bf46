#include "wire/jobtext.h"

#include "lib/json.h"
#include "lib/size.h"
#include "lib/timefmt.h"
#include <stdarg.h>
#include <stdio.h>

#define DURATION_PATTERN "\"^([0-9]+([.][0-9]+)?(us|ms|s|m|h|d|w))+$\""
#define SIZE_PATTERN "\"^[0-9]+([.][0-9]+)?(B|[KMGTP]i?B)$\""

/* The fields that job files write in more ways than their type says (jobfile.c reads them).
 * number: digits stand there without quotes; json: their JSON Schema, NULL: not yet in job files.
 */
static const struct special {
    const struct schema *(*schema)(void);
    const char *field;
    bool number;
    const char *json;
} specials[] = {
    {job_spec_schema,       "version",  false, "{\"const\": 3}"                                     },
    {job_spec_schema,       "name",     false,
     "{\"type\": \"string\", \"pattern\": \"^[a-z][a-z0-9._-]{0,62}$\"}"                            },
    {job_spec_schema,       "command",  false,
     "{\"type\": [\"string\", \"array\"], \"minLength\": 1, \"minItems\": 1, "
     "\"items\": {\"type\": [\"string\", \"number\", \"boolean\"]}}"                                },
    {job_spec_schema,       "priority", true,  "{\"enum\": [50, 40, 30, 20, 10, 8, 5, 0, \"auto\"]}"},
    {job_resources_schema,  "ranks",    true,
     "{\"anyOf\": [{\"enum\": [\"per-gpu\", \"per-node\"]}, "
     "{\"type\": \"integer\", \"minimum\": 1, \"maximum\": 4096}]}"                                 },
    {job_checkpoint_schema, "every",    true,
     "{\"anyOf\": [{\"const\": \"auto\"}, {\"type\": \"integer\", \"minimum\": 1}, "
     "{\"type\": \"string\", \"pattern\": " DURATION_PATTERN "}]}"                                  },
    {job_restart_schema,    "when",     false,
     "{\"type\": \"array\", \"maxItems\": 8, \"items\": {\"enum\": "
     "[\"fault\", \"node\", \"signal\", \"memory\", \"hang\", \"exit\"]}}"                          },
    {job_spec_schema,       "array",    false,
     "{\"type\": [\"string\", \"integer\"], \"pattern\": \"^[0-9,:-]+(%[0-9]+)?$\"}"                },
    {job_spec_schema,       "log_dir",  false, NULL                                                 },
};
_Static_assert(NODE_RANKS_MAX == 4096, "the bound of ranks above");

static const struct special *special_of(const struct schema *schema, const struct schema_field *f) {
    for (size_t i = 0; i < ARRAY_SIZE(specials); i++)
        if (specials[i].schema() == schema && strcmp(specials[i].field, f->name) == 0)
            return &specials[i];
    return NULL;
}

/* A field's name in job files: without the unit that C and JSON names end in. */
static size_t field_name_bytes(const struct schema_field *f) {
    size_t n = strlen(f->name);

    if (f->type == SCHEMA_DURATION)
        return n - strlen("_us");
    return f->type == SCHEMA_SIZE ? n - strlen("_bytes") : n;
}

/* Words that YAML 1.1 or 1.2 reads as something else than text. */
static bool is_reserved(const char *lower) {
    static const char *const words[] = {"true", "false", "null", "yes", "no",
                                        "on",   "off",   "y",    "n"};

    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        if (strcmp(words[i], lower) == 0)
            return true;
    return false;
}

/* Plain where YAML reads it back as the same text, else in double quotes (JSON's are YAML's). */
static void write_text(const char *text, struct buf *ret) {
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-";
    bool letter =
        (text[0] >= 'a' && text[0] <= 'z') || (text[0] >= 'A' && text[0] <= 'Z') || text[0] == '/';
    char lower[8] = "";

    for (size_t i = 0; i + 1 < sizeof lower && text[i]; i++)
        lower[i] = (char)(text[i] | 0x20);
    if (letter && !text[strspn(text, plain)] && !is_reserved(lower))
        buf_add_str(ret, text);
    else
        json_dump_string(text, strlen(text), ret);
}

static void write_strings(const struct schema_list *list, struct buf *ret) {
    char *const *items = list->items;

    buf_add_str(ret, "[");
    for (size_t i = 0; i < list->n; i++) {
        buf_add_str(ret, i ? ", " : "");
        write_text(items[i], ret);
    }
    buf_add_str(ret, "]");
}

static void write_map(const struct schema_list *list, struct buf *ret) {
    const struct schema_pair *items = list->items;

    buf_add_str(ret, "{");
    for (size_t i = 0; i < list->n; i++) {
        buf_printf(ret, "%s%s: ", i ? ", " : "", items[i].key);
        json_dump_string(items[i].value, strlen(items[i].value), ret);
    }
    buf_add_str(ret, "}");
}

/* Whether a field still has its default; such fields are not written. */
static bool is_default(const struct schema_field *f, const void *at) {
    switch (f->type) {
    case SCHEMA_STR:
        return !*(char *const *)at;
    case SCHEMA_BOOL:
        return *(const bool *)at == (f->def > 0);
    case SCHEMA_ENUM:
        return *(const int *)at == (int)f->def;
    case SCHEMA_LIST_STR:
    case SCHEMA_LIST_PAIR:
        return ((const struct schema_list *)at)->n == 0;
    case SCHEMA_SUB:
        for (int i = 0; i < f->sub()->n_fields; i++) {
            const struct schema_field *g = &f->sub()->fields[i];
            if (!is_default(g, (const char *)at + g->offset))
                return false;
        }
        return true;
    default:
        return *(const int64_t *)at == f->def;
    }
}

static void write_fields(const struct schema *schema, const void *value, int indent,
                         struct buf *ret);

static void write_value(const struct schema *schema, const struct schema_field *f, const void *at,
                        int indent, struct buf *ret) {
    char text[64];

    switch (f->type) {
    case SCHEMA_I64:
        buf_printf(ret, " %lld\n", (long long)*(const int64_t *)at);
        return;
    case SCHEMA_BOOL:
        buf_printf(ret, " %s\n", *(const bool *)at ? "true" : "false");
        return;
    case SCHEMA_ENUM:
        buf_printf(ret, " %s\n", schema_enum_text(f->enums, *(const int *)at));
        return;
    case SCHEMA_DURATION:
        timefmt_duration_exact(*(const int64_t *)at, text);
        buf_printf(ret, " %s\n", *(const int64_t *)at ? text : "0s");
        return;
    case SCHEMA_SIZE:
        size_exact(*(const int64_t *)at, text);
        buf_printf(ret, " %s\n", text);
        return;
    case SCHEMA_SUB:
        buf_add_str(ret, "\n");
        write_fields(f->sub(), at, indent + 2, ret);
        return;
    default:
        break;
    }
    buf_add_str(ret, " ");
    const char *word = f->type == SCHEMA_STR ? *(char *const *)at : NULL;
    bool number = word && word[0] && !word[strspn(word, "0123456789")];
    const struct special *special = special_of(schema, f);
    if (number && special && special->number)
        buf_add_str(ret, word);
    else if (word)
        write_text(word, ret);
    else if (f->type == SCHEMA_LIST_PAIR)
        write_map(at, ret);
    else
        write_strings(at, ret);
    buf_add_str(ret, "\n");
}

static void write_fields(const struct schema *schema, const void *value, int indent,
                         struct buf *ret) {
    for (int i = 0; i < schema->n_fields; i++) {
        const struct schema_field *f = &schema->fields[i];
        const void *at = (const char *)value + f->offset;
        if (is_default(f, at))
            continue;
        buf_printf(ret, "%*s%.*s:", indent, "", (int)field_name_bytes(f), f->name);
        write_value(schema, f, at, indent, ret);
    }
}

void jobtext_write(const struct job_spec *spec, struct buf *ret) {
    char *const *words = spec->command.items;
    bool shell = spec->command.n == 3 && strcmp(words[0], "/bin/sh") == 0 &&
                 strcmp(words[1], "-c") == 0 && words[2][0];
    struct job_spec rest = *spec;

    if (shell)
        rest.command.n = 0;
    write_fields(job_spec_schema(), &rest, 0, ret);
    if (shell) {
        buf_add_str(ret, "command: ");
        write_text(words[2], ret);
        buf_add_str(ret, "\n");
    }
}

/* JSON Schema */

static struct json *schema_of(const struct schema *schema);

/* A fragment written in this file. */
static struct json *fragment(const char *format, ...) _printf_(1, 2);

static struct json *fragment(const char *format, ...) {
    struct json *value = NULL;
    char *text = NULL;
    va_list ap;

    va_start(ap, format);
    int n = vasprintf(&text, format, ap);
    va_end(ap);
    assert(n > 0);
    int r = json_parse(text, (size_t)n, NULL, &value, NULL);
    assert(r == 0);
    free(text);
    return value;
}

static struct json *enum_schema(const struct schema_enum *enums) {
    struct json *object = json_new_object();
    struct json *words = json_add(object, "enum", json_new_array());

    for (int i = 0; i < enums->n_texts; i++)
        json_append(words, json_new_string(enums->texts[i]));
    return object;
}

static struct json *field_schema(const struct schema *schema, const struct schema_field *f) {
    const struct special *special = special_of(schema, f);

    if (special)
        return fragment("%s", special->json);
    switch (f->type) {
    case SCHEMA_I64:
        return fragment("{\"type\": \"integer\", \"minimum\": %lld, \"maximum\": %lld}",
                        (long long)f->min, (long long)f->max);
    case SCHEMA_BOOL:
        return fragment("{\"type\": \"boolean\"}");
    case SCHEMA_ENUM:
        return enum_schema(f->enums);
    case SCHEMA_DURATION:
        return fragment("{\"type\": \"string\", \"pattern\": %s}", DURATION_PATTERN);
    case SCHEMA_SIZE:
        return fragment("{\"type\": \"string\", \"pattern\": %s}", SIZE_PATTERN);
    case SCHEMA_STR:
        return fragment("{\"type\": \"string\", \"minLength\": 1, \"maxLength\": %lld}",
                        (long long)f->max);
    case SCHEMA_LIST_STR:
        return fragment("{\"type\": \"array\", \"maxItems\": %lld, \"items\": "
                        "{\"type\": [\"string\", \"number\", \"boolean\"]}}",
                        (long long)f->n_max);
    case SCHEMA_LIST_PAIR:
        return fragment("{\"type\": \"object\", \"additionalProperties\": "
                        "{\"type\": [\"string\", \"number\", \"boolean\"]}, "
                        "\"propertyNames\": {\"pattern\": \"^[A-Za-z_][A-Za-z0-9_]*$\"}}");
    case SCHEMA_SUB:
        return schema_of(f->sub());
    default:
        assert(!"a field type that job files do not have");
        return NULL;
    }
}

static struct json *schema_of(const struct schema *schema) {
    struct json *object = fragment("{\"type\": \"object\", \"additionalProperties\": false}");
    struct json *properties = json_add(object, "properties", json_new_object());

    for (int i = 0; i < schema->n_fields; i++) {
        const struct schema_field *f = &schema->fields[i];
        const struct special *special = special_of(schema, f);
        if (special && !special->json)
            continue;
        char name[64];
        (void)snprintf(name, sizeof name, "%.*s", (int)field_name_bytes(f), f->name);
        struct json *field = json_add(properties, name, field_schema(schema, f));
        json_add_string(field, "description", f->doc);
    }
    return object;
}

void jobtext_json_schema(struct buf *ret) {
    _cleanup_(json_freep) struct json *schema = schema_of(job_spec_schema());

    json_add_string(schema, "$schema", "https://json-schema.org/draft/2020-12/schema");
    json_add_string(schema, "title", "hai job file, version 3");
    json_add(schema, "required", fragment("[\"version\"]"));
    json_dump(schema, 2, ret);
}
