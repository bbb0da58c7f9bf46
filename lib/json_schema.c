#include "lib/json_schema.h"

#include "lib/digest.h"
#include "lib/size.h"
#include "lib/timefmt.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

/* One decoding. */
struct context {
    enum json_schema_form form;
    int flags;
    const char *file;
    struct json_schema_errors *errors;
    struct hai_err first;
};

/* Where we are in the tree, as a chain through the stack: made into text only for errors. */
struct place {
    const struct place *above;
    const char *name; // NULL: an element of a list
    size_t index;
};

static size_t suffix_bytes(const struct schema_field *f, enum json_schema_form form) {
    const char *suffix = f->type == SCHEMA_DURATION                           ? "_us"
                         : f->type == SCHEMA_SIZE && form == JSON_SCHEMA_FILE ? "_bytes"
                                                                              : "";
    size_t n = strlen(f->name);

    return n > strlen(suffix) && strcmp(f->name + n - strlen(suffix), suffix) == 0 ? strlen(suffix)
                                                                                   : 0;
}

void json_schema_name(const struct schema_field *field, enum json_schema_form form, char *ret) {
    size_t cut = suffix_bytes(field, form);

    strcpy(ret, field->name);
    ret[strlen(ret) - cut] = 0;
    if (cut && form == JSON_SCHEMA_WIRE)
        strcat(ret, "_s");
}

static bool name_is(const struct schema_field *f, enum json_schema_form form, const char *key) {
    size_t cut = suffix_bytes(f, form);
    size_t n = strlen(f->name) - cut;

    if (strncmp(key, f->name, n) != 0)
        return false;
    return strcmp(key + n, cut && form == JSON_SCHEMA_WIRE ? "_s" : "") == 0;
}

static void path_text(const struct place *place, char *ret, size_t size) {
    if (!place) {
        ret[0] = 0;
        return;
    }
    path_text(place->above, ret, size);
    size_t n = strlen(ret);
    if (place->name)
        (void)snprintf(ret + n, size - n, "%s%.100s", n ? "." : "", place->name);
    else
        (void)snprintf(ret + n, size - n, "[%zu]", place->index);
}

static void where_text(const struct json *at, bool key, const char *file, const char *path,
                       char ret[static HAI_ERR_WHERE_BYTES]) {
    int line = key ? json_key_line(at) : json_line(at);
    int column = key ? json_key_column(at) : json_column(at);

    if (line > 0)
        (void)snprintf(ret, HAI_ERR_WHERE_BYTES, "%s%s%d:%d", file ? file : "", file ? ":" : "",
                       line, column);
    else
        (void)snprintf(ret, HAI_ERR_WHERE_BYTES, "%s%s%s", file ? file : "",
                       file && path[0] ? ": " : "", path);
}

static void errors_add(struct json_schema_errors *errors, const struct hai_err *err) {
    if (errors && errors->n < JSON_SCHEMA_ERRORS_MAX)
        errors->items[errors->n] = *err;
    if (errors)
        errors->n++;
}

int json_schema_error(struct json_schema_errors *errors, const struct json *at, bool key,
                      const char *file, int r, const char *code, const char *hint,
                      const char *format, ...) {
    char where[HAI_ERR_WHERE_BYTES];
    char text[HAI_ERR_TEXT_BYTES];
    struct hai_err err;
    va_list ap;

    va_start(ap, format);
    (void)vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    where_text(at, key, file, "", where);
    hai_fail_at(&err, r, code, where, hint, "%s", text);
    errors_add(errors, &err);
    return r;
}

static int report(struct context *c, const struct json *at, bool key, const struct place *place,
                  int r, const char *code, const char *hint, const char *format, ...)
    _printf_(8, 9);

static int report(struct context *c, const struct json *at, bool key, const struct place *place,
                  int r, const char *code, const char *hint, const char *format, ...) {
    char path[HAI_ERR_WHERE_BYTES];
    char where[HAI_ERR_WHERE_BYTES];
    char text[HAI_ERR_TEXT_BYTES];
    struct hai_err err;
    va_list ap;

    va_start(ap, format);
    (void)vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    path_text(place, path, sizeof path);
    where_text(at, key, c->file, path, where);
    hai_fail_at(&err, r, code, where, hint, "%s", text);
    if (c->first.r == 0)
        c->first = err;
    errors_add(c->errors, &err);
    return r;
}

static int wrong_type(struct context *c, const struct json *v, const struct place *place,
                      const char *expected) {
    const char *name = place && place->name ? place->name : "the value";
    const char *source = json_source(v);

    if (source && strlen(source) <= 60)
        return report(c, v, false, place, -EINVAL, NULL, NULL, "%s is '%s'; expected %s", name,
                      source, expected);
    return report(c, v, false, place, -EINVAL, NULL, NULL, "%s is %s; expected %s", name,
                  json_kind_name(json_kind(v)), expected);
}

