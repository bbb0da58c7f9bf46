/* Schemas as trees: what two of them accept together, and whether that is certainly nothing. */
#include "engine/infer/grammar_impl.h"

enum {
    MERGE_DEPTH_MAX = 64,    // references behind references
    DISJOINT_DEPTH_MAX = 16, // properties inside each other
};

void grammar_merge_free(struct grammar_trees *t) {
    for (size_t i = 0; i < t->n_made; i++)
        json_free(t->made[i]);
    free(t->made);
}

static struct json *keep(struct grammar_trees *t, struct json *tree) {
    if (t->n_made == t->n_made_max) {
        t->n_made_max = 2 * t->n_made_max + 16;
        t->made = hai_realloc_array(t->made, t->n_made_max, sizeof *t->made);
    }
    return t->made[t->n_made++] = tree;
}

/* A copy that is not kept: it becomes part of another tree. Beyond GRAMMAR_TREE_MAX it is not
 * whole: no tree is looked at from there on. */
static struct json *copy(struct grammar_trees *t, const struct json *value) {
    struct json *made;

    if (t->n_values > GRAMMAR_TREE_MAX)
        return json_new_null();
    t->n_values +=
        1 + (json_kind(value) == JSON_KIND_STRING ? json_as_string_bytes(value) / 32 : 0);
    switch (json_kind(value)) {
    case JSON_KIND_BOOL:
        return json_new_bool(json_as_bool(value));
    case JSON_KIND_INT:
        return json_new_int(json_as_int(value));
    case JSON_KIND_REAL:
        return json_new_real(json_as_real(value));
    case JSON_KIND_STRING:
        return json_new_string_n(json_as_string(value), json_as_string_bytes(value));
    case JSON_KIND_ARRAY:
        made = json_new_array();
        for (const struct json *v = json_first(value); v; v = json_next(v))
            json_append(made, copy(t, v));
        return made;
    case JSON_KIND_OBJECT:
        made = json_new_object();
        for (const struct json *v = json_first(value); v; v = json_next(v)) {
            t->n_values += json_key_bytes(v) / 32;
            json_add(made, json_key(v), copy(t, v));
        }
        return made;
    default:
        return json_new_null();
    }
}

/* Definitions are looked up in the document's root, so copies leave them out. */
static bool is_definitions(const char *keyword) {
    return strcmp(keyword, "$defs") == 0 || strcmp(keyword, "definitions") == 0;
}

struct json *grammar_merge_without(struct grammar_trees *t, const struct json *schema,
                                   const char *keyword) {
    struct json *made = json_new_object();

    for (const struct json *v = json_first(schema); v; v = json_next(v))
        if (strcmp(json_key(v), keyword) != 0 && !is_definitions(json_key(v)))
            json_add(made, json_key(v), copy(t, v));
    return keep(t, made);
}

static bool equal(struct grammar_trees *t, const struct json *a, const struct json *b) {
    enum json_kind ka = json_kind(a), kb = json_kind(b);

    t->work--;
    if ((ka == JSON_KIND_INT || ka == JSON_KIND_REAL) &&
        (kb == JSON_KIND_INT || kb == JSON_KIND_REAL))
        return json_as_real(a) == json_as_real(b);
    if (ka != kb || json_count(a) != json_count(b))
        return false;
    switch (ka) {
    case JSON_KIND_BOOL:
        return json_as_bool(a) == json_as_bool(b);
    case JSON_KIND_STRING:
        if (json_as_string_bytes(a) != json_as_string_bytes(b))
            return false;
        t->work -= (int64_t)json_as_string_bytes(a) / 256;
        return memcmp(json_as_string(a), json_as_string(b), json_as_string_bytes(a)) == 0;
    case JSON_KIND_ARRAY:
        for (const struct json *x = json_first(a), *y = json_first(b); x;
             x = json_next(x), y = json_next(y))
            if (!equal(t, x, y))
                return false;
        return true;
    case JSON_KIND_OBJECT:
        for (const struct json *x = json_first(a); x; x = json_next(x)) {
            const struct json *y = json_get(b, json_key(x));
            if (!y || !equal(t, x, y))
                return false;
        }
        return true;
    default:
        return true;
    }
}

