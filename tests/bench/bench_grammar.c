/* bench_grammar - microseconds of a token mask, for the tokenizer of a model.
 *
 * usage: bench-grammar DIR   (a folder with tokenizer.json)
 *
 * Texts are led token by token through the grammar, as generation would; one line for each schema
 * with the median, the 99th percentile and the largest time of a mask, and the time of one step.
 * "first": a new grammar for each text, so nothing is remembered; "again": the text once more.
 * Processor time of the thread.
 */
#include "engine/data/tokenizer.h"
#include "engine/infer/grammar.h"

#include <stdio.h>
#include <time.h>

enum { TIMES_MAX = 1 << 16 };

static double now_us(void) {
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return 1e6 * (double)t.tv_sec + 1e-3 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static struct grammar_vocab *vocab_of(const struct tokenizer *t) {
    int32_t n = tokenizer_n_vocab(t), end = tokenizer_end(t);
    struct grammar_token *tokens = hai_new_array(struct grammar_token, (size_t)n);
    size_t *from = hai_new_array(size_t, (size_t)n);
    _cleanup_(buf_free) struct buf bytes = {0};

    for (int32_t id = 0; id < n; id++) {
        from[id] = bytes.n_bytes;
        if (!tokenizer_is_special(t, id))
            tokenizer_add_bytes(t, id, &bytes);
        tokens[id].n_bytes = (uint32_t)(bytes.n_bytes - from[id]);
    }
    for (int32_t id = 0; id < n; id++)
        tokens[id].bytes = bytes.data + from[id];
    double start = now_us();
    struct grammar_vocab *v = grammar_vocab_new(tokens, n, &end, 1);
    printf("%d tokens: tree built in %.0f ms\n", n, (now_us() - start) / 1e3);
    free(tokens);
    free(from);
    return v;
}

static const struct {
    const char *name, *schema, *text;
} cases[] = {
    {"JSON mode",               "{\"type\": \"object\"}",
     "{\"title\": \"A walk in the old town\", \"pages\": 128, \"tags\": [\"city\", \"history\", "
     "\"guide\"], \"author\": {\"name\": \"Jane Doe\", \"born\": 1961, \"alive\": true}, \"note\": "
     "\"He said \\\"yes\\\", and left.\"}"                                                                                                                },
    {"record",
     "{\"type\": \"object\", \"properties\": {\"name\": {\"type\": \"string\"}, \"age\": "
     "{\"type\": "
     "\"integer\", \"minimum\": 0, \"maximum\": 150}, \"email\": {\"type\": \"string\", "
     "\"maxLength\": 64}, \"kind\": {\"enum\": [\"person\", \"company\", \"other\"]}, \"score\": "
     "{\"type\": \"number\", \"minimum\": 0, \"maximum\": 1}}, \"required\": [\"name\", \"age\", "
     "\"kind\"], \"additionalProperties\": false}",                                     "{\"name\": \"Jane Doe of the old town\", \"age\": 61, \"email\": "
     "\"jane.doe@example.org, or by telephone\", \"kind\": \"person\", \"score\": 0.75}"               },
    {"list of dates and codes",
     "{\"type\": \"array\", \"items\": {\"type\": \"object\", \"properties\": {\"on\": {\"type\": "
     "\"string\", \"format\": \"date-time\"}, \"code\": {\"type\": \"string\", \"pattern\": "
     "\"^[A-Z]{2}-[0-9]+$\"}, \"free\": {\"type\": \"string\", \"pattern\": \"x\"}}}}", "[{\"on\": \"2024-02-29T12:30:00Z\", \"code\": \"AB-12345\", \"free\": \"some x in a text\"}, "
     "{\"on\": \"1999-12-31T23:59:59+01:00\", \"code\": \"ZZ-9\"}]"},
};

struct times {
    double masks[TIMES_MAX], step_us;
    int n;
};

static void lead(struct grammar *g, const struct token_list *ids, uint64_t *mask, struct times *t) {
    struct grammar_match *m = grammar_match_new(g);

    for (size_t i = 0; i < ids->n && t->n < TIMES_MAX; i++) {
        double start = now_us();
        grammar_match_mask(m, mask);
        double masked = now_us();
        if (grammar_match_token(m, ids->ids[i]) < 0) {
            printf("token %zu of the text is not allowed\n", i);
            exit(1);
        }
        t->step_us += now_us() - masked;
        t->masks[t->n++] = masked - start;
    }
    grammar_match_free(m);
}

static void print(const char *name, const char *which, struct times *t) {
    qsort(t->masks, (size_t)t->n, sizeof *t->masks, ascending);
    printf("%-24s %-6s mask median %7.1f us, p99 %8.1f us, max %8.1f us; step %5.2f us\n", name,
           which, t->masks[t->n / 2], t->masks[t->n * 99 / 100], t->masks[t->n - 1],
           t->step_us / t->n);
}

static void measure(const struct grammar_vocab *v, struct tokenizer *tokenizer, size_t c) {
    _cleanup_(token_list_free) struct token_list ids = {0};
    _cleanup_free_ uint64_t *mask = hai_new_array(uint64_t, grammar_vocab_words(v));
    static struct times first, again;
    struct hai_err err = {0};

    first = again = (struct times){0};
    if (tokenizer_encode(tokenizer, cases[c].text, strlen(cases[c].text), &ids, &err) < 0)
        exit(1);
    for (int i = 0; i < 9; i++) {
        struct grammar *g;
        if (grammar_new(v, cases[c].schema, strlen(cases[c].schema), NULL, &g, &err) < 0) {
            printf("%s\n", err.text);
            exit(1);
        }
        lead(g, &ids, mask, &first);
        lead(g, &ids, mask, &again);
        grammar_free(g);
    }
    print(cases[c].name, "first", &first);
    print(cases[c].name, "again", &again);
}

int main(int argc, char **argv) {
    _cleanup_(tokenizer_freep) struct tokenizer *tokenizer = NULL;
    struct hai_err err = {0};

    if (argc != 2) {
        fprintf(stderr, "usage: bench-grammar DIR\n");
        return 2;
    }
    if (tokenizer_read(argv[1], &tokenizer, &err) < 0) {
        fprintf(stderr, "bench-grammar: %s\n", err.text);
        return 1;
    }
    _cleanup_(grammar_vocab_freep) struct grammar_vocab *v = vocab_of(tokenizer);
    for (size_t c = 0; c < ARRAY_SIZE(cases); c++)
        measure(v, tokenizer, c);
    return 0;
}
