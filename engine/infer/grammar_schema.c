/* From a schema that grammar_check.c found sound to nodes. */
#include "engine/infer/grammar_impl.h"
#include "lib/pure/map.h"

#include <math.h>
#include <stdio.h>

enum {
    COMPILE_DEPTH_MAX = 150, // schemas inside each other, references and merges included
    POINTER_MAX = 512,
};

static const int64_t bounded_unit = 1000000000;
static const int64_t bounded_whole_max = 1000000000000000;

struct compiler {
    struct grammar *g;
    struct grammar_trees trees;
    struct map refs;     // address of a schema -> its node + 1
    struct map patterns; // text -> its node + 1
    int64_t regex_work;
    int depth;
    struct hai_err *err;
};

static int compile(struct compiler *c, const struct json *schema, const char *pointer,
                   uint32_t *ret);

static int fail(struct compiler *c, int r, const char *pointer, const char *text) {
    const char *at = pointer[0] ? pointer : "/";

    return hai_fail_at(c->err, r, NULL, at, NULL, "schema, %.100s: %s", at, text);
}

/* ---- tables that grow ---- */

static int new_node(struct compiler *c, enum grammar_kind kind, const char *pointer,
                    uint32_t *ret) {
    struct grammar *g = c->g;

    if (g->n_nodes == GRAMMAR_NODES_MAX)
        return fail(c, -E2BIG, pointer, "the schema becomes too large");
    if (g->n_nodes == g->n_nodes_max) {
        g->n_nodes_max = 2 * g->n_nodes_max + 32;
        g->nodes = hai_realloc_array(g->nodes, g->n_nodes_max, sizeof *g->nodes);
    }
    g->nodes[g->n_nodes] = (struct grammar_node){.kind = kind, .max = UINT32_MAX};
    *ret = g->n_nodes++;
    return 0;
}

uint32_t grammar_schema_add_list(struct grammar *g, const uint32_t *values, uint32_t n) {
    uint32_t first = g->n_lists;

    if (g->n_lists + n > g->n_lists_max) {
        g->n_lists_max = 2 * g->n_lists_max + n + 32;
        g->lists = hai_realloc_array(g->lists, g->n_lists_max, sizeof *g->lists);
    }
    for (uint32_t i = 0; i < n; i++)
        g->lists[g->n_lists++] = values[i];
    return first;
}

static int by_bytes(const void *a, const void *b, void *userdata) {
    const struct grammar *g = userdata;
    const struct grammar_text *x = a, *y = b;
    int r = memcmp(g->bytes.data + x->from, g->bytes.data + y->from, MIN(x->n_bytes, y->n_bytes));

    return r ? r : (x->n_bytes > y->n_bytes) - (x->n_bytes < y->n_bytes);
}

/* Texts of one node: sorted, and without doubles. Returns how many are left. */
static uint32_t add_texts(struct grammar *g, struct grammar_text *texts, uint32_t n,
                          uint32_t *ret_first) {
    qsort_r(texts, n, sizeof *texts, by_bytes, g);
    if (g->n_texts + n > g->n_texts_max) {
        g->n_texts_max = 2 * g->n_texts_max + n + 32;
        g->texts = hai_realloc_array(g->texts, g->n_texts_max, sizeof *g->texts);
    }
    *ret_first = g->n_texts;
    for (uint32_t i = 0; i < n; i++)
        if (i == 0 || by_bytes(&texts[i - 1], &texts[i], g) != 0)
            g->texts[g->n_texts++] = texts[i];
    return g->n_texts - *ret_first;
}

static int new_alternatives(struct compiler *c, const uint32_t *ids, uint32_t n,
                            const char *pointer, uint32_t *ret) {
    if (n <= 1) {
        *ret = n ? ids[0] : GRAMMAR_NONE;
        return 0;
    }
    int r = new_node(c, GRAMMAR_KIND_ALT, pointer, ret);
    if (r < 0)
        return r;
    c->g->nodes[*ret].first = grammar_schema_add_list(c->g, ids, n);
    c->g->nodes[*ret].n = n;
    return 0;
}

/* ---- values that are listed ---- */

