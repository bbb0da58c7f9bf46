#include "engine/infer/sample.h"
#include "engine/infer/sample_rows.h"
#include "kernels/kmath.h"
#include "kernels/philox.h"

#include <math.h>

/* One of those that may still be chosen, for selection: best first by value, then by lower id. */
struct pick {
    double value;
    int32_t id;
};

struct sample_space {
    const struct sample_rows *rows;
    int64_t n_vocab, n_blocks;
    float *x;           // [n_vocab] the row after mask, bias and penalties
    float *block_max;   // [n_blocks]
    double *weights;    // [n_vocab]
    int32_t *ids;       // [n_vocab] what is left, ascending; n_left of them
    float *left;        // [n_vocab] their logits
    struct pick *picks; // [n_vocab] in no order
    int64_t n_left;
};

struct sample_options sample_defaults(void) {
    return (struct sample_options){.top_p = 1, .repeat_penalty = 1, .n_logprobs = -1};
}

static int check_range(const char *name, double value, double low, double high, bool open,
                       struct hai_err *err) {
    if (value >= low && value <= high && !(open && value == low))
        return 0;
    return hai_fail(err, -EINVAL, "%s is %g; expected %s%g to %g", name, value,
                    open ? "above " : "", low, high);
}

int sample_check(const struct sample_options *o, int64_t n_vocab, struct hai_err *err) {
    int r = check_range("temperature", o->temperature, 0, 1000, false, err);

    r = r < 0 ? r : check_range("top_k", o->top_k, 0, SAMPLE_VOCAB_MAX, false, err);
    r = r < 0 ? r : check_range("top_p", o->top_p, 0, 1, true, err);
    r = r < 0 ? r : check_range("min_p", o->min_p, 0, 1, false, err);
    r = r < 0 ? r : check_range("repeat_penalty", o->repeat_penalty, 0, 100, true, err);
    r = r < 0 ? r : check_range("frequency_penalty", o->frequency_penalty, -100, 100, false, err);
    r = r < 0 ? r : check_range("presence_penalty", o->presence_penalty, -100, 100, false, err);
    r = r < 0 ? r : check_range("logprobs", o->n_logprobs, -1, SAMPLE_LOGPROBS_MAX, false, err);
    r = r < 0 ? r : check_range("number of biases", o->n_biases, 0, SAMPLE_BIASES_MAX, false, err);
    for (int32_t i = 0; r == 0 && i < o->n_biases; i++) {
        const struct sample_bias *b = &o->biases[i];
        if (b->id < 0 || b->id >= n_vocab)
            return hai_fail(err, -EINVAL, "bias of token %d; expected 0 to %lld", b->id,
                            (long long)n_vocab - 1);
        if (isnan(b->bias) || b->bias > 1e6F)
            return hai_fail(err, -EINVAL, "bias of token %d is %g; expected at most 1e6", b->id,
                            (double)b->bias);
    }
    return r;
}

struct sample_space *sample_space_new(int64_t n_vocab) {
    struct sample_space *s = hai_new(struct sample_space);
    size_t n = (size_t)n_vocab;

    assert(n_vocab >= 1);
    assert(n_vocab <= SAMPLE_VOCAB_MAX);
    s->rows = sample_rows_best();
    s->n_vocab = n_vocab;
    s->n_blocks = (n_vocab + SAMPLE_ROWS_BLOCK - 1) / SAMPLE_ROWS_BLOCK;
    s->x = hai_new_array(float, n);
    s->block_max = hai_new_array(float, (size_t)s->n_blocks);
    s->weights = hai_new_array(double, n);
    s->ids = hai_new_array(int32_t, n);
    s->left = hai_new_array(float, n);
    s->picks = hai_new_array(struct pick, n);
    return s;
}

void sample_space_free(struct sample_space *s) {
    if (!s)
        return;
    free(s->x);
    free(s->block_max);
    free(s->weights);
    free(s->ids);
    free(s->left);
    free(s->picks);
    free(s);
}

