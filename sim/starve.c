#include "sim/starve.h"
#include "scheduler/core/queue.h"

#define SECOND INT64_C(1000000)

/* The policy's numbers again, and not from the core's own hand. */
enum { TOO_LONG = 16, RUN_PART = 30, LOOK_PART = 30, AGED_MAX_PRIORITY = 40, AGING_LOOKS = 4 };
#define LOOK_MIN_US SECOND
#define LOOK_MAX_US (60 * SECOND)

/* A turn comes a little later than what makes it due. */
#define TURN_US (SECOND / 10)
/* From the end of a grace, or of a trouble, until all is gone and said to be: a message that is
 * late for 25 s, a rank that takes 8 s to die, and 5 s for what it leaves behind. */
#define LEAVE_US (40 * SECOND)
#define GRACE_MEASURED_MAX_US (600 * SECOND)

#define FAIL(...) return hai_fail(err, -EINVAL, __VA_ARGS__)

void starve_init(struct starve *starve, const struct state *state) {
    size_t n = (size_t)state->n_nodes;

    *starve = (struct starve){.troubled_us = hai_new_array(int64_t, n),
                              .copies = hai_new_array(struct node, n),
                              .nodes = hai_new_array(struct node *, n)};
    for (size_t i = 0; i < n; i++)
        starve->nodes[i] = &starve->copies[i];
}

void starve_free(struct starve *starve) {
    free(starve->clocks);
    free(starve->troubled_us);
    free(starve->copies);
    free(starve->nodes);
    place_scratch_free(&starve->scratch);
    *starve = (struct starve){0};
}

void starve_trouble(struct starve *starve, int node, int64_t now_us) {
    starve->troubled_us[node] = now_us;
}

void starve_forget(struct starve *starve, const struct state *state) {
    for (int i = 0; i < state->n_nodes; i++)
        starve->troubled_us[i] = state->r.time_us;
    starve->n = 0;
    starve->waits_us = 0;
}

/* ---- clocks ---- */

/* The clock of a job, which is looked at now. */
static struct starve_clock *clock_of(struct starve *starve, const struct job *job,
                                     enum starve_kind kind) {
    for (size_t i = 0; i < starve->n; i++) {
        struct starve_clock *clock = &starve->clocks[i];
        if (clock->job == job->r.id && clock->epoch == job->r.epoch && clock->kind == kind) {
            clock->seen = true;
            return clock;
        }
    }
    if (starve->n == starve->n_max) {
        starve->n_max = MAX(2 * starve->n_max, (size_t)16);
        starve->clocks = hai_realloc_array(starve->clocks, starve->n_max, sizeof *starve->clocks);
    }
    starve->clocks[starve->n] =
        (struct starve_clock){job->r.id, job->r.epoch, .kind = kind, .seen = true};
    return &starve->clocks[starve->n++];
}

/* Of jobs that have room, or nodes, or want none any more. */
static void drop_unseen(struct starve *starve) {
    size_t n = 0;

    for (size_t i = 0; i < starve->n; i++) {
        struct starve_clock *clock = &starve->clocks[i];
        if (clock->seen)
            starve->clocks[n++] = *clock;
    }
    starve->n = n;
    for (size_t i = 0; i < n; i++)
        starve->clocks[i].seen = false;
}

/* ---- who waits ---- */

static int64_t look_us(const struct state *state) {
    return MAX(MIN(state->r.min_run_us / LOOK_PART, LOOK_MAX_US), LOOK_MIN_US);
}

/* Since when it stands in line; where jobs do not age, that is not known. */
static int64_t waits_since_us(const struct job *job) {
    return job->r.line_us == S_ABSENT ? job->r.since_us : MAX(job->r.since_us, job->r.line_us);
}

static int64_t too_long_us(const struct state *state, const struct job *job) {
    return waits_since_us(job) + TOO_LONG * state->r.min_run_us;
}

/* The position in PRIORITIES that the job has, as it has aged, at a time. It comes in turns of a
 * part of the time of aging: surely, one turn later. */
