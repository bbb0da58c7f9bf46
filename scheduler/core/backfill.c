#include "scheduler/core/backfill.h"
#include "lib/pure/plant.h"
#include "scheduler/core/attempt.h"
#include "scheduler/core/changeheap.h"
#include "scheduler/core/firstset.h"
#include "scheduler/core/hold.h"

enum {
    PICTURES = 10, // of 0, 1, 2, 4, ... BACKFILL_PLANS_MAX plans
    VIEWS = 32,
    BUCKETS = 256, // of hold_length
    FAILURES = 64,
};

/* Amounts on one node. */
struct amount {
    int64_t gpus, cpus, memory_bytes;
};

/* What an attempt holds on a node, and until when. */
struct held {
    int64_t until_s;
    struct amount amount;
};

struct plan {
    const struct job *job;
    int64_t start_s, end_s;
    struct amount amount; // on each node
    int64_t n_nodes;
    int *nodes;
    bool spans;
    int rank; // by start
};

/* A plan on a node; they hang in a list for each. */
struct link {
    int plan;
    int next; // of b->links, -1: the last
};

struct seat {
    struct held *held; // ascending ends
    int n_held, n_held_max;
};

/* By node: when it could begin to run what asks for such an amount, were there no plans. The first
 * blocked jobs are mostly those of the last decision, so this is kept as long as the node stays as
 * it is: VIEW_NOW, VIEW_UNKNOWN, INT64_MAX never, or the time. */
enum { VIEW_NOW = 0, VIEW_UNKNOWN = -1 };
struct view {
    struct amount amount;
    uint64_t used; // 0: free
    int64_t *from_s;
};

/* What found no room in a picture: whoever asks for as much does not either. */
struct failure {
    struct place_need need;
    int picture;
};

struct crossing {
    int64_t start_s, end_s;
};

struct backfill {
    struct room *room;
    int64_t now_s;
    uint64_t cluster_seq, n_touched; // of the state that seats follow
    int n_nodes;
    struct seat *seats;
    int *first_link; // by node: its first plan, -1: none
    int8_t *zone;    // by node
    struct view views[VIEWS];
    uint64_t n_views; // looked for
    int *taken;       // nodes whose seats differ from the state
    size_t n_taken, n_taken_max;
    struct plan plans[BACKFILL_PLANS_MAX];
    int n_plans;
    int by_start[BACKFILL_PLANS_MAX];
    struct link *links;
    int n_links, n_links_max;
    struct crossing *crossings; // gangs that span zones
    size_t n_crossings, n_crossings_max;
    int64_t n_crossing_now;
    struct room *pictures[PICTURES];
    bool drawn[PICTURES];
    struct failure failures[FAILURES];
    int n_failures; // the last FAILURES of them are kept
    /* scratch of a search */
    int64_t *from_s; // by node: it could begin then and at any time after; -1: has plans
    struct changeheap changes;
    int *fit; // nodes where it could begin at the time that was found
    size_t n_fit;
    int *fit_now; // those of them with room now
    size_t n_fit_now;
    int64_t *histogram; // leaves by how many nodes they have for it
    uint64_t *spares_now, *spares_idle;
    int64_t *times;
    size_t n_times_max;
};

/* ---- who holds what ---- */

struct backfill *backfill_new(void) {
    struct backfill *b = hai_new(struct backfill);

    b->n_nodes = -1; // follows nothing yet
    return b;
}

static void forget_plans(struct backfill *b) {
    for (int i = 0; i < b->n_plans; i++)
        free(b->plans[i].nodes);
    b->n_plans = b->n_links = 0;
}

static void forget_seats(struct backfill *b) {
    forget_plans(b);
    for (int i = 0; i < b->n_nodes; i++)
        free(b->seats[i].held);
    for (int i = 0; i < VIEWS; i++)
        free(b->views[i].from_s);
    memset(b->views, 0, sizeof b->views);
    free(b->seats);
    free(b->first_link);
    free(b->zone);
    free(b->from_s);
    free(b->fit);
    free(b->fit_now);
    free(b->histogram);
    free(b->spares_now);
    free(b->spares_idle);
}