static int depth_of(const struct json *value) {
    enum json_kind kind = json_kind(value);
    int most = 0;

    if (kind != JSON_KIND_ARRAY && kind != JSON_KIND_OBJECT)
        return 0;
    for (const struct json *v = json_first(value); v; v = json_next(v))
        most = MAX(most, depth_of(v));
    return most + 1;
}

/* One value, or those of an array, as far as their types are among `types`. */
static int compile_values(struct compiler *c, const struct json *const *values, uint32_t n,
                          const char *pointer, uint32_t *ret) {
    _cleanup_free_ struct grammar_text *texts = hai_new_array(struct grammar_text, n + 1);
    struct grammar *g = c->g;
    int height = 0;

    if (n == 0) {
        *ret = GRAMMAR_NONE;
        return 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        size_t from = g->bytes.n_bytes;
        json_dump(values[i], 0, &g->bytes);
        texts[i] = (struct grammar_text){.from = (uint32_t)from,
                                         .n_bytes = (uint32_t)(g->bytes.n_bytes - from)};
        height = MAX(height, depth_of(values[i]));
    }
    int r = new_node(c, GRAMMAR_KIND_LITERALS, pointer, ret);
    if (r < 0)
        return r;
    uint32_t first, left = add_texts(g, texts, n, &first);
    g->nodes[*ret].first = first;
    g->nodes[*ret].n = left;
    g->nodes[*ret].height = (uint16_t)height;
    return 0;
}

/* Keywords that may stand beside enum and const. */
static const char *other_than_values(const struct json *schema) {
    for (const struct json *v = json_first(schema); v; v = json_next(v)) {
        const char *name = json_key(v);
        if (strcmp(name, "enum") && strcmp(name, "const") && strcmp(name, "type") &&
            !grammar_check_is_annotation(name))
            return name;
    }
    return NULL;
}

static bool has_type(const struct json *value, unsigned types) {
    enum json_kind kind = json_kind(value);

    // 1.0 is whole, too.
    if (kind == JSON_KIND_REAL && types >> JSON_KIND_INT & 1 &&
        json_as_real(value) == floor(json_as_real(value)))
        return true;
    return types >> kind & 1;
}

static int compile_enum(struct compiler *c, const struct json *schema, const char *pointer,
                        uint32_t *ret) {
    const struct json *list = json_get(schema, "enum"), *one = json_get(schema, "const");
    const struct json *type = json_get(schema, "type");
    unsigned types = type ? grammar_merge_types(schema) : ~0u;
    _cleanup_free_ const struct json **values =
        hai_new_array(const struct json *, json_count(list) + 1);
    const char *other = other_than_values(schema);
    uint32_t n = 0;

    if (other)
        return hai_fail_at(c->err, -ENOTSUP, NULL, pointer, NULL,
                           "schema, %.100s: '%s' beside enum or const is not supported", pointer,
                           other);
    if (one && list && !grammar_merge_contains(&c->trees, list, one)) {
        *ret = GRAMMAR_NONE;
        return 0;
    }
    if (one)
        values[n++] = one;
    for (const struct json *v = json_first(list); v && !one; v = json_next(v))
        values[n++] = v;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if (has_type(values[i], types))
            values[kept++] = values[i];
    return compile_values(c, values, kept, pointer, ret);
}

static int compile_words(struct compiler *c, unsigned types, const char *pointer, uint32_t *ret) {
    static const char *const words[] = {"false", "null", "true"};
    struct grammar_text texts[3];
    uint32_t n = 0;

    for (int i = 0; i < 3; i++) {
        if (!(types >> (i == 1 ? JSON_KIND_NULL : JSON_KIND_BOOL) & 1))
            continue;
        texts[n++] = (struct grammar_text){.from = (uint32_t)c->g->bytes.n_bytes,
                                           .n_bytes = (uint32_t)strlen(words[i])};
        buf_add_str(&c->g->bytes, words[i]);
    }
    int r = new_node(c, GRAMMAR_KIND_LITERALS, pointer, ret);
    if (r < 0)
        return r;
    uint32_t first, left = add_texts(c->g, texts, n, &first);
    c->g->nodes[*ret].first = first;
    c->g->nodes[*ret].n = left;
    return 0;
}

