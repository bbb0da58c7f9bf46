#include "scheduler/core/runners.h"

/* Where the first one stands that was listed at that time or later. */
static size_t find(const struct runners *all, int64_t saved_us) {
    size_t low = 0, high = all->n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (all->items[middle].saved_us < saved_us)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The place of a job that is listed: of those that were listed at one time any may be it. */
static struct order_view *place_of(const struct runners *all, const struct job *job) {
    size_t at = find(all, job->runs_since_us);

    while (at < all->n && all->items[at].job != job)
        at++;
    assert(at < all->n);
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
    size_t at = find(all, view->saved_us + 1);
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

static int compare(const void *pa, const void *pb) {
    const struct order_view *a = pa, *b = pb;

    return a->saved_us < b->saved_us ? -1 : a->saved_us > b->saved_us;
}

void runners_sort(struct state *state) {
    if (state->runners.n)
        qsort(state->runners.items, state->runners.n, sizeof(struct order_view), compare);
}