void backfill_free(struct backfill *b) {
    if (!b)
        return;
    forget_seats(b);
    for (int i = 0; i < PICTURES; i++)
        room_free(b->pictures[i]);
    free(b->taken);
    free(b->links);
    free(b->crossings);
    changeheap_free(&b->changes);
    free(b->times);
    free(b);
}

/* When an attempt leaves. One that was told to end does so by its deadline. */
static int64_t end_s(const struct job *job) {
    switch (job->r.phase) {
    case DESIRED_PHASE_RUN:
        return job->r.until_us == S_ABSENT ? HOLD_ENDLESS : job->r.until_us / HOLD_SECOND_US;
    case DESIRED_PHASE_TERM:
        return job->r.kill_at_us / HOLD_SECOND_US + 1;
    default:
        return 0;
    }
}

static void seat_add(struct seat *seat, const struct held *held) {
    int at = seat->n_held;

    if (seat->n_held == seat->n_held_max) {
        seat->n_held_max = MAX(2 * seat->n_held_max, 2);
        seat->held = hai_realloc_array(seat->held, (size_t)seat->n_held_max, sizeof *seat->held);
    }
    for (; at && seat->held[at - 1].until_s > held->until_s; at--)
        seat->held[at] = seat->held[at - 1];
    seat->held[at] = *held;
    seat->n_held++;
}

static struct amount amount_of(const struct job *job) {
    return (struct amount){job->r.spec.gpus_per_node, job->cpus_per_node,
                           job->r.spec.memory_per_node_bytes};
}

/* What is known of a node is no longer true. */
static void forget(struct backfill *b, int number) {
    for (int i = 0; i < VIEWS; i++)
        if (b->views[i].used)
            b->views[i].from_s[number] = VIEW_UNKNOWN;
}

static void look_at(struct backfill *b, const struct state *state, int number) {
    const struct node *node = state->nodes[number];
    struct seat *seat = &b->seats[number];

    forget(b, number);
    seat->n_held = 0;
    for (size_t i = 0; i < node->n_jobs; i++) {
        const struct job *job = state_job_find(state, node->jobs[i]);
        int alloc = attempt_alloc_on(job, number);
        if (alloc < 0 || job->r.allocs.items[alloc].released)
            continue;
        struct held held = {end_s(job), amount_of(job)};
        seat_add(seat, &held);
    }
}

static void look_at_all(struct backfill *b, const struct state *state) {
    size_t n = (size_t)state->n_nodes, n_words = (n + 63) / 64;

    forget_seats(b);
    b->n_nodes = state->n_nodes;
    b->seats = hai_new_array(struct seat, n);
    b->first_link = hai_new_array(int, n);
    b->zone = hai_new_array(int8_t, n);
    b->from_s = hai_new_array(int64_t, n);
    b->fit = hai_new_array(int, n);
    b->fit_now = hai_new_array(int, n);
    b->histogram = hai_new_array(int64_t, n + 1);
    b->spares_now = hai_new_array(uint64_t, n_words);
    b->spares_idle = hai_new_array(uint64_t, n_words);
    for (int i = 0; i < state->n_nodes; i++) {
        b->first_link[i] = -1;
        b->zone[i] = (int8_t)state->nodes[i]->zone;
        look_at(b, state, i);
    }
    b->cluster_seq = state->cluster_seq;
}

static void add_crossing(struct backfill *b, int64_t start_s, int64_t until_s) {
    if (b->n_crossings == b->n_crossings_max) {
        b->n_crossings_max = MAX(2 * b->n_crossings_max, (size_t)8);
        b->crossings = hai_realloc_array(b->crossings, b->n_crossings_max, sizeof *b->crossings);
    }
    b->crossings[b->n_crossings++] = (struct crossing){start_s, until_s};
}

