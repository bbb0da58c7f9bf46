#include "tests/unit/schemas.h"
#include "lib/regex.h"

#include <math.h>
#include <stdio.h>

/* ---- does a value satisfy a schema? ---- */

static bool is_number(const struct json *v) {
    return json_kind(v) == JSON_KIND_INT || json_kind(v) == JSON_KIND_REAL;
}

static bool same(const struct json *a, const struct json *b) {
    if (is_number(a) && is_number(b))
        return json_as_real(a) == json_as_real(b);
    if (json_kind(a) != json_kind(b) || json_count(a) != json_count(b))
        return false;
    if (json_kind(a) == JSON_KIND_BOOL)
        return json_as_bool(a) == json_as_bool(b);
    if (json_kind(a) == JSON_KIND_STRING)
        return !strcmp(json_as_string(a), json_as_string(b));
    const struct json *y = json_first(b);
    for (const struct json *x = json_first(a); x; x = json_next(x), y = json_next(y)) {
        const struct json *other = json_kind(a) == JSON_KIND_OBJECT ? json_get(b, json_key(x)) : y;
        if (!other || !same(x, other))
            return false;
    }
    return true;
}

static bool is_type(const char *type, const struct json *v) {
    static const char *const names[] = {"null",   "boolean", "integer", "number",
                                        "string", "array",   "object"};

    if (!strcmp(type, "number") && is_number(v))
        return true;
    if (!strcmp(type, "integer") && json_kind(v) == JSON_KIND_REAL)
        return json_as_real(v) == floor(json_as_real(v));
    return !strcmp(type, names[json_kind(v)]);
}

static const struct json *follow(const struct json *root, const char *ref) {
    const struct json *at = root;
    char part[64];

    for (const char *p = ref + 1; at && *p == '/';) {
        size_t n = strcspn(++p, "/");
        snprintf(part, sizeof part, "%.*s", (int)n, p);
        at = json_get(at, part);
        p += n;
    }
    return at;
}

static size_t n_characters(const char *s) {
    size_t n = 0;

    for (; *s; s++)
        n += (*s & 0xC0) != 0x80;
    return n;
}

