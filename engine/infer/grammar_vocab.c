#include "engine/infer/grammar_impl.h"

/* Ascending by bytes, then by id. */
static int by_bytes(const void *a, const void *b, void *userdata) {
    const struct grammar_vocab *v = userdata;
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    uint32_t nx = v->from[x + 1] - v->from[x], ny = v->from[y + 1] - v->from[y];
    int r = memcmp(v->bytes + v->from[x], v->bytes + v->from[y], MIN(nx, ny));

    if (r == 0)
        r = nx == ny ? (x > y) - (x < y) : (nx > ny) - (nx < ny);
    return r;
}

static uint32_t common(const uint8_t *a, uint32_t na, const uint8_t *b, uint32_t nb) {
    uint32_t n = 0;

    while (n < na && n < nb && a[n] == b[n])
        n++;
    return n;
}

/* Nodes from the sorted tokens: each shares its first bytes with the one before. */
static void build_tree(struct grammar_vocab *v, const int32_t *sorted, int32_t n) {
    uint32_t open[GRAMMAR_TOKEN_BYTES_MAX], depth = 0, n_max = 0;

    for (int32_t i = 0; i < n; i++)
        n_max += v->from[sorted[i] + 1] - v->from[sorted[i]];
    v->byte = hai_new_array(uint8_t, n_max + 1);
    v->end = hai_new_array(uint32_t, n_max + 1);
    v->token = hai_new_array(int32_t, n_max + 1);
    for (int32_t i = 0; i < n; i++) {
        const uint8_t *p = v->bytes + v->from[sorted[i]];
        uint32_t length = v->from[sorted[i] + 1] - v->from[sorted[i]], shared = 0;
        if (i > 0)
            shared = common(p, length, v->bytes + v->from[sorted[i - 1]], depth);
        for (; depth > shared; depth--)
            v->end[open[depth - 1]] = v->n_nodes;
        for (; depth < length; depth++) {
            open[depth] = v->n_nodes;
            v->byte[v->n_nodes] = p[depth];
            v->token[v->n_nodes++] = -1;
        }
        v->same[sorted[i]] = v->token[open[depth - 1]];
        v->token[open[depth - 1]] = sorted[i];
    }
    for (; depth > 0; depth--)
        v->end[open[depth - 1]] = v->n_nodes;
}

static void set_bit(uint64_t *words, int32_t id) {
    words[id / 64] |= UINT64_C(1) << (id % 64);
}

/* A token of characters that stand in strings as they are, perhaps with half of one at its end:
 * into the masks of all lengths that hold it. */
static void add_plain(struct grammar_vocab *v, int32_t id, uint32_t n_chars) {
    for (; id >= 0; id = v->same[id]) {
        for (uint32_t i = n_chars; i < GRAMMAR_LONG_CHARS; i++)
            set_bit(v->plain[i], id);
        set_bit(v->plain[GRAMMAR_LONG_CHARS], id);
        if (n_chars >= GRAMMAR_LONG_CHARS) {
            v->long_tokens[v->n_long] = id;
            v->long_chars[v->n_long++] = (uint16_t)n_chars;
        }
    }
}

/* Go down the tree as far as bytes are plain characters. rep: a token that passes here. */
static void find_plain(struct grammar_vocab *v, uint32_t node, uint32_t end, int state,
                       uint32_t n_chars, uint32_t depth) {
    for (uint32_t i = node; i < end; i = v->end[i]) {
        uint8_t byte = v->byte[i];
        if (state == 0 && (byte == '"' || byte == '\\')) {
            uint32_t at = i; // the first token below has the bytes of the way here
            while (v->token[at] < 0)
                at++;
            v->specials[v->n_specials++] =
                (struct grammar_special){i, v->from[v->token[at]], depth};
            continue;
        }
        int next = byte < 0x20 || byte == 0x7f ? -1 : grammar_step_utf8(state, byte);
        if (next < 0)
            continue;
        uint32_t chars = n_chars + (state == 0);
        if (v->token[i] >= 0)
            add_plain(v, v->token[i], chars);
        find_plain(v, i + 1, v->end[i], next, chars, depth + 1);
    }
}

static void copy_tokens(struct grammar_vocab *v, const struct grammar_token *tokens) {
    size_t n = 0;

    for (int32_t i = 0; i < v->n_tokens; i++)
        if (tokens[i].n_bytes <= GRAMMAR_TOKEN_BYTES_MAX && !v->is_end[i])
            n += tokens[i].n_bytes;
    v->bytes = hai_alloc(n + 1);
    for (int32_t i = 0; i < v->n_tokens; i++) {
        uint32_t length = tokens[i].n_bytes;
        v->from[i + 1] = v->from[i];
        if (length == 0 || length > GRAMMAR_TOKEN_BYTES_MAX || v->is_end[i])
            continue;
        memcpy(v->bytes + v->from[i], tokens[i].bytes, length);
        v->from[i + 1] += length;
    }
}

struct grammar_vocab *grammar_vocab_new(const struct grammar_token *tokens, int32_t n_tokens,
                                        const int32_t *end_ids, int n_end_ids) {
    struct grammar_vocab *v = hai_new(struct grammar_vocab);
    size_t n = (size_t)n_tokens;
    _cleanup_free_ int32_t *sorted = hai_new_array(int32_t, n + 1);
    int32_t n_sorted = 0;

    v->n_tokens = n_tokens;
    v->n_words = (n + 63) / 64;
    v->same = hai_new_array(int32_t, n + 1);
    v->from = hai_new_array(uint32_t, n + 1);
    v->is_end = hai_new_array(bool, n + 1);
    for (int i = 0; i < n_end_ids; i++)
        if (end_ids[i] >= 0 && end_ids[i] < n_tokens)
            v->is_end[end_ids[i]] = true;
    copy_tokens(v, tokens);
    for (int32_t i = 0; i < n_tokens; i++) {
        v->same[i] = -1;
        if (v->from[i + 1] > v->from[i])
            sorted[n_sorted++] = i;
    }
    qsort_r(sorted, (size_t)n_sorted, sizeof *sorted, by_bytes, v);
    build_tree(v, sorted, n_sorted);
    for (int i = 0; i <= GRAMMAR_LONG_CHARS; i++)
        v->plain[i] = hai_new_array(uint64_t, v->n_words);
    v->long_tokens = hai_new_array(int32_t, n + 1);
    v->long_chars = hai_new_array(uint16_t, n + 1);
    v->specials = hai_alloc_array(v->n_nodes + 1, sizeof *v->specials);
    find_plain(v, 0, v->n_nodes, 0, 0, 0);
    return v;
}

void grammar_vocab_free(struct grammar_vocab *v) {
    if (!v)
        return;
    free(v->byte);
    free(v->end);
    free(v->token);
    free(v->same);
    free(v->bytes);
    free(v->from);
    free(v->is_end);
    for (int i = 0; i <= GRAMMAR_LONG_CHARS; i++)
        free(v->plain[i]);
    free(v->long_tokens);
    free(v->long_chars);
    free(v->specials);
    free(v);
}

size_t grammar_vocab_words(const struct grammar_vocab *v) {
    return v->n_words;
}