bool grammar_merge_contains(struct grammar_trees *t, const struct json *array,
                            const struct json *value) {
    for (const struct json *v = json_first(array); v && t->work >= 0; v = json_next(v))
        if (equal(t, v, value))
            return true;
    return false;
}

/* {"allOf": [a, b]}, merged when it is compiled. */
static struct json *both_later(struct grammar_trees *t, const struct json *a,
                               const struct json *b) {
    struct json *made = json_new_object(), *list = json_add(made, "allOf", json_new_array());

    json_append(list, copy(t, a));
    json_append(list, copy(t, b));
    return made;
}

static unsigned type_bit(const char *name) {
    static const struct {
        const char *name;
        unsigned bit;
    } types[] = {
        {"null",    1u << JSON_KIND_NULL                      },
        {"boolean", 1u << JSON_KIND_BOOL                      },
        {"integer", 1u << JSON_KIND_INT                       },
        {"number",  1u << JSON_KIND_INT | 1u << JSON_KIND_REAL},
        {"string",  1u << JSON_KIND_STRING                    },
        {"array",   1u << JSON_KIND_ARRAY                     },
        {"object",  1u << JSON_KIND_OBJECT                    },
    };

    for (size_t i = 0; i < ARRAY_SIZE(types); i++)
        if (strcmp(name, types[i].name) == 0)
            return types[i].bit;
    return 0;
}

static unsigned types_named(const struct json *type) {
    unsigned bits = 0;

    if (json_kind(type) == JSON_KIND_STRING)
        return type_bit(json_as_string(type));
    for (const struct json *v = json_first(type); v; v = json_next(v))
        bits |= type_bit(json_as_string(v));
    return bits;
}

unsigned grammar_merge_types(const struct json *schema) {
    static const struct {
        const char *keyword, *type;
    } speak[] = {
        {"properties",           "object"},
        {"required",             "object"},
        {"additionalProperties", "object"},
        {"items",                "array" },
        {"prefixItems",          "array" },
        {"minItems",             "array" },
        {"maxItems",             "array" },
        {"minLength",            "string"},
        {"maxLength",            "string"},
        {"pattern",              "string"},
        {"format",               "string"},
        {"minimum",              "number"},
        {"maximum",              "number"},
        {"exclusiveMinimum",     "number"},
        {"exclusiveMaximum",     "number"},
    };
    unsigned bits = 0;

    if (json_get(schema, "type"))
        return types_named(json_get(schema, "type"));
    for (size_t i = 0; i < ARRAY_SIZE(speak); i++)
        if (json_get(schema, speak[i].keyword))
            bits |= type_bit(speak[i].type);
    return bits ? bits : (1u << JSON_KIND_COUNT) - 1;
}

/* The array of types of a set of bits. */
static struct json *types_array(unsigned bits) {
    static const char *const names[JSON_KIND_COUNT] = {
        [JSON_KIND_NULL] = "null",     [JSON_KIND_BOOL] = "boolean",  [JSON_KIND_INT] = "integer",
        [JSON_KIND_REAL] = "number",   [JSON_KIND_STRING] = "string", [JSON_KIND_ARRAY] = "array",
        [JSON_KIND_OBJECT] = "object",
    };
    struct json *made = json_new_array();

    for (int kind = 0; kind < JSON_KIND_COUNT; kind++)
        if (bits >> kind & 1)
            json_append(made, json_new_string(names[kind]));
    return made;
}

/* ---- what both accept, keyword by keyword ---- */

struct merging {
    struct grammar_trees *t;
    const struct json *a, *b;
    struct json *out;
    const char *pointer;
    bool nothing; // no value satisfies both
    struct hai_err *err;
};

