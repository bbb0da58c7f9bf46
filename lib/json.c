#include "lib/json.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>

enum { INDEX_FROM = 16 }; // members from which an object gets a hash index

/* Members of one object by key: open addressing, at most half full. */
struct index {
    size_t n_slots; // a power of two
    struct json **slots;
};

struct json {
    enum json_kind type;
    int line;
    int column;
    int key_line;
    int key_column;
    uint32_t key_bytes;
    char *key;
    char *source; // of plain YAML scalars that are not text
    struct json *next;
    union {
        bool boolean;
        int64_t integer;
        double real;
        struct {
            char *text;
            size_t n_bytes;
        } string;
        struct {
            struct json *first;
            struct json *last;
            size_t n;
            struct index *index; // objects only
        } list;
    };
};

static const char *const kind_names[JSON_KIND_COUNT] = {
    [JSON_KIND_NULL] = "null",
    [JSON_KIND_BOOL] = "true or false",
    [JSON_KIND_INT] = "a whole number",
    [JSON_KIND_REAL] = "a number",
    [JSON_KIND_STRING] = "text",
    [JSON_KIND_ARRAY] = "a list",
    [JSON_KIND_OBJECT] = "a block of fields",
};

static bool is_container(const struct json *value) {
    return value && (value->type == JSON_KIND_ARRAY || value->type == JSON_KIND_OBJECT);
}

void json_free(struct json *value) {
    if (!value)
        return;
    if (value->type == JSON_KIND_STRING)
        free(value->string.text);
    if (is_container(value)) {
        struct json *next;
        for (struct json *v = value->list.first; v; v = next) {
            next = v->next;
            json_free(v);
        }
        if (value->list.index)
            free(value->list.index->slots);
        free(value->list.index);
    }
    free(value->key);
    free(value->source);
    free(value);
}

enum json_kind json_kind(const struct json *value) {
    return value->type;
}

const char *json_kind_name(enum json_kind type) {
    assert(type < JSON_KIND_COUNT);
    return kind_names[type];
}

bool json_as_bool(const struct json *value) {
    assert(value->type == JSON_KIND_BOOL);
    return value->boolean;
}

int64_t json_as_int(const struct json *value) {
    assert(value->type == JSON_KIND_INT);
    return value->integer;
}

double json_as_real(const struct json *value) {
    if (value->type == JSON_KIND_INT)
        return (double)value->integer;
    assert(value->type == JSON_KIND_REAL);
    return value->real;
}

const char *json_as_string(const struct json *value) {
    assert(value->type == JSON_KIND_STRING);
    return value->string.text;
}

size_t json_as_string_bytes(const struct json *value) {
    assert(value->type == JSON_KIND_STRING);
    return value->string.n_bytes;
}

size_t json_count(const struct json *value) {
    return is_container(value) ? value->list.n : 0;
}

struct json *json_first(const struct json *value) {
    return is_container(value) ? value->list.first : NULL;
}

struct json *json_next(const struct json *value) {
    return value->next;
}

const char *json_key(const struct json *value) {
    return value->key;
}

size_t json_key_bytes(const struct json *value) {
    return value->key_bytes;
}

int json_line(const struct json *value) {
    return value->line;
}

int json_column(const struct json *value) {
    return value->column;
}

int json_key_line(const struct json *value) {
    return value->key_line;
}

int json_key_column(const struct json *value) {
    return value->key_column;
}

void json_set_position(struct json *value, int line, int column) {
    value->line = line;
    value->column = column;
}

void json_set_key_position(struct json *value, int line, int column) {
    value->key_line = line;
    value->key_column = column;
}

const char *json_source(const struct json *value) {
    return value->type == JSON_KIND_STRING ? value->string.text : value->source;
}

void json_set_source(struct json *value, const char *source) {
    if (value->type != JSON_KIND_STRING)
        hai_strset(&value->source, source);
}

/* FNV-1a. Chosen keys could collide, but only make their sender's own request slow: a body is
 * bounded, and lookups are of our fixed names. */
static uint64_t key_hash(const char *key, size_t n_bytes) {
    uint64_t hash = 0xcbf29ce484222325;

    for (size_t i = 0; i < n_bytes; i++)
        hash = (hash ^ (uint8_t)key[i]) * 0x100000001b3;
    return hash ^ hash >> 29;
}

static bool key_is(const struct json *member, const char *key, size_t n_bytes) {
    return member->key_bytes == n_bytes && memcmp(member->key, key, n_bytes) == 0;
}

