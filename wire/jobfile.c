#include "wire/jobfile.h"

#include "lib/json.h"
#include "lib/size.h"
#include "lib/timefmt.h"
#include "lib/yaml.h"
#include "wire/arraytext.h"
#include <stdarg.h>
#include <stdio.h>

enum {
    NAME_BYTES = 256,  // of a dotted field name
    VALUE_BYTES = 64,  // of a value in a message
    EXPECT_BYTES = 320 // of what was expected
};

static const char *const restart_words[] = {"fault", "node", "signal", "memory", "hang", "exit"};

/* Words that later versions will know; refused by name rather than as unknown. */
static const char *const later_kinds[] = {"serve", "generate", "validate"};
static const char *const later_fields[] = {"serve", "generate", "validate", "secrets"};

struct jobfile {
    struct yaml_stream *stream;
    const char *file;
};

/* One document, or one option value, being read. */
struct reader {
    const char *file;
    const char *where; // instead of file:line:column, e.g. a flag
    struct jobfile_errors *errors;
    size_t n_errors;
};

void jobfile_errors_free(struct jobfile_errors *errors) {
    free(errors->items);
    *errors = (struct jobfile_errors){0};
}

static bool contains(const char *const *words, size_t n, const char *word) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(words[i], word) == 0)
            return true;
    return false;
}

/* Errors */

static struct hai_err *errors_add(struct jobfile_errors *errors) {
    if (errors->n >= JOBFILE_ERRORS_MAX)
        return NULL;
    errors->items = hai_realloc_array(errors->items, errors->n + 1, sizeof *errors->items);
    struct hai_err *err = &errors->items[errors->n++];
    *err = (struct hai_err){0};
    return err;
}

static void complain(struct reader *r, int line, int column, const char *code, const char *hint,
                     const char *format, ...) _printf_(6, 7);

static void complain(struct reader *r, int line, int column, const char *code, const char *hint,
                     const char *format, ...) {
    char where[HAI_ERR_WHERE_BYTES];
    char text[HAI_ERR_TEXT_BYTES];
    va_list ap;

    r->n_errors++;
    va_start(ap, format);
    (void)vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    if (r->where)
        (void)snprintf(where, sizeof where, "%s", r->where);
    else
        (void)snprintf(where, sizeof where, "%s:%d:%d", r->file ? r->file : "job", MAX(line, 1),
                       MAX(column, 1));
    hai_fail_at(errors_add(r->errors), -EINVAL, code, where, hint, "%s", text);
}

static void value_text(const struct json *value, char ret[static VALUE_BYTES]) {
    _cleanup_(buf_free) struct buf text = {0};

    if (json_kind(value) == JSON_KIND_ARRAY || json_kind(value) == JSON_KIND_OBJECT)
        buf_add_str(&text, json_kind_name(json_kind(value)));
    else if (json_source(value))
        buf_add_str(&text, json_source(value));
    else
        json_dump(value, 0, &text);
    if (text.n_bytes == 0)
        buf_add_str(&text, "empty");
    (void)snprintf(ret, VALUE_BYTES, text.n_bytes < 48 ? "%s" : "%.44s...", buf_cstr(&text));
}

/* "NAME is VALUE; expected ..." at the value. */
static void wrong(struct reader *r, const struct json *value, const char *name, const char *format,
                  ...) _printf_(4, 5);

static void wrong(struct reader *r, const struct json *value, const char *name, const char *format,
                  ...) {
    char expected[EXPECT_BYTES];
    char is[VALUE_BYTES];
    va_list ap;

    va_start(ap, format);
    (void)vsnprintf(expected, sizeof expected, format, ap);
    va_end(ap);
    value_text(value, is);
    complain(r, json_line(value), json_column(value), "bad_value", NULL, "%s is %s; expected %s",
             name, is, expected);
}

/* Names */

/* A field's name in job files: without the unit that C and JSON names end in. */
static size_t field_name_bytes(const struct schema_field *f) {
    size_t n = strlen(f->name);

    if (f->type == SCHEMA_DURATION)
        return n - strlen("_us");
    return f->type == SCHEMA_SIZE ? n - strlen("_bytes") : n;
}

