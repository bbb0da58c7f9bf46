#include "scheduler/core/victims.h"
#include "scheduler/core/runners.h"

struct victims_candidate {
    const struct order_view *view;
    enum order_way way;
};

/* Each of them is a search for a place. */
enum { SPARED_MAX = 64 };

/* A job that lost this much has lost enough; the sum over a cluster stays far from overflow. */
#define LOSS_MAX_US (INT64_C(30) * 24 * 3600 * 1000000)

void victims_free(struct victims *v) {
    free(v->jobs);
    free(v->candidates);
    free(v->all);
    *v = (struct victims){0};
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

static void make_space(struct victims *v, size_t n) {
    if (n <= v->n_max)
        return;
    v->n_max = MAX(2 * v->n_max, n);
    v->jobs = hai_realloc_array(v->jobs, v->n_max, sizeof *v->jobs);
    v->candidates = hai_realloc_array(v->candidates, v->n_max, sizeof *v->candidates);
    v->all = hai_realloc_array(v->all, v->n_max, sizeof *v->all);
}

/* Those who must give way before those who may, the cheapest first, of equals the youngest.
 * Returns how many there are. */
static size_t collect(struct victims *v, const struct state *state, const struct job *job) {
    struct order_asker asker = order_asker_of(state, job);
    struct victims_candidate *may = v->all; // until all are known
    const struct order_view *one;
    size_t n = 0, n_may = 0;

    for (size_t at = state->runners.n; (one = runners_next(state, &at));) {
        enum order_way way = order_answer(one, &asker);
        if (way == ORDER_STAYS || !overlaps(state, one->job, job))
            continue;
        if (way == ORDER_GIVES_WAY)
            v->candidates[n++] = (struct victims_candidate){one, way};
        else
            may[n_may++] = (struct victims_candidate){one, way};
    }
    memcpy(v->candidates + n, may, n_may * sizeof *may);
    n += n_may;
    memcpy(v->all, v->candidates, n * sizeof *v->all);
    return n;
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
        room_leave(s->room, s->state, s->v->candidates[i].view->job);
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
        if (is_needed(candidates[i].view->job, &s->need, s->scratch->nodes))
            candidates[kept++] = candidates[i];
    return kept;
}

/* The fewest of the cheapest that make it fit: of n. Twice as many leave until it does, since it
 * is mostly few. Returns whether it ever fits. */
static bool fewest(struct search *s, size_t n, size_t *ret) {
    size_t low = 0, high = 0; // does not fit, and fits; those before low have left in the trial

    room_trial_begin(s->room);
    struct room_mark mark = room_trial_mark(s->room);
    bool found = fits_after(s, 0, 0);
    while (!found && high < n) {
        low = high;
        high = MIN(MAX(2 * low, (size_t)1), n);
        mark = room_trial_mark(s->room);
        found = fits_after(s, low, high);
    }
    room_trial_back(s->room, mark);
    while (found && high - low > 1) {
        size_t middle = low + (high - low) / 2;
        mark = room_trial_mark(s->room);
        if (fits_after(s, low, middle)) {
            high = middle;
            room_trial_back(s->room, mark);
        } else {
            low = middle;
        }
    }
    room_trial_end(s->room);
    *ret = high;
    return found;
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

/* Nobody is left out of the n candidates. */
static void begin_anew(struct search *s, size_t n, struct spread most) {
    memcpy(s->v->candidates, s->v->all, n * sizeof *s->v->all);
    s->most = most;
}

/* Those of all n candidates whose leaving makes it fit at little loss, cheapest first. Returns
 * whether it fits if all leave. */
static bool choose(struct search *s, size_t n, struct spread most, size_t *ret) {
    begin_anew(s, n, most);
    if (!fewest(s, n, &n))
        return false;
    bool found = fits(s, n);
    assert(found);
    size_t n_needed = keep_needed(s, n);
    if (fits(s, n_needed)) // across zones, where less is free, the search may take a worse way
        n = n_needed;
    else
        begin_anew(s, n, most);
    *ret = spare(s, n);
    return true;
}

/* If somebody gives way only for the gain: is there any? */
static bool gains(const struct victims *v, size_t n, const struct job *job) {
    bool for_gain = false;
    int64_t gpus = 0;

    for (size_t i = 0; i < n; i++) {
        for_gain |= v->candidates[i].way == ORDER_FOR_GAIN;
        gpus += v->candidates[i].view->gpus;
    }
    return !for_gain || 10 * gpus <= ORDER_GAIN_TENTHS * order_gpus(job);
}

/* GPU time that they would lose. */
static int64_t loss_of(const struct search *s, size_t n) {
    int64_t sum = 0;

    for (size_t i = 0; i < n; i++) {
        const struct order_view *one = s->v->candidates[i].view;
        sum += MIN(order_loss(s->state, one), LOSS_MAX_US) * MAX(one->gpus, 1);
    }
    return sum;
}

/* How it would lie if the first n candidates gave way; any_spread: it would not fit. */
static struct spread spread_after(struct search *s, size_t n) {
    return fits(s, n) ? spread_of(s->state, s->scratch->nodes, s->need.nodes) : any_spread;
}

static void answer(struct victims *v, size_t n) {
    for (size_t i = 0; i < n; i++)
        v->jobs[i] = v->candidates[i].view->job;
    v->n = n;
}

/* Choose among n candidates: the cheapest or, if it is worth it, those that leave nodes under fewer
 * leaves. Nobody, if their leaving is not enough, not needed or not worth it. */
static void choose_best(struct search *s, size_t n_all, const struct job *job) {
    struct victims *v = s->v;
    size_t n;

    v->n = 0;
    if (!choose(s, n_all, any_spread, &n))
        return;
    struct spread plain = spread_after(s, n);
    if (gains(v, n, job))
        answer(v, n);
    if (plain.leaves == 1)
        return;
    int64_t loss = loss_of(s, n);
    begin_anew(s, n_all, any_spread);
    /* Where fewer fit all need not: a node that becomes idle may be wanted as a spare. */
    struct spread best = spread_after(s, n_all);
    if (spread_compare(best, plain) >= 0 || !choose(s, n_all, best, &n))
        return;
    int64_t more = loss_of(s, n) - loss;
    if (gains(v, n, job) && more <= order_leaves_worth(s->state, job, plain, best))
        answer(v, n);
}

/* Find the nodes that they leave to the job. */
static void find_nodes(struct search *s) {
    const struct victims *v = s->v;

    room_trial_begin(s->room);
    for (size_t i = 0; i < v->n; i++)
        room_leave(s->room, s->state, v->jobs[i]);
    int r = room_find(s->room, s->state, &s->need, s->scratch);
    assert(r == 0);
    room_trial_end(s->room);
}

int victims_find(struct victims *v, struct room *room, const struct state *state,
                 const struct job *job, struct place_scratch *scratch) {
    struct search s = {v, room, state, place_need_of(state, job), scratch, any_spread};

    make_space(v, state->runners.n);
    size_t n = state->runners.n ? collect(v, state, job) : 0;
    if (!n)
        return -ENOSPC;
    choose_best(&s, n, job);
    if (!v->n)
        return -ENOSPC;
    find_nodes(&s);
    qsort(v->jobs, v->n, sizeof *v->jobs, compare_ids);
    return 0;
}