/* ---- strings and numbers ---- */

static uint32_t length_of(const struct json *schema, const char *keyword, uint32_t fallback) {
    const struct json *v = json_get(schema, keyword);

    return v ? (uint32_t)json_as_int(v) : fallback;
}

static int compile_string(struct compiler *c, const struct json *schema, const char *pointer,
                          uint32_t *ret) {
    const char *pattern = json_get_string(schema, "pattern", NULL);
    const char *format = json_get_string(schema, "format", NULL);
    uint32_t min = length_of(schema, "minLength", 0);
    uint32_t max = length_of(schema, "maxLength", UINT32_MAX);
    struct grammar_regex *regex = NULL;
    int r;

    if (pattern && format)
        return fail(c, -ENOTSUP, pointer, "pattern beside format is not supported");
    if ((pattern || format) && (min > 0 || max != UINT32_MAX))
        return fail(c, -ENOTSUP, pointer,
                    "minLength and maxLength beside pattern or format are not supported");
    if (min > max) {
        *ret = GRAMMAR_NONE;
        return 0;
    }
    if (!pattern && !format) {
        r = new_node(c, GRAMMAR_KIND_STRING, pointer, ret);
        if (r == 0) {
            c->g->nodes[*ret].min = min;
            c->g->nodes[*ret].max = max;
        }
        return r;
    }
    pattern = pattern ? pattern : grammar_regex_format(format);
    void *known = map_get_text(&c->patterns, pattern);
    if (known) {
        *ret = (uint32_t)((intptr_t)known - 1);
        return 0;
    }
    r = grammar_regex_new(pattern, &c->regex_work, &regex, c->err);
    if (r < 0) {
        hai_err_prefix(c->err, "schema, %.100s: ", pointer);
        return r;
    }
    if (regex->n_states == 0) {
        grammar_regex_free(regex);
        *ret = GRAMMAR_NONE;
        return 0;
    }
    r = new_node(c, GRAMMAR_KIND_PATTERN, pointer, ret);
    if (r < 0)
        grammar_regex_free(regex);
    else
        c->g->nodes[*ret].regex = regex;
    if (r == 0)
        map_put_text(&c->patterns, pattern, (void *)((intptr_t)*ret + 1));
    return r;
}

/* Does n / unit, read as JSON readers do, hold a bound from below? */
static bool holds(__int128 n, int64_t unit, double bound, bool above) {
    double x = (double)((long double)n / (long double)unit);

    return above ? x > bound : x >= bound;
}

/* The smallest (or with `above`, above a bound) multiple of 1/unit at or above a bound: of whole
 * numbers exact; of others the nearest decimal that reads back as no less. Around large doubles
 * there are too many multiples to count them up. */
static __int128 least_real(double bound, int64_t unit, bool above) {
    long double scaled = (long double)bound * (long double)unit;
    __int128 low, high, step = 1;

    if (scaled > 1e30L || scaled < -1e30L)
        return scaled > 0 ? (__int128)1 << 100 : -((__int128)1 << 100);
    low = high = (__int128)floorl(scaled - fabsl(scaled) * 0x1p-51L) - 1;
    for (; !holds(high, unit, bound, above); high += step, step *= 2)
        low = high;
    while (high - low > 1) {
        __int128 middle = low + (high - low) / 2;
        if (holds(middle, unit, bound, above))
            high = middle;
        else
            low = middle;
    }
    return high;
}

static __int128 least(const struct json *bound, int64_t unit, bool above) {
    if (json_kind(bound) == JSON_KIND_INT)
        return (__int128)json_as_int(bound) * unit + above;
    return least_real(json_as_real(bound), unit, above);
}

static __int128 most(const struct json *bound, int64_t unit, bool below) {
    if (json_kind(bound) == JSON_KIND_INT)
        return (__int128)json_as_int(bound) * unit - below;
    return -least_real(-json_as_real(bound), unit, below);
}