static const struct schema_field *find_field(const struct schema *schema, const char *name) {
    size_t n = strlen(name);

    for (int i = 0; i < schema->n_fields; i++) {
        const struct schema_field *f = &schema->fields[i];
        if (field_name_bytes(f) == n && memcmp(f->name, name, n) == 0)
            return f;
    }
    return NULL;
}

static void join_name(const char *parent, const char *name, char ret[static NAME_BYTES]) {
    (void)snprintf(ret, NAME_BYTES, "%s%s%.100s", parent, parent[0] ? "." : "", name);
}

static void unknown_field(struct reader *r, const struct schema *schema, const struct json *value,
                          const char *parent) {
    const char *key = json_key(value);
    char hint[HAI_ERR_HINT_BYTES] = "";
    int best = INT_MAX;

    for (int i = 0; i < schema->n_fields; i++) {
        char name[NAME_BYTES];
        const struct schema_field *f = &schema->fields[i];
        (void)snprintf(name, sizeof name, "%.*s", (int)field_name_bytes(f), f->name);
        if (hai_nearer(key, name, &best))
            (void)snprintf(hint, sizeof hint, "did you mean '%s'?", name);
    }
    complain(r, json_key_line(value), json_key_column(value), "unknown_field",
             hint[0] ? hint : NULL, "unknown field '%.100s'%s%s%s", key, parent[0] ? " in '" : "",
             parent, parent[0] ? "'" : "");
}

bool jobfile_name_valid(const char *name) {
    static const char others[] = "abcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t n = strlen(name);

    return n > 0 && n <= JOB_NAME_MAX && name[0] >= 'a' && name[0] <= 'z' &&
           strspn(name, others) == n;
}

char *jobfile_name_from(const char *source) {
    const char *slash = strrchr(source, '/');
    _cleanup_(buf_free) struct buf name = {0};

    source = slash && slash[1] ? slash + 1 : source;
    const char *dot = strrchr(source, '.');
    size_t n = dot && dot > source ? (size_t)(dot - source) : strlen(source);
    for (size_t i = 0; i < n && name.n_bytes < JOB_NAME_MAX; i++) {
        char c = source[i];
        if (c >= 'A' && c <= 'Z')
            c = (char)(c - 'A' + 'a');
        bool letter = c >= 'a' && c <= 'z';
        bool digit = c >= '0' && c <= '9';
        if (name.n_bytes == 0 && !letter && !digit)
            continue;
        if (name.n_bytes == 0 && digit)
            buf_add_str(&name, "job-");
        buf_add_u8(&name, letter || digit || strchr("._-", c) ? (uint8_t)c : '-');
    }
    if (name.n_bytes == 0)
        buf_add_str(&name, "job");
    return hai_strdup(buf_cstr(&name));
}

/* Values of one type */

/* Any scalar as the text that was written; NULL for null, lists and mappings. */
static const char *scalar_text(const struct json *value) {
    if (json_kind(value) == JSON_KIND_STRING)
        return json_as_string(value);
    if (json_kind(value) == JSON_KIND_NULL)
        return NULL;
    return json_source(value);
}

static void read_text(struct reader *r, const struct schema_field *f, const struct json *value,
                      const char *name, char **ret) {
    if (json_kind(value) != JSON_KIND_STRING)
        wrong(r, value, name, "text");
    else if (f->max < (int64_t)json_as_string_bytes(value))
        complain(r, json_line(value), json_column(value), "too_long", NULL,
                 "%s has %zu bytes; expected at most %lld", name, json_as_string_bytes(value),
                 (long long)f->max);
    else if (json_as_string_bytes(value) == 0)
        wrong(r, value, name, "text that is not empty");
    else
        hai_strset(ret, json_as_string(value));
}

static void read_number(struct reader *r, const struct schema_field *f, const struct json *value,
                        const char *name, int64_t *ret) {
    if (json_kind(value) == JSON_KIND_INT && json_as_int(value) >= f->min &&
        json_as_int(value) <= f->max)
        *ret = json_as_int(value);
    else if (f->min == f->max)
        wrong(r, value, name, "%lld", (long long)f->min);
    else
        wrong(r, value, name, "a whole number from %lld to %lld", (long long)f->min,
              (long long)f->max);
}