static void look_at_crossings(struct backfill *b, const struct state *state) {
    b->n_crossings = 0;
    b->n_crossing_now = state->n_cross_zone + state->n_cross_claims;
    for (const struct job *job = state->n_cross_zone ? state->live_first : NULL; job;
         job = job->live_next)
        if (job->spans)
            add_crossing(b, 0, end_s(job));
}

void backfill_follow(struct backfill *b, const struct state *state, struct room *room) {
    b->room = room;
    b->now_s = state->r.time_us / HOLD_SECOND_US;
    if (b->n_nodes != state->n_nodes || b->cluster_seq != state->cluster_seq ||
        state->n_touched - b->n_touched > NODES_TOUCHED_KEPT) {
        look_at_all(b, state);
    } else {
        for (int i = 0; i < b->n_plans; i++)
            for (int64_t k = 0; k < b->plans[i].n_nodes; k++)
                b->first_link[b->plans[i].nodes[k]] = -1;
        for (size_t i = 0; i < b->n_taken; i++)
            look_at(b, state, b->taken[i]);
        for (uint64_t i = b->n_touched; i < state->n_touched; i++)
            look_at(b, state, state->touched[i % NODES_TOUCHED_KEPT]);
    }
    forget_plans(b);
    look_at_crossings(b, state);
    b->n_touched = state->n_touched;
    b->n_taken = 0;
    b->n_failures = 0;
    memset(b->drawn, 0, sizeof b->drawn);
}

/* ---- what is free when ---- */

static int64_t until_s(const struct backfill *b, const struct held *held) {
    return MAX(held->until_s, b->now_s);
}

static void add(struct amount *to, const struct amount *amount, int sign) {
    to->gpus += sign * amount->gpus;
    to->cpus += sign * amount->cpus;
    if (to->memory_bytes != INT64_MAX)
        to->memory_bytes += sign * amount->memory_bytes;
}

static bool covers(const struct amount *has, const struct amount *need) {
    return has->gpus >= need->gpus && has->cpus >= need->cpus &&
           has->memory_bytes >= need->memory_bytes;
}

/* What is free of a node now; false: it is not in service. */
static bool free_now(const struct backfill *b, int number, struct amount *ret) {
    struct room_amount has;

    if (!room_free_of(b->room, number, &has))
        return false;
    *ret = (struct amount){__builtin_popcount(has.gpus), has.cpus, has.memory_bytes};
    return true;
}

/* What is free of a node at a time. */
static struct amount free_at(const struct backfill *b, int number, int64_t at_s) {
    const struct seat *seat = &b->seats[number];
    struct amount has = {0};

    free_now(b, number, &has);
    for (int i = 0; i < seat->n_held && until_s(b, &seat->held[i]) <= at_s; i++)
        add(&has, &seat->held[i].amount, 1);
    for (int l = b->first_link[number]; l >= 0; l = b->links[l].next) {
        const struct plan *plan = &b->plans[b->links[l].plan];
        if (plan->start_s <= at_s && at_s < plan->end_s)
            add(&has, &plan->amount, -1);
    }
    return has;
}

/* When could a node without plans begin? As in a view. */
static int64_t begins_s(const struct backfill *b, int number, const struct amount *need) {
    const struct seat *seat = &b->seats[number];
    int64_t at_s = VIEW_NOW;
    struct amount has;

    if (!free_now(b, number, &has))
        return INT64_MAX;
    for (int i = 0; !covers(&has, need); i++) {
        if (i == seat->n_held || seat->held[i].until_s >= HOLD_ENDLESS)
            return INT64_MAX;
        at_s = seat->held[i].until_s;
        add(&has, &seat->held[i].amount, 1);
    }
    return at_s;
}

static struct view *view_of(struct backfill *b, const struct amount *need) {
    struct view *oldest = &b->views[0];