/* The lowest id of the largest, from the maxima of blocks. */
static int32_t find_largest(const struct sample_space *s, const float *x) {
    int64_t block = 0;

    for (int64_t i = 1; i < s->n_blocks; i++)
        if (s->block_max[i] > s->block_max[block])
            block = i;
    for (int64_t i = block * SAMPLE_ROWS_BLOCK;
         i < MIN((block + 1) * SAMPLE_ROWS_BLOCK, s->n_vocab); i++)
        if (x[i] == s->block_max[block])
            return (int32_t)i;
    return 0;
}

static bool is_better(const struct pick *a, const struct pick *b) {
    return a->value > b->value || (a->value == b->value && a->id < b->id);
}

static void swap_picks(struct pick *a, struct pick *b) {
    struct pick x = *a;

    *a = *b;
    *b = x;
}

/* Move a pivot (median of three places that the bounds decide) to where it belongs: better ones
 * before it, worse behind. n at least 1. Returns its place. */
static int64_t partition(struct pick *p, int64_t n) {
    uint64_t mix = (uint64_t)n * 0x9E3779B97F4A7C15u;
    int64_t a = 0, b = (int64_t)((mix >> 32) % (uint64_t)n), c = n - 1, to = 0;

    if (is_better(&p[b], &p[a]))
        swap_picks(&p[a], &p[b]);
    if (is_better(&p[c], &p[b]))
        swap_picks(&p[b], &p[c]);
    if (is_better(&p[b], &p[a]))
        swap_picks(&p[a], &p[b]);
    struct pick pivot = p[b];
    swap_picks(&p[b], &p[n - 1]);
    for (int64_t i = 0; i < n - 1; i++)
        if (is_better(&p[i], &pivot))
            swap_picks(&p[i], &p[to++]);
    swap_picks(&p[to], &p[n - 1]);
    return to;
}

/* The n_kept-th best of n, 1 <= n_kept <= n. */
static struct pick cut_at_rank(struct pick *p, int64_t n, int64_t n_kept) {
    for (;;) {
        int64_t at = partition(p, n);
        if (at == n_kept - 1)
            return p[at];
        if (at >= n_kept) {
            n = at;
        } else {
            p += at + 1;
            n -= at + 1;
            n_kept -= at + 1;
        }
    }
}

/* The worst of the fewest best whose values sum to at least `mass`; the worst of all if none do. */
static struct pick cut_at_mass(struct pick *p, int64_t n, double mass) {
    struct pick last = {0};

    while (n > 0) {
        int64_t at = partition(p, n);
        double better = 0;
        for (int64_t i = 0; i < at; i++)
            better += p[i].value;
        if (better >= mass) {
            n = at;
            last = p[at - 1]; // if rounding says otherwise later, the worst of these
            for (int64_t i = 0; i < at; i++)
                if (is_better(&last, &p[i]))
                    last = p[i];
            continue;
        }
        if (better + p[at].value >= mass || at + 1 == n)
            return p[at];
        mass -= better + p[at].value;
        p += at + 1;
        n -= at + 1;
    }
    return last;
}

/* Those at or above a bound (and above -infinity) become what is left, with ids ascending. */
static void collect(struct sample_space *s, const float *x, float bound) {
    s->n_left = 0;
    for (int64_t b = 0; b < s->n_blocks; b++) {
        if (s->block_max[b] < bound || s->block_max[b] == -INFINITY)
            continue;
        for (int64_t i = b * SAMPLE_ROWS_BLOCK; i < MIN((b + 1) * SAMPLE_ROWS_BLOCK, s->n_vocab);
             i++)
            if (x[i] >= bound && x[i] > -INFINITY) {
                s->ids[s->n_left] = (int32_t)i;
                s->left[s->n_left++] = x[i];
            }
    }
}

/* Collect at least the n largest, of which there are enough or all are taken: the n-th largest of
 * the blocks' maxima is a bound that n logits reach. */
static void collect_largest(struct sample_space *s, const float *x, int64_t n) {
    float bound = -INFINITY;

    if (n <= s->n_blocks) {
        for (int64_t i = 0; i < s->n_blocks; i++)
            s->picks[i] = (struct pick){s->block_max[i], (int32_t)i};
        bound = (float)cut_at_rank(s->picks, s->n_blocks, n).value;
    }
    collect(s, x, bound);
}