static struct json **index_slot(const struct index *index, const char *key, size_t n_bytes) {
    size_t at = key_hash(key, n_bytes) & (index->n_slots - 1);

    while (index->slots[at] && !key_is(index->slots[at], key, n_bytes))
        at = (at + 1) & (index->n_slots - 1);
    return &index->slots[at];
}

static void index_build(struct json *object) {
    struct index *index = object->list.index ? object->list.index : hai_new(struct index);

    free(index->slots);
    index->n_slots = index->n_slots ? index->n_slots * 2 : 4 * INDEX_FROM;
    index->slots = hai_new_array(struct json *, index->n_slots);
    for (struct json *v = object->list.first; v; v = v->next)
        *index_slot(index, v->key, v->key_bytes) = v;
    object->list.index = index;
}

static struct json *member_find(const struct json *object, const char *key, size_t n_bytes) {
    if (object->list.index)
        return *index_slot(object->list.index, key, n_bytes);
    for (struct json *v = object->list.first; v; v = v->next)
        if (key_is(v, key, n_bytes))
            return v;
    return NULL;
}

struct json *json_get(const struct json *value, const char *key) {
    if (!value || value->type != JSON_KIND_OBJECT)
        return NULL;
    return member_find(value, key, strlen(key));
}

const char *json_get_string(const struct json *value, const char *key, const char *fallback) {
    const struct json *v = json_get(value, key);
    return v && v->type == JSON_KIND_STRING ? v->string.text : fallback;
}

int64_t json_get_int(const struct json *value, const char *key, int64_t fallback) {
    const struct json *v = json_get(value, key);
    return v && v->type == JSON_KIND_INT ? v->integer : fallback;
}

bool json_get_bool(const struct json *value, const char *key, bool fallback) {
    const struct json *v = json_get(value, key);
    return v && v->type == JSON_KIND_BOOL ? v->boolean : fallback;
}

static struct json *value_new(enum json_kind type) {
    struct json *value = hai_new(struct json);

    value->type = type;
    return value;
}

struct json *json_new_null(void) {
    return value_new(JSON_KIND_NULL);
}

struct json *json_new_bool(bool boolean) {
    struct json *value = value_new(JSON_KIND_BOOL);

    value->boolean = boolean;
    return value;
}

struct json *json_new_int(int64_t integer) {
    struct json *value = value_new(JSON_KIND_INT);

    value->integer = integer;
    return value;
}

struct json *json_new_real(double real) {
    if (!isfinite(real))
        return json_new_null();
    struct json *value = value_new(JSON_KIND_REAL);
    value->real = real;
    return value;
}

struct json *json_new_string_n(const char *s, size_t n_bytes) {
    struct json *value = value_new(JSON_KIND_STRING);

    value->string.text = hai_alloc(n_bytes + 1);
    if (n_bytes)
        memcpy(value->string.text, s, n_bytes);
    value->string.n_bytes = n_bytes;
    return value;
}

struct json *json_new_string(const char *s) {
    return s ? json_new_string_n(s, strlen(s)) : json_new_null();
}

struct json *json_new_array(void) {
    return value_new(JSON_KIND_ARRAY);
}

struct json *json_new_object(void) {
    return value_new(JSON_KIND_OBJECT);
}

static struct json *link_last(struct json *container, struct json *value) {
    assert(!value->next);
    if (container->list.last)
        container->list.last->next = value;
    else
        container->list.first = value;
    container->list.last = value;
    container->list.n++;
    return value;
}

struct json *json_append(struct json *array, struct json *value) {
    assert(array->type == JSON_KIND_ARRAY);
    return link_last(array, value);
}

struct json *json_try_add(struct json *object, const char *key, size_t n_bytes,
                          struct json *value) {
    assert(object->type == JSON_KIND_OBJECT);
    assert(!value->key);
    assert(n_bytes < UINT32_MAX);
    if (member_find(object, key, n_bytes))
        return NULL;
    value->key = hai_strndup(key, n_bytes);
    value->key_bytes = (uint32_t)n_bytes;
    link_last(object, value);
    struct index *index = object->list.index;
    if (index ? object->list.n * 2 > index->n_slots : object->list.n == INDEX_FROM)
        index_build(object);
    else if (index)
        *index_slot(index, value->key, n_bytes) = value;
    return value;
}

struct json *json_add(struct json *object, const char *key, struct json *value) {
    struct json *added = json_try_add(object, key, strlen(key), value);