static int compile_number(struct compiler *c, const struct json *schema, bool whole,
                          const char *pointer, uint32_t *ret) {
    const struct json *min = json_get(schema, "minimum"), *max = json_get(schema, "maximum");
    const struct json *above = json_get(schema, "exclusiveMinimum");
    const struct json *below = json_get(schema, "exclusiveMaximum");
    int64_t unit = whole ? 1 : bounded_unit;
    __int128 low = whole ? INT64_MIN : -(__int128)bounded_whole_max * unit + 1;
    __int128 high = whole ? INT64_MAX : (__int128)bounded_whole_max * unit - 1;

    if (!whole && !min && !max && !above && !below)
        return new_node(c, GRAMMAR_KIND_NUMBER, pointer, ret);
    if (min)
        low = MAX(low, least(min, unit, false));
    if (above)
        low = MAX(low, least(above, unit, true));
    if (max)
        high = MIN(high, most(max, unit, false));
    if (below)
        high = MIN(high, most(below, unit, true));
    if (low > high) {
        *ret = GRAMMAR_NONE;
        return 0;
    }
    int r = new_node(c, whole ? GRAMMAR_KIND_WHOLE : GRAMMAR_KIND_BOUNDED, pointer, ret);
    if (r == 0) {
        c->g->nodes[*ret].low = low;
        c->g->nodes[*ret].high = high;
    }
    return r;
}

/* ---- containers ---- */

static int compile_array(struct compiler *c, const struct json *schema, const char *pointer,
                         uint32_t *ret) {
    const struct json *first = json_get(schema, "prefixItems"), *items = json_get(schema, "items");
    _cleanup_free_ uint32_t *ids = hai_new_array(uint32_t, json_count(first) + 1);
    uint32_t rest = GRAMMAR_ANY, n = 0;
    char below[POINTER_MAX];
    int r = 0;

    for (const struct json *v = json_first(first); v && r == 0; v = json_next(v)) {
        snprintf(below, sizeof below, "%s/prefixItems/%u", pointer, n);
        r = compile(c, v, below, &ids[n++]);
    }
    snprintf(below, sizeof below, "%s/items", pointer);
    if (r == 0 && items)
        r = compile(c, items, below, &rest);
    if (r == 0)
        r = new_node(c, GRAMMAR_KIND_ARRAY, pointer, ret);
    if (r < 0)
        return r;
    struct grammar_node *node = &c->g->nodes[*ret];
    node->first = grammar_schema_add_list(c->g, ids, n);
    node->n = n;
    node->rest = rest;
    node->min = length_of(schema, "minItems", 0);
    node->max = length_of(schema, "maxItems", UINT32_MAX);
    if (node->min > node->max)
        *ret = GRAMMAR_NONE;
    return 0;
}

static bool is_required(const struct json *schema, const char *name) {
    for (const struct json *v = json_first(json_get(schema, "required")); v; v = json_next(v))
        if (strcmp(json_as_string(v), name) == 0)
            return true;
    return false;
}

/* A key's text: as JSON writes it, without the first quote. */
static void add_key(struct grammar *g, const char *name, uint32_t node, uint32_t order,
                    bool required, struct grammar_text *ret) {
    _cleanup_(buf_free) struct buf text = {0};

    json_dump_string(name, strlen(name), &text);
    *ret = (struct grammar_text){.from = (uint32_t)g->bytes.n_bytes,
                                 .n_bytes = (uint32_t)text.n_bytes - 1,
                                 .node = node,
                                 .order = order,
                                 .required = required};
    buf_add(&g->bytes, text.data + 1, text.n_bytes - 1);
}

/* The first required key at each order or later. */
static void link_required(struct grammar *g, struct grammar_node *node,
                          const struct grammar_text *keys, uint32_t n) {
    _cleanup_free_ uint32_t *next = hai_new_array(uint32_t, n + 1);

    for (uint32_t i = 0; i <= n; i++)
        next[i] = n;
    for (uint32_t i = 0; i < n; i++)
        if (keys[i].required) {
            next[keys[i].order] = keys[i].order;
            if (keys[i].order < 64)
                node->required |= UINT64_C(1) << keys[i].order;
        }
    for (uint32_t i = n; i-- > 0;)
        next[i] = MIN(next[i], next[i + 1]);
    node->required_first = grammar_schema_add_list(g, next, n + 1);
}

