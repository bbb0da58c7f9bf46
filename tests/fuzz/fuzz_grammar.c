/* Whatever a JSON Schema holds: a grammar or an error that says why. From a grammar, a text of
 * allowed tokens can be led on: the mask has a token, and takes exactly what a step takes. */
#include "engine/infer/grammar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

enum { N_TOKENS = 256 + 9, N_STEPS = 24, SCHEMA_BYTES_MAX = 4096 };

static struct grammar_vocab *vocab_new(void) {
    static const char *const words[] = {"{\"", "\":", "\",", "\"}", "\"a", "123", "\\n", "[]"};
    static uint8_t bytes[256];
    static const int32_t end = N_TOKENS - 1;
    struct grammar_token tokens[N_TOKENS] = {0};

    for (int i = 0; i < 256; i++) {
        bytes[i] = (uint8_t)i;
        tokens[i] = (struct grammar_token){&bytes[i], 1};
    }
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        tokens[256 + i] = (struct grammar_token){words[i], (uint32_t)strlen(words[i])};
    return grammar_vocab_new(tokens, N_TOKENS, &end, 1);
}

/* The n-th allowed token, counted around; -1 if there is none. */
static int32_t nth(const uint64_t *mask, uint64_t n) {
    int32_t allowed[N_TOKENS], n_allowed = 0;

    for (int32_t id = 0; id < N_TOKENS; id++)
        if (mask[id / 64] >> (id % 64) & 1)
            allowed[n_allowed++] = id;
    return n_allowed ? allowed[n % (uint64_t)n_allowed] : -1;
}

static void walk(struct grammar *g, uint64_t state) {
    _cleanup_(grammar_match_freep) struct grammar_match *m = grammar_match_new(g);
    uint64_t mask[(N_TOKENS + 63) / 64];

    for (int step = 0; step < N_STEPS; step++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        grammar_match_mask(m, mask);
        int32_t id = nth(mask, state >> 33), other = (int32_t)((state >> 20) % N_TOKENS);
        assert(id >= 0);
        bool allowed = mask[other / 64] >> (other % 64) & 1;
        int r = grammar_match_token(m, other);
        assert((r == 0) == allowed);
        if (r == 0)
            r = grammar_match_back(m, 1);
        assert(r == 0 || !allowed);
        r = grammar_match_token(m, id);
        assert(r == 0);
        if (id == N_TOKENS - 1)
            break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    static struct grammar_vocab *vocab;
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
    for (int i = 0; i < 2; i++) {
        _cleanup_(grammar_freep) struct grammar *g = NULL;
        if (grammar_new(vocab, (const char *)data, n_bytes, &options, &g, &err) < 0) {
            assert(err.r < 0);
            assert(err.text[0]);
            return 0;
        }
        walk(g, hash + (uint64_t)i);
    }
    return 0;
}