static int in_bounds(struct context *c, const struct schema_field *f, const struct json *v,
                     const struct place *place, int64_t value, int64_t *ret) {
    const char *name = place->name ? place->name : f->name;

    if (value < f->min || value > f->max) {
        int64_t unit = f->type == SCHEMA_DURATION ? TIMEFMT_US_PER_S : 1;
        return report(c, v, false, place, -ERANGE, NULL, NULL,
                      "%s is %lld; expected %lld to %lld%s", name, (long long)(value / unit),
                      (long long)(f->min / unit), (long long)(f->max / unit),
                      unit > 1 ? " seconds" : "");
    }
    *ret = value;
    return 0;
}

/* Text, or in files any scalar as it is written: `OMP_NUM_THREADS: 4`. */
static int text_of(struct context *c, const struct schema_field *f, const struct json *v,
                   const struct place *place, const char **ret) {
    const char *text =
        json_kind(v) == JSON_KIND_STRING || c->form == JSON_SCHEMA_FILE ? json_source(v) : NULL;

    if (!text)
        return wrong_type(c, v, place, "text");
    if ((int64_t)strlen(text) > f->max)
        return report(c, v, false, place, -ERANGE, "too_long", NULL,
                      "%s has %zu bytes; expected at most %lld",
                      place->name ? place->name : f->name, strlen(text), (long long)f->max);
    *ret = text;
    return 0;
}

static int decode_i64(struct context *c, const struct schema_field *f, const struct json *v,
                      const struct place *place, int64_t *ret) {
    if (json_kind(v) != JSON_KIND_INT)
        return wrong_type(c, v, place, "a whole number");
    return in_bounds(c, f, v, place, json_as_int(v), ret);
}

static int decode_duration(struct context *c, const struct schema_field *f, const struct json *v,
                           const struct place *place, int64_t *ret) {
    struct hai_err err = {0};
    int64_t us = 0;

    if (c->form == JSON_SCHEMA_FILE) {
        if (json_kind(v) != JSON_KIND_STRING)
            return wrong_type(c, v, place, "a duration with a unit, such as 90s, 30m, 6h or 3d");
        int r = timefmt_duration_parse(json_as_string(v), &us, &err);
        if (r < 0)
            return report(c, v, false, place, r, NULL, NULL, "%s", err.text);
    } else if (json_kind(v) == JSON_KIND_INT) {
        if (__builtin_mul_overflow(json_as_int(v), TIMEFMT_US_PER_S, &us))
            us = json_as_int(v) < 0 ? INT64_MIN : INT64_MAX;
    } else if (json_kind(v) == JSON_KIND_REAL) {
        double scaled = json_as_real(v) * TIMEFMT_US_PER_S;
        us = fabs(scaled) < 9.2e18 ? (int64_t)(scaled + (scaled < 0 ? -0.5 : 0.5))
             : scaled < 0          ? INT64_MIN
                                   : INT64_MAX;
    } else
        return wrong_type(c, v, place, "a number of seconds");
    return in_bounds(c, f, v, place, us, ret);
}

static int decode_size(struct context *c, const struct schema_field *f, const struct json *v,
                       const struct place *place, int64_t *ret) {
    struct hai_err err = {0};
    int64_t n_bytes = 0;

    if (c->form == JSON_SCHEMA_WIRE)
        return decode_i64(c, f, v, place, ret);
    if (json_kind(v) != JSON_KIND_STRING)
        return wrong_type(c, v, place, "a size with a unit, such as 512MiB or 80GiB");
    int r = size_parse(json_as_string(v), &n_bytes, &err);
    if (r < 0)
        return report(c, v, false, place, r, NULL, NULL, "%s", err.text);
    return in_bounds(c, f, v, place, n_bytes, ret);
}

static int decode_enum(struct context *c, const struct schema_field *f, const struct json *v,
                       const struct place *place, int *ret) {
    _cleanup_(buf_free) struct buf expected = {0};
    int value = -1;

    if (json_kind(v) == JSON_KIND_STRING)
        value = schema_enum_parse(f->enums, json_as_string(v));
    if (value >= 0) {
        *ret = value;
        return 0;
    }
    for (int i = 0; i < f->enums->n_texts; i++)
        buf_printf(&expected, "%s%s",
                   i == 0                      ? ""
                   : i + 1 < f->enums->n_texts ? ", "
                                               : " or ",
                   f->enums->texts[i]);
    return wrong_type(c, v, place, buf_cstr(&expected));
}