/* Keep the n largest of what is left. */
static void keep_top_k(struct sample_space *s, int64_t n) {
    int64_t to = 0;

    if (s->n_left <= n)
        return;
    for (int64_t i = 0; i < s->n_left; i++)
        s->picks[i] = (struct pick){s->left[i], s->ids[i]};
    struct pick cut = cut_at_rank(s->picks, s->n_left, n);
    for (int64_t i = 0; i < s->n_left; i++) {
        if (is_better(&cut, &(struct pick){s->left[i], s->ids[i]}))
            continue;
        s->ids[to] = s->ids[i];
        s->left[to++] = s->left[i];
    }
    s->n_left = to;
}

/* Of n weights, those at or above a bound become what is left. all: ids are their places. */
static void keep_above(struct sample_space *s, double bound, bool all) {
    int64_t to = 0;

    for (int64_t i = 0; i < s->n_left; i++)
        if (s->weights[i] >= bound) {
            s->ids[to] = all ? (int32_t)i : s->ids[i];
            s->weights[to++] = s->weights[i];
        }
    s->n_left = to;
}

/* A token whose weight is below (1 - p) total / n cannot be among the fewest with share p: all such
 * together weigh less than the share that is left out. So few are looked at. */
static void keep_top_p(struct sample_space *s, double top_p, bool all) {
    double total = s->rows->sum(s->weights, s->n_left);

    keep_above(s, (1 - top_p) * total / (double)s->n_left * (1 - 1e-9), all);
    for (int64_t i = 0; i < s->n_left; i++)
        s->picks[i] = (struct pick){s->weights[i], s->ids[i]};
    struct pick cut = cut_at_mass(s->picks, s->n_left, top_p * total);
    int64_t to = 0;
    for (int64_t i = 0; i < s->n_left; i++) {
        if (is_better(&cut, &(struct pick){s->weights[i], s->ids[i]}))
            continue;
        s->ids[to] = s->ids[i];
        s->weights[to++] = s->weights[i];
    }
    s->n_left = to;
}

/* Steps 7 to 11 on a row whose blocks' maxima are known. */
static int32_t draw(struct sample_space *s, const float *x, const struct sample_options *o,
                    int32_t best, int64_t position) {
    struct philox_counter at =
        philox_at(PHILOX_SAMPLE, (uint32_t)position, (uint32_t)(position >> 32), 0);
    double sum = 0;
    uint32_t words[4];
    bool all = false;

    if (o->top_k > 0 && o->top_k < s->n_vocab) {
        collect_largest(s, x, o->top_k);
        keep_top_k(s, o->top_k);
    } else if (o->min_p > 0) {
        // A little lower than the bound, whose logarithm is rounded; the weights decide.
        double bound = (double)x[best] + o->temperature * (kmath_log(o->min_p) - 1e-6);
        collect(s, x, (float)(bound - fabs(bound) * 1e-6));
    } else {
        all = true;
        s->n_left = s->n_vocab;
    }
    s->rows->weigh(all ? x : s->left, s->n_left, x[best], o->temperature, s->weights);
    if (o->min_p > 0) // then not all
        keep_above(s, o->min_p, false);
    if (o->top_p < 1) {
        keep_top_p(s, o->top_p, all);
        all = false;
    }
    for (int64_t i = 0; i < s->n_left; i++)
        sum += s->weights[i];
    philox_words(o->seed, &at, words);
    double left = philox_uniform(words[0]) * sum;
    for (int64_t i = 0; i < s->n_left; i++) {
        left -= s->weights[i];
        if (left < 0)
            return all ? (int32_t)i : s->ids[i];
    }
    return best; // rounding only
}

static void add_top(struct sample_result *ret, struct sample_logprob x) {
    int at = ret->n_top++;

    for (; at > 0 && (ret->top[at - 1].logprob < x.logprob ||
                      (ret->top[at - 1].logprob == x.logprob && ret->top[at - 1].id > x.id));
         at--)
        ret->top[at] = ret->top[at - 1];
    ret->top[at] = x;
}