static int aged_position(const struct state *state, const struct job *job, int64_t at_us,
                         bool surely) {
    int position = state_priority_level(job->r.priority),
        most = state_priority_level(AGED_MAX_PRIORITY);
    const struct state_user *user = state_user_find(state, job->r.spec.user);
    int64_t aging_us = state->r.aging_us;

    if (aging_us == S_ABSENT || job->r.line_us == S_ABSENT || position <= most ||
        (user && user->external == 1))
        return position;
    int64_t aged_us = at_us - job->r.line_us - (surely ? aging_us / AGING_LOOKS : 0);
    return aged_us < aging_us ? position : (int)MAX(position - aged_us / aging_us, most);
}

static bool has_bound(const struct job *job) {
    return job->queued && job->r.priority > 0 && job->r.over != 1;
}

/* The position that it surely has by now. */
static int sure_position(const struct state *state, const struct job *job) {
    return aged_position(state, job, state->r.time_us - TURN_US, true);
}

/* Others that ask for the same have the right to ask, too, and go before it: they are of a higher
 * priority, or have waited for longer. Returns how many have room already: they ask again before it
 * if they lose that. -1: one has none, so it is not this one's turn. */
static int n_before(const struct state *state, const struct job *job) {
    int position = sure_position(state, job), n = 0;

    for (const struct job *one = state->jobs_first; one; one = one->next) {
        if (one == job || !one->queued || one->shape != job->shape || one->r.over == 1 ||
            too_long_us(state, one) > state->r.time_us)
            continue;
        int its = aged_position(state, one, state->r.time_us + TURN_US, false);
        int64_t its_us = waits_since_us(one), own_us = waits_since_us(job);
        bool longer = its_us < own_us || (its_us == own_us && one->r.id < job->r.id);
        if (its > position || (its == position && !longer))
            continue;
        if (!one->r.claim.n)
            return -1;
        n++;
    }
    return n;
}

/* ---- who must leave ---- */

static bool must_leave(const struct state *state, const struct job *running, int position) {
    return running->r.state == JOB_STATE_RUNNING && running->r.wanted == WANTED_RUN &&
           running->r.phase == DESIRED_PHASE_RUN &&
           state->r.time_us - running->r.running_us >= state->r.min_run_us / RUN_PART &&
           (running->r.over == 1 || state_priority_level(running->r.priority) >= position);
}

static void leave(struct starve *starve, const struct job *running) {
    for (size_t i = 0; i < running->r.allocs.n; i++) {
        const struct state_alloc *alloc = &running->r.allocs.items[i];
        struct node *node = &starve->copies[alloc->node];
        if (alloc->released)
            continue;
        node->gpus_held &= ~(uint32_t)alloc->gpus;
        node->cpus_free += running->cpus_per_node;
        node->memory_free += running->r.spec.memory_per_node_bytes;
    }
}

static bool may_lie(const struct node *node, const struct job *job) {
    return node->reserved == MAX(job->r.reserve, 0) && node->groups & UINT64_C(1) << job->group &&
           job->zones & UINT64_C(1) << node->zone;
}

/* Is it where the job may run? Only then it is asked for its right to span zones. */
static bool is_beside(const struct state *state, const struct job *running, const struct job *job) {
    for (size_t i = 0; i < running->r.allocs.n; i++)
        if (may_lie(state->nodes[running->r.allocs.items[i].node], job))
            return true;
    return false;
}

/* Would it lie on the nodes in service, if all who must leave did? */
static bool could_start(struct starve *starve, const struct state *state, const struct job *job) {
    struct place_need need = place_need_of(state, job);
    int position = sure_position(state, job);
    struct state as_left = *state;

    for (int i = 0; i < state->n_nodes; i++)
        starve->copies[i] = *state->nodes[i];
    as_left.nodes = starve->nodes;
    for (const struct job *one = state->live_first; one; one = one->live_next)
        if (must_leave(state, one, position)) {
            leave(starve, one);
            as_left.n_cross_zone -= one->spans && is_beside(state, one, job);
        }
    return place_find(&as_left, &need, &starve->scratch) == 0;
}

