/* Whatever a JSON Schema holds: a grammar or an error that says why. From a grammar, a text of
 * allowed tokens can be led on: the mask has a token, and takes exactly what steps take, each token
 * tried by itself; and a text that has ended is JSON.
 *
 * Input that begins with '!' is no schema but choices by which one is made, so that few bytes reach
 * schemas inside each other, recursive references, long enums and crowds of alternatives; a text
 * that has ended then satisfies it, says a reader of schemas that knows no grammars. */
#include "engine/infer/grammar.h"
#include "tests/unit/schemas.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static const char *const words[] = {
    "{\"",       "\":",   "\",",   "\"}",    "\"a",  "123",     "\\n",          "[]",     "[[",
    "[{\"",      "{\"a",  "a\":",  "},",     "]}",   "}]",      "],[",          "\":{\"", "\",\"b",
    "\\ud83d",   "\\u00", "\xc3",  "\xa9\"", "1.",   "00",      "0,",           "-1",     "tru",
    "\"a1000\"", "100",   "1,{\"", "null",   "a100", "bbbbbbb", "2024-02-29\"", ".5",     "9999"};

enum {
    N_TOKENS = 256 + ARRAY_SIZE(words) + 1,
    N_STEPS = 20,
    N_WALKS = 2,
    SCHEMA_BYTES_MAX = 4096,
    CHOICES_MAX = 128,
    MADE_BYTES_MAX = 12000,
    MADE_DEPTH_MAX = 5,
    N_DEFS = 3,
};

static struct grammar_token tokens[N_TOKENS];

static struct grammar_vocab *vocab_new(void) {
    static uint8_t bytes[256];
    static const int32_t end = N_TOKENS - 1;

    for (int i = 0; i < 256; i++) {
        bytes[i] = (uint8_t)i;
        tokens[i] = (struct grammar_token){&bytes[i], 1};
    }
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        tokens[256 + i] = (struct grammar_token){words[i], (uint32_t)strlen(words[i])};
    return grammar_vocab_new(tokens, N_TOKENS, &end, 1);
}

/* ---- schemas by choice ---- */

struct maker {
    const uint8_t *at, *end;
    struct buf out;
    int depth, n_around; // n_around: objects and arrays
    bool loose;          // a reference that is in none of them, so it may lead in circles
};

/* Below n; 0 where the choices have ended, as they do at a zero. */
static uint32_t choose(struct maker *m, uint32_t n) {
    if (m->at == m->end || !*m->at)
        return 0;
    return (uint32_t)(*m->at++ - 1) % n;
}

static uint32_t choose_many(struct maker *m) {
    static const uint32_t numbers[] = {1, 2, 3, 5, 17, 64, 127, 128, 129, 256, 257, 300, 600};

    return numbers[choose(m, ARRAY_SIZE(numbers))];
}

static void make(struct maker *m);

static void make_list(struct maker *m, const char *before, uint32_t n, const char *after) {
    buf_add_str(&m->out, before);
    for (uint32_t i = 0; i < n; i++) {
        buf_add_str(&m->out, i ? "," : "");
        make(m);
    }
    buf_add_str(&m->out, after);
}

/* Values that begin alike, in numbers: of an enum, or each an alternative of its own. */
static void make_crowd(struct maker *m) {
    static const struct {
        const char *before, *after;
    } items[] = {
        {"{\"const\":",                                                                 "}"   },
        {"{\"items\":{\"const\":",                                                      "}}"  },
        {"{\"enum\":[\"a\",",                                                           "]}"  },
        {"{\"type\":\"integer\",\"minimum\":",                                          "}"   },
        {"{\"type\":\"string\",\"maxLength\":",                                         "}"   },
        {"{\"type\":\"object\",\"required\":[\"a\"],\"properties\":{\"a\":{\"const\":", "}}}" },
        {"{\"items\":{\"properties\":{\"a\":{\"minimum\":",                             "}}}}"},
        {"{\"pattern\":\"^a{3}\",\"$comment\":",                                        "}"   },
    };
    static const char *const lists[] = {"{\"anyOf\":[", "{\"oneOf\":[", "{\"enum\":["};
    uint32_t list = choose(m, 3), item = choose(m, ARRAY_SIZE(items)), n = choose_many(m);

    buf_add_str(&m->out, lists[list]);
    for (uint32_t i = 0; i < n; i++) {
        buf_add_str(&m->out, i ? "," : "");
        if (list == 2)
            buf_printf(&m->out, "%s%u%s", item & 1 ? "\"a" : "", 1000 + i, item & 1 ? "\"" : "");
        else
            buf_printf(&m->out, "%s%u%s", items[item].before, 1000 + i, items[item].after);
    }
    if (list != 2 && choose(m, 2)) {
        buf_add_str(&m->out, ",");
        make(m);
    }
    buf_add_str(&m->out, "]}");
}

