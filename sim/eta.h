/* eta.h - how good forecasts are: asked at submissions of a replay, held against the real start.
 *
 * Pure. Only jobs that do not start at once are asked about, and of those one in `every`: a
 * forecast leads the whole queue on. Beside it naive answers: GPU time ahead of the job, by the
 * same predictions of run times, over all GPUs.
 */
#pragma once
#include "scheduler/core/state.h"
#include "sim/tally.h"

/* What counts as ahead, in naive answers. */
enum eta_ahead {
    ETA_AHEAD_NOTHING, // the answer is: now
    ETA_AHEAD_WAITS,   // what waits and goes before it
    ETA_AHEAD_ORDER,   // and what runs and would go before it if it waited
    ETA_AHEAD_RUNS,    // and all else that runs
    ETA_AHEAD_COUNT,
};

struct eta_answer {
    uint32_t job;                     // of the trace
    int64_t asked_us, p50_us, p90_us; // of the replay's clock
    int64_t naive_us[ETA_AHEAD_COUNT];
};

struct eta {
    int64_t every;  // 0: nothing is asked
    int64_t n_seen; // submissions that did not start at once
    struct eta_answer *answers;
    size_t n, n_max;
};

void eta_free(struct eta *eta);

/* A job of the trace was submitted and did not start at once. base_us: the replay's 0. */
void eta_ask(struct eta *eta, const struct state *state, uint32_t index, int64_t job,
             int64_t base_us);

/* What the answers were worth, over jobs that did start: absolute difference from the real start,
 * and the share (millionths) of waits that differ by less than a factor of two, or by less than a
 * minute. */
struct eta_error {
    int64_t p50_us, p90_us, within;
};
struct eta_worth {
    int64_t n;
    int64_t by_p90; // share that started by then
    struct eta_error own, naive[ETA_AHEAD_COUNT];
};
struct eta_worth eta_worth(const struct eta *eta, const struct tally *tally);