static int watch_waiting(struct starve *starve, const struct state *state, const struct job *job,
                         struct hai_err *err) {
    int64_t now_us = state->r.time_us;
    size_t n = starve->n;
    struct starve_clock *clock = clock_of(starve, job, STARVE_WAITS);

    int before = n_before(state, job);

    starve->n_waited += starve->n > n;
    if (before < 0 || !could_start(starve, state, job)) {
        clock->since_us = 0;
        return 0;
    }
    if (!clock->since_us) {
        clock->since_us = now_us;
        clock->n_looks = 1;
        clock->n_passed = 0;
        starve->n_ran++;
    }
    if (!clock->near && now_us - clock->since_us > look_us(state) / 2) {
        clock->near = true;
        starve->n_near++;
    }
    clock->n_looks = MAX(clock->n_looks, 1 + before);
    int64_t n_looks = clock->n_looks + clock->n_passed;
    if (now_us - clock->since_us <= n_looks * (look_us(state) + TURN_US))
        return 0;
    FAIL(
        "job %lld has waited for %lld us, could have had nodes for %lld us, and nobody is asked to "
        "leave them",
        (long long)job->r.id, (long long)(now_us - waits_since_us(job)),
        (long long)(now_us - clock->since_us));
}

/* ---- room that was given ---- */

static int64_t grace_us(const struct job *job) {
    int64_t measured_us = job->r.save_us == S_ABSENT ? 0 : 2 * job->r.save_us;

    return MAX(job->r.spec.grace_us, MIN(measured_us, GRACE_MEASURED_MAX_US));
}

static bool holds(const struct job *job, const struct state_claim *claim) {
    for (size_t i = 0; i < job->r.allocs.n; i++) {
        const struct state_alloc *alloc = &job->r.allocs.items[i];
        if (alloc->node == claim->node && !alloc->released && (alloc->gpus & claim->gpus))
            return true;
    }
    return false;
}

/* Who has GPUs that are left to the job leaves, and within its grace. */
static int watch_left(const struct state *state, const struct job *job,
                      const struct state_claim *claim, bool fresh, struct hai_err *err) {
    for (const struct job *one = state->live_first; one; one = one->live_next) {
        if (!holds(one, claim))
            continue;
        if (one->r.phase == DESIRED_PHASE_RUN && one->r.state != JOB_STATE_RECOVERING)
            FAIL("job %lld has GPUs that are left to job %lld, and does not leave",
                 (long long)one->r.id, (long long)job->r.id);
        if (fresh && one->r.phase == DESIRED_PHASE_TERM &&
            one->r.kill_at_us > state->r.time_us + grace_us(one))
            FAIL("job %lld leaves its GPUs to job %lld later than after its grace",
                 (long long)one->r.id, (long long)job->r.id);
    }
    return 0;
}

/* Is some of the room where the other may run, or does it take the right to span zones? */
static bool could_use(const struct state *state, const struct job *job, const struct job *other) {
    const struct state_claim *claim = job->r.claim.items;

    for (size_t i = 0; i < job->r.claim.n; i++) {
        const struct node *node = state->nodes[claim[i].node];
        bool spans = node->zone != state->nodes[claim[0].node]->zone;
        if (may_lie(node, other) || (spans && other->r.spec.cross_zones))
            return true;
    }
    return false;
}

/* One was given room: those behind it may have asked in vain in that look for what it got. */
static void note_passed(struct starve *starve, const struct state *state, const struct job *job) {
    int64_t now_us = state->r.time_us;

    for (size_t i = 0; i < starve->n; i++) {
        struct starve_clock *clock = &starve->clocks[i];
        const struct job *one =
            clock->kind == STARVE_WAITS ? state_job_find(state, clock->job) : NULL;
        if (!one || !one->queued || now_us < clock->passed_us + look_us(state) ||
            !queue_before(job, one) || !could_use(state, job, one))
            continue;
        clock->n_passed++;
        clock->passed_us = now_us;
    }
}