    b->n_views++;
    for (int i = 0; i < VIEWS; i++) {
        struct view *view = &b->views[i];
        if (view->used && !memcmp(&view->amount, need, sizeof *need)) {
            view->used = b->n_views;
            return view;
        }
        if (view->used < oldest->used)
            oldest = view;
    }
    if (!oldest->from_s)
        oldest->from_s = hai_new_array(int64_t, (size_t)b->n_nodes);
    for (int i = 0; i < b->n_nodes; i++)
        oldest->from_s[i] = VIEW_UNKNOWN;
    oldest->amount = *need;
    oldest->used = b->n_views;
    return oldest;
}

/* The starts of plans lie where least is free. */
static bool fits_for(const struct backfill *b, int number, const struct amount *need, int64_t at_s,
                     int64_t hold_s) {
    struct amount has = free_at(b, number, at_s);

    if (!covers(&has, need))
        return false;
    for (int l = b->first_link[number]; l >= 0; l = b->links[l].next) {
        int64_t start_s = b->plans[b->links[l].plan].start_s;
        if (start_s <= at_s || start_s >= at_s + hold_s)
            continue;
        has = free_at(b, number, start_s);
        if (!covers(&has, need))
            return false;
    }
    return true;
}

/* ---- the earliest start ---- */

static int ascending(const void *pa, const void *pb) {
    int64_t a = *(const int64_t *)pa, b = *(const int64_t *)pb;

    return a < b ? -1 : a > b;
}

/* Times at which what is free of a node changes, ascending; the last: never again. */
static size_t times_of(struct backfill *b, int number) {
    const struct seat *seat = &b->seats[number];
    size_t n = 0, n_max = (size_t)seat->n_held + 2 * BACKFILL_PLANS_MAX + 2;

    if (n_max > b->n_times_max) {
        b->n_times_max = n_max;
        b->times = hai_realloc_array(b->times, n_max, sizeof *b->times);
    }
    b->times[n++] = b->now_s;
    for (int i = 0; i < seat->n_held; i++)
        b->times[n++] = until_s(b, &seat->held[i]);
    for (int l = b->first_link[number]; l >= 0; l = b->links[l].next) {
        b->times[n++] = b->plans[b->links[l].plan].start_s;
        b->times[n++] = b->plans[b->links[l].plan].end_s;
    }
    qsort(b->times, n, sizeof *b->times, ascending);
    return n;
}

/* A node could begin from one time to another. */
static void push_window(struct backfill *b, int zone, int64_t from_s, int64_t to_s) {
    if (from_s > to_s)
        return;
    changeheap_add(&b->changes, from_s, zone, 1);
    if (to_s < HOLD_ENDLESS)
        changeheap_add(&b->changes, to_s + 1, zone, -1);
}

/* A node with plans: it fits into gaps that are long enough. */
static void push_gaps(struct backfill *b, int number, int zone, const struct amount *need,
                      int64_t hold_s, int64_t earliest_s, int64_t latest_s) {
    size_t n = times_of(b, number);
    int64_t since_s = -1;

    for (size_t i = 0; i < n; i++) {
        int64_t at_s = b->times[i];
        if (at_s >= HOLD_ENDLESS)
            break;
        struct amount has = free_at(b, number, at_s);
        bool fits = covers(&has, need);
        if (fits && since_s < 0)
            since_s = MAX(at_s, earliest_s);
        if (fits || since_s < 0)
            continue;
        push_window(b, zone, since_s, MIN(at_s - hold_s, latest_s));
        since_s = -1;
    }
    if (since_s >= 0)
        push_window(b, zone, since_s, latest_s);
}

/* May one more gang span zones for so long? */
static bool may_cross(const struct backfill *b, const struct state *state, int64_t at_s,
                      int64_t hold_s) {
    int64_t n = 0;

    for (size_t i = 0; i < b->n_crossings; i++)
        n += MAX(b->crossings[i].end_s, b->now_s) > at_s && b->crossings[i].start_s < at_s + hold_s;
    return n < state->r.cross_zone_jobs;
}