static bool is_date(const char *s) {
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int y, m, d, n = 0;

    if (sscanf(s, "%4d-%2d-%2d%n", &y, &m, &d, &n) != 3 || n != 10 || s[10] || m < 1 || m > 12)
        return false;
    bool leap = (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
    return d >= 1 && d <= days[m - 1] + (leap && m == 2);
}

static bool matches(const char *pattern, const char *text) {
    _cleanup_(regex_freep) struct regex *re = NULL;
    size_t from, to;

    return regex_new(pattern, &re, NULL) == 0 &&
           regex_find(re, text, strlen(text), 0, &from, &to) == 1;
}

static bool check_string(const struct json *schema, const char *s) {
    int64_t n = (int64_t)n_characters(s);
    const char *pattern = json_get_string(schema, "pattern", NULL);

    return n >= json_get_int(schema, "minLength", 0) &&
           n <= json_get_int(schema, "maxLength", INT64_MAX) && (!pattern || matches(pattern, s)) &&
           (strcmp(json_get_string(schema, "format", ""), "date") || is_date(s));
}

static bool check_number(const struct json *schema, const struct json *v) {
    const struct json *min = json_get(schema, "minimum"), *max = json_get(schema, "maximum");
    const struct json *above = json_get(schema, "exclusiveMinimum");
    const struct json *under = json_get(schema, "exclusiveMaximum");
    double x = json_as_real(v);

    return (!min || x >= json_as_real(min)) && (!max || x <= json_as_real(max)) &&
           (!above || x > json_as_real(above)) && (!under || x < json_as_real(under));
}

static bool check_array(const struct json *root, const struct json *schema, const struct json *v) {
    const struct json *first = json_first(json_get(schema, "prefixItems"));
    const struct json *items = json_get(schema, "items");
    int64_t n = (int64_t)json_count(v);

    if (n < json_get_int(schema, "minItems", 0) || n > json_get_int(schema, "maxItems", INT64_MAX))
        return false;
    for (const struct json *x = json_first(v); x; x = json_next(x)) {
        const struct json *own = first ? first : items;
        if (own && !schemas_check(root, own, x))
            return false;
        first = first ? json_next(first) : NULL;
    }
    return true;
}

static bool check_object(const struct json *root, const struct json *schema, const struct json *v) {
    const struct json *properties = json_get(schema, "properties");
    const struct json *rest = json_get(schema, "additionalProperties");

    for (const struct json *x = json_first(json_get(schema, "required")); x; x = json_next(x))
        if (!json_get(v, json_as_string(x)))
            return false;
    for (const struct json *x = json_first(v); x; x = json_next(x)) {
        const struct json *own = json_get(properties, json_key(x));
        own = own ? own : rest;
        if (own && !schemas_check(root, own, x))
            return false;
    }
    return true;
}

static int n_holding(const struct json *root, const struct json *list, const struct json *v) {
    int n = 0;

    for (const struct json *x = json_first(list); x; x = json_next(x))
        n += schemas_check(root, x, v);
    return n;
}

static bool check_types(const struct json *schema, const struct json *v) {
    const struct json *type = json_get(schema, "type");

    if (!type)
        return true;
    if (json_kind(type) == JSON_KIND_STRING)
        return is_type(json_as_string(type), v);
    for (const struct json *x = json_first(type); x; x = json_next(x))
        if (is_type(json_as_string(x), v))
            return true;
    return false;
}

static bool check_listed(const struct json *schema, const struct json *v) {
    const struct json *list = json_get(schema, "enum"), *one = json_get(schema, "const");
    bool found = !list;

    for (const struct json *x = json_first(list); x; x = json_next(x))
        found |= same(x, v);
    return found && (!one || same(one, v));
}

bool schemas_check(const struct json *root, const struct json *schema, const struct json *v) {
    const struct json *ref = json_get(schema, "$ref");
    const struct json *all = json_get(schema, "allOf"), *any = json_get(schema, "anyOf");

    if (json_kind(schema) == JSON_KIND_BOOL)
        return json_as_bool(schema);
    if (ref && !schemas_check(root, follow(root, json_as_string(ref)), v))
        return false;
    if (!check_types(schema, v) || !check_listed(schema, v))
        return false;
    if (all && n_holding(root, all, v) != (int)json_count(all))
        return false;
    if (any && !n_holding(root, any, v))
        return false;
    if (json_get(schema, "oneOf") && n_holding(root, json_get(schema, "oneOf"), v) != 1)
        return false;
    switch (json_kind(v)) {
    case JSON_KIND_STRING:
        return check_string(schema, json_as_string(v));
    case JSON_KIND_INT:
    case JSON_KIND_REAL:
        return check_number(schema, v);
    case JSON_KIND_ARRAY:
        return check_array(root, schema, v);
    case JSON_KIND_OBJECT:
        return check_object(root, schema, v);
    default:
        return true;
    }
}

/* ---- random schemas ---- */

static schemas_random_f below;

const char *const schemas_names[] = {"a",   "ab",       "name", "id", "x y",
                                     "q\"", "\xc3\xa9", "kind", NULL};
enum { N_NAMES = 8 };

static const char *const patterns[] = {"^[a-c]{1,3}$",         "^(ab|cd)+$", "x",     "^a.*z?$",
                                       "^\\d+(\\.\\d{1,2})?$", "^[^\"]{2}$", "(q|r)$"};

static struct json *schema_of(const char *type) {
    struct json *s = json_new_object();

    json_add_string(s, "type", type);
    return s;
}

static struct json *make(int depth);

static struct json *make_number(bool whole) {
    struct json *s = schema_of(whole ? "integer" : "number");
    int low = (int)below(400) - 200, high = low + (int)below(below(2) ? 20 : 3000);

    if (below(2))
        json_add_int(s, below(3) ? "minimum" : "exclusiveMinimum", low);
    if (below(2)) {
        const char *name = below(3) ? "maximum" : "exclusiveMaximum";
        if (whole)
            json_add_int(s, name, high);
        else
            json_add_real(s, name, high + below(100) / 100.0);
    }
    return s;
}

static struct json *make_string(void) {
    struct json *s = schema_of("string");

    switch (below(5)) {
    case 0:
        json_add_string(s, "pattern", patterns[below(ARRAY_SIZE(patterns))]);
        break;
    case 1:
        json_add_string(s, "format", "date");
        break;
    case 2:
        json_add_int(s, "maxLength", below(6));
        __attribute__((fallthrough));
    case 3:
        json_add_int(s, "minLength", below(4));
        break;
    default:
        break;
    }
    return s;
}

static struct json *make_value(void) {
    struct json *list;

    switch (below(6)) {
    case 0:
        return json_new_null();
    case 1:
        return json_new_bool(below(2));
    case 2:
        return json_new_int((int)below(30) - 10);
    case 3:
        list = json_new_array();
        json_append(list, json_new_int(below(3)));
        return list;
    default:
        return json_new_string(schemas_names[below(N_NAMES)]);
    }
}

static struct json *make_enum(void) {
    struct json *s = json_new_object();

    if (below(3) == 0) {
        json_add(s, "const", make_value());
        return s;
    }
    struct json *list = json_add(s, "enum", json_new_array());
    for (uint32_t n = 1 + below(5); n; n--)
        json_append(list, make_value());
    return s;
}

static struct json *make_array(int depth) {
    struct json *s = schema_of("array");

    if (below(3) == 0) {
        struct json *list = json_add(s, "prefixItems", json_new_array());
        for (uint32_t n = 1 + below(3); n; n--)
            json_append(list, make(depth + 1));
    }
    if (below(4))
        json_add(s, "items", make(depth + 1));
    if (below(3) == 0)
        json_add_int(s, "minItems", below(3));
    if (below(3) == 0)
        json_add_int(s, "maxItems", 1 + below(4));
    return s;
}

static struct json *make_object(int depth) {
    struct json *s = schema_of("object"), *required = json_new_array();
    struct json *properties = json_add(s, "properties", json_new_object());

    for (uint32_t i = 0; i < N_NAMES; i++) {
        if (below(3) == 0)
            json_add(properties, schemas_names[i], make(depth + 1));
        if (below(5) == 0)
            json_append(required, json_new_string(schemas_names[i]));
    }
    json_add(s, "required", required);
    if (below(3) == 0)
        json_add(s, "additionalProperties", make(depth + 1));
    else if (below(2))
        json_add_bool(s, "additionalProperties", false);
    return s;
}

/* Objects that their "kind" tells apart. */
static struct json *make_kinds(int depth) {
    struct json *s = json_new_object(), *list = json_add(s, "oneOf", json_new_array());

    for (uint32_t i = 0, n = 1 + below(3); i < n; i++) {
        struct json *one = json_append(list, schema_of("object"));
        struct json *properties = json_add(one, "properties", json_new_object());
        json_add_int(json_add(properties, "kind", json_new_object()), "const", i);
        json_add(properties, "a", make(depth + 1));
        json_append(json_add(one, "required", json_new_array()), json_new_string("kind"));
    }
    return s;
}

static struct json *make_list(int depth, const char *keyword) {
    struct json *s = json_new_object(), *list;

    if (!strcmp(keyword, "allOf")) {
        json_free(s);
        s = make_object(depth + 1);
    }
    list = json_add(s, keyword, json_new_array());
    for (uint32_t n = 1 + below(3); n; n--)
        json_append(list, !strcmp(keyword, "allOf") ? make_object(depth + 1) : make(depth + 1));
    return s;
}

static struct json *make(int depth) {
    struct json *s;

    if (depth > 3)
        return below(2) ? make_number(true) : make_enum();
    switch (below(14)) {
    case 0:
        return json_new_bool(below(8));
    case 1:
        return below(2) ? schema_of("null") : schema_of("boolean");
    case 2:
        return make_number(true);
    case 3:
        return make_number(false);
    case 4:
    case 5:
        return make_string();
    case 6:
        return make_enum();
    case 7:
    case 8:
        return make_array(depth);
    case 9:
        return make_list(depth, below(3) ? "anyOf" : "allOf");
    case 10:
        return make_kinds(depth);
    case 11:
        s = json_new_object();
        json_add_string(s, "$ref", below(3) ? "#/$defs/one" : "#/$defs/two");
        if (below(3) == 0)
            json_add_string(s, "title", "a reference");
        return s;
    default:
        return make_object(depth);
    }
}

struct json *schemas_random(schemas_random_f random_below) {
    below = random_below;
    struct json *s = below(4) ? make_object(0) : make_array(0);
    struct json *defs = json_add(s, "$defs", json_new_object());

    json_add(defs, "one", make(2));
    json_add(defs, "two", make(1));
    return s;
}

/* ---- random values of a schema ---- */

struct sampling {
    const struct json *root;
    bool any_order;
};

static struct json *sample(const struct sampling *x, const struct json *schema, int depth);

static struct json *copy(const struct json *v) {
    _cleanup_(buf_free) struct buf text = {0};
    struct json *made = NULL;

    json_dump(v, 0, &text);
    json_parse(text.data, text.n_bytes, NULL, &made, NULL);
    return made;
}

static struct json *sample_text(const struct json *schema) {
    static const char *const pieces[] = {"a",
                                         "b",
                                         "z",
                                         "q",
                                         "x",
                                         "1",
                                         ".",
                                         "cd",
                                         "ab",
                                         "\xc3\xa9",
                                         "\xe4\xb8\xad",
                                         "\"",
                                         "\\",
                                         " ",
                                         "\xf0\x9f\x98\x80",
                                         "\n"};
    _cleanup_(buf_free) struct buf text = {0};

    if (!strcmp(json_get_string(schema, "format", ""), "date"))
        return json_new_string(below(2) ? "2024-02-29" : "1999-12-31");
    for (uint32_t n = below(6); n; n--)
        // The patterns' library finds ends at every line; JSON Schema does not.
        buf_add_str(&text,
                    pieces[below(ARRAY_SIZE(pieces) - (json_get(schema, "pattern") != NULL))]);
    return json_new_string(buf_cstr(&text));
}

static struct json *sample_number(const struct json *schema, bool whole) {
    const struct json *low = json_get(schema, "minimum");

    low = low ? low : json_get(schema, "exclusiveMinimum");
    int64_t n = (low ? (int64_t)floor(json_as_real(low)) : -300) + below(400);

    return whole || below(2) ? json_new_int(n) : json_new_real((double)n + below(8) / 8.0);
}

static struct json *sample_array(const struct sampling *x, const struct json *schema, int depth) {
    const struct json *first = json_first(json_get(schema, "prefixItems"));
    const struct json *items = json_get(schema, "items");
    struct json *made = json_new_array();
    int64_t n = json_get_int(schema, "minItems", 0) + (depth < 5 ? below(3) : 0);

    n = MIN(n, json_get_int(schema, "maxItems", INT64_MAX));
    for (int64_t i = 0; i < n; i++, first = first ? json_next(first) : NULL) {
        const struct json *own = first ? first : items;
        struct json *v = own ? sample(x, own, depth + 1) : json_new_int(i);
        if (!v)
            break;
        json_append(made, v);
    }
    return made;
}

static bool requires(const struct json *schema, const char *name) {
    for (const struct json *v = json_first(json_get(schema, "required")); v; v = json_next(v))
        if (!strcmp(json_as_string(v), name))
            return true;
    return false;
}

static void add_sample(const struct sampling *x, struct json *made, const char *name,
                       const struct json *own, int depth) {
    struct json *v = own ? sample(x, own, depth + 1) : json_new_int(5);

    if (v && !json_get(made, name))
        json_add(made, name, v);
    else
        json_free(v);
}

static struct json *sample_object(const struct sampling *x, const struct json *schema, int depth) {
    const struct json *rest = json_get(schema, "additionalProperties");
    struct json *made = json_new_object();

    for (const struct json *v = json_first(json_get(schema, "properties")); v; v = json_next(v))
        if (requires(schema, json_key(v)) || (depth < 5 && below(2)))
            add_sample(x, made, json_key(v), v, depth);
    for (const struct json *v = json_first(json_get(schema, "required")); v; v = json_next(v))
        if (!json_get(json_get(schema, "properties"), json_as_string(v)))
            add_sample(x, made, json_as_string(v), rest, depth);
    if (depth < 5 && below(3) == 0 && !(rest && json_kind(rest) == JSON_KIND_BOOL))
        add_sample(x, made, "other", rest, depth);
    return made;
}

/* A value of a list's schema, with what the others of allOf ask for. */
static struct json *sample_list(const struct sampling *x, const struct json *schema, int depth) {
    const struct json *all = json_get(schema, "allOf"), *v;
    const struct json *list =
        json_get(schema, "anyOf") ? json_get(schema, "anyOf") : json_get(schema, "oneOf");

    if (!all) {
        v = json_first(list);
        for (uint32_t n = below((uint32_t)json_count(list)); n; n--)
            v = json_next(v);
        return sample(x, v, depth + 1);
    }
    struct json *made = sample_object(x, schema, depth);
    for (v = json_first(all); v; v = json_next(v)) {
        _cleanup_(json_freep) struct json *more = sample_object(x, v, depth + 1);
        for (const struct json *y = json_first(more); y; y = json_next(y))
            if (!json_get(made, json_key(y)))
                json_add(made, json_key(y), copy(y));
    }
    return made;
}

static struct json *sample_type(const struct sampling *x, const struct json *schema, int depth) {
    const char *type = json_get_string(schema, "type", "");

    if (!strcmp(type, "null"))
        return json_new_null();
    if (!strcmp(type, "boolean"))
        return json_new_bool(below(2));
    if (!strcmp(type, "integer") || !strcmp(type, "number"))
        return sample_number(schema, type[0] == 'i');
    if (!strcmp(type, "string"))
        return sample_text(schema);
    if (!strcmp(type, "array"))
        return sample_array(x, schema, depth);
    if (!strcmp(type, "object"))
        return sample_object(x, schema, depth);
    return json_new_string("anything");
}

static struct json *sample(const struct sampling *x, const struct json *schema, int depth) {
    const struct json *list = json_get(schema, "enum"), *v = json_first(list);
    struct json *made;

    if (depth > 12 || (json_kind(schema) == JSON_KIND_BOOL && !json_as_bool(schema)))
        return NULL;
    for (uint32_t n = list ? below((uint32_t)json_count(list)) : 0; n; n--)
        v = json_next(v);
    if (json_get(schema, "$ref"))
        made = sample(x, follow(x->root, json_get_string(schema, "$ref", "#")), depth + 1);
    else if (json_get(schema, "allOf") || json_get(schema, "anyOf") || json_get(schema, "oneOf"))
        made = sample_list(x, schema, depth);
    else if (v || json_get(schema, "const"))
        made = copy(v ? v : json_get(schema, "const"));
    else
        made = sample_type(x, schema, depth);
    if (made && !schemas_check(x->root, schema, made)) {
        json_free(made);
        return NULL;
    }
    return made;
}

/* The same object with its members in another order; not those inside. */
static struct json *shuffled(struct json *object) {
    struct json *made = json_new_object();
    size_t n = json_count(object);

    for (size_t left = n; left; left--) {
        const struct json *v = json_first(object);
        for (uint32_t skip = below((uint32_t)n); skip; skip--)
            v = json_next(v);
        while (json_get(made, json_key(v)))
            v = json_next(v) ? json_next(v) : json_first(object);
        json_add(made, json_key(v), copy(v));
    }
    json_free(object);
    return made;
}

struct json *schemas_sample(const struct json *root, const struct json *schema, bool any_order,
                            schemas_random_f random_below, int depth) {
    const struct sampling x = {root, any_order};

    below = random_below;
    struct json *made = sample(&x, schema, depth);
    return made && any_order && json_kind(made) == JSON_KIND_OBJECT ? shuffled(made) : made;
}