/* The keys of an object: those with a schema, then those that are only required. */
static int compile_keys(struct compiler *c, const struct json *schema, uint32_t rest,
                        const char *pointer, struct grammar_text *keys, uint32_t *ret_n) {
    const struct json *properties = json_get(schema, "properties");
    char below[POINTER_MAX];
    uint32_t n = 0;

    for (const struct json *v = json_first(properties); v; v = json_next(v), n++) {
        uint32_t id = 0;
        snprintf(below, sizeof below, "%s/properties/%s", pointer, json_key(v));
        int r = compile(c, v, below, &id);
        if (r < 0)
            return r;
        add_key(c->g, json_key(v), id, n, is_required(schema, json_key(v)), &keys[n]);
    }
    for (const struct json *v = json_first(json_get(schema, "required")); v; v = json_next(v)) {
        bool known = json_get(properties, json_as_string(v)) != NULL;
        for (const struct json *w = json_first(json_get(schema, "required")); w != v && !known;
             w = json_next(w))
            known = strcmp(json_as_string(w), json_as_string(v)) == 0;
        if (!known) {
            add_key(c->g, json_as_string(v), rest, n, true, &keys[n]);
            n++;
        }
    }
    *ret_n = n;
    return 0;
}

static int compile_object(struct compiler *c, const struct json *schema, const char *pointer,
                          uint32_t *ret) {
    const struct json *others = json_get(schema, "additionalProperties");
    size_t n_max =
        json_count(json_get(schema, "properties")) + json_count(json_get(schema, "required"));
    uint32_t rest = c->g->options.closed ? GRAMMAR_NONE : GRAMMAR_ANY, n = 0;
    char below[POINTER_MAX];
    int r = 0;

    if (n_max > GRAMMAR_PROPERTIES_MAX)
        return fail(c, -E2BIG, pointer, "too many properties; expected at most 1024");
    _cleanup_free_ struct grammar_text *keys = hai_new_array(struct grammar_text, n_max + 1);
    snprintf(below, sizeof below, "%s/additionalProperties", pointer);
    if (others)
        r = compile(c, others, below, &rest);
    if (r == 0)
        r = compile_keys(c, schema, rest, pointer, keys, &n);
    if (r == 0 && c->g->options.any_order && n > GRAMMAR_ANY_ORDER_MAX)
        r = fail(c, -E2BIG, pointer, "in any order, at most 64 properties are supported");
    if (r == 0)
        r = new_node(c, GRAMMAR_KIND_OBJECT, pointer, ret);
    if (r < 0)
        return r;
    struct grammar_node *node = &c->g->nodes[*ret];
    uint32_t first;
    link_required(c->g, node, keys, n);
    node->n = add_texts(c->g, keys, n, &first);
    assert(node->n == n);
    node->first = first;
    node->rest = rest;
    return 0;
}

/* ---- schemas ---- */

static bool is_plain(const struct json *schema, const char *except) {
    for (const struct json *v = json_first(schema); v; v = json_next(v))
        if (strcmp(json_key(v), except) && !grammar_check_is_annotation(json_key(v)))
            return false;
    return true;
}

/* A schema that others may refer to, once: while it is compiled it is known already. */
static int compile_shared(struct compiler *c, const struct json *schema, const char *pointer,
                          uint32_t *ret) {
    void *known = map_get(&c->refs, (int64_t)(intptr_t)schema);
    uint32_t id, inner = GRAMMAR_NONE;

    if (known) {
        *ret = (uint32_t)((intptr_t)known - 1);
        return 0;
    }
    int r = new_node(c, GRAMMAR_KIND_ALT, pointer, &id);
    if (r < 0)
        return r;
    uint32_t at = grammar_schema_add_list(c->g, &inner, 1);
    c->g->nodes[id].first = at;
    c->g->nodes[id].n = 1;
    map_put(&c->refs, (int64_t)(intptr_t)schema, (void *)((intptr_t)id + 1));
    r = compile(c, schema, pointer, &inner);
    if (r < 0)
        return r;
    c->g->lists[at] = inner;
    *ret = id;
    return 0;
}

