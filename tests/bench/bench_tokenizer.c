/* bench_tokenizer - how fast texts become token ids and back, on one core.
 *
 * usage: bench-tokenizer TOKENIZER TEXT...
 * Prints one JSON object: milliseconds to load (median of 5), and for each text its bytes, tokens
 * and MB/s of encoding and decoding (median of REPEATS after one more). Texts are encoded in lines
 * of about 2 kB, as requests come, and a second time in one piece.
 */
#include "engine/data/tokenizer.h"
#include "lib/fileio.h"

#include <stdio.h>
#include <time.h>

enum { REPEATS = 5, PIECE_BYTES = 2048, TEXT_BYTES_MAX = 1 << 28 };

static double now_s(void) {
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *s, int n) {
    qsort(s, (size_t)n, sizeof *s, ascending);
    return s[n / 2];
}

/* Up to the line feed after PIECE_BYTES. */
static size_t piece_end(const struct buf *text, size_t from) {
    if (text->n_bytes - from <= PIECE_BYTES)
        return text->n_bytes;
    const uint8_t *start = text->data + from + PIECE_BYTES;
    const uint8_t *end = memchr(start, '\n', (size_t)(text->data + text->n_bytes - start));
    return end ? (size_t)(end + 1 - text->data) : text->n_bytes;
}

static int encode(struct tokenizer *t, const struct buf *text, bool whole, struct token_list *ret,
                  struct hai_err *err) {
    int r = 0;

    ret->n = 0;
    for (size_t from = 0, to; r == 0 && from < text->n_bytes; from = to) {
        to = whole ? text->n_bytes : piece_end(text, from);
        r = tokenizer_encode(t, (const char *)text->data + from, to - from, ret, err);
    }
    return r;
}

static int measure(struct tokenizer *t, const char *path, struct hai_err *err) {
    _cleanup_(buf_free) struct buf text = {0}, back = {0};
    _cleanup_(token_list_free) struct token_list ids = {0};
    double s[3][REPEATS];
    int r = fileio_read_file(path, TEXT_BYTES_MAX, &text, err);

    for (int i = -1; r == 0 && i < REPEATS; i++) {
        double at[4];
        at[0] = now_s();
        r = encode(t, &text, true, &ids, err);
        at[1] = now_s();
        if (r == 0)
            r = encode(t, &text, false, &ids, err);
        at[2] = now_s();
        buf_clear(&back);
        if (r == 0)
            r = tokenizer_decode(t, ids.ids, ids.n, false, &back, err);
        at[3] = now_s();
        for (int j = 0; i >= 0 && j < 3; j++)
            s[j][i] = at[j + 1] - at[j];
    }
    double mb = 1e-6 * (double)text.n_bytes;
    if (r == 0)
        printf("{\"text\": \"%s\", \"bytes\": %zu, \"tokens\": %zu, \"whole\": %.1f, "
               "\"encode\": %.1f, \"decode\": %.1f}",
               path, text.n_bytes, ids.n, mb / median(s[0], REPEATS), mb / median(s[1], REPEATS),
               mb / median(s[2], REPEATS));
    return r;
}

int main(int argc, char **argv) {
    _cleanup_(tokenizer_freep) struct tokenizer *t = NULL;
    double load[REPEATS];
    struct hai_err err = {0};
    int r = argc > 2 ? 0 : hai_fail(&err, -EINVAL, "usage: bench-tokenizer TOKENIZER TEXT...");

    for (int i = 0; r == 0 && i < REPEATS; i++) {
        tokenizer_free(TAKE_PTR(t));
        double start = now_s();
        r = tokenizer_read(argv[1], &t, &err);
        load[i] = 1e3 * (now_s() - start);
    }
    if (r == 0)
        printf("{\"load_ms\": %.1f, \"texts\": [", median(load, REPEATS));
    for (int i = 2; r == 0 && i < argc; i++) {
        r = measure(t, argv[i], &err);
        fputs(i + 1 < argc ? ", " : "]}\n", stdout);
    }
    if (r < 0)
        fprintf(stderr, "bench-tokenizer: %s\n", hai_err_text(&err));
    return r < 0;
}
