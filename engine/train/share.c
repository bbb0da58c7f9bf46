#include "engine/train/share.h"
#include "engine/train/dropping.h"

struct share {
    int64_t seq, window, n_micro;
    uint64_t spare_seed;
    double spare_part;
    int64_t first, n;             // samples read
    int32_t *ids, *labels;        // [n_max, window]
    int32_t *seq_start, *n_seqs;  // [n_max, window + 1], [n_max]
    int32_t *inputs, *targets[2]; // of a micro-batch: [n_micro * seq]
    int32_t *next_ids, *starts;   // the same; [n_micro * seq + 1]
    int32_t *whole;               // [n_micro * seq]
};

struct share *share_new(const struct feed *feed, int64_t n_max, int64_t n_micro) {
    struct share *s = hai_new(struct share);
    size_t n_tokens = (size_t)(n_max * feed->window), n_inputs = (size_t)(n_micro * feed->seq);

    s->seq = feed->seq;
    s->window = feed->window;
    s->n_micro = n_micro;
    s->ids = hai_new_array(int32_t, n_tokens);
    s->labels = hai_new_array(int32_t, n_tokens);
    s->seq_start = hai_new_array(int32_t, n_tokens + (size_t)n_max);
    s->n_seqs = hai_new_array(int32_t, (size_t)n_max);
    s->inputs = hai_new_array(int32_t, n_inputs);
    s->targets[0] = hai_new_array(int32_t, n_inputs);
    s->targets[1] = hai_new_array(int32_t, n_inputs);
    s->next_ids = hai_new_array(int32_t, n_inputs);
    s->starts = hai_new_array(int32_t, n_inputs + 1);
    s->whole = hai_new_array(int32_t, n_inputs);
    return s;
}

void share_free(struct share *s) {
    if (!s)
        return;
    free(s->ids);
    free(s->labels);
    free(s->seq_start);
    free(s->n_seqs);
    free(s->inputs);
    free(s->targets[0]);
    free(s->targets[1]);
    free(s->next_ids);
    free(s->starts);
    free(s->whole);
    free(s);
}

int64_t share_n_seqs_max(const struct feed *feed, int64_t n_micro) {
    return feed->n_seqs_max * n_micro;
}

void share_spare(struct share *s, uint64_t seed, double part) {
    s->spare_seed = seed;
    s->spare_part = part;
}

int share_read(struct share *s, struct feed *feed, int64_t first, int64_t n, struct hai_err *err) {
    int r = 0;

    for (int64_t i = 0; r == 0 && i < n; i++)
        r = feed_read(feed, first + i,
                      &(struct feed_sample){s->ids + i * s->window, s->labels + i * s->window,
                                            s->seq_start + i * (s->window + 1), &s->n_seqs[i]},
                      err);
    s->first = first;
    s->n = n;
    return r;
}

int64_t share_n_batches(const struct share *s) {
    return (s->n + s->n_micro - 1) / s->n_micro;
}

/* The token `ahead` places after t, if its sequence, which ends at `end` of the window, has one. */
static int32_t ahead_of(const int32_t *tokens, int64_t t, int ahead, int64_t end) {
    return t + ahead < end ? tokens[t + ahead] : -1;
}

/* A sequence of sample i whose inputs begin at `from`, as those from row `at` on. Returns the row
 * behind them. */
static int64_t add_sequence(struct share *s, int64_t i, int64_t from, int64_t end, int64_t at) {
    const int32_t *ids = s->ids + i * s->window, *labels = s->labels + i * s->window;

    for (int64_t t = from; t < MIN(end, s->seq); t++, at++) {
        s->inputs[at] = ids[t];
        s->targets[0][at] = ahead_of(labels, t, 1, end);
        s->targets[1][at] = ahead_of(labels, t, 2, end);
        s->next_ids[at] = ahead_of(ids, t, 1, end);
    }
    return at;
}

struct model_batch share_batch(struct share *s, int64_t number) {
    int64_t first = number * s->n_micro, n = MIN(s->n_micro, s->n - first), n_seqs = 0, at = 0;

    assert(n >= 1);
    for (int64_t i = first; i < first + n; i++) {
        const int32_t *start = s->seq_start + i * (s->window + 1);
        bool whole = dropping_spares(s->spare_seed, s->first + i, s->spare_part);
        // What begins behind the inputs has none.
        for (int32_t k = 0; k < s->n_seqs[i] && start[k] < s->seq; k++) {
            s->whole[n_seqs] = whole;
            s->starts[n_seqs++] = (int32_t)at;
            at = add_sequence(s, i, start[k], start[k + 1], at);
        }
    }
    assert(at >= 1);
    assert(at <= n * s->seq);
    s->starts[n_seqs] = (int32_t)at;
    return (struct model_batch){.n_tokens = at,
                                .n_seqs = n_seqs,
                                .ids = s->inputs,
                                .seq_start = s->starts,
                                .targets = s->targets[0],
                                .mtp_targets = s->targets[1],
                                .next_ids = s->next_ids,
                                .whole = s->whole};
}
