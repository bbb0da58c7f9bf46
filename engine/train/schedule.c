#include "engine/train/schedule.h"
#include "kernels/kmath.h"

#include <inttypes.h>

static const char *const kinds[] = {"constant", "cosine", "multi_step", "wsd"};
static const char *const curves[] = {"linear", "cosine"};

static int find(const char *text, const char *const *names, int n) {
    for (int i = 0; i < n; i++)
        if (hai_streq(text, names[i]))
            return i;
    return -EINVAL;
}

int schedule_kind_parse(const char *text) {
    return find(text, kinds, SCHEDULE_KIND_COUNT);
}

int schedule_curve_parse(const char *text) {
    return find(text, curves, SCHEDULE_CURVE_COUNT);
}

static int64_t multiple_of(const struct schedule *s) {
    return s->ramp.multiple ? s->ramp.multiple : s->ramp.from;
}

int64_t schedule_batch(const struct schedule *s, int64_t n_done) {
    if (!s->ramp.from)
        return s->batch;
    __int128 tokens = (__int128)n_done * s->seq;
    if (tokens >= s->ramp.tokens)
        return s->batch;
    int64_t n = s->ramp.from + (int64_t)((s->batch - s->ramp.from) * tokens / s->ramp.tokens);
    return n - n % multiple_of(s);
}

/* The first number of sequences done that gives a batch of at least n, more than ramp.from. */
static int64_t done_for(const struct schedule *s, int64_t n) {
    __int128 wide = s->batch - s->ramp.from;
    __int128 tokens = ((n - s->ramp.from) * (__int128)s->ramp.tokens + wide - 1) / wide;

    return (int64_t)((tokens + s->seq - 1) / s->seq);
}

/* Sequences of the first n_steps steps, in whole batches; exact below 2^53 sequences. */
static double length_of(const struct schedule *s, int64_t n_steps) {
    int64_t n_done = 0;

    if (!s->ramp.from)
        return (double)n_steps;
    while (n_steps > 0) {
        int64_t n = schedule_batch(s, n_done);
        if (n == s->batch)
            break;
        int64_t left = done_for(s, n + multiple_of(s)) - n_done;
        int64_t n_same = MIN((left + n - 1) / n, n_steps); // steps of n sequences
        n_done += n_same * n;
        n_steps -= n_same;
    }
    return (double)n_done / (double)s->batch + (double)n_steps;
}

void schedule_prepare(struct schedule *s) {
    s->length = length_of(s, s->steps);
    s->warm_length = length_of(s, s->warmup);
}

static int check_ramp(const struct schedule *s, struct hai_err *err) {
    const struct schedule_ramp *ramp = &s->ramp;

    if (!ramp->from)
        return !ramp->tokens && !ramp->multiple
                   ? 0
                   : hai_fail(err, -EINVAL,
                              "'ramp.from' is missing; expected the first step's sequences");
    if (!ramp->tokens)
        return hai_fail(err, -EINVAL,
                        "'ramp.tokens' is missing; expected the tokens over which the batch grows");
    if (ramp->from > s->batch)
        return hai_fail(err, -EINVAL, "ramp.from is %" PRId64 "; expected at most batch, %" PRId64,
                        ramp->from, s->batch);
    int64_t multiple = multiple_of(s);
    const char *name = ramp->multiple ? "ramp.multiple" : "ramp.from";
    if (ramp->from % multiple || s->batch % multiple)
        return hai_fail(err, -EINVAL,
                        "%s is %" PRId64 "; expected a divisor of ramp.from, %" PRId64
                        ", and of batch, %" PRId64,
                        name, multiple, ramp->from, s->batch);
    return 0;
}

