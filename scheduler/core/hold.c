#include "scheduler/core/hold.h"
#include "scheduler/core/predict.h"

enum { LENGTHS_AN_OCTAVE = 4 };

static int64_t seconds_up(int64_t us) {
    return us >= HOLD_ENDLESS ? HOLD_ENDLESS : MAX((us + HOLD_SECOND_US - 1) / HOLD_SECOND_US, 1);
}

int64_t hold_seconds(const struct state *state, const struct job *job) {
    return seconds_up(predict_hold_us(state, job));
}

int hold_length(int64_t hold_s) {
    int octave = 63 - __builtin_clzll((uint64_t)MAX(hold_s, 1));
    int64_t part = octave < 2 ? 0 : (hold_s >> (octave - 2)) & (LENGTHS_AN_OCTAVE - 1);

    return LENGTHS_AN_OCTAVE * octave + (int)part + 1;
}

int64_t hold_until_s(const struct state *state, const struct job *job, int64_t at_us) {
    int64_t hold_us = predict_hold_us(state, job);

    if (hold_us == INT64_MAX)
        hold_us = predict_longer_us(state, job, job->r.ran_us);
    return at_us / HOLD_SECOND_US + seconds_up(hold_us);
}

int64_t hold_longer_s(const struct state *state, const struct job *job, int64_t now_us) {
    int64_t had_us = job->r.ran_us + now_us - job->r.placed_us;

    return now_us / HOLD_SECOND_US + seconds_up(predict_longer_us(state, job, had_us));
}

int64_t hold_latest_s(const struct place_need *need, const struct node *node) {
    if (!need->lasts_us || !node->coming_us)
        return HOLD_ENDLESS;
    return (node->coming_us - need->lasts_us) / HOLD_SECOND_US - 1;
}
