/* schedule.h - the learning rate of every step.
 *
 * Warm-up is linear from 0 to the full rate at step `warmup`. Then, with p = the part of all steps
 * done:
 *   constant    the full rate
 *   cosine      half a cosine from the full rate to final * rate at the last step
 *   multi_step  times factor at each of `at` (DeepSeek-LLM: 0.316 at 0.8 and 0.9)
 *   wsd         full until the last `decay` part, then linear to final * rate
 * Sources: docs of the recipes; Loshchilov and Hutter, 2017; Hu and others (MiniCPM), 2024.
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

enum { SCHEDULE_AT_MAX = 16 };

struct schedule {
    enum schedule_kind kind;
    double rate;    // the full rate
    int64_t steps;  // of the whole run
    int64_t warmup; // steps
    double final;   // part of the full rate at the end: cosine, wsd
    double factor;  // multi_step
    double at[SCHEDULE_AT_MAX];
    int n_at;
    double decay; // wsd: part of all steps
};

/* The rate of step `step`, counted from 1. The same bits on every machine. */
double schedule_rate(const struct schedule *s, int64_t step);

/* "cosine" and so on; -EINVAL: none of them. */
int schedule_kind_parse(const char *text);