    assert(added);
    return added;
}

void json_add_string(struct json *object, const char *key, const char *s) {
    json_add(object, key, json_new_string(s));
}

void json_add_int(struct json *object, const char *key, int64_t value) {
    json_add(object, key, json_new_int(value));
}

void json_add_real(struct json *object, const char *key, double value) {
    json_add(object, key, json_new_real(value));
}

void json_add_bool(struct json *object, const char *key, bool value) {
    json_add(object, key, json_new_bool(value));
}

static int from_jansson(json_t *in, int depth, struct json **ret, struct hai_err *err);

static int members_from_jansson(json_t *in, int depth, struct json *object, struct hai_err *err) {
    const char *key;
    json_t *child;

    json_object_foreach(in, key, child) {
        struct json *value;
        int r = from_jansson(child, depth + 1, &value, err);
        if (r < 0)
            return r;
        json_add(object, key, value);
    }
    return 0;
}

static int elements_from_jansson(json_t *in, int depth, struct json *array, struct hai_err *err) {
    size_t i;
    json_t *child;

    json_array_foreach(in, i, child) {
        struct json *value;
        int r = from_jansson(child, depth + 1, &value, err);
        if (r < 0)
            return r;
        json_append(array, value);
    }
    return 0;
}

static int from_jansson(json_t *in, int depth, struct json **ret, struct hai_err *err) {
    _cleanup_(json_freep) struct json *value = NULL;
    int r = 0;

    if ((json_is_array(in) || json_is_object(in)) && depth >= JSON_DEPTH_MAX)
        return hai_fail_at(err, -EFBIG, "too_deep", NULL, NULL, "JSON is nested more than %d deep",
                           JSON_DEPTH_MAX);
    switch (json_typeof(in)) {
    case JSON_OBJECT:
        value = json_new_object();
        r = members_from_jansson(in, depth, value, err);
        break;
    case JSON_ARRAY:
        value = json_new_array();
        r = elements_from_jansson(in, depth, value, err);
        break;
    case JSON_STRING:
        value = json_new_string_n(json_string_value(in), json_string_length(in));
        break;
    case JSON_INTEGER:
        value = json_new_int(json_integer_value(in));
        break;
    case JSON_REAL:
        value = json_new_real(json_real_value(in));
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        value = json_new_bool(json_is_true(in));
        break;
    case JSON_NULL:
        value = json_new_null();
        break;
    }
    if (r < 0)
        return r;
    *ret = TAKE_PTR(value);
    return 0;
}

static void decrefp(json_t **in) {
    json_decref(*in);
}