static bool is_avoided(const struct place_need *need, bool avoid, int number) {
    for (size_t i = 0; avoid && i < need->n_avoid; i++)
        if (need->avoid[i] == number)
            return true;
    return false;
}

/* May the node ever run the job? */
static bool is_allowed(const struct backfill *b, const struct state *state,
                       const struct place_need *need, bool avoid, bool spares, int number) {
    return (need->zones & UINT64_C(1) << b->zone[number]) && !is_avoided(need, avoid, number) &&
           !(spares && spare_marked(b->spares_idle, number)) &&
           (!state->n_reserves || state->nodes[number]->reserved == need->reserve);
}

/* A bound on the answer: by then enough nodes without plans could begin. So all that comes later
 * need not be sorted. */
static int64_t bound_s(const struct backfill *b, const struct state *state,
                       const struct place_need *need) {
    const struct state_group *group = &state->groups[need->group].r;
    int64_t n[ZONES_MAX][BUCKETS] = {0};
    int64_t best = INT64_MAX;

    for (size_t i = 0; i < group->nodes.n; i++) {
        int number = (int)group->nodes.items[i];
        if (b->from_s[number] >= 0 && b->from_s[number] < HOLD_ENDLESS &&
            hold_latest_s(need, state->nodes[number]) == HOLD_ENDLESS)
            n[b->zone[number]][hold_length(b->from_s[number] - b->now_s)]++;
    }
    for (int zone = 0; zone < state->n_zones; zone++) {
        int64_t sum = 0;
        for (int bucket = 0; bucket < BUCKETS && bucket < best; bucket++) {
            sum += n[zone][bucket];
            if (sum >= need->nodes)
                best = bucket;
        }
    }
    return best;
}

/* A word for each node of the group: when could it begin? And all changes up to the bound. */
static void gather(struct backfill *b, const struct state *state, const struct place_need *need,
                   const struct amount *amount, int64_t hold_s, bool avoid) {
    const struct state_group *group = &state->groups[need->group].r;
    const struct view *view = view_of(b, amount);
    bool spares = !need->recovers && spare_any(state);

    b->changes.n = 0;
    for (size_t i = 0; i < group->nodes.n; i++) {
        int number = (int)group->nodes.items[i];
        int64_t from_s = view->from_s[number];
        if (from_s == VIEW_UNKNOWN)
            from_s = view->from_s[number] = begins_s(b, number, amount);
        b->from_s[number] = INT64_MAX;
        if (from_s == INT64_MAX || !is_allowed(b, state, need, avoid, spares, number))
            continue;
        int64_t earliest_s = b->now_s + (spares && spare_marked(b->spares_now, number));
        b->from_s[number] = MAX(from_s, earliest_s);
        if (b->first_link[number] < 0)
            continue;
        b->from_s[number] = earliest_s == b->now_s ? -1 : -2;
        push_gaps(b, number, b->zone[number], amount, hold_s, earliest_s,
                  hold_latest_s(need, state->nodes[number]));
    }
    int64_t bound = bound_s(b, state, need);
    for (size_t i = 0; i < group->nodes.n; i++) {
        int number = (int)group->nodes.items[i];
        int64_t from_s = b->from_s[number];
        if (from_s >= 0 && from_s < HOLD_ENDLESS && hold_length(from_s - b->now_s) <= bound)
            push_window(b, b->zone[number], from_s, hold_latest_s(need, state->nodes[number]));
    }
    for (size_t i = 0; need->cross_zones && i < b->n_crossings; i++)
        if (b->crossings[i].end_s < HOLD_ENDLESS)
            changeheap_add(&b->changes, MAX(b->crossings[i].end_s, b->now_s), 0, 0);
}