/* Log probabilities of the row as the model gave it. Returns ln(sum exp(x - largest)). */
static double take_logprobs(struct sample_space *s, const float *x, int32_t n, int32_t best,
                            struct sample_result *ret) {
    s->rows->weigh(x, s->n_vocab, x[best], 1, s->weights);
    double log_sum = kmath_log(s->rows->sum(s->weights, s->n_vocab));

    if (n > 0) {
        collect_largest(s, x, n);
        keep_top_k(s, n);
        for (int64_t i = 0; i < s->n_left; i++)
            add_top(ret, (struct sample_logprob){s->ids[i],
                                                 (double)s->left[i] - (double)x[best] - log_sum});
    }
    return log_sum;
}

static bool has_penalties(const struct sample_options *o, const struct sample_history *h) {
    return h && (o->repeat_penalty != 1 || o->frequency_penalty != 0 || o->presence_penalty != 0);
}

/* What a request has seen: open addressing by id, and the outputs in order so that they can be
 * taken back. The newest id is always the first to go, so its slot is simply freed: no id that came
 * before it was put behind it. */
struct seen {
    int32_t id;       // -1: free
    int32_t n_output; // times put out
    bool in_prompt;
};

struct sample_history {
    int64_t n_tokens_max, n_outputs, n_prompt, n_seen;
    uint32_t n_slots; // power of two, at most half full
    struct seen *slots;
    uint32_t *used;   // [n_seen] slots in use, in order of their first tokens
    int32_t *outputs; // [n_outputs]
};

struct sample_history *sample_history_new(int64_t n_tokens_max) {
    struct sample_history *h = hai_new(struct sample_history);

    assert(n_tokens_max >= 1);
    assert(n_tokens_max <= 1 << 28);
    h->n_tokens_max = n_tokens_max;
    for (h->n_slots = 16; h->n_slots < 2 * n_tokens_max;)
        h->n_slots *= 2;
    h->slots = hai_new_array(struct seen, h->n_slots);
    h->used = hai_new_array(uint32_t, (size_t)n_tokens_max);
    h->outputs = hai_new_array(int32_t, (size_t)n_tokens_max);
    for (uint32_t i = 0; i < h->n_slots; i++)
        h->slots[i].id = -1;
    return h;
}

void sample_history_free(struct sample_history *h) {
    if (!h)
        return;
    free(h->slots);
    free(h->used);
    free(h->outputs);
    free(h);
}

static struct seen *find_seen(struct sample_history *h, int32_t id) {
    uint32_t at = ((uint32_t)id * 0x9E3779B1u) & (h->n_slots - 1);

    assert(id >= 0);
    while (h->slots[at].id >= 0 && h->slots[at].id != id)
        at = (at + 1) & (h->n_slots - 1);
    if (h->slots[at].id < 0) {
        h->slots[at] = (struct seen){.id = id};
        h->used[h->n_seen++] = at;
    }
    return &h->slots[at];
}

void sample_history_add_prompt(struct sample_history *h, const int32_t *ids, int64_t n) {
    assert(!h->n_outputs);
    assert(h->n_prompt + n <= h->n_tokens_max);
    for (int64_t i = 0; i < n; i++)
        find_seen(h, ids[i])->in_prompt = true;
    h->n_prompt += n;
}

void sample_history_add(struct sample_history *h, int32_t id) {
    assert(h->n_prompt + h->n_outputs < h->n_tokens_max);
    find_seen(h, id)->n_output++;
    h->outputs[h->n_outputs++] = id;
}

int64_t sample_history_count(const struct sample_history *h) {
    return h->n_outputs;
}

void sample_history_cut(struct sample_history *h, int64_t n_kept) {
    assert(n_kept >= 0);
    while (h->n_outputs > n_kept) {
        struct seen *x = find_seen(h, h->outputs[--h->n_outputs]);
        if (--x->n_output == 0 && !x->in_prompt) {
            assert(x == &h->slots[h->used[h->n_seen - 1]]);
            x->id = -1;
            h->n_seen--;
        }
    }
}