int json_parse(const void *text, size_t n_bytes, const char *file, struct json **ret,
               struct hai_err *err) {
    json_error_t error;

    if (n_bytes > JSON_BYTES_MAX)
        return hai_fail_at(err, -EFBIG, NULL, file, NULL, "JSON of %zu bytes; at most %d", n_bytes,
                           JSON_BYTES_MAX);
    _cleanup_(decrefp) json_t *in =
        json_loadb(text ? text : "", n_bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (!in) {
        char where[HAI_ERR_WHERE_BYTES];
        bool deep = json_error_code(&error) == json_error_stack_overflow;
        (void)snprintf(where, sizeof where, "%s%s%d:%d", file ? file : "", file ? ":" : "",
                       error.line < 1 ? 1 : error.line, error.column < 1 ? 1 : error.column);
        return hai_fail_at(err, deep ? -EFBIG : -EBADMSG, deep ? "too_deep" : NULL, where, NULL,
                           "bad JSON: %s", error.text);
    }
    return from_jansson(in, 0, ret, err);
}

void json_dump_int(int64_t value, struct buf *ret) {
    char digits[20];
    size_t n = 0;
    uint64_t left = value < 0 ? -(uint64_t)value : (uint64_t)value;

    do
        digits[sizeof digits - ++n] = (char)('0' + left % 10);
    while (left /= 10);
    if (value < 0)
        buf_add_u8(ret, '-');
    buf_add(ret, digits + sizeof digits - n, n);
}

void json_dump_real(double value, struct buf *ret) {
    char text[32];

    if (!isfinite(value)) {
        buf_add_str(ret, "null");
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        (void)snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    buf_add_str(ret, text);
    if (!strpbrk(text, ".e"))
        buf_add_str(ret, ".0"); // stays a real when read again
}

/* Length of the UTF-8 sequence at s, 0 if it is not one (RFC 3629: no overlong forms, no
 * surrogates, at most U+10FFFF). */
static size_t utf8_length(const uint8_t *s, size_t n_bytes) {
    static const struct {
        uint8_t first_min, first_max, second_min, second_max;
        uint8_t n;
    } forms[] = {
        {0x00, 0x7f, 0x00, 0x00, 1},
        {0xc2, 0xdf, 0x80, 0xbf, 2},
        {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3},
        {0xed, 0xed, 0x80, 0x9f, 3},
        {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4},
        {0xf1, 0xf3, 0x80, 0xbf, 4},
        {0xf4, 0xf4, 0x80, 0x8f, 4},
    };

    for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
        if (s[0] < forms[i].first_min || s[0] > forms[i].first_max)
            continue;
        if (forms[i].n > n_bytes)
            return 0;
        if (forms[i].n > 1 && (s[1] < forms[i].second_min || s[1] > forms[i].second_max))
            return 0;
        for (size_t j = 2; j < forms[i].n; j++)
            if ((s[j] & 0xc0) != 0x80)
                return 0;
        return forms[i].n;
    }
    return 0;
}

bool json_is_text(const char *s, size_t n_bytes) {
    size_t at = 0;

    for (size_t n; at < n_bytes; at += n)
        if (!(n = utf8_length((const uint8_t *)s + at, n_bytes - at)))
            return false;
    return true;
}

static void dump_escape(uint8_t byte, struct buf *ret) {
    static const char names[] = {['\b'] = 'b', ['\f'] = 'f', ['\n'] = 'n', ['\r'] = 'r',
                                 ['\t'] = 't', ['"'] = '"',  ['\\'] = '\\'};

    if (byte < sizeof names && names[byte]) {
        buf_add_u8(ret, '\\');
        buf_add_u8(ret, (uint8_t)names[byte]);
    } else
        buf_printf(ret, "\\u%04x", byte);
}

void json_dump_string(const char *s, size_t n_bytes, struct buf *ret) {
    const uint8_t *text = (const uint8_t *)s;
    size_t at = 0;

    buf_add_u8(ret, '"');
    while (at < n_bytes) {
        size_t start = at;
        size_t n = 1;
        while (at < n_bytes && text[at] >= 0x20 && text[at] != '"' && text[at] != '\\' &&
               text[at] != 0x7f && (n = utf8_length(text + at, n_bytes - at)) > 0)
            at += n;
        buf_add(ret, text + start, at - start);
        if (at == n_bytes)
            break;
        if (n == 0)
            buf_add_str(ret, "\xef\xbf\xbd");
        else
            dump_escape(text[at], ret);
        at++;
    }
    buf_add_u8(ret, '"');
}

static void dump_break(int indent, int depth, struct buf *ret) {
    if (indent)
        buf_printf(ret, "\n%*s", indent * depth, "");
}

static void dump(const struct json *value, int indent, int depth, struct buf *ret);

static void dump_list(const struct json *value, int indent, int depth, struct buf *ret) {
    bool object = value->type == JSON_KIND_OBJECT;

    buf_add_u8(ret, object ? '{' : '[');
    for (const struct json *v = value->list.first; v; v = v->next) {
        if (v != value->list.first)
            buf_add_u8(ret, ',');
        dump_break(indent, depth + 1, ret);
        if (object) {
            json_dump_string(v->key, v->key_bytes, ret);
            buf_add_str(ret, indent ? ": " : ":");
        }
        dump(v, indent, depth + 1, ret);
    }
    if (value->list.first)
        dump_break(indent, depth, ret);
    buf_add_u8(ret, object ? '}' : ']');
}

static void dump(const struct json *value, int indent, int depth, struct buf *ret) {
    switch (value->type) {
    case JSON_KIND_BOOL:
        buf_add_str(ret, value->boolean ? "true" : "false");
        break;
    case JSON_KIND_INT:
        json_dump_int(value->integer, ret);
        break;
    case JSON_KIND_REAL:
        json_dump_real(value->real, ret);
        break;
    case JSON_KIND_STRING:
        json_dump_string(value->string.text, value->string.n_bytes, ret);
        break;
    case JSON_KIND_ARRAY:
    case JSON_KIND_OBJECT:
        dump_list(value, indent, depth, ret);
        break;
    default:
        buf_add_str(ret, "null");
    }
}

void json_dump(const struct json *value, int indent, struct buf *ret) {
    dump(value, indent, 0, ret);
    if (indent)
        buf_add_u8(ret, '\n');
}