static int refuse(struct merging *m, const char *keyword) {
    const char *at = m->pointer[0] ? m->pointer : "/";

    return hai_fail_at(m->err, -ENOTSUP, NULL, at, NULL,
                       "schema, %.100s: two different '%s' that must both hold are not supported",
                       at, keyword);
}

/* A property that one schema names and the other does not: the other's additionalProperties holds
 * for it too. */
static struct json *with_rest(struct merging *m, const struct json *property,
                              const struct json *other) {
    const struct json *rest = json_get(other, "additionalProperties");

    return rest ? both_later(m->t, property, rest) : copy(m->t, property);
}

static void merge_properties(struct merging *m) {
    const struct json *a = json_get(m->a, "properties"), *b = json_get(m->b, "properties");
    struct json *out = json_add(m->out, "properties", json_new_object());

    for (const struct json *v = json_first(a); v; v = json_next(v)) {
        const struct json *same = json_get(b, json_key(v));
        json_add(out, json_key(v), same ? both_later(m->t, v, same) : with_rest(m, v, m->b));
    }
    for (const struct json *v = json_first(b); v; v = json_next(v))
        if (!json_get(a, json_key(v)))
            json_add(out, json_key(v), with_rest(m, v, m->a));
}

static void merge_required(struct merging *m, const struct json *a, const struct json *b) {
    struct json *out = json_add(m->out, "required", json_new_array());

    for (const struct json *v = json_first(a); v; v = json_next(v))
        json_append(out, copy(m->t, v));
    for (const struct json *v = json_first(b); v; v = json_next(v))
        if (!grammar_merge_contains(m->t, a, v))
            json_append(out, copy(m->t, v));
}

/* Values that both list. */
static void merge_enum(struct merging *m, const struct json *a, const struct json *b) {
    struct json *out = json_add(m->out, "enum", json_new_array());

    for (const struct json *v = json_first(a); v; v = json_next(v))
        if (grammar_merge_contains(m->t, b, v))
            json_append(out, copy(m->t, v));
    m->nothing |= json_count(out) == 0;
}

/* The larger, or the smaller, of two numbers. */
static void merge_bound(struct merging *m, const struct json *a, const struct json *b,
                        bool larger) {
    bool first = larger ? json_as_real(a) > json_as_real(b) : json_as_real(a) < json_as_real(b);

    json_add(m->out, json_key(a), copy(m->t, first ? a : b));
}

/* Every alternative of one with every alternative of the other. */
static void merge_any(struct merging *m, const struct json *a, const struct json *b) {
    struct json *out = json_add(m->out, "anyOf", json_new_array());

    for (const struct json *x = json_first(a); x; x = json_next(x))
        for (const struct json *y = json_first(b); y && m->t->n_values <= GRAMMAR_TREE_MAX;
             y = json_next(y))
            json_append(out, both_later(m->t, x, y));
}

static void merge_all(struct merging *m, const struct json *a, const struct json *b) {
    struct json *out = json_add(m->out, "allOf", json_new_array());

    for (const struct json *v = json_first(a); v; v = json_next(v))
        json_append(out, copy(m->t, v));
    for (const struct json *v = json_first(b); v; v = json_next(v))
        json_append(out, copy(m->t, v));
}

static void merge_types(struct merging *m, const struct json *a, const struct json *b) {
    unsigned bits = types_named(a) & types_named(b);

    json_add(m->out, "type", types_array(bits));
    m->nothing |= bits == 0;
}