static void read_duration(struct reader *r, const struct schema_field *f, const struct json *value,
                          const char *name, int64_t *ret) {
    char least[64], most[64];
    int64_t us = 0;

    if (json_kind(value) != JSON_KIND_STRING ||
        timefmt_duration_parse(json_as_string(value), &us, NULL) == -EINVAL) {
        wrong(r, value, name, "a duration with a unit, such as 90s, 30m, 6h or 3d");
        return;
    }
    if (timefmt_duration_parse(json_as_string(value), &us, NULL) < 0 || us < f->min ||
        us > f->max) {
        timefmt_duration_exact(f->min, least);
        timefmt_duration_exact(f->max, most);
        wrong(r, value, name, "%s to %s", f->min ? least : "0s", most);
        return;
    }
    *ret = us;
}

static void read_size(struct reader *r, const struct schema_field *f, const struct json *value,
                      const char *name, int64_t *ret) {
    char most[SIZE_TEXT_BYTES];
    int64_t n_bytes = 0;
    int e = -EINVAL;

    if (json_kind(value) == JSON_KIND_STRING)
        e = size_parse(json_as_string(value), &n_bytes, NULL);
    size_exact(f->max, most);
    if (e == -EINVAL)
        wrong(r, value, name, "a size with a unit, such as 80GiB or 512MiB");
    else if (e < 0 || n_bytes < f->min || n_bytes > f->max)
        wrong(r, value, name, "%lldB to %s", (long long)f->min, most);
    else
        *ret = n_bytes;
}

static void read_enum(struct reader *r, const struct schema_field *f, const struct json *value,
                      const char *name, int *ret) {
    _cleanup_(buf_free) struct buf words = {0};
    int e = -EINVAL;

    if (json_kind(value) == JSON_KIND_STRING)
        e = schema_enum_parse(f->enums, json_as_string(value));
    if (e >= 0) {
        *ret = e;
        return;
    }
    for (int i = 0; i < f->enums->n_texts; i++)
        buf_printf(&words, "%s%s",
                   i == 0                      ? ""
                   : i + 1 < f->enums->n_texts ? ", "
                                               : " or ",
                   f->enums->texts[i]);
    wrong(r, value, name, "%s", buf_cstr(&words));
}

static void read_strings(struct reader *r, const struct schema_field *f, const struct json *value,
                         const char *name, void *ret) {
    SCHEMA_LIST(char *) *list = ret;
    int i = 0;

    if (json_kind(value) != JSON_KIND_ARRAY) {
        wrong(r, value, name, "a list of texts");
        return;
    }
    if ((int64_t)json_count(value) > f->n_max) {
        complain(r, json_line(value), json_column(value), "too_many", NULL,
                 "%s has %zu elements; expected at most %lld", name, json_count(value),
                 (long long)f->n_max);
        return;
    }
    for (const struct json *v = json_first(value); v; v = json_next(v), i++) {
        char element[NAME_BYTES];
        const char *text = scalar_text(v);
        (void)snprintf(element, sizeof element, "%s[%d]", name, i);
        if (!text)
            wrong(r, v, element, "text");
        else if ((int64_t)strlen(text) > f->max)
            complain(r, json_line(v), json_column(v), "too_long", NULL,
                     "%s has %zu bytes; expected at most %lld", element, strlen(text),
                     (long long)f->max);
        else
            *LIST_ADD(list) = hai_strdup(text);
    }
}

