#include "scheduler/core/runners.h"

/* By time of the last save, of equals the youngest last. */
static int compare(const void *pa, const void *pb) {
    const struct order_view *a = pa, *b = pb;

    if (a->saved_us != b->saved_us)
        return a->saved_us < b->saved_us ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

/* Where a job stands, or would, as what it is listed. */
static size_t find(const struct runners *all, int64_t saved_us, int64_t id) {
    const struct order_view sought = {.saved_us = saved_us, .id = id};
    size_t low = 0, high = all->n;

    assert(!all->filling);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare(&all->items[middle], &sought) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct order_view *place_of(const struct runners *all, const struct job *job) {
    size_t at = find(all, job->runs_since_us, job->r.id);

    assert(at < all->n);
    /* The gap that it left earlier at this very time may stand before it. */
    while (all->items[at].job != job) {
        at++;
        assert(at < all->n);
    }
    return &all->items[at];
}

/* Close the gaps once a quarter is gone: to move the others whenever one goes would take too long.
 */
static void close_gaps(struct runners *all) {
    size_t n = 0;

    if (4 * all->n_gone <= all->n)
        return;
    for (size_t i = 0; i < all->n; i++)
        if (all->items[i].job)
            all->items[n++] = all->items[i];
    all->n = n;
    all->n_gone = 0;
}

static void leave(struct runners *all, struct job *job) {
    place_of(all, job)->job = NULL;
    all->n_gone++;
    close_gaps(all);
    job->runs_since_us = 0;
}

static void enter(struct runners *all, struct job *job, const struct order_view *view) {
    if (all->n == all->n_max) {
        all->n_max = MAX(2 * all->n_max, (size_t)64);
        all->items = hai_realloc_array(all->items, all->n_max, sizeof *all->items);
    }
    /* Nearly always the last one: it has just begun, or saved. */
    size_t at = all->filling ? all->n : find(all, view->saved_us, view->id);
    memmove(&all->items[at + 1], &all->items[at], (all->n - at) * sizeof *all->items);
    all->items[at] = *view;
    all->n++;
    job->runs_since_us = view->saved_us;
}

void runners_follow(struct state *state, struct job *job) {
    struct runners *all = &state->runners;
    bool runs = order_runs(job);

    if (!runs && !job->runs_since_us)
        return;
    struct order_view view = order_view_of(state, job);
    if (runs && job->runs_since_us == view.saved_us) {
        *place_of(all, job) = view;
        return;
    }
    if (job->runs_since_us)
        leave(all, job);
    if (runs)
        enter(all, job, &view);
}

void runners_fill(struct state *state) {
    assert(state->runners.n == 0);
    state->runners.filling = true;
}

void runners_sort(struct state *state) {
    if (state->runners.n)
        qsort(state->runners.items, state->runners.n, sizeof(struct order_view), compare);
    state->runners.filling = false;
}