/* The earliest time at which enough nodes could begin; -1: never. */
static int64_t earliest_s(struct backfill *b, const struct state *state,
                          const struct place_need *need, int64_t hold_s) {
    int64_t in_zone[ZONES_MAX] = {0}, n = 0;

    changeheap_order(&b->changes);
    while (b->changes.n) {
        int64_t at_s = b->changes.items[0].at_s;
        while (b->changes.n && b->changes.items[0].at_s == at_s) {
            struct change change = changeheap_pop(&b->changes);
            in_zone[change.zone] += change.n;
            n += change.n;
        }
        if (n < need->nodes)
            continue;
        int64_t n_most = 0;
        for (int z = 0; z < state->n_zones; z++)
            n_most = MAX(n_most, in_zone[z]);
        if (n_most >= need->nodes || (need->cross_zones && may_cross(b, state, at_s, hold_s)))
            return at_s;
    }
    return -1;
}

/* Nodes that could begin then, by number. */
static void list_fit(struct backfill *b, const struct state *state, const struct place_need *need,
                     const struct amount *amount, int64_t at_s, int64_t hold_s) {
    const struct state_group *group = &state->groups[need->group].r;

    b->n_fit = 0;
    for (size_t i = 0; i < group->nodes.n; i++) {
        int number = (int)group->nodes.items[i];
        int64_t from_s = b->from_s[number];
        bool fits = from_s < 0 ? !(from_s == -2 && at_s == b->now_s) &&
                                     fits_for(b, number, amount, at_s, hold_s)
                               : from_s <= at_s;
        if (!fits || at_s > hold_latest_s(need, state->nodes[number]))
            continue;
        b->fit[b->n_fit++] = number;
    }
}

/* ---- plans ---- */

static bool spans(const struct state *state, const struct place_node *nodes, int64_t n) {
    for (int64_t i = 1; i < n; i++)
        if (state->nodes[nodes[i].node]->zone != state->nodes[nodes[0].node]->zone)
            return true;
    return false;
}

/* Of the nodes that could begin now those that can: what is taken to have ended may not have. Are
 * there enough? Else the start is close and not yet. */
static bool can_start(struct backfill *b, const struct state *state, const struct place_need *need,
                      const struct amount *amount, int64_t hold_s) {
    int64_t in_zone[ZONES_MAX] = {0}, most = 0;
    size_t n = 0;

    for (size_t i = 0; i < b->n_fit; i++) {
        struct amount has;
        if (!free_now(b, b->fit[i], &has) || !covers(&has, amount))
            continue;
        b->fit_now[n++] = b->fit[i];
        most = MAX(most, ++in_zone[b->zone[b->fit[i]]]);
    }
    b->n_fit_now = n;
    return most >= need->nodes ||
           (need->cross_zones && (int64_t)n >= need->nodes &&
            b->n_crossing_now < state->r.cross_zone_jobs && may_cross(b, state, b->now_s, hold_s));
}

static void reserve(struct backfill *b, const struct state *state, const struct job *job,
                    const struct place_node *nodes, int64_t at_s) {
    int number = b->n_plans++, at = number;
    struct plan *plan = &b->plans[number];

    *plan = (struct plan){
        .job = job,
        .start_s = at_s,
        .end_s = MIN(at_s + job->hold_s, HOLD_ENDLESS),
        .amount = amount_of(job),
        .n_nodes = job->r.spec.nodes,
        .nodes = hai_new_array(int, (size_t)job->r.spec.nodes),
        .spans = spans(state, nodes, job->r.spec.nodes),
    };
    for (int64_t i = 0; i < plan->n_nodes; i++) {
        if (b->n_links == b->n_links_max) {
            b->n_links_max = MAX(2 * b->n_links_max, 256);
            b->links = hai_realloc_array(b->links, (size_t)b->n_links_max, sizeof *b->links);
        }
        int *first = &b->first_link[nodes[i].node];
        plan->nodes[i] = nodes[i].node;
        b->links[b->n_links] = (struct link){number, *first};
        *first = b->n_links++;
    }
    for (; at && b->plans[b->by_start[at - 1]].start_s > at_s; at--) {
        b->by_start[at] = b->by_start[at - 1];
        b->plans[b->by_start[at]].rank = at;
    }
    b->by_start[at] = number;
    plan->rank = at;
    if (plan->spans)
        add_crossing(b, at_s, plan->end_s);
    b->n_failures = 0;
    memset(b->drawn, 0, sizeof b->drawn);
}

