#include "sim/audit.h"
#include "scheduler/core/ledger.h"

#define FAIL(...) return hai_fail(err, -EINVAL, __VA_ARGS__)

/* ---- one moment ---- */

/* Groups in which a job stands in line that needs GPUs, and not those of a reservation. */
static uint64_t wanted_groups(const struct state *state) {
    uint64_t wanted = 0;

    for (const struct job *job = state->jobs_first; job; job = job->next)
        if (job->queued && job->r.spec.gpus_per_node > 0 && job->r.reserve == S_ABSENT)
            wanted |= UINT64_C(1) << state_group_find(state, job->r.spec.group);
    return wanted;
}

static enum ledger_class held_class(const struct job *job) {
    bool fresh = job->r.running_us == S_ABSENT;

    switch (job->r.state) {
    case JOB_STATE_SUSPENDING:
        return LEDGER_SUSPENDED;
    case JOB_STATE_RECOVERING:
        if (job->r.phase == DESIRED_PHASE_RUN)
            break;
        return LEDGER_RECOMPUTED;
    case JOB_STATE_RUNNING:
        return LEDGER_PRODUCTIVE;
    case JOB_STATE_STOPPING:
        if (fresh)
            break;
        return LEDGER_PRODUCTIVE;
    default:
        break;
    }
    return job->r.reloads == 1 ? LEDGER_SUSPENDED : LEDGER_START_UP;
}

/* What a node's free GPUs are counted as, by what is described and asked for: its groups, and
 * whether a reservation is active there. */
struct place {
    uint64_t groups;
    bool reserved;
};

static struct place *places_of(const struct state *state) {
    struct place *places = hai_new_array(struct place, (size_t)state->n_nodes);

    for (int g = 0; g < state->n_groups; g++)
        for (size_t i = 0; i < state->groups[g].r.nodes.n; i++)
            places[state->groups[g].r.nodes.items[i]].groups |= UINT64_C(1) << g;
    for (size_t i = 0; i < state->n_reserves; i++) {
        const struct state_reserve *reserve = &state->reserves[i];
        for (size_t k = 0; k < reserve->nodes.n && reserve->from_us <= state->r.time_us; k++)
            places[reserve->nodes.items[k]].reserved = true;
    }
    return places;
}

static enum ledger_class free_class(const struct state_node *node, const struct place *place,
                                    uint64_t wanted) {
    if (node->state != NODE_STATE_UP)
        return LEDGER_UNHEALTHY;
    if (node->drained)
        return LEDGER_DRAINED;
    if (place->reserved)
        return LEDGER_RESERVED;
    return place->groups & wanted ? LEDGER_IDLE_DEMAND : LEDGER_IDLE;
}

int64_t audit_count(const struct state *state, int64_t ret[static LEDGER_COUNT]) {
    _cleanup_free_ uint32_t *held = hai_new_array(uint32_t, (size_t)state->n_nodes);
    _cleanup_free_ struct place *places = places_of(state);
    uint64_t wanted = wanted_groups(state);
    int64_t capacity = 0;

    memset(ret, 0, LEDGER_COUNT * sizeof *ret);
    for (const struct job *job = state->live_first; job; job = job->live_next)
        for (size_t i = 0; i < job->r.allocs.n; i++) {
            const struct state_alloc *alloc = &job->r.allocs.items[i];
            if (alloc->released)
                continue;
            held[alloc->node] |= (uint32_t)alloc->gpus;
            if (state->nodes[alloc->node]->r.state == NODE_STATE_UP)
                ret[held_class(job)] += __builtin_popcount((uint32_t)alloc->gpus);
        }
    for (int n = 0; n < state->n_nodes; n++) {
        const struct state_node *node = &state->nodes[n]->r;
        enum ledger_class class = free_class(node, &places[n], wanted);
        uint32_t there = node->removed ? 0 : (uint32_t)((UINT64_C(1) << node->gpus) - 1);
        capacity += __builtin_popcount(held[n] | there);
        ret[class] +=
            __builtin_popcount(class == LEDGER_UNHEALTHY ? held[n] | there : there & ~held[n]);
    }
    return capacity;
}

/* ---- over time ---- */

struct sums {
    int64_t day;
    int64_t class[LEDGER_COUNT];
    int64_t capacity;
    int64_t jobs[LEDGER_JOB_CLASSES]; // from the rows of jobs
};

struct audit {
    struct sums open;
    struct sums *past; // days that are over and were not compared yet
    size_t n_past;
    int64_t n_days;
};

static bool is_moved(int k) {
    return k == LEDGER_PRODUCTIVE || k == LEDGER_RECOMPUTED || k == LEDGER_STALLED;
}