static int decode_number(struct context *c, const struct schema_field *f, const struct json *v,
                         const struct place *place, void *ret) {
    switch (f->type) {
    case SCHEMA_F64:
        if (json_kind(v) != JSON_KIND_REAL && json_kind(v) != JSON_KIND_INT)
            return wrong_type(c, v, place, "a number");
        *(double *)ret = json_as_real(v);
        return 0;
    case SCHEMA_BOOL:
        if (json_kind(v) != JSON_KIND_BOOL)
            return wrong_type(c, v, place, "true or false");
        *(bool *)ret = json_as_bool(v);
        return 0;
    case SCHEMA_ENUM:
        return decode_enum(c, f, v, place, ret);
    case SCHEMA_TIME:
        if (json_kind(v) != JSON_KIND_STRING || timefmt_iso_parse(json_as_string(v), ret) < 0)
            return wrong_type(c, v, place, "a time such as 2026-11-23T13:11:40.102Z");
        return 0;
    case SCHEMA_DURATION:
        return decode_duration(c, f, v, place, ret);
    case SCHEMA_SIZE:
        return decode_size(c, f, v, place, ret);
    default:
        return decode_i64(c, f, v, place, ret);
    }
}

static int decode_text(struct context *c, const struct schema_field *f, const struct json *v,
                       const struct place *place, char **ret) {
    const char *text;

    int r = text_of(c, f, v, place, &text);
    if (r < 0)
        return r;
    if (!text[0] && f->def == S_REQUIRED)
        return report(c, v, false, place, -EINVAL, NULL, NULL, "%s is empty", f->name);
    *ret = hai_strdup(text);
    return 0;
}

static int decode_blob(struct context *c, const struct schema_field *f, const struct json *v,
                       const struct place *place, struct schema_blob *ret) {
    if (json_kind(v) != JSON_KIND_STRING)
        return wrong_type(c, v, place, "hexadecimal text");
    size_t n = json_as_string_bytes(v) / 2;
    if ((int64_t)n > f->max)
        return report(c, v, false, place, -ERANGE, "too_long", NULL,
                      "%s has %zu bytes; expected at most %lld", f->name, n, (long long)f->max);
    uint8_t *data = n ? hai_alloc(n) : NULL;
    if (digest_unhex(json_as_string(v), n, data) < 0) {
        free(data);
        return report(c, v, false, place, -EINVAL, NULL, NULL, "%s is not hexadecimal", f->name);
    }
    *ret = (struct schema_blob){data, n};
    return 0;
}

static int decode_json(struct context *c, const struct schema_field *f, const struct json *v,
                       const struct place *place, char **ret) {
    _cleanup_(buf_free) struct buf text = {0};

    json_dump(v, 0, &text);
    if ((int64_t)text.n_bytes > f->max)
        return report(c, v, false, place, -ERANGE, "too_long", NULL,
                      "%s has %zu bytes; expected at most %lld", f->name, text.n_bytes,
                      (long long)f->max);
    *ret = hai_strdup(buf_cstr(&text));
    return 0;
}

static int decode_struct(struct context *c, const struct schema *schema, const struct json *tree,
                         const struct place *place, void *ret);

static int decode_item(struct context *c, const struct schema_field *f, const struct json *v,
                       const struct place *place, void *item) {
    if (f->type == SCHEMA_LIST_SUB)
        return decode_struct(c, f->sub(), v, place, item);
    if (f->type == SCHEMA_LIST_I64)
        return decode_i64(c, f, v, place, item);
    const char *text;
    int r = text_of(c, f, v, place, &text);
    if (r < 0)
        return r;
    if (f->type == SCHEMA_LIST_STR)
        *(char **)item = hai_strdup(text);
    else
        *(struct schema_pair *)item =
            (struct schema_pair){hai_strdup(json_key(v)), hai_strdup(text)};
    return 0;
}

static int decode_list(struct context *c, const struct schema_field *f, const struct json *tree,
                       const struct place *place, struct schema_list *ret) {
    bool map = f->type == SCHEMA_LIST_PAIR;
    size_t index = 0;
    int first = 0;

    if (json_kind(tree) != (map ? JSON_KIND_OBJECT : JSON_KIND_ARRAY))
        return wrong_type(c, tree, place, map ? "a block of names with texts" : "a list");
    if ((int64_t)json_count(tree) > f->n_max)
        return report(c, tree, false, place, -ERANGE, "too_many", NULL,
                      "%s has %zu elements; expected at most %lld", f->name, json_count(tree),
                      (long long)f->n_max);
    for (const struct json *v = json_first(tree); v; v = json_next(v), index++) {
        const struct place at = {place, map ? json_key(v) : NULL, index};
        void *item = schema_list_add(ret, schema_item_bytes(f));
        int r = decode_item(c, f, v, &at, item);
        if (r < 0 && first == 0)
            first = r;
    }
    return first;
}

