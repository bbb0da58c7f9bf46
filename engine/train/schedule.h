/* schedule.h - the learning rate and the batch of every step.
 *
 * Warm-up is linear from 0 to the full rate at step `warmup`. Then, with p = the part of the whole
 * run done:
 *   constant    the full rate
 *   cosine      half a cosine from the full rate to final * rate
 *   multi_step  times factor at each of `at`
 *   wsd         the full rate, for the part `decay` falling to final * rate, as a line or as half a
 *               cosine
 * cosine and wsd end with the run, or at the first of `tail_at`: from the i-th of them on the rate
 * is tail[i] * rate. With a ramp, the batch grows from ramp.from sequences to the full batch over
 * the first tokens, as a line cut to multiples of ramp.multiple.
 *
 * Parts of the run count its sequences, and so its tokens, as the reports do; without a ramp those
 * are its steps. A step is past a mark when the steps before it reach the mark.
 * Sources: docs/schedules.md (training_recipes.md, section 1); Loshchilov and Hutter, 2017; Hu and
 * others (MiniCPM), 2024.
 */
#pragma once
#include "lib/base.h"

enum schedule_kind {
    SCHEDULE_CONSTANT,
    SCHEDULE_COSINE,
    SCHEDULE_MULTI_STEP,
    SCHEDULE_WSD,
    SCHEDULE_KIND_COUNT,
};

enum schedule_curve {
    SCHEDULE_CURVE_LINEAR,
    SCHEDULE_CURVE_COSINE,
    SCHEDULE_CURVE_COUNT,
};

enum { SCHEDULE_PARTS_MAX = 16 };

struct schedule_parts {
    double values[SCHEDULE_PARTS_MAX];
    int n;
};

struct schedule_ramp {
    int64_t from;     // sequences of the first step; 0: no ramp
    int64_t tokens;   // after them the batch is whole
    int64_t multiple; // 0: from
};

struct schedule {
    enum schedule_kind kind;
    double rate;               // the full rate
    int64_t steps;             // of the whole run
    int64_t warmup;            // steps
    double final;              // part of the full rate at the end: cosine, wsd
    double factor;             // multi_step
    struct schedule_parts at;  // multi_step: parts of the run
    double decay;              // wsd: part of the run
    enum schedule_curve curve; // wsd
    struct schedule_parts tail_at,
        tail;           // cosine, wsd: parts of the run, ascending; of the full rate
    int64_t batch, seq; // sequences of a whole step, tokens of a sequence
    struct schedule_ramp ramp;
    double length, warm_length; // of the run and of the warm-up in whole batches; schedule_prepare
};

/* Set what follows from the other fields. */
void schedule_prepare(struct schedule *s);

/* What must hold between the fields; err names those of the training file. -EINVAL. */
int schedule_check(const struct schedule *s, struct hai_err *err);

/* Sequences of the step that follows the first n_done sequences of the run. */
int64_t schedule_batch(const struct schedule *s, int64_t n_done);

/* The rate of step `step`, counted from 1, before which n_done sequences were seen; without a ramp
 * the step alone counts. The same bits on every machine. */
double schedule_rate(const struct schedule *s, int64_t step, int64_t n_done);

/* Is step `step`, counted from 1, before which n_done sequences were seen, past this part of the
 * run? */
bool schedule_past(const struct schedule *s, int64_t step, int64_t n_done, double part);

/* "cosine" and so on; -EINVAL: none of them. */
int schedule_kind_parse(const char *text);
int schedule_curve_parse(const char *text);
