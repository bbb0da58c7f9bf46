#include "scheduler/core/victims.h"
#include "scheduler/core/order.h"

struct victims_candidate {
    const struct job *job;
    enum order_way way;
    int64_t loss_us;
};

/* Each of them is a search for a place. */
enum { SPARED_MAX = 64 };

void victims_free(struct victims *v) {
    free(v->jobs);
    free(v->candidates);
    *v = (struct victims){0};
}

/* Those who must give way before those who may, the cheapest first, of equals the youngest. */
static int compare_loss(const void *pa, const void *pb) {
    const struct victims_candidate *a = pa, *b = pb;

    if (a->way != b->way)
        return a->way < b->way ? -1 : 1;
    if (a->loss_us != b->loss_us)
        return a->loss_us < b->loss_us ? -1 : 1;
    return a->job->r.id > b->job->r.id ? -1 : a->job->r.id < b->job->r.id;
}

static int compare_ids(const void *pa, const void *pb) {
    int64_t a = (*(const struct job *const *)pa)->r.id, b = (*(const struct job *const *)pb)->r.id;

    return a < b ? -1 : a > b;
}

/* Has it anything where the job may run? */
static bool overlaps(const struct state *state, const struct job *running, const struct job *job) {
    for (size_t i = 0; i < running->r.allocs.n; i++) {
        const struct node *node = state->nodes[running->r.allocs.items[i].node];
        if (node->groups & UINT64_C(1) << job->group && job->zones & UINT64_C(1) << node->zone)
            return true;
    }
    return false;
}

static size_t collect(struct victims *v, const struct state *state, const struct job *job) {
    size_t n = 0;

    for (const struct job *one = state->live_first; one; one = one->live_next) {
        enum order_way way = order_gives_way(state, one, job);
        if (way == ORDER_STAYS || !overlaps(state, one, job))
            continue;
        if (n == v->n_candidates_max) {
            v->n_candidates_max = MAX(2 * n, (size_t)64);
            v->candidates =
                hai_realloc_array(v->candidates, v->n_candidates_max, sizeof *v->candidates);
        }
        v->candidates[n++] = (struct victims_candidate){one, way, order_loss(state, one)};
    }
    if (n)
        qsort(v->candidates, n, sizeof *v->candidates, compare_loss);
    return n;
}

/* Would it fit if the first n candidates gave way? */
static bool fits(struct victims *v, struct room *room, const struct state *state,
                 const struct place_need *need, size_t n, struct place_scratch *scratch) {
    room_trial_begin(room);
    for (size_t i = 0; i < n; i++)
        room_leave(room, state, v->candidates[i].job);
    int r = room_find(room, state, need, scratch);
    room_trial_end(room);
    return r == 0;
}

/* May the place need something that the candidate holds: GPUs, CPUs or memory of its nodes, or its
 * right to span zones? */
static bool is_needed(const struct job *candidate, const struct place_need *need,
                      const struct place_node *nodes) {
    for (size_t i = 0; i < candidate->r.allocs.n; i++)
        for (int64_t k = 0; k < need->nodes; k++)
            if (nodes[k].node == candidate->r.allocs.items[i].node)
                return true;
    return candidate->spans;
}

/* Only those that the place may need. */
static size_t keep_needed(struct victims *v, size_t n, const struct place_need *need,
                          const struct place_node *nodes) {
    size_t kept = 0;

    for (size_t i = 0; i < n; i++)
        if (is_needed(v->candidates[i].job, need, nodes))
            v->candidates[kept++] = v->candidates[i];
    return kept;
}

/* The fewest of the cheapest that make it fit: of n that do. */
static size_t fewest(struct victims *v, struct room *room, const struct state *state,
                     const struct place_need *need, size_t n, struct place_scratch *scratch) {
    size_t low = 0; // does not fit

    while (n - low > 1) {
        size_t middle = low + (n - low) / 2;
        if (fits(v, room, state, need, middle, scratch))
            n = middle;
        else
            low = middle;
    }
    return n;
}

/* Spare whom the place can do without, the dearest first. */
static size_t spare(struct victims *v, struct room *room, const struct state *state,
                    const struct place_need *need, size_t n, struct place_scratch *scratch) {
    size_t stop = n > SPARED_MAX ? n - SPARED_MAX : 0;

    for (size_t i = n; i-- > stop && n > 1;) {
        struct victims_candidate one = v->candidates[i];
        memmove(v->candidates + i, v->candidates + i + 1, (n - i - 1) * sizeof one);
        if (fits(v, room, state, need, n - 1, scratch)) {
            n--;
            continue;
        }
        memmove(v->candidates + i + 1, v->candidates + i, (n - i - 1) * sizeof one);
        v->candidates[i] = one;
    }
    return n;
}

/* If somebody gives way only for the gain: is there any? */
static bool gains(const struct victims *v, size_t n, const struct job *job) {
    bool for_gain = false;
    int64_t gpus = 0;

    for (size_t i = 0; i < n; i++) {
        for_gain |= v->candidates[i].way == ORDER_FOR_GAIN;
        gpus += order_gpus(v->candidates[i].job);
    }
    return !for_gain || 10 * gpus <= ORDER_GAIN_TENTHS * order_gpus(job);
}

int victims_find(struct victims *v, struct room *room, const struct state *state,
                 const struct job *job, struct place_scratch *scratch) {
    struct place_need need = place_need_of(job);

    size_t n = collect(v, state, job);
    if (!n || !fits(v, room, state, &need, n, scratch))
        return -ENOSPC;
    n = fewest(v, room, state, &need, n, scratch);
    bool found = fits(v, room, state, &need, n, scratch);
    assert(found);
    n = keep_needed(v, n, &need, scratch->nodes);
    n = spare(v, room, state, &need, n, scratch);
    if (!gains(v, n, job))
        return -ENOSPC;
    found = fits(v, room, state, &need, n, scratch);
    assert(found);
    if (v->n_max < n) {
        v->n_max = n;
        v->jobs = hai_realloc_array(v->jobs, n, sizeof *v->jobs);
    }
    for (size_t i = 0; i < n; i++)
        v->jobs[i] = v->candidates[i].job;
    v->n = n;
    qsort(v->jobs, n, sizeof *v->jobs, compare_ids);
    return 0;
}