/* Steps 2 to 5: a row of our own. */
static void apply_rules(struct sample_space *s, const float *logits, const struct sample_options *o,
                        const struct sample_history *h, const uint64_t *mask) {
    memcpy(s->x, logits, (size_t)s->n_vocab * sizeof *s->x);
    for (int64_t from = 0; mask && from < s->n_vocab; from += 64) {
        uint64_t out = ~mask[from / 64];
        if (s->n_vocab - from < 64)
            out &= (UINT64_C(1) << (s->n_vocab - from)) - 1;
        if (out == UINT64_MAX) {
            for (int i = 0; i < 64; i++)
                s->x[from + i] = -INFINITY;
            continue;
        }
        for (; out; out &= out - 1)
            s->x[from + __builtin_ctzll(out)] = -INFINITY;
    }
    for (int32_t i = 0; i < o->n_biases; i++)
        s->x[o->biases[i].id] += o->biases[i].bias;
    if (!has_penalties(o, h))
        return;
    float repeat = (float)o->repeat_penalty;
    for (int64_t i = 0; i < h->n_seen; i++) {
        const struct seen *seen = &h->slots[h->used[i]];
        if (seen->id >= s->n_vocab)
            continue;
        float *x = &s->x[seen->id];
        *x = *x > 0 ? *x / repeat : *x * repeat;
        if (seen->n_output)
            *x -= (float)(o->frequency_penalty * seen->n_output + o->presence_penalty);
    }
}

int sample_token(struct sample_space *s, const float *logits, const struct sample_options *o,
                 const struct sample_history *h, const uint64_t *mask, int64_t position,
                 struct sample_result *ret, struct hai_err *err) {
    struct sample_result result = {0};
    const float *x = logits;
    double log_sum = 0;

    if (s->rows->block_maxima(logits, s->n_vocab, s->block_max))
        for (int64_t i = 0; i < s->n_vocab; i++)
            if (isnan(logits[i]))
                return hai_fail(err, -EDOM,
                                "logit of token %lld is not a number; are the weights sound?",
                                (long long)i);
    int32_t best = find_largest(s, x), likeliest = best;
    if (!isfinite(x[best]))
        return hai_fail(err, -EDOM, "the largest logit is infinite; are the weights sound?");
    if (o->n_logprobs >= 0)
        log_sum = take_logprobs(s, logits, o->n_logprobs, best, &result);
    if (mask || o->n_biases || has_penalties(o, h)) {
        apply_rules(s, logits, o, h, mask);
        x = s->x;
        s->rows->block_maxima(x, s->n_vocab, s->block_max);
        best = find_largest(s, x);
        if (!isfinite(x[best]))
            return hai_fail(err, -EDOM, "no token is left to choose from");
    }
    result.id = o->temperature > 0 ? draw(s, x, o, best, position) : best;
    if (o->n_logprobs >= 0)
        result.logprob = (double)logits[result.id] - (double)logits[likeliest] - log_sum;
    *ret = result;
    return 0;
}

int sample_verify(struct sample_space *s, const float *rows, const int32_t *drafts, int n_drafts,
                  const struct sample_options *options, struct sample_history *history,
                  const struct sample_hooks *hooks, int64_t position, struct sample_result *ret,
                  struct hai_err *err) {
    for (int i = 0;; i++) {
        const uint64_t *mask = NULL;
        int r = hooks ? hooks->mask(hooks->userdata, &mask, err) : 0;
        if (r == 0)
            r = sample_token(s, rows + i * s->n_vocab, options, history, mask, position + i,
                             &ret[i], err);
        if (r < 0)
            return r;
        if (history)
            sample_history_add(history, ret[i].id);
        r = hooks ? hooks->take(hooks->userdata, ret[i].id, err) : 0;
        if (r < 0)
            return r;
        // The row after this one holds only if its token is the draft's.
        if (r > 0 || i == n_drafts || ret[i].id != drafts[i])
            return i + 1;
    }
}