static int compare(const struct sums *want, const struct ledger_day *day, struct hai_err *err) {
    int64_t sum = 0, moved = 0;

    if (want->day != day->day)
        FAIL("the ledger closed day %lld, not %lld", (long long)day->day, (long long)want->day);
    for (int k = 0; k < LEDGER_COUNT; k++) {
        const char *name = ledger_class_text((enum ledger_class)k);
        sum += day->gpu_us[k];
        if (is_moved(k))
            moved += day->gpu_us[k] - want->class[k];
        else if (day->gpu_us[k] != want->class[k])
            FAIL("day %lld has %lld GPU-us %s; it was %lld", (long long)day->day,
                 (long long)day->gpu_us[k], name, (long long)want->class[k]);
        if (k < LEDGER_JOB_CLASSES && want->jobs[k] != day->gpu_us[k])
            FAIL("day %lld has %lld GPU-us %s, its jobs have %lld", (long long)day->day,
                 (long long)day->gpu_us[k], name, (long long)want->jobs[k]);
    }
    if (moved || day->gpu_us[LEDGER_RECOMPUTED] < want->class[LEDGER_RECOMPUTED])
        FAIL("day %lld: the classes of running jobs are off by %lld GPU-us", (long long)day->day,
             (long long)moved);
    if (sum != day->capacity_us || sum != want->capacity)
        FAIL("day %lld: the classes have %lld GPU-us; the capacity is %lld, counted anew %lld",
             (long long)day->day, (long long)sum, (long long)day->capacity_us,
             (long long)want->capacity);
    return 0;
}

static void add(struct audit *a, const struct state *state, int64_t to_us) {
    int64_t from_us = state->r.time_us, today = to_us / LEDGER_DAY_US, count[LEDGER_COUNT];
    int64_t capacity = audit_count(state, count);

    a->open.day = from_us / LEDGER_DAY_US;
    for (bool over = true; over;) {
        over = a->open.day != today;
        int64_t end_us = over ? (a->open.day + 1) * LEDGER_DAY_US : to_us;
        for (int k = 0; k < LEDGER_COUNT; k++)
            a->open.class[k] += count[k] * (end_us - from_us);
        a->open.capacity += capacity * (end_us - from_us);
        if (!over)
            return;
        a->past = hai_realloc_array(a->past, a->n_past + 1, sizeof *a->past);
        a->past[a->n_past++] = a->open;
        from_us = MAX(end_us, (today - LEDGER_GAP_DAYS_MAX) * LEDGER_DAY_US);
        a->open = (struct sums){.day = from_us / LEDGER_DAY_US};
    }
}

static void add_row(void *data, const struct job *job, int64_t day,
                    const int64_t gpu_us[static LEDGER_JOB_CLASSES]) {
    struct audit *a = data;
    struct sums *sums = &a->open;

    for (size_t i = 0; i < a->n_past; i++)
        if (a->past[i].day == day)
            sums = &a->past[i];
    for (int k = 0; k < LEDGER_JOB_CLASSES; k++)
        sums->jobs[k] += gpu_us[k];
}

static int take_rows(struct audit *a, const struct effects *fx, struct hai_err *err) {
    for (size_t i = 0; i < fx->n_usage; i++)
        add_row(a, NULL, fx->usage[i].day, fx->usage[i].gpu_us);
    if (fx->n_days != a->n_past)
        FAIL("%zu days are over, the ledger closed %zu", a->n_past, fx->n_days);
    for (size_t i = 0; i < fx->n_days; i++) {
        int r = compare(&a->past[i], &fx->days[i], err);
        if (r < 0)
            return r;
    }
    a->n_days += (int64_t)a->n_past;
    a->n_past = 0;
    return 0;
}

static void take_day(void *data, const struct ledger_day *day) {
    *(struct ledger_day *)data = *day;
}

static int compare_open(const struct audit *a, const struct state *state, struct hai_err *err) {
    struct audit copy = *a;
    struct ledger_day day;

    ledger_peek(state, state->r.time_us, &(struct ledger_peek){add_row, NULL, &copy});
    ledger_peek(state, state->r.time_us, &(struct ledger_peek){NULL, take_day, &day});
    return compare(&copy.open, &day, err);
}

int audit_log(const struct world_entry *log, size_t n, int64_t *ret_days, struct hai_err *err) {
    _cleanup_(state_freep) struct state *state = state_new();

    return audit_replay(log, n, state, ret_days, err);
}

int audit_replay(const struct world_entry *log, size_t n, struct state *state, int64_t *ret_days,
                 struct hai_err *err) {
    struct effects *fx = effects_new();
    struct audit a = {0};
    int r = 0;

    for (size_t i = 0; i < n && r == 0; i++) {
        if (state->r.ledger.n)
            add(&a, state, log[i].time_us);
        world_apply(state, &log[i], i + 1, fx);
        r = take_rows(&a, fx, err);
        if (r < 0)
            hai_err_prefix(err, "at entry %zu: ", i + 1);
        effects_clear(fx);
    }
    if (r == 0 && state->r.ledger.n) {
        a.open.day = state->r.time_us / LEDGER_DAY_US;
        r = compare_open(&a, state, err);
        a.n_days++;
    }
    if (ret_days)
        *ret_days = a.n_days;
    free(a.past);
    effects_free(fx);
    return r;
}