static bool env_name_valid(const char *name) {
    static const char others[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
    size_t n = strlen(name);

    return n > 0 && !(name[0] >= '0' && name[0] <= '9') && strspn(name, others) == n;
}

static void read_map(struct reader *r, const struct schema_field *f, const struct json *value,
                     const char *name, void *ret) {
    SCHEMA_LIST(struct schema_pair) *list = ret;
    int64_t n_bytes = 0;

    if (json_kind(value) != JSON_KIND_OBJECT) {
        wrong(r, value, name, "names with values, such as {OMP_NUM_THREADS: 4}");
        return;
    }
    for (const struct json *v = json_first(value); v; v = json_next(v)) {
        char element[NAME_BYTES];
        const char *text = scalar_text(v);
        join_name(name, json_key(v), element);
        if (!env_name_valid(json_key(v)))
            complain(r, json_key_line(v), json_key_column(v), "bad_value", NULL,
                     "'%.100s' in '%s' is no variable name; expected letters, digits and _",
                     json_key(v), name);
        else if (!text)
            wrong(r, v, element, "text");
        else
            *LIST_ADD(list) = (struct schema_pair){hai_strdup(json_key(v)), hai_strdup(text)};
        n_bytes += (int64_t)json_key_bytes(v) + (text ? (int64_t)strlen(text) : 0);
    }
    if (n_bytes > f->max || (int64_t)list->n > f->n_max)
        complain(r, json_line(value), json_column(value), "too_long", NULL,
                 "%s is too long; expected at most %lld bytes in %lld variables", name,
                 (long long)f->max, (long long)f->n_max);
}

/* Fields with liberties of their own */

/* command: a text for /bin/sh -c, or a list that runs as it is. */
static void read_command(struct reader *r, const struct schema_field *f, const struct json *value,
                         void *at) {
    SCHEMA_LIST(char *) *words = at;
    const char *text = json_kind(value) == JSON_KIND_STRING ? json_as_string(value) : NULL;

    if (json_kind(value) == JSON_KIND_ARRAY && json_count(value) > 0) {
        read_strings(r, f, value, "command", words);
    } else if (!text || !text[0]) {
        wrong(r, value, "command", "text for /bin/sh, or a list of words");
    } else if ((int64_t)strlen(text) > f->max) {
        complain(r, json_line(value), json_column(value), "too_long", NULL,
                 "command has %zu bytes; expected at most %lld", strlen(text), (long long)f->max);
    } else {
        *LIST_ADD(words) = hai_strdup("/bin/sh");
        *LIST_ADD(words) = hai_strdup("-c");
        *LIST_ADD(words) = hai_strdup(text);
    }
}

static void read_priority(struct reader *r, const struct schema_field *f, const struct json *value,
                          void *at) {
    static const char *const words[] = {"50", "40", "30", "20", "10", "8", "5", "0", "auto"};
    const char *text = scalar_text(value);

    if (text && contains(words, ARRAY_SIZE(words), text))
        hai_strset(at, text);
    else
        wrong(r, value, "priority", "50, 40, 30, 20, 10, 8, 5, 0 or auto");
}

/* resources.ranks: per-gpu, per-node or a number a node. */
static void read_ranks(struct reader *r, const struct schema_field *f, const struct json *value,
                       void *at) {
    const char *text = scalar_text(value);
    bool number = json_kind(value) == JSON_KIND_INT && json_as_int(value) >= 1 &&
                  json_as_int(value) <= NODE_RANKS_MAX;

    if (text && (number || strcmp(text, "per-gpu") == 0 || strcmp(text, "per-node") == 0))
        hai_strset(at, text);
    else
        wrong(r, value, "resources.ranks", "per-gpu, per-node or a number from 1 to %d",
              NODE_RANKS_MAX);
}

/* checkpoint.every: auto, steps, or a duration. */
static void read_every(struct reader *r, const struct schema_field *f, const struct json *value,
                       void *at) {
    const char *text = scalar_text(value);
    int64_t us = 0;
    bool steps = json_kind(value) == JSON_KIND_INT && json_as_int(value) > 0;
    bool other =
        text && json_kind(value) == JSON_KIND_STRING && strlen(text) <= 16 &&
        (strcmp(text, "auto") == 0 || (timefmt_duration_parse(text, &us, NULL) == 0 && us > 0));

    if (text && (steps || other))
        hai_strset(at, text);
    else
        wrong(r, value, "checkpoint.every", "auto, a number of steps, or a duration such as 10m");
}

static void read_when(struct reader *r, const struct schema_field *f, const struct json *value,
                      void *at) {
    size_t before = r->n_errors;

    read_strings(r, f, value, "restart.when", at);
    if (r->n_errors > before)
        return;
    for (const struct json *v = json_first(value); v; v = json_next(v))
        if (!contains(restart_words, ARRAY_SIZE(restart_words), scalar_text(v)))
            wrong(r, v, "restart.when", "fault, node, signal, memory, hang or exit");
}

/* not_before: local time becomes UTC here, where the person is; a delay counts from the submission.
 */
static void read_not_before(struct reader *r, const struct schema_field *f,
                            const struct json *value, void *at) {
    const char *text = json_kind(value) == JSON_KIND_STRING ? json_as_string(value) : "";
    char iso[TIMEFMT_ISO_BYTES];
    int64_t us;

    if (strlen(text) < TIMEFMT_ISO_BYTES && timefmt_duration_parse(text, &us, NULL) == 0 &&
        us <= DURATION_US_MAX)
        hai_strset(at, text);
    else if (timefmt_local_parse(text, timefmt_now_us(), &us) == 0) {
        timefmt_iso(us, iso);
        hai_strset(at, iso);
    } else
        wrong(r, value, "not_before",
              "a time such as 18:00, 2026-11-23 18:00 or 2026-11-23T17:00:00Z, or a delay such as "
              "2h");
}

/* array: 0-99%8; one index alone is a number in YAML. */
static void read_array(struct reader *r, const struct schema_field *f, const struct json *value,
                       void *at) {
    const char *text = scalar_text(value);
    struct arraytext array;

    if (text && strlen(text) <= ARRAY_TEXT_MAX && arraytext_parse(text, &array) == 0)
        hai_strset(at, text);
    else
        wrong(r, value, "array",
              "indices that ascend, at most %d of them, such as 0-99, 1,3,7-9, 0-90:10 or 0-99%%8 "
              "(8 at once)",
              ARRAY_MAX);
}

static void read_kind(struct reader *r, const struct schema_field *f, const struct json *value,
                      void *at) {
    const char *text = json_kind(value) == JSON_KIND_STRING ? json_as_string(value) : "";

    if (contains(later_kinds, ARRAY_SIZE(later_kinds), text)) {
        complain(r, json_line(value), json_column(value), "unsupported", NULL,
                 "kind %s is not yet supported; expected command or train", text);
        return;
    }
    read_enum(r, f, value, "kind", at);
}

static void read_version(struct reader *r, const struct schema_field *f, const struct json *value,
                         void *at) {
    if (json_kind(value) == JSON_KIND_INT && json_as_int(value) == 2)
        complain(
            r, json_line(value), json_column(value), "unsupported", NULL,
            "version is 2, a job file of HAI Platform, which is not yet supported; expected 3");
    else
        read_number(r, f, value, "version", at);
}

static void read_name(struct reader *r, const struct schema_field *f, const struct json *value,
                      void *at) {
    if (json_kind(value) == JSON_KIND_STRING && jobfile_name_valid(json_as_string(value)))
        hai_strset(at, json_as_string(value));
    else
        wrong(r, value, "name", "a letter, then letters, digits and ._- in lower case, at most %d",
              JOB_NAME_MAX);
}

/* The fields that job files write in more ways than their type says, and how they are read. */
typedef void read_func(struct reader *r, const struct schema_field *f, const struct json *value,
                       void *at);
static const struct {
    const struct schema *(*schema)(void);
    const char *field;
    read_func *read;
} specials[] = {
    {job_spec_schema,       "version",    read_version   },
    {job_spec_schema,       "name",       read_name      },
    {job_spec_schema,       "kind",       read_kind      },
    {job_spec_schema,       "command",    read_command   },
    {job_spec_schema,       "priority",   read_priority  },
    {job_resources_schema,  "ranks",      read_ranks     },
    {job_checkpoint_schema, "every",      read_every     },
    {job_restart_schema,    "when",       read_when      },
    {job_spec_schema,       "not_before", read_not_before},
    {job_spec_schema,       "array",      read_array     },
};

static void read_object(struct reader *r, const struct schema *schema, const struct json *object,
                        const char *name, void *ret);

static void read_field(struct reader *r, const struct schema_field *f, const struct json *value,
                       const char *name, void *at) {
    switch (f->type) {
    case SCHEMA_I64:
        read_number(r, f, value, name, at);
        break;
    case SCHEMA_BOOL:
        if (json_kind(value) == JSON_KIND_BOOL)
            *(bool *)at = json_as_bool(value);
        else
            wrong(r, value, name, "true or false");
        break;
    case SCHEMA_ENUM:
        read_enum(r, f, value, name, at);
        break;
    case SCHEMA_DURATION:
        read_duration(r, f, value, name, at);
        break;
    case SCHEMA_SIZE:
        read_size(r, f, value, name, at);
        break;
    case SCHEMA_STR:
        read_text(r, f, value, name, at);
        break;
    case SCHEMA_SUB:
        read_object(r, f->sub(), value, name, at);
        break;
    case SCHEMA_LIST_STR:
        read_strings(r, f, value, name, at);
        break;
    case SCHEMA_LIST_PAIR:
        read_map(r, f, value, name, at);
        break;
    default:
        assert(!"a field type that job files do not have");
    }
}

static void read_value(struct reader *r, const struct schema *schema, const struct schema_field *f,
                       const struct json *value, const char *name, void *at) {
    for (size_t i = 0; i < ARRAY_SIZE(specials); i++)
        if (specials[i].schema() == schema && strcmp(specials[i].field, f->name) == 0) {
            specials[i].read(r, f, value, at);
            return;
        }
    read_field(r, f, value, name, at);
}

static bool not_yet(const struct schema *schema, const char *key) {
    if (schema != job_spec_schema())
        return false;
    return contains(later_fields, ARRAY_SIZE(later_fields), key) || strcmp(key, "log_dir") == 0;
}

static void read_object(struct reader *r, const struct schema *schema, const struct json *object,
                        const char *name, void *ret) {
    if (json_kind(object) != JSON_KIND_OBJECT) {
        wrong(r, object, name[0] ? name : "the job file",
              "fields with values, such as `key: value`");
        return;
    }
    for (const struct json *v = json_first(object); v; v = json_next(v)) {
        char path[NAME_BYTES];
        const struct schema_field *f = find_field(schema, json_key(v));
        // In JSON absent is null.
        if (json_kind(v) == JSON_KIND_NULL && (f || not_yet(schema, json_key(v))))
            continue;
        if (not_yet(schema, json_key(v))) {
            complain(r, json_key_line(v), json_key_column(v), "unsupported", NULL,
                     "'%s' is not yet supported", json_key(v));
            continue;
        }
        if (!f) {
            unknown_field(r, schema, v, name);
            continue;
        }
        join_name(name, json_key(v), path);
        read_value(r, schema, f, v, path, (char *)ret + f->offset);
    }
}

/* Rules between fields. NULL when all hold, else a sentence; *ret_field is whom it concerns. */
static const char *broken_rule(const struct job_spec *spec, const char **ret_field) {
    const struct job_resources *res = &spec->resources;
    const struct job_train *train = &spec->train;
    const char *every = spec->checkpoint.every;
    bool has_train = train->config || train->model || train->data.n || train->out;

    *ret_field = "kind";
    if (spec->version != 3)
        return *ret_field = "version", "version is missing; expected 3";
    if (spec->kind == JOB_KIND_COMMAND && spec->command.n == 0)
        return *ret_field = "command", "command is missing; kind command runs it on every rank";
    if (spec->kind == JOB_KIND_COMMAND && has_train)
        return *ret_field = "train", "'train' belongs to kind train; kind is command";
    if (spec->kind == JOB_KIND_TRAIN && spec->command.n > 0)
        return *ret_field = "command",
               "'command' belongs to kind command; kind train runs hai-train by itself";
    if (spec->kind == JOB_KIND_TRAIN && !train->config)
        return *ret_field = "train", "train.config is missing; kind train reads it";
    if (spec->kind == JOB_KIND_TRAIN && every && strcmp(every, "auto") != 0 &&
        every[strspn(every, "0123456789")])
        return *ret_field = "checkpoint",
               "checkpoint.every is a duration, not yet supported for kind train; expected auto or "
               "a number of steps";
    if (res->ranks && strcmp(res->ranks, "per-gpu") == 0 && res->gpus_per_node == 0)
        return *ret_field = "resources",
               "resources.ranks is per-gpu and gpus_per_node is 0; expected per-node or a number";
    if (spec->warn_before_us > 0 && spec->time_limit_us == S_ABSENT)
        return *ret_field = "warn_before",
               "warn_before has no time_limit to come before; expected both";
    if (spec->warn_before_us > 0 && spec->warn_before_us >= spec->time_limit_us)
        return *ret_field = "warn_before", "warn_before is not shorter than time_limit";
    return NULL;
}

int jobfile_check(const struct job_spec *spec, struct hai_err *err) {
    const char *field;
    const char *text = broken_rule(spec, &field);

    return text ? hai_fail_at(err, -EINVAL, "bad_job", field, NULL, "%s", text) : 0;
}

/* Read one document; true when it is sound. */
static bool read_document(struct reader *r, const struct json *document, struct job_spec *ret) {
    struct job_spec spec;
    const char *field;

    schema_init(job_spec_schema(), &spec);
    read_object(r, job_spec_schema(), document, "", &spec);
    // A missing field is told where the document starts, and only when nothing hides it.
    const char *text = r->n_errors ? NULL : broken_rule(&spec, &field);
    if (text) {
        const struct json *at = json_get(document, field);
        complain(r, at ? json_key_line(at) : json_line(document),
                 at ? json_key_column(at) : json_column(document), at ? "bad_job" : "missing", NULL,
                 "%s", text);
    }
    if (r->n_errors) {
        schema_free(job_spec_schema(), &spec);
        return false;
    }
    *ret = spec;
    return true;
}

static struct jobfile *jobfile_new(struct yaml_stream *stream, const char *file) {
    struct jobfile *jobfile = hai_new(struct jobfile);

    jobfile->stream = stream;
    jobfile->file = file;
    return jobfile;
}

struct jobfile *jobfile_of_text(const void *text, size_t n_bytes, const char *file) {
    return jobfile_new(yaml_stream_of_text(text, n_bytes, file), file);
}

struct jobfile *jobfile_of_fd(int fd, const char *file) {
    return jobfile_new(yaml_stream_of_fd(fd, file), file);
}

void jobfile_close(struct jobfile *jobfile) {
    if (!jobfile)
        return;
    yaml_stream_free(jobfile->stream);
    free(jobfile);
}

int jobfile_next(struct jobfile *jobfile, struct job_spec *ret, struct jobfile_errors *errors) {
    _cleanup_(json_freep) struct json *document = NULL;
    struct reader reader = {.file = jobfile->file, .errors = errors};
    struct hai_err err = {0};

    int r = yaml_stream_next(jobfile->stream, &document, &err);
    if (r < 0) {
        struct hai_err *kept = errors_add(errors);
        if (kept)
            *kept = err;
        return -EBADMSG;
    }
    if (r == 0)
        return 0;
    return read_document(&reader, document, ret) ? 1 : -EINVAL;
}

/* Option values are plain words: a whole number where the text is one, else text. */
static struct json *option_value(const char *text) {
    char *end = NULL;

    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (*text && !*end && !errno && *text != '+' && *text != ' ') {
        struct json *value = json_new_int(number);
        json_set_source(value, text);
        return value;
    }
    return json_new_string(text);
}

int jobfile_set(struct job_spec *spec, const char *name, const char *value, const char *where,
                struct hai_err *err) {
    struct jobfile_errors errors = {0};
    struct reader r = {.where = where, .errors = &errors};
    const struct schema *schema = job_spec_schema();
    _cleanup_free_ char *path = hai_strdup(name);
    _cleanup_(json_freep) struct json *v = option_value(value);
    const struct schema_field *f = NULL;
    char *at = (char *)spec;
    char *saved = NULL;

    for (char *word = strtok_r(path, ".", &saved); word; word = strtok_r(NULL, ".", &saved)) {
        if (f) {
            schema = f->sub();
            at += f->offset;
        }
        f = find_field(schema, word);
        assert(f);
    }
    read_value(&r, schema, f, v, name, at + f->offset);
    if (errors.n && err)
        *err = errors.items[0];
    jobfile_errors_free(&errors);
    return r.n_errors ? -EINVAL : 0;
}
