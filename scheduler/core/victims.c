#include "scheduler/core/victims.h"
#include "scheduler/core/order.h"

struct victims_candidate {
    const struct job *job;
    enum order_way way;
    int64_t loss_us;
};

/* Each of them is a search for a place. */
enum { SPARED_MAX = 64 };

/* A job that lost this much has lost enough; the sum over a cluster stays far from overflow. */
#define LOSS_MAX_US (INT64_C(30) * 24 * 3600 * 1000000)

void victims_free(struct victims *v) {
    free(v->jobs);
    free(v->candidates);
    free(v->all);
    free(v->pool);
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
        if (node->reserved == MAX(job->r.reserve, 0) && node->groups & UINT64_C(1) << job->group &&
            job->zones & UINT64_C(1) << node->zone)
            return true;
    }
    return false;
}

static void fill_pool(struct victims *v, const struct state *state) {
    if (v->pool_state == state && v->pool_index == state->r.index)
        return;
    v->pool_state = state;
    v->pool_index = state->r.index;
    v->n_pool = 0;
    for (const struct job *one = state->live_first; one; one = one->live_next) {
        if (!order_may_give_way(state, one))
            continue;
        if (v->n_pool == v->n_pool_max) {
            v->n_pool_max = MAX(2 * v->n_pool, (size_t)64);
            v->pool = hai_realloc_array(v->pool, v->n_pool_max, sizeof *v->pool);
        }
        v->pool[v->n_pool++] = one;
    }
}

static size_t collect(struct victims *v, const struct state *state, const struct job *job) {
    size_t n = 0;

    fill_pool(v, state);
    for (size_t i = 0; i < v->n_pool; i++) {
        const struct job *one = v->pool[i];
        enum order_way way = order_gives_way(state, one, job);
        if (way == ORDER_STAYS || !overlaps(state, one, job))
            continue;
        if (n == v->n_candidates_max) {
            v->n_candidates_max = MAX(2 * n, (size_t)64);
            v->candidates =
                hai_realloc_array(v->candidates, v->n_candidates_max, sizeof *v->candidates);
            v->all = hai_realloc_array(v->all, v->n_candidates_max, sizeof *v->all);
        }
        v->candidates[n++] = (struct victims_candidate){one, way, order_loss(state, one)};
    }
    return n;
}

static void sort(struct victims *v, size_t n) {
    qsort(v->candidates, n, sizeof *v->candidates, compare_loss);
    memcpy(v->all, v->candidates, n * sizeof *v->all);
}

/* A search for one job. */
struct search {
    struct victims *v;
    struct room *room;
    const struct state *state;
    struct place_need need;
    struct place_scratch *scratch;
    struct spread most; // no answer that is worse
};

static const struct spread any_spread = {INT64_MAX, INT64_MAX};

/* In a trial: candidates first to last - 1 give way, too. Does it fit then? */
static bool fits_after(struct search *s, size_t first, size_t last) {
    for (size_t i = first; i < last; i++)
        room_leave(s->room, s->state, s->v->candidates[i].job);
    return room_find(s->room, s->state, &s->need, s->scratch) == 0 &&
           spread_compare(spread_of(s->state, s->scratch->nodes, s->need.nodes), s->most) <= 0;
}

/* Would it fit if the first n candidates gave way? */
static bool fits(struct search *s, size_t n) {
    room_trial_begin(s->room);
    bool it_fits = fits_after(s, 0, n);
    room_trial_end(s->room);
    return it_fits;
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
static size_t keep_needed(struct search *s, size_t n) {
    struct victims_candidate *candidates = s->v->candidates;
    size_t kept = 0;

    for (size_t i = 0; i < n; i++)
        if (is_needed(candidates[i].job, &s->need, s->scratch->nodes))
            candidates[kept++] = candidates[i];
    return kept;
}

/* The fewest of the cheapest that make it fit: of n that do. */
static size_t fewest(struct search *s, size_t n) {
    size_t low = 0; // does not fit; those before it have left in the trial

    room_trial_begin(s->room);
    while (n - low > 1) {
        size_t middle = low + (n - low) / 2;
        struct room_mark mark = room_trial_mark(s->room);
        if (fits_after(s, low, middle)) {
            n = middle;
            room_trial_back(s->room, mark);
        } else {
            low = middle;
        }
    }
    room_trial_end(s->room);
    return n;
}

/* Spare whom the place can do without, the dearest first. */
static size_t spare(struct search *s, size_t n) {
    struct victims_candidate *candidates = s->v->candidates;
    size_t stop = n > SPARED_MAX ? n - SPARED_MAX : 0;

    for (size_t i = n; i-- > stop && n > 1;) {
        struct victims_candidate one = candidates[i];
        memmove(candidates + i, candidates + i + 1, (n - i - 1) * sizeof one);
        if (fits(s, n - 1)) {
            n--;
            continue;
        }
        memmove(candidates + i + 1, candidates + i, (n - i - 1) * sizeof one);
        candidates[i] = one;
    }
    return n;
}

/* Those of all n candidates, who are enough, whose leaving makes it fit at little loss, cheapest
 * first. */
static size_t choose(struct search *s, size_t n, struct spread most) {
    memcpy(s->v->candidates, s->v->all, n * sizeof *s->v->all);
    s->most = most;
    n = fewest(s, n);
    bool found = fits(s, n);
    assert(found);
    size_t n_needed = keep_needed(s, n);
    if (fits(s, n_needed)) // across zones, where less is free, the search may take a worse way
        n = n_needed;
    else
        memcpy(s->v->candidates, s->v->all, n * sizeof *s->v->all);
    return spare(s, n);
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

/* GPU time that they would lose. */
static int64_t loss_of(const struct victims *v, size_t n) {
    int64_t sum = 0;

    for (size_t i = 0; i < n; i++)
        sum +=
            MIN(v->candidates[i].loss_us, LOSS_MAX_US) * MAX(order_gpus(v->candidates[i].job), 1);
    return sum;
}

/* Choose among n candidates who are enough: the cheapest or, if it is worth it, those that leave
 * nodes under fewer leaves. 0: nobody, since nobody's leaving is needed or worth it. */
static size_t choose_best(struct search *s, size_t n_all, const struct job *job) {
    struct victims *v = s->v;
    struct spread best = spread_of(s->state, s->scratch->nodes, s->need.nodes);

    s->most = any_spread;
    size_t n = fits(s, 0) ? 0 : choose(s, n_all, any_spread);
    bool found = fits(s, n);
    assert(found);
    struct spread plain = spread_of(s->state, s->scratch->nodes, s->need.nodes);
    if (spread_compare(best, plain) >= 0)
        return gains(v, n, job) ? n : 0;
    int64_t loss = loss_of(v, n);
    bool gained = gains(v, n, job);
    size_t n_best = choose(s, n_all, best);
    int64_t more = loss_of(v, n_best) - loss;
    if (gains(v, n_best, job) && more <= order_leaves_worth(s->state, job, plain, best))
        return n_best;
    return gained && n ? choose(s, n_all, any_spread) : 0;
}

int victims_find(struct victims *v, struct room *room, const struct state *state,
                 const struct job *job, struct place_scratch *scratch) {
    struct search s = {v, room, state, place_need_of(state, job), scratch, any_spread};

    size_t n = collect(v, state, job);
    if (!n || !fits(&s, n))
        return -ENOSPC;
    sort(v, n);
    n = choose_best(&s, n, job);
    if (!n)
        return -ENOSPC;
    bool found = fits(&s, n);
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