static void make_object(struct maker *m) {
    static const char *const names[] = {"a", "b", "aa", "ab", "a/b", "\\\"", "\xc3\xa9", ""};
    uint32_t first = choose(m, ARRAY_SIZE(names)), n = choose(m, 5);

    buf_add_str(&m->out, "{\"type\":\"object\",\"properties\":{");
    for (uint32_t i = 0; i < n; i++) {
        buf_printf(&m->out, "%s\"%s\":", i ? "," : "", names[(first + i) % ARRAY_SIZE(names)]);
        make(m);
    }
    buf_add_str(&m->out, "},\"required\":[");
    n = choose(m, 4);
    first += choose(m, 3);
    for (uint32_t i = 0; i < n; i++)
        buf_printf(&m->out, "%s\"%s\"", i ? "," : "", names[(first + i) % ARRAY_SIZE(names)]);
    buf_add_str(&m->out, "]");
    if (choose(m, 2)) {
        buf_add_str(&m->out, ",\"additionalProperties\":");
        make(m);
    }
    buf_add_str(&m->out, "}");
}

static void make_array(struct maker *m) {
    uint32_t n = choose(m, 4), min = choose(m, 4);

    buf_printf(&m->out, "{\"type\":\"array\",\"minItems\":%u", min);
    if (choose(m, 2))
        buf_printf(&m->out, ",\"maxItems\":%u", min + choose(m, 4));
    if (n)
        make_list(m, ",\"prefixItems\":[", n, "]");
    if (choose(m, 2))
        make_list(m, ",\"items\":", 1, "");
    buf_add_str(&m->out, "}");
}

static void make_number(struct maker *m) {
    static const char *const keywords[] = {"minimum", "exclusiveMinimum", "maximum",
                                           "exclusiveMaximum"},
                             *const numbers[] = {"-1",    "0",         "9",     "100",
                                                 "0.5",   "-0.25",     "1e15",  "-1e18",
                                                 "1e-10", "12345.678", "1e300", "-7e22"};

    buf_printf(&m->out, "{\"type\":\"%s\"", choose(m, 2) ? "integer" : "number");
    for (size_t i = 0; i < ARRAY_SIZE(keywords); i++)
        if (choose(m, 2))
            buf_printf(&m->out, ",\"%s\":%s", keywords[i], numbers[choose(m, ARRAY_SIZE(numbers))]);
    buf_add_str(&m->out, "}");
}

static void make_string(struct maker *m) {
    static const char *const kinds[] = {"\"pattern\":\"^a*b?$\"",
                                        "\"pattern\":\"^(ab|a)+[^x]{1,3}$\"",
                                        "\"pattern\":\"^\\\\d{2,4}-\\\\w*$\"",
                                        "\"pattern\":\"a1000\"",
                                        "\"format\":\"date\"",
                                        "\"pattern\":\"^\\\\\\\\\\\"?\xc3\xa9\""};
    uint32_t min = choose(m, 8);

    buf_add_str(&m->out, "{\"type\":\"string\",");
    if (choose(m, 2))
        buf_printf(&m->out, "\"minLength\":%u,\"maxLength\":%u}", min, min + choose(m, 40));
    else
        buf_printf(&m->out, "%s}", kinds[min % ARRAY_SIZE(kinds)]);
}

static void make_leaf(struct maker *m) {
    static const char *const leaves[] = {"true",
                                         "{\"$ref\":\"#\"}",
                                         "{\"$ref\":\"#/$defs/d0\"}",
                                         "{\"$ref\":\"#/$defs/d1\"}",
                                         "{\"$ref\":\"#/$defs/d2\"}",
                                         "{\"type\":\"string\"}",
                                         "{\"const\":[1,{\"a\":[2.5]}]}",
                                         "{\"type\":[\"null\",\"boolean\"]}",
                                         "{\"$ref\":\"#/$defs/d0\",\"required\":[\"b\"]}",
                                         "{\"$ref\":\"#/$defs/d1\",\"minItems\":1,\"minLength\":1}",
                                         "{\"required\":[\"a\"]}",
                                         "false"};

    const char *leaf = leaves[choose(m, ARRAY_SIZE(leaves))];

    m->loose |= m->n_around == 0 && strstr(leaf, "$ref");
    buf_add_str(&m->out, leaf);
}

static void make(struct maker *m) {
    uint32_t kind =
        m->depth < MADE_DEPTH_MAX && m->out.n_bytes < MADE_BYTES_MAX ? choose(m, 12) : 0;

    m->depth++;
    switch (kind) {
    case 1:
    case 2:
        m->n_around++;
        if (kind == 1)
            make_object(m);
        else
            make_array(m);
        m->n_around--;
        break;
    case 3:
        make_number(m);
        break;
    case 4:
        make_string(m);
        break;
    case 5:
        make_crowd(m);
        break;
    case 6:
        make_list(m, "{\"anyOf\":[", 1 + choose(m, 6), "]}");
        break;
    case 7:
        make_list(m, "{\"oneOf\":[", 1 + choose(m, 3), "]}");
        break;
    case 8:
        make_list(m, "{\"allOf\":[", 1 + choose(m, 3), "]}");
        break;
    case 9:
        make_list(m, "{\"type\":[\"object\",\"array\",\"integer\"],\"anyOf\":[", 1 + choose(m, 3),
                  "],\"required\":[\"a\"]}");
        break;
    default:
        make_leaf(m);
    }
    m->depth--;
}

