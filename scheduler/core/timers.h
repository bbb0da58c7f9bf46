/* timers.h - what is due when: a heap of timers that live inside their owners.
 *
 * Pure; time is what callers say. Due timers come in the order (time, key), whatever the order in
 * which they were set. Timers are derived state: never encoded, set again after decoding.
 */
#pragma once
#include "lib/base.h"

/* Part of its owner. key tells apart timers of the same time, and its owner to whoever takes it.
 * position is 0 while it is not set. */
struct timer {
    int64_t at_us;
    int64_t key;
    size_t position;
};

struct timers {
    struct timer **heap; // [1 ... n]
    size_t n;
    size_t n_max;
};

void timers_free(struct timers *timers);

/* Set a timer or move it; at_us INT64_MAX takes it away. */
void timers_set(struct timers *timers, struct timer *timer, int64_t at_us);

/* The earliest timer, NULL if none is set. */
struct timer *timers_first(const struct timers *timers);