/* A keyword that both have. */
static int merge_keyword(struct merging *m, const struct json *a, const struct json *b) {
    static const char *const larger[] = {"minItems", "minLength", "minimum", "exclusiveMinimum"},
                             *const smaller[] = {"maxItems", "maxLength", "maximum",
                                                 "exclusiveMaximum"},
                             *const schema[] = {"additionalProperties", "items"};
    const char *name = json_key(a);

    for (size_t i = 0; i < ARRAY_SIZE(larger); i++)
        if (!strcmp(name, larger[i]) || !strcmp(name, smaller[i])) {
            merge_bound(m, a, b, !strcmp(name, larger[i]));
            return 0;
        }
    for (size_t i = 0; i < ARRAY_SIZE(schema); i++)
        if (!strcmp(name, schema[i])) {
            // Items behind different first items are different items.
            if (i == 1 && (json_get(m->a, "prefixItems") || json_get(m->b, "prefixItems")))
                return refuse(m, name);
            json_add(m->out, name, both_later(m->t, a, b));
            return 0;
        }
    if (!strcmp(name, "type"))
        merge_types(m, a, b);
    else if (!strcmp(name, "required"))
        merge_required(m, a, b);
    else if (!strcmp(name, "enum"))
        merge_enum(m, a, b);
    else if (!strcmp(name, "anyOf"))
        merge_any(m, a, b);
    else if (!strcmp(name, "allOf"))
        merge_all(m, a, b);
    else if (equal(m->t, a, b))
        json_add(m->out, name, copy(m->t, a));
    else if (!strcmp(name, "const"))
        m->nothing = true;
    else if (!strcmp(name, "pattern") || !strcmp(name, "format") || !strcmp(name, "oneOf") ||
             !strcmp(name, "prefixItems"))
        return refuse(m, name);
    return 0; // annotations: either
}

/* Keywords of `from` that `other` lacks; both if `shared`. */
static int merge_from(struct merging *m, const struct json *from, const struct json *other,
                      bool shared) {
    for (const struct json *v = json_first(from); v; v = json_next(v)) {
        const struct json *same = json_get(other, json_key(v));
        int r = 0;
        if (!strcmp(json_key(v), "properties") || is_definitions(json_key(v)))
            continue;
        // An array's other items do not hold for first items that only the other side lists.
        if (!same && (!strcmp(json_key(v), "items") || !strcmp(json_key(v), "prefixItems")) &&
            (json_get(other, "items") || json_get(other, "prefixItems")))
            return refuse(m, json_key(v));
        if (!same)
            json_add(m->out, json_key(v), copy(m->t, v));
        else if (shared)
            r = merge_keyword(m, v, same);
        if (r < 0)
            return r;
    }
    return 0;
}

static int fail(struct hai_err *err, int r, const char *pointer, const char *text) {
    const char *at = pointer[0] ? pointer : "/";

    return hai_fail_at(err, r, NULL, at, NULL, "schema, %.100s: %s", at, text);
}

static int check_limits(const struct grammar_trees *t, const char *pointer, struct hai_err *err) {
    if (t->n_values > GRAMMAR_TREE_MAX)
        return fail(err, -E2BIG, pointer, "merging it becomes too large");
    if (t->work < 0)
        return fail(err, -E2BIG, pointer, "merging it takes too many comparisons");
    return 0;
}

/* A schema without a reference at its top: what it refers to, and what stands beside. */
static int expand(struct grammar_trees *t, const struct json *schema, const char *pointer,
                  int depth, const struct json **ret, struct hai_err *err) {
    const struct json *ref = json_get(schema, "$ref");

    *ret = schema;
    if (!ref)
        return 0;
    if (depth > MERGE_DEPTH_MAX)
        return fail(err, -E2BIG, pointer, "references too deep");
    const struct json *target = grammar_check_resolve(t->root, json_as_string(ref), &t->work);
    assert(target);
    return grammar_merge_both(t, target, grammar_merge_without(t, schema, "$ref"), pointer,
                              depth + 1, ret, err);
}