/* Returns whether a reader that follows all references comes to an end. */
static bool make_root(const uint8_t *choices, size_t n, struct buf *ret) {
    struct maker m = {.at = choices, .end = choices + MIN(n, (size_t)CHOICES_MAX)};

    make_list(&m, "{\"anyOf\":[", 1 + choose(&m, 3), "],\"$defs\":{");
    for (int i = 0; i < N_DEFS; i++) {
        buf_printf(&m.out, "%s\"d%d\":", i ? "," : "", i);
        make(&m);
    }
    buf_add_str(&m.out, "}}");
    *ret = m.out;
    return !m.loose;
}

/* ---- walks ---- */

static bool has(const uint64_t *mask, int32_t id) {
    return mask[id / 64] >> (id % 64) & 1;
}

/* The n-th allowed token, counted around, of a word or an end if `words_first` and there is one; -1
 * if there is none. */
static int32_t nth(const uint64_t *mask, uint64_t n, bool words_first) {
    int32_t allowed[N_TOKENS], n_allowed = 0;

    for (int32_t id = words_first ? 256 : 0; id < N_TOKENS; id++)
        if (has(mask, id))
            allowed[n_allowed++] = id;
    if (n_allowed == 0 && words_first)
        return nth(mask, n, false);
    return n_allowed ? allowed[n % (uint64_t)n_allowed] : -1;
}

/* Every token by itself, on a copy. */
static void check_all(const struct grammar_match *m, struct grammar_match *twin,
                      const uint64_t *mask) {
    grammar_match_copy(twin, m);
    for (int32_t id = 0; id < N_TOKENS; id++) {
        int r = grammar_match_token(twin, id);
        assert((r == 0) == has(mask, id));
        if (r == 0)
            r = grammar_match_back(twin, 1);
        assert(r == 0 || !has(mask, id));
    }
}

/* What was written is JSON, and satisfies the schema, if there is one to ask. */
static void check_text(const struct buf *out, const struct json *schema) {
    _cleanup_(json_freep) struct json *value = NULL;
    struct hai_err err = {0};
    int r = json_parse(out->data, out->n_bytes, NULL, &value, &err);

    assert(r == 0);
    assert(!schema || schemas_check(schema, schema, value));
}

static void walk(struct grammar *g, uint64_t state, const struct json *schema) {
    _cleanup_(grammar_match_freep) struct grammar_match *m = grammar_match_new(g);
    _cleanup_(grammar_match_freep) struct grammar_match *twin = grammar_match_new(g);
    _cleanup_(buf_free) struct buf out = {0};
    uint64_t mask[(N_TOKENS + 63) / 64], again[(N_TOKENS + 63) / 64];

    for (int step = 0; step < N_STEPS; step++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        grammar_match_mask(m, mask);
        if ((state >> 20 & 3) == 0) {
            check_all(m, twin, mask);
            grammar_match_mask(twin, again);
            assert(!memcmp(mask, again, sizeof mask));
        }
        int32_t id = nth(mask, state >> 33, state >> 22 & 1);
        assert(id >= 0);
        int r = grammar_match_token(m, id);
        assert(r == 0);
        if (id == N_TOKENS - 1) {
            check_text(&out, schema);
            break;
        }
        buf_add(&out, tokens[id].bytes, tokens[id].n_bytes);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    static struct grammar_vocab *vocab;
    _cleanup_(buf_free) struct buf text = {0};
    _cleanup_(json_freep) struct json *schema = NULL;
    struct grammar_options options = {0};
    struct hai_err err = {0};
    uint64_t hash = n_bytes;

    vocab = vocab ? vocab : vocab_new();
    if (n_bytes > SCHEMA_BYTES_MAX)
        return 0;
    for (size_t i = 0; i < n_bytes; i++)
        hash = (hash ^ data[i]) * 0x100000001b3u;
    options.any_order = hash & 1;
    options.compact = hash & 2;
    options.closed = hash & 4;
    if (n_bytes > 0 && data[0] == '!') {
        bool ends = make_root(data + 1, n_bytes - 1, &text);
        int r = ends ? json_parse(text.data, text.n_bytes, NULL, &schema, &err) : 0;
        assert(r == 0);
    } else {
        buf_add(&text, data, n_bytes);
    }
    _cleanup_(grammar_freep) struct grammar *g = NULL;
    if (grammar_new(vocab, buf_cstr(&text), text.n_bytes, &options, &g, &err) < 0) {
        assert(err.r < 0);
        assert(err.text[0]);
        return 0;
    }
    for (int i = 0; i < N_WALKS; i++) // with the masks that the first ones left
        walk(g, hash + (uint64_t)i, schema);
    return 0;
}