static int decode_field(struct context *c, const struct schema_field *f, const struct json *v,
                        const struct place *place, void *ret) {
    switch (f->type) {
    case SCHEMA_STR:
        return decode_text(c, f, v, place, ret);
    case SCHEMA_JSON:
        return decode_json(c, f, v, place, ret);
    case SCHEMA_BLOB:
        return decode_blob(c, f, v, place, ret);
    case SCHEMA_SUB:
        return decode_struct(c, f->sub(), v, place, ret);
    case SCHEMA_LIST_SUB:
    case SCHEMA_LIST_STR:
    case SCHEMA_LIST_I64:
    case SCHEMA_LIST_PAIR:
        return decode_list(c, f, v, place, ret);
    default:
        return decode_number(c, f, v, place, ret);
    }
}

static int unknown_field(struct context *c, const struct schema *schema, const struct json *v,
                         const struct place *place) {
    char nearest[HAI_ERR_HINT_BYTES] = "";
    char hint[2 * HAI_ERR_HINT_BYTES] = "";
    int best = INT_MAX;

    for (int i = 0; i < schema->n_fields; i++) {
        char name[HAI_ERR_HINT_BYTES];
        assert(strlen(schema->fields[i].name) < sizeof name);
        json_schema_name(&schema->fields[i], c->form, name);
        if (hai_nearer(json_key(v), name, &best))
            strcpy(nearest, name);
    }
    if (nearest[0])
        (void)snprintf(hint, sizeof hint, "did you mean '%s'?", nearest);
    if (place->above && place->above->name)
        return report(c, v, true, place, -EINVAL, "unknown_field", hint,
                      "unknown field '%.100s' in '%.100s'", json_key(v), place->above->name);
    return report(c, v, true, place, -EINVAL, "unknown_field", hint, "unknown field '%.100s'",
                  json_key(v));
}

static int missing_fields(struct context *c, const struct schema *schema, const struct json *tree,
                          const struct place *place) {
    char name[HAI_ERR_HINT_BYTES];
    int first = 0;

    for (int i = 0; i < schema->n_fields; i++) {
        const struct schema_field *f = &schema->fields[i];
        // Blocks, blobs, lists have no notion of "required".
        if (f->def != S_REQUIRED || f->type > SCHEMA_STR)
            continue;
        json_schema_name(f, c->form, name);
        const struct json *v = json_get(tree, name);
        if (v && json_kind(v) != JSON_KIND_NULL)
            continue;
        const struct place at = {place, name, 0};
        first = report(c, tree, false, &at, -EINVAL, "missing", NULL,
                       "%s is missing; it must be given", name);
    }
    return first;
}

static int decode_struct(struct context *c, const struct schema *schema, const struct json *tree,
                         const struct place *place, void *ret) {
    int first = 0;

    schema_init(schema, ret);
    if (json_kind(tree) != JSON_KIND_OBJECT)
        return wrong_type(c, tree, place, "a block of fields");
    for (const struct json *v = json_first(tree); v; v = json_next(v)) {
        const struct place at = {place, json_key(v), 0};
        int i = 0;
        int r = 0;
        while (i < schema->n_fields && !name_is(&schema->fields[i], c->form, at.name))
            i++;
        if (i == schema->n_fields)
            r = c->flags & JSON_SCHEMA_IGNORE_UNKNOWN ? 0 : unknown_field(c, schema, v, &at);
        else if (json_kind(v) != JSON_KIND_NULL)
            r = decode_field(c, &schema->fields[i], v, &at, (char *)ret + schema->fields[i].offset);
        if (r < 0 && first == 0)
            first = r;
    }
    int r = missing_fields(c, schema, tree, place);
    return first < 0 ? first : r;
}

int json_schema_decode(const struct schema *schema, const struct json *tree,
                       enum json_schema_form form, int flags, const char *file, void *ret,
                       struct json_schema_errors *errors, struct hai_err *err) {
    struct context c = {.form = form, .flags = flags, .file = file, .errors = errors};
    _cleanup_free_ void *made = hai_alloc(schema->n_bytes);

    int r = decode_struct(&c, schema, tree, NULL, made);
    if (r < 0) {
        schema_free(schema, made);
        if (err)
            *err = c.first;
        return r;
    }
    memcpy(ret, made, schema->n_bytes);
    return 0;
}