static void mark_spares(struct backfill *b, const struct state *state) {
    size_t bytes = ((size_t)state->n_nodes + 63) / 64 * sizeof *b->spares_now;

    if (!spare_any(state))
        return;
    memcpy(b->spares_now, room_spares(b->room, state, false), bytes);
    memcpy(b->spares_idle, room_spares(b->room, state, true), bytes);
}

bool backfill_full(const struct backfill *b) {
    return b->n_plans == BACKFILL_PLANS_MAX;
}

int backfill_plan(struct backfill *b, const struct state *state, const struct job *job,
                  struct place_scratch *scratch, int64_t *ret_at_s) {
    struct place_need need = place_need_of(state, job);
    struct amount amount = amount_of(job);
    int64_t at_s = -1;

    place_scratch_fit(scratch, state);
    mark_spares(b, state);
    /* Nodes that it failed on are left out if it then starts now. */
    for (int avoid = need.n_avoid > 0; avoid >= 0 && at_s != b->now_s; avoid--) {
        gather(b, state, &need, &amount, job->hold_s, avoid);
        at_s = earliest_s(b, state, &need, job->hold_s);
    }
    if (at_s < 0)
        return -ENOSPC;
    list_fit(b, state, &need, &amount, at_s, job->hold_s);
    *ret_at_s = at_s;
    if (at_s == b->now_s && can_start(b, state, &need, &amount, job->hold_s)) {
        firstset_choose(state, &need, b->fit_now, b->n_fit_now, b->histogram, scratch);
        for (int64_t i = 0; i < need.nodes; i++) {
            struct room_amount has;
            room_free_of(b->room, scratch->nodes[i].node, &has);
            scratch->nodes[i].gpus = gpus_choose(has.gpus, need.gpus_per_node,
                                                 state->nodes[scratch->nodes[i].node]->r.nvlink);
        }
        return 1;
    }
    firstset_choose(state, &need, b->fit, b->n_fit, b->histogram, scratch);
    reserve(b, state, job, scratch->nodes, at_s);
    return 0;
}

/* ---- who may pass ---- */

/* Of a node so much is free that the first n_first plans, in order of their starts, do not need. */
static void draw_node(const struct backfill *b, const struct state *state, struct room *picture,
                      int n_first, int number) {
    struct amount least;
    bool limited = false;

    room_copy_node(picture, b->room, number);
    if (!free_now(b, number, &least))
        return;
    for (int l = b->first_link[number]; l >= 0; l = b->links[l].next) {
        const struct plan *plan = &b->plans[b->links[l].plan];
        if (plan->rank >= n_first)
            continue;
        struct amount then = free_at(b, number, plan->start_s);
        least.gpus = MIN(least.gpus, then.gpus);
        least.cpus = MIN(least.cpus, then.cpus);
        least.memory_bytes = MIN(least.memory_bytes, then.memory_bytes);
        limited = true;
    }
    if (limited)
        room_limit(picture, state, number, MAX(least.gpus, 0), least.cpus, least.memory_bytes);
}

/* Pictures are drawn of 0, 1, 2, 4, ... plans. */
static int first_plans(const struct backfill *b, int picture) {
    return picture ? MIN(1 << (picture - 1), b->n_plans) : 0;
}

static int count_spans(const struct backfill *b, int n_first) {
    int n = 0;

    for (int i = 0; i < n_first; i++)
        n += b->plans[b->by_start[i]].spans;
    return n;
}