int grammar_merge_both(struct grammar_trees *t, const struct json *a, const struct json *b,
                       const char *pointer, int depth, const struct json **ret,
                       struct hai_err *err) {
    struct merging m = {.t = t, .pointer = pointer, .err = err};

    int r = check_limits(t, pointer, err);
    r = r < 0 ? r : expand(t, a, pointer, depth, &m.a, err);
    r = r < 0 ? r : expand(t, b, pointer, depth, &m.b, err);
    r = r < 0 ? r : check_limits(t, pointer, err);
    if (r < 0)
        return r;
    if (json_kind(m.a) == JSON_KIND_BOOL || json_kind(m.b) == JSON_KIND_BOOL) {
        const struct json *other = json_kind(m.a) == JSON_KIND_BOOL ? m.b : m.a,
                          *truth = other == m.a ? m.b : m.a;
        *ret = json_as_bool(truth) ? other : truth;
        return 0;
    }
    m.out = keep(t, json_new_object());
    if (json_get(m.a, "properties") || json_get(m.b, "properties"))
        merge_properties(&m);
    r = merge_from(&m, m.a, m.b, true);
    r = r < 0 ? r : merge_from(&m, m.b, m.a, false);
    r = r < 0 ? r : check_limits(t, pointer, err);
    if (r == 0)
        *ret = m.nothing ? keep(t, json_new_bool(false)) : m.out;
    return r;
}

/* ---- alternatives that exclude each other ---- */

static const struct json *behind_refs(struct grammar_trees *t, const struct json *schema) {
    for (int i = 0; i < MERGE_DEPTH_MAX && json_get(schema, "$ref"); i++)
        schema = grammar_check_resolve(t->root, json_as_string(json_get(schema, "$ref")), &t->work);
    return schema;
}

/* 1.0 is a whole number, too. */
static unsigned kind_bit(const struct json *value) {
    enum json_kind kind = json_kind(value);

    return kind == JSON_KIND_REAL ? type_bit("number") : 1u << kind;
}

/* Of all values that a schema can have, at least these types are the only ones. */
static unsigned types_of(struct grammar_trees *t, const struct json *schema) {
    unsigned bits = 0;

    t->work -= 4; // members are looked up
    if (json_kind(schema) == JSON_KIND_BOOL)
        return json_as_bool(schema) ? ~0u : 0;
    if (json_get(schema, "const"))
        return kind_bit(json_get(schema, "const"));
    if (json_get(schema, "enum")) {
        for (const struct json *v = json_first(json_get(schema, "enum")); v;
             v = json_next(v), t->work--)
            bits |= kind_bit(v);
        return bits;
    }
    return json_get(schema, "type") ? types_named(json_get(schema, "type")) : ~0u;
}

static bool allows_value(struct grammar_trees *t, const struct json *schema,
                         const struct json *value) {
    const struct json *list = json_get(schema, "enum"), *one = json_get(schema, "const");

    if (one)
        return equal(t, one, value);
    return !list || grammar_merge_contains(t, list, value);
}

/* Does one list its values, and does the other list none of them? */
static bool values_differ(struct grammar_trees *t, const struct json *a, const struct json *b) {
    const struct json *one = json_get(a, "const");

    if (one)
        return !allows_value(t, b, one);
    if (!json_get(a, "enum"))
        return false;
    for (const struct json *v = json_first(json_get(a, "enum")); v; v = json_next(v))
        if (t->work < 0 || allows_value(t, b, v))
            return false;
    return true;
}

bool grammar_merge_disjoint(struct grammar_trees *t, const struct json *a, const struct json *b,
                            int depth) {
    a = behind_refs(t, a);
    b = behind_refs(t, b);
    if (depth > DISJOINT_DEPTH_MAX)
        return false;
    unsigned both = types_of(t, a) & types_of(t, b);
    if (!both)
        return true;
    if (json_kind(a) == JSON_KIND_BOOL || json_kind(b) == JSON_KIND_BOOL)
        return false;
    if (values_differ(t, a, b))
        return true;
    if (both != 1u << JSON_KIND_OBJECT)
        return false;
    for (const struct json *v = json_first(json_get(a, "required")); v && t->work >= 0;
         v = json_next(v), t->work--) {
        const struct json *x = json_get(json_get(a, "properties"), json_as_string(v));
        const struct json *y = json_get(json_get(b, "properties"), json_as_string(v));
        if (x && y && grammar_merge_contains(t, json_get(b, "required"), v) &&
            grammar_merge_disjoint(t, x, y, depth + 1))
            return true;
    }
    return false;
}