static int compile_ref(struct compiler *c, const struct json *schema, const char *pointer,
                       uint32_t *ret) {
    const char *ref = json_as_string(json_get(schema, "$ref"));
    const struct json *target = grammar_check_resolve(c->trees.root, ref, &c->trees.work), *merged;

    assert(target);
    if (is_plain(schema, "$ref"))
        return compile_shared(c, target, ref + 1, ret);
    int r = grammar_merge_both(&c->trees, target, grammar_merge_without(&c->trees, schema, "$ref"),
                               pointer, 0, &merged, c->err);
    return r < 0 ? r : compile(c, merged, pointer, ret);
}

static int compile_all(struct compiler *c, const struct json *schema, const char *pointer,
                       uint32_t *ret) {
    const struct json *merged = grammar_merge_without(&c->trees, schema, "allOf");
    const struct json *list = json_get(schema, "allOf");
    int r = 0;

    if (json_count(list) == 1 && is_plain(schema, "allOf"))
        return compile(c, json_first(list), pointer, ret);
    for (const struct json *v = json_first(list); v && r == 0; v = json_next(v))
        r = grammar_merge_both(&c->trees, merged, v, pointer, 0, &merged, c->err);
    return r < 0 ? r : compile(c, merged, pointer, ret);
}

/* oneOf means anyOf where no two alternatives can hold. */
static int check_exclusive(struct compiler *c, const struct json *list, const char *pointer) {
    for (const struct json *a = json_first(list); a; a = json_next(a))
        for (const struct json *b = json_next(a); b; b = json_next(b))
            if (!grammar_merge_disjoint(&c->trees, a, b, 0) && c->trees.work >= 0)
                return fail(c, -ENOTSUP, pointer,
                            "oneOf is supported where types, or a required property with different "
                            "values, keep alternatives apart; use anyOf");
            else if (c->trees.work < 0)
                return fail(c, -E2BIG, pointer,
                            "to tell the alternatives of oneOf apart takes too many comparisons; "
                            "use fewer, or anyOf");
    return 0;
}

static int compile_any(struct compiler *c, const struct json *schema, const char *keyword,
                       const char *pointer, uint32_t *ret) {
    const struct json *list = json_get(schema, keyword);
    _cleanup_free_ uint32_t *ids = hai_new_array(uint32_t, json_count(list) + 1);
    const struct json *base = NULL;
    char below[POINTER_MAX];
    uint32_t n = 0;
    int r = strcmp(keyword, "oneOf") == 0 ? check_exclusive(c, list, pointer) : 0;

    if (!is_plain(schema, keyword))
        base = grammar_merge_without(&c->trees, schema, keyword);
    for (const struct json *v = json_first(list); v && r == 0; v = json_next(v)) {
        const struct json *both = v;
        snprintf(below, sizeof below, "%s/%s/%u", pointer, keyword, n);
        if (base)
            r = grammar_merge_both(&c->trees, base, v, below, 0, &both, c->err);
        if (r == 0)
            r = compile(c, both, below, &ids[n++]);
    }
    return r < 0 ? r : new_alternatives(c, ids, n, pointer, ret);
}

static int compile_types(struct compiler *c, const struct json *schema, const char *pointer,
                         uint32_t *ret) {
    unsigned types = grammar_merge_types(schema);
    unsigned numbers = 1u << JSON_KIND_INT | 1u << JSON_KIND_REAL;
    unsigned words = types & (1u << JSON_KIND_NULL | 1u << JSON_KIND_BOOL);
    uint32_t ids[JSON_KIND_COUNT], n = 0;
    int r = 0;

    if (words)
        r = compile_words(c, words, pointer, &ids[n++]);
    if (r == 0 && types >> JSON_KIND_STRING & 1)
        r = compile_string(c, schema, pointer, &ids[n++]);
    if (r == 0 && types & numbers)
        r = compile_number(c, schema, !(types >> JSON_KIND_REAL & 1), pointer, &ids[n++]);
    if (r == 0 && types >> JSON_KIND_ARRAY & 1)
        r = compile_array(c, schema, pointer, &ids[n++]);
    if (r == 0 && types >> JSON_KIND_OBJECT & 1)
        r = compile_object(c, schema, pointer, &ids[n++]);
    return r < 0 ? r : new_alternatives(c, ids, n, pointer, ret);
}