static int check_tail(const struct schedule *s, struct hai_err *err) {
    const double *at = s->tail_at.values;

    if (s->tail.n != s->tail_at.n)
        return hai_fail(err, -EINVAL,
                        "schedule.tail has %d numbers and schedule.tail_at %d; expected as many",
                        s->tail.n, s->tail_at.n);
    if (s->tail.n && s->kind != SCHEDULE_COSINE && s->kind != SCHEDULE_WSD)
        return hai_fail(err, -EINVAL, "schedule.tail is for cosine and wsd; schedule.kind is %s",
                        kinds[s->kind]);
    for (int i = 1; i < s->tail_at.n; i++)
        if (at[i] <= at[i - 1])
            return hai_fail(err, -EINVAL, "schedule.tail_at: %.10g follows %.10g; expected more",
                            at[i], at[i - 1]);
    if (s->tail.n && s->kind == SCHEDULE_WSD && s->decay > at[0])
        return hai_fail(err, -EINVAL,
                        "schedule.decay is %.10g; expected at most the first of schedule.tail_at, "
                        "%.10g",
                        s->decay, at[0]);
    return 0;
}

int schedule_check(const struct schedule *s, struct hai_err *err) {
    if (s->warmup > s->steps)
        return hai_fail(err, -EINVAL,
                        "schedule.warmup is %" PRId64 "; expected at most steps, %" PRId64,
                        s->warmup, s->steps);
    if (s->curve != SCHEDULE_CURVE_LINEAR && s->kind != SCHEDULE_WSD)
        return hai_fail(err, -EINVAL, "schedule.curve is for wsd; schedule.kind is %s",
                        kinds[s->kind]);
    int r = check_tail(s, err);
    return r < 0 ? r : check_ramp(s, err);
}

/* From 1 to final along half a cosine. */
static double fall_cosine(double final, double p) {
    static const double pi = 3.14159265358979323846;
    double sine, cos_value;

    kmath_sincos(pi * MAX(MIN(p, 1.0), 0.0), &sine, &cos_value);
    return final + (1 - final) * 0.5 * (1 + cos_value);
}

/* Where the curve ends, as a part of the run. */
static double curve_end(const struct schedule *s) {
    return s->tail_at.n ? s->tail_at.values[0] : 1;
}

static double cosine(const struct schedule *s, double end) {
    double length = s->length * curve_end(s) - s->warm_length;

    return fall_cosine(s->final, length > 0 ? (end - s->warm_length) / length : 1);
}

/* What of the run lies before a step, in whole batches. */
static double begin_of(const struct schedule *s, int64_t step, int64_t n_done) {
    return s->ramp.from ? (double)n_done / (double)s->batch : (double)(step - 1);
}

bool schedule_past(const struct schedule *s, int64_t step, int64_t n_done, double part) {
    return begin_of(s, step, n_done) >= part * s->length;
}

static double multi_step(const struct schedule *s, int64_t step, int64_t n_done) {
    double rate = 1;

    for (int i = 0; i < s->at.n; i++)
        if (schedule_past(s, step, n_done, s->at.values[i]))
            rate *= s->factor;
    return rate;
}

static double wsd(const struct schedule *s, double end) {
    double from = s->length * (curve_end(s) - s->decay), length = s->length * curve_end(s) - from;

    if (end <= from || length <= 0)
        return 1;
    double p = (end - from) / length;
    return s->curve == SCHEDULE_CURVE_COSINE ? fall_cosine(s->final, p)
                                             : 1 - (1 - s->final) * MIN(p, 1.0);
}

double schedule_rate(const struct schedule *s, int64_t step, int64_t n_done) {
    double end = (double)step, part = 1; // of the run with the step, in whole batches

    if (step < s->warmup)
        return s->rate * (double)step / (double)s->warmup;
    if (s->ramp.from)
        end = (double)(n_done + schedule_batch(s, n_done)) / (double)s->batch;
    if (s->kind == SCHEDULE_COSINE)
        part = cosine(s, end);
    else if (s->kind == SCHEDULE_MULTI_STEP)
        part = multi_step(s, step, n_done);
    else if (s->kind == SCHEDULE_WSD)
        part = wsd(s, end);
    for (int i = 0; i < s->tail_at.n; i++)
        if (schedule_past(s, step, n_done, s->tail_at.values[i]))
            part = s->tail.values[i];
    return s->rate * part;
}