static void draw(struct backfill *b, const struct state *state, int number) {
    int n_first = first_plans(b, number);

    if (!b->pictures[number])
        b->pictures[number] = room_new();
    struct room *picture = b->pictures[number];
    room_copy(picture, b->room, state);
    for (int i = 0; i < n_first; i++) {
        const struct plan *plan = &b->plans[b->by_start[i]];
        for (int64_t k = 0; k < plan->n_nodes; k++)
            draw_node(b, state, picture, n_first, plan->nodes[k]);
    }
    room_cross(picture, b->room, count_spans(b, n_first));
    b->drawn[number] = true;
}

/* The picture without what is needed by the plans that begin before the job has ended. */
static int picture_for(const struct backfill *b, const struct job *job) {
    int n = 0, picture = 0;

    while (n < b->n_plans && b->plans[b->by_start[n]].start_s < b->now_s + job->hold_s &&
           !HAI_PLANT(PLANT_PLAN_OVERLAPPED))
        n++;
    while (first_plans(b, picture) < n)
        picture++;
    return picture;
}

static bool asks_for_less(const struct place_need *a, const struct place_need *b) {
    return a->group == b->group && (b->zones & ~a->zones) == 0 && a->nodes <= b->nodes &&
           a->gpus_per_node <= b->gpus_per_node && a->cpus_per_node <= b->cpus_per_node &&
           a->memory_per_node_bytes <= b->memory_per_node_bytes &&
           a->cross_zones >= b->cross_zones && a->recovers >= b->recovers &&
           a->reserve == b->reserve && a->lasts_us <= b->lasts_us;
}

static bool fails_surely(const struct backfill *b, const struct place_need *need, int picture) {
    for (int i = 0; i < MIN(b->n_failures, (int)FAILURES); i++)
        if (b->failures[i].picture <= picture && asks_for_less(&b->failures[i].need, need))
            return true;
    return false;
}

int backfill_find(struct backfill *b, const struct state *state, const struct job *job,
                  struct place_scratch *scratch) {
    struct place_need need = place_need_of(state, job);
    int picture = picture_for(b, job);

    if (fails_surely(b, &need, picture))
        return -ENOSPC;
    if (picture && !b->drawn[picture])
        draw(b, state, picture);
    int r = room_find(picture ? b->pictures[picture] : b->room, state, &need, scratch);
    if (r < 0)
        b->failures[b->n_failures++ % FAILURES] = (struct failure){need, picture};
    return r;
}

void backfill_start(struct backfill *b, const struct state *state, const struct job *job,
                    const struct place_node *nodes) {
    int64_t n = job->r.spec.nodes;
    struct held held = {hold_until_s(state, job, state->r.time_us), amount_of(job)};
    struct place_need need = place_need_of(state, job);

    room_take(b->room, state, &need, nodes);
    if (spans(state, nodes, n)) {
        add_crossing(b, 0, held.until_s);
        b->n_crossing_now++;
    }
    for (int64_t i = 0; i < n; i++) {
        if (b->n_taken == b->n_taken_max) {
            b->n_taken_max = MAX(2 * b->n_taken_max, (size_t)64);
            b->taken = hai_realloc_array(b->taken, b->n_taken_max, sizeof *b->taken);
        }
        b->taken[b->n_taken++] = nodes[i].node;
        seat_add(&b->seats[nodes[i].node], &held);
        forget(b, nodes[i].node);
    }
    for (int p = 1; p < PICTURES; p++) {
        if (!b->drawn[p])
            continue;
        for (int64_t i = 0; i < n; i++)
            draw_node(b, state, b->pictures[p], first_plans(b, p), nodes[i].node);
        room_cross(b->pictures[p], b->room, count_spans(b, first_plans(b, p)));
    }
}

size_t backfill_n_plans(const struct backfill *b) {
    return (size_t)b->n_plans;
}

struct backfill_planned backfill_planned(const struct backfill *b, size_t at) {
    const struct plan *plan = &b->plans[at];

    return (struct backfill_planned){plan->job, plan->start_s, plan->n_nodes, plan->nodes};
}