static int compile(struct compiler *c, const struct json *schema, const char *pointer,
                   uint32_t *ret) {
    int r;

    if (json_kind(schema) == JSON_KIND_BOOL) {
        *ret = json_as_bool(schema) ? GRAMMAR_ANY : GRAMMAR_NONE;
        return 0;
    }
    if (c->depth == COMPILE_DEPTH_MAX || c->trees.n_values > GRAMMAR_TREE_MAX)
        return fail(c, -E2BIG, pointer, "schemas nested too deep, or merged without end");
    c->depth++;
    if (json_get(schema, "$ref"))
        r = compile_ref(c, schema, pointer, ret);
    else if (json_get(schema, "allOf"))
        r = compile_all(c, schema, pointer, ret);
    else if (json_get(schema, "anyOf"))
        r = compile_any(c, schema, "anyOf", pointer, ret);
    else if (json_get(schema, "oneOf"))
        r = compile_any(c, schema, "oneOf", pointer, ret);
    else if (json_get(schema, "enum") || json_get(schema, "const"))
        r = compile_enum(c, schema, pointer, ret);
    else if (is_plain(schema, ""))
        r = 0, *ret = GRAMMAR_ANY;
    else
        r = compile_types(c, schema, pointer, ret);
    c->depth--;
    if (r == 0 && c->trees.work < 0)
        r = fail(c, -E2BIG, pointer, "it takes too many comparisons");
    return r;
}

/* ---- the whole ---- */

/* The nodes with fixed numbers. */
static int add_fixed(struct compiler *c) {
    static const enum grammar_kind kinds[GRAMMAR_NODES_FIRST] = {
        [GRAMMAR_NONE] = GRAMMAR_KIND_NONE,
        [GRAMMAR_ROOT] = GRAMMAR_KIND_ROOT,
        [GRAMMAR_ANY] = GRAMMAR_KIND_ALT,
        [GRAMMAR_STRING_ANY] = GRAMMAR_KIND_STRING,
    };
    uint32_t ids[5] = {GRAMMAR_STRING_ANY}, id;
    const uint32_t nothing = 0;
    int r = 0;

    for (int i = 0; i < GRAMMAR_NODES_FIRST && r == 0; i++)
        r = new_node(c, kinds[i], "", &id);
    r = r < 0 ? r : new_node(c, GRAMMAR_KIND_NUMBER, "", &ids[1]);
    r = r < 0 ? r : new_node(c, GRAMMAR_KIND_ARRAY, "", &ids[2]);
    r = r < 0 ? r : new_node(c, GRAMMAR_KIND_OBJECT, "", &ids[3]);
    r = r < 0 ? r : compile_words(c, ~0u, "", &ids[4]);
    if (r < 0)
        return r;
    c->g->nodes[ids[2]].rest = c->g->nodes[ids[3]].rest = GRAMMAR_ANY;
    c->g->nodes[ids[3]].required_first = grammar_schema_add_list(c->g, &nothing, 1);
    c->g->nodes[GRAMMAR_ANY].first = grammar_schema_add_list(c->g, ids, 5);
    c->g->nodes[GRAMMAR_ANY].n = 5;
    return 0;
}

int grammar_schema_compile(struct grammar *g, const struct json *schema, struct hai_err *err) {
    struct compiler c = {
        .g = g,
        .trees = {.root = schema, .work = GRAMMAR_WORK_MAX},
        .regex_work = GRAMMAR_REGEX_WORK_MAX,
        .err = err
    };
    uint32_t root = GRAMMAR_NONE;
    int r = grammar_check_schema(schema, err);

    r = r < 0 ? r : add_fixed(&c);
    r = r < 0 ? r : compile_shared(&c, schema, "", &root);
    r = r < 0 ? r : grammar_finish(g, root, &c.trees.work, err);
    grammar_merge_free(&c.trees);
    map_free(&c.refs);
    map_free(&c.patterns);
    return r;
}
