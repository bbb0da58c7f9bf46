#include "engine/infer/textruns.h"
#include "engine/data/token_list.h"
#include "engine/data/tokenizer.h"
#include "engine/model/importance.h"
#include "kernels/kmath.h"
#include "lib/fileio.h"

enum { TEXT_BYTES_MAX = 64 << 20 };

struct comparison {
    int64_t n_vocab, window, skip, row; // row of the window that comes next
    const int32_t *ids;                 // of the window
    float *logits;                      // [window, n_vocab] of the first model
    double kl, square, same, nll, nll_other;
};

static int keep(void *userdata, const float *rows, int64_t n_rows, struct hai_err *err) {
    struct comparison *c = userdata;

    memcpy(c->logits + c->row * c->n_vocab, rows, (size_t)(n_rows * c->n_vocab) * sizeof *rows);
    c->row += n_rows;
    return 0;
}

/* log sum exp of a row, and where its largest element is. */
static double log_sum(const float *x, int64_t n, int64_t *ret_best) {
    double sum = 0;

    *ret_best = 0;
    for (int64_t i = 1; i < n; i++)
        *ret_best = x[i] > x[*ret_best] ? i : *ret_best;
    for (int64_t i = 0; i < n; i++)
        sum += kmath_exp((double)x[i] - (double)x[*ret_best]);
    return (double)x[*ret_best] + kmath_log(sum);
}

static void compare_row(struct comparison *c, const float *p, const float *q) {
    int64_t best_p, best_q;
    double log_p = log_sum(p, c->n_vocab, &best_p), log_q = log_sum(q, c->n_vocab, &best_q);
    double kl = 0;

    for (int64_t i = 0; i < c->n_vocab; i++) {
        double lp = (double)p[i] - log_p, lq = (double)q[i] - log_q;
        double d = (double)p[i] - (double)q[i];
        kl += kmath_exp(lp) * (lp - lq);
        c->square += d * d;
    }
    c->kl += kl;
    c->same += best_p == best_q;
    if (c->row + 1 < c->window) {
        c->nll += log_p - (double)p[c->ids[c->row + 1]];
        c->nll_other += log_q - (double)q[c->ids[c->row + 1]];
    }
}

static int compare_rows(void *userdata, const float *rows, int64_t n_rows, struct hai_err *err) {
    struct comparison *c = userdata;

    for (int64_t i = 0; i < n_rows; i++, c->row++)
        if (c->row >= c->skip)
            compare_row(c, c->logits + c->row * c->n_vocab, rows + i * c->n_vocab);
    return 0;
}

static int check_window(int64_t n, int64_t window, struct hai_err *err) {
    return n >= window ? 0
                       : hai_fail(err, -EINVAL, "the text has %lld tokens; expected at least %lld",
                                  (long long)n, (long long)window);
}

static int compare_window(struct generate *a, struct generate *b, struct comparison *c,
                          struct hai_err *err) {
    c->row = 0;
    int r = generate_logits(a, c->ids, c->window, keep, c, err);
    c->row = 0;
    return r < 0 ? r : generate_logits(b, c->ids, c->window, compare_rows, c, err);
}

int textruns_compare(const char *dir, const char *other, const struct generate_place *place,
                     const int32_t *ids, int64_t n, int64_t window, int64_t skip,
                     struct textruns_compared *ret, struct hai_err *err) {
    _cleanup_(generate_freep) struct generate *a = NULL, *b = NULL;
    struct comparison c = {.window = window, .skip = skip};
    struct generate_place plain = *place;
    int64_t n_windows = n / window, n_counted = n_windows * (window - skip);

    assert(skip < window);
    plain.fast_prefill = false;
    plain.cache_dtype = K_F32;
    int r = check_window(n, window, err);
    if (r == 0)
        r = generate_open(dir, &plain, window, &a, err);
    if (r == 0)
        r = generate_open(other, place, window, &b, err);
    if (r < 0)
        return r;
    c.n_vocab = generate_config(a)->n_vocab;
    if (generate_config(b)->n_vocab != c.n_vocab)
        return hai_fail(err, -EINVAL, "%s has %lld tokens, %s has %lld", dir, (long long)c.n_vocab,
                        other, (long long)generate_config(b)->n_vocab);
    _cleanup_free_ float *logits = hai_new_array(float, (size_t)(window * c.n_vocab));
    c.logits = logits;
    for (int64_t w = 0; w < n_windows && r == 0; w++) {
        c.ids = ids + w * window;
        r = compare_window(a, b, &c, err);
    }
    double rows = (double)n_counted, next = (double)MAX(n_counted - n_windows, 1ll);
    *ret = (struct textruns_compared){.n = n_counted,
                                      .kl = c.kl / rows,
                                      .rms = kmath_sqrt(c.square / rows / (double)c.n_vocab),
                                      .same_best = c.same / rows,
                                      .nll = c.nll / next,
                                      .nll_other = c.nll_other / next};
    return r;
}

static int ignore(void *userdata, const float *rows, int64_t n_rows, struct hai_err *err) {
    return 0;
}

int textruns_measure(const char *dir, const struct generate_place *place, const int32_t *ids,
                     int64_t n, int64_t window, const char *path, struct hai_err *err) {
    _cleanup_(generate_freep) struct generate *g = NULL;
    _cleanup_(importance_freep) struct importance *x = NULL;

    int r = check_window(n, window, err);
    if (r == 0)
        r = generate_open(dir, place, window, &g, err);
    if (r < 0)
        return r;
    x = importance_begin(generate_model(g));
    for (int64_t at = 0; at + window <= n && r == 0; at += window)
        r = generate_logits(g, ids + at, window, ignore, NULL, err);
    return r < 0 ? r : importance_write(x, path, err);
}

int textruns_read(const char *dir, const char *path, int64_t n_max, int32_t **ret, int64_t *ret_n,
                  struct hai_err *err) {
    _cleanup_(tokenizer_freep) struct tokenizer *tokenizer = NULL;
    _cleanup_(buf_free) struct buf text = {0};
    struct token_list ids = {0};

    int r = tokenizer_read(dir, &tokenizer, err);
    if (r == 0)
        r = fileio_read_file(path, TEXT_BYTES_MAX, &text, err);
    if (r == 0)
        r = tokenizer_encode(tokenizer, (const char *)text.data, text.n_bytes, &ids, err);
    if (r < 0) {
        token_list_free(&ids);
        return r;
    }
    *ret_n = MIN((int64_t)ids.n, n_max);
    *ret = ids.ids;
    return 0;
}