int json_schema_parse(const struct schema *schema, const void *text, size_t n_bytes, int flags,
                      void *ret, struct hai_err *err) {
    _cleanup_(json_freep) struct json *tree = NULL;

    int r = json_parse(text, n_bytes, NULL, &tree, err);
    if (r < 0)
        return r;
    return json_schema_decode(schema, tree, JSON_SCHEMA_WIRE, flags, NULL, ret, NULL, err);
}

static void dump_text(const char *text, struct buf *ret) {
    if (text)
        json_dump_string(text, strlen(text), ret);
    else
        buf_add_str(ret, "null");
}

static void dump_number(const struct schema_field *f, const void *at, struct buf *ret) {
    char time[TIMEFMT_ISO_BYTES];
    int64_t v = f->type == SCHEMA_BOOL || f->type == SCHEMA_ENUM || f->type == SCHEMA_F64
                    ? 0
                    : *(const int64_t *)at;

    if (f->type == SCHEMA_BOOL)
        buf_add_str(ret, *(const bool *)at ? "true" : "false");
    else if (f->type == SCHEMA_F64)
        json_dump_real(*(const double *)at, ret);
    else if (f->type == SCHEMA_ENUM)
        dump_text(*(const int *)at < 0 ? NULL : schema_enum_text(f->enums, *(const int *)at), ret);
    else if (v == S_ABSENT)
        buf_add_str(ret, "null");
    else if (f->type == SCHEMA_TIME) {
        timefmt_iso(v, time);
        dump_text(time, ret);
    } else if (f->type == SCHEMA_DURATION)
        timefmt_seconds(v, ret);
    else
        json_dump_int(v, ret);
}

static void dump_item(const struct schema_field *f, const void *item, struct buf *ret) {
    if (f->type == SCHEMA_LIST_SUB)
        json_schema_dump(f->sub(), item, ret);
    else if (f->type == SCHEMA_LIST_I64)
        json_dump_int(*(const int64_t *)item, ret);
    else if (f->type == SCHEMA_LIST_STR)
        dump_text(*(char *const *)item, ret);
    else {
        const struct schema_pair *pair = item;
        dump_text(pair->key, ret);
        buf_add_u8(ret, ':');
        dump_text(pair->value, ret);
    }
}

static void dump_list(const struct schema_field *f, const struct schema_list *list,
                      struct buf *ret) {
    bool map = f->type == SCHEMA_LIST_PAIR;
    size_t n_bytes = schema_item_bytes(f);

    buf_add_u8(ret, map ? '{' : '[');
    for (size_t i = 0; i < list->n; i++) {
        if (i > 0)
            buf_add_u8(ret, ',');
        dump_item(f, (const char *)list->items + i * n_bytes, ret);
    }
    buf_add_u8(ret, map ? '}' : ']');
}

static void dump_blob(const struct schema_blob *blob, struct buf *ret) {
    _cleanup_free_ char *hex = hai_alloc(2 * blob->n_bytes + 1);

    digest_hex(blob->data, blob->n_bytes, hex);
    dump_text(blob->data ? hex : NULL, ret);
}

static void dump_field(const struct schema_field *f, const void *at, struct buf *ret) {
    switch (f->type) {
    case SCHEMA_STR:
        dump_text(*(char *const *)at, ret);
        break;
    case SCHEMA_JSON:
        buf_add_str(ret, *(char *const *)at ? *(char *const *)at : "null");
        break;
    case SCHEMA_BLOB:
        dump_blob(at, ret);
        break;
    case SCHEMA_SUB:
        json_schema_dump(f->sub(), at, ret);
        break;
    case SCHEMA_LIST_SUB:
    case SCHEMA_LIST_STR:
    case SCHEMA_LIST_I64:
    case SCHEMA_LIST_PAIR:
        dump_list(f, at, ret);
        break;
    default:
        dump_number(f, at, ret);
    }
}

void json_schema_dump(const struct schema *schema, const void *value, struct buf *ret) {
    buf_add_u8(ret, '{');
    for (int i = 0; i < schema->n_fields; i++) {
        const struct schema_field *f = &schema->fields[i];
        size_t cut = suffix_bytes(f, JSON_SCHEMA_WIRE);
        if (i > 0)
            buf_add_u8(ret, ',');
        buf_add_u8(ret, '"');
        buf_add(ret, f->name, strlen(f->name) - cut); // names are C identifiers: nothing to escape
        buf_add_str(ret, cut ? "_s\":" : "\":");
        dump_field(f, (const char *)value + f->offset, ret);
    }
    buf_add_u8(ret, '}');
}
