#include "scheduler/core/timers.h"

static bool before(const struct timer *a, const struct timer *b) {
    return a->at_us < b->at_us || (a->at_us == b->at_us && a->key < b->key);
}

static void put(struct timers *timers, size_t position, struct timer *timer) {
    timers->heap[position] = timer;
    timer->position = position;
}

static void sift_up(struct timers *timers, size_t position) {
    struct timer *timer = timers->heap[position];

    while (position > 1 && before(timer, timers->heap[position / 2])) {
        put(timers, position, timers->heap[position / 2]);
        position /= 2;
    }
    put(timers, position, timer);
}

static void sift_down(struct timers *timers, size_t position) {
    struct timer *timer = timers->heap[position];

    for (;;) {
        size_t child = 2 * position;
        if (child > timers->n)
            break;
        if (child < timers->n && before(timers->heap[child + 1], timers->heap[child]))
            child++;
        if (!before(timers->heap[child], timer))
            break;
        put(timers, position, timers->heap[child]);
        position = child;
    }
    put(timers, position, timer);
}

static void take(struct timers *timers, struct timer *timer) {
    size_t position = timer->position;
    struct timer *last = timers->heap[timers->n--];

    timer->position = 0;
    if (last == timer)
        return;
    put(timers, position, last);
    sift_up(timers, position);
    sift_down(timers, last->position);
}

void timers_free(struct timers *timers) {
    free(timers->heap);
    *timers = (struct timers){0};
}

void timers_set(struct timers *timers, struct timer *timer, int64_t at_us) {
    if (timer->position) {
        if (timer->at_us == at_us)
            return;
        take(timers, timer);
    }
    timer->at_us = at_us;
    if (at_us == INT64_MAX)
        return;
    if (timers->n + 1 >= timers->n_max) {
        timers->n_max = MAX(2 * timers->n_max, (size_t)16);
        timers->heap = hai_realloc_array(timers->heap, timers->n_max, sizeof(struct timer *));
    }
    put(timers, ++timers->n, timer);
    sift_up(timers, timer->position);
}

struct timer *timers_first(const struct timers *timers) {
    return timers->n ? timers->heap[1] : NULL;
}