static int watch_claim(struct starve *starve, const struct state *state, const struct job *job,
                       struct hai_err *err) {
    struct starve_clock *clock = clock_of(starve, job, STARVE_CLAIMS);
    bool fresh = !clock->since_us;
    int r = 0;

    starve->n_claims += fresh;
    clock->since_us = state->r.time_us;
    if (fresh)
        note_passed(starve, state, job);
    for (size_t i = 0; i < job->r.claim.n && r == 0; i++)
        r = watch_left(state, job, &job->r.claim.items[i], fresh, err);
    return r;
}

/* ---- who leaves ---- */

/* When it is told to end, by its time limit: at once if that was over before it was placed. */
static int64_t limit_us(const struct job *job) {
    if (job->r.time_limit_us == S_ABSENT)
        return INT64_MAX;
    return job->r.placed_us +
           MAX(job->r.time_limit_us - job->r.ran_us - job->r.spec.warn_us, INT64_C(0));
}

static int watch_leaving(struct starve *starve, const struct state *state, const struct job *job,
                         struct hai_err *err) {
    int64_t now_us = state->r.time_us;
    struct starve_clock *clock = clock_of(starve, job, STARVE_LEAVES);
    int64_t until_us = job->r.phase == DESIRED_PHASE_TERM ? job->r.kill_at_us : now_us;

    if (until_us > now_us + MAX(grace_us(job), job->r.spec.warn_us))
        FAIL("job %lld ends later than after its grace", (long long)job->r.id);
    clock->since_us = clock->since_us ? MIN(clock->since_us, until_us) : until_us;
    for (size_t i = 0; i < job->r.allocs.n; i++) {
        int node = (int)job->r.allocs.items[i].node;
        if (state->nodes[node]->r.state != NODE_STATE_UP)
            starve_trouble(starve, node, now_us);
        int64_t from_us = MAX(clock->since_us, starve->troubled_us[node]);
        if (!job->r.allocs.items[i].gone && now_us > from_us + LEAVE_US)
            FAIL("job %lld was to be gone from %s %lld us ago", (long long)job->r.id,
                 state->nodes[node]->r.name, (long long)(now_us - clock->since_us));
    }
    return 0;
}

static int watch_live(struct starve *starve, const struct state *state, const struct job *job,
                      struct hai_err *err) {
    int64_t end_us = job->r.phase == DESIRED_PHASE_TERM  ? job->r.kill_at_us
                     : job->r.phase == DESIRED_PHASE_RUN ? limit_us(job)
                                                         : INT64_MAX;

    if (end_us < state->r.time_us - TURN_US)
        FAIL("job %lld should have been told to end %lld us ago", (long long)job->r.id,
             (long long)(state->r.time_us - end_us));
    return job->r.phase == DESIRED_PHASE_RUN ? 0 : watch_leaving(starve, state, job, err);
}

/* ---- a look ---- */

/* Has anybody waited for too long? Found again when somebody joins the line or leaves it. */
static bool anybody_waits(struct starve *starve, const struct state *state) {
    if (starve->waits_us && starve->changes == state->queue.changes)
        return state->r.time_us >= starve->waits_us;
    starve->waits_us = INT64_MAX;
    starve->changes = state->queue.changes;
    for (const struct job *job = state->jobs_first; job; job = job->next)
        if (job->queued)
            starve->waits_us = MIN(starve->waits_us, too_long_us(state, job));
    return state->r.time_us >= starve->waits_us;
}

int starve_watch(struct starve *starve, const struct state *state, struct hai_err *err) {
    bool shares = state->r.min_run_us != S_ABSENT;
    int r = 0;

    for (const struct job *job = state->live_first; job && r == 0; job = job->live_next)
        r = watch_live(starve, state, job, err);
    if (r == 0 && shares && anybody_waits(starve, state) && !spare_any(state))
        for (const struct job *job = state->jobs_first; job && r == 0; job = job->next)
            if (has_bound(job) && !job->r.claim.n && too_long_us(state, job) <= state->r.time_us)
                r = watch_waiting(starve, state, job, err);
    for (const struct job *job = state->claimants; job && r == 0; job = job->claimant_next)
        r = watch_claim(starve, state, job, err);
    drop_unseen(starve);
    return r;
}
