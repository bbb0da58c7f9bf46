#include "scheduler/core/ledger.h"
#include "lib/pure/plant.h"

static int64_t day_of(int64_t us) {
    return us / LEDGER_DAY_US;
}

static bool is_kept(const struct state *state) {
    return state->r.ledger.n > 0;
}

/* ---- free GPUs ---- */

static int bits(uint32_t gpus) {
    return __builtin_popcount(gpus);
}

static enum ledger_class idle_class(const struct state *state, uint64_t groups) {
    return groups & state->ledger.wanted ? LEDGER_IDLE_DEMAND : LEDGER_IDLE;
}

/* The GPUs of a node that no job in service has, by class (IDLE for both kinds of idle ones), and
 * its part of the capacity. */
static void count(const struct node *node, uint8_t ret[LEDGER_COUNT], uint8_t *ret_capacity) {
    uint32_t described = node->r.removed ? 0 : (uint32_t)((UINT64_C(1) << node->r.gpus) - 1);
    int n_free = bits(described & ~node->gpus_held);

    memset(ret, 0, LEDGER_COUNT * sizeof *ret);
    *ret_capacity = (uint8_t)bits(described | node->gpus_held);
    if (node->r.state != NODE_STATE_UP)
        ret[LEDGER_UNHEALTHY] = *ret_capacity;
    else if (node->r.drained)
        ret[LEDGER_DRAINED] = (uint8_t)n_free;
    else
        ret[node->reserved ? LEDGER_RESERVED : LEDGER_IDLE] = (uint8_t)n_free;
    if (node->r.drained && HAI_PLANT(PLANT_GPU_IN_TWO_CLASSES))
        ret[LEDGER_IDLE] = (uint8_t)n_free;
}

static int64_t gpus_on(const struct job *job, int64_t node) {
    for (size_t i = 0; i < job->r.allocs.n; i++)
        if (job->r.allocs.items[i].node == node && !job->r.allocs.items[i].released)
            return bits((uint32_t)job->r.allocs.items[i].gpus);
    return 0;
}

/* ---- what jobs hold ---- */

/* The longest sums are kept at their limit: a state that cannot be read again would be worse. */
static void add_long(int64_t *sum, int64_t us) {
    int64_t old = MAX(*sum, 0); // or absent

    if (us > 0)
        *sum = us > INT64_MAX - 1 - old ? INT64_MAX - 1 : old + us;
}

static void book(struct job *job, int64_t now_us) {
    int64_t *booked = job->r.booked.items;

    if (!job->r.booked.n)
        return;
    int64_t us = (now_us - job->r.booked_us) * job->ledger_gpus;
    booked[job->ledger_class] += us;
    if (job->ledger_class == LEDGER_PRODUCTIVE)
        booked[LEDGER_UNSAVED] += us;
    if (job->ledger_class == LEDGER_RECOMPUTED)
        add_long(&job->r.recomputed_gpu_us, us);
    add_long(&job->r.used_gpu_us, us);
    job->r.booked_us = now_us;
}

/* A job that stops goes on with what it did: its last save belongs to its work. */
static enum ledger_class class_of(const struct job *job) {
    if (job->r.state == JOB_STATE_SUSPENDING)
        return LEDGER_SUSPENDED;
    if (job->r.state == JOB_STATE_RECOVERING && job->r.phase != DESIRED_PHASE_RUN)
        return LEDGER_RECOMPUTED;
    if (job->r.running_us == S_ABSENT)
        return job->r.reloads == 1 ? LEDGER_SUSPENDED : LEDGER_START_UP;
    return LEDGER_PRODUCTIVE;
}

void ledger_job(struct state *state, struct job *job) {
    enum ledger_class to = class_of(job);

    if (to == job->ledger_class)
        return;
    if (!HAI_PLANT(PLANT_BOOKED_LATE))
        book(job, state->r.time_us);
    state->ledger.gpus[job->ledger_class] -= job->ledger_gpus;
    state->ledger.gpus[to] += job->ledger_gpus;
    job->ledger_class = to;
}

static void add_gpus(struct state *state, struct job *job, int64_t gpus) {
    job->ledger_gpus += gpus;
    state->ledger.gpus[job->ledger_class] += gpus;
}

static void set_holder(struct node *node, struct job *job, bool held) {
    size_t i = 0;

    if (held) {
        if (node->n_holders == node->n_holders_max) {
            node->n_holders_max = MAX(2 * node->n_holders_max, (size_t)4);
            node->holders =
                hai_realloc_array(node->holders, node->n_holders_max, sizeof(struct job *));
        }
        node->holders[node->n_holders++] = job;
        return;
    }
    while (node->holders[i] != job)
        i++;
    node->holders[i] = node->holders[--node->n_holders];
}

static void hold(struct state *state, struct job *job, size_t alloc) {
    int number = (int)job->r.allocs.items[alloc].node;
    struct node *node = state->nodes[number];
    int64_t gpus = bits((uint32_t)job->r.allocs.items[alloc].gpus);

    if (!gpus)
        return;
    set_holder(node, job, true);
    if (node->ledger_up)
        add_gpus(state, job, gpus);
    ledger_node(state, number);
}

void ledger_hold(struct state *state, struct job *job, size_t alloc) {
    ledger_job(state, job);
    book(job, state->r.time_us);
    hold(state, job, alloc);
}

void ledger_derive(struct state *state, struct job *job, size_t alloc) {
    job->ledger_class = class_of(job);
    hold(state, job, alloc);
}

void ledger_release(struct state *state, struct job *job, size_t alloc) {
    int number = (int)job->r.allocs.items[alloc].node;
    struct node *node = state->nodes[number];
    int64_t gpus = bits((uint32_t)job->r.allocs.items[alloc].gpus);

    if (!gpus)
        return;
    book(job, state->r.time_us);
    set_holder(node, job, false);
    if (node->ledger_up)
        add_gpus(state, job, -gpus);
    ledger_node(state, number);
}

/* A node got into service, or out of it, with what jobs hold there. */
static void turn_holders(struct state *state, int number, int sign) {
    const struct node *node = state->nodes[number];

    for (size_t i = 0; i < node->n_holders; i++) {
        struct job *job = node->holders[i];
        book(job, state->r.time_us);
        add_gpus(state, job, sign * gpus_on(job, number));
    }
}

static void add_idle(struct state *state, const struct node *node, int64_t gpus) {
    struct ledger_set *set = &state->ledger.sets[node->ledger_set];

    set->idle += gpus;
    state->ledger.gpus[idle_class(state, set->groups)] += gpus;
}

void ledger_node(struct state *state, int number) {
    struct node *node = state->nodes[number];
    uint8_t now[LEDGER_COUNT], capacity;
    bool up = node->r.state == NODE_STATE_UP;

    if (up != node->ledger_up)
        turn_holders(state, number, up ? 1 : -1);
    node->ledger_up = up;
    count(node, now, &capacity);
    add_idle(state, node, now[LEDGER_IDLE] - node->ledger_gpus[LEDGER_IDLE]);
    for (int k = LEDGER_UNHEALTHY; k < LEDGER_COUNT; k++)
        state->ledger.gpus[k] += now[k] - node->ledger_gpus[k];
    memcpy(node->ledger_gpus, now, sizeof now);
    state->ledger.capacity += capacity - node->ledger_capacity;
    node->ledger_capacity = capacity;
}

static int set_of(struct ledger *ledger, uint64_t groups) {
    int i = 0;

    while (i < ledger->n_sets && ledger->sets[i].groups != groups)
        i++;
    if (i == ledger->n_sets) {
        ledger->sets = hai_realloc_array(ledger->sets, (size_t)i + 1, sizeof *ledger->sets);
        ledger->sets[ledger->n_sets++] = (struct ledger_set){groups, 0};
    }
    return i;
}

void ledger_groups(struct state *state) {
    struct ledger *ledger = &state->ledger;

    for (int k = LEDGER_IDLE; k < LEDGER_COUNT; k++)
        ledger->gpus[k] = 0;
    ledger->capacity = 0;
    ledger->n_sets = 0;
    for (int i = 0; i < state->n_nodes; i++) {
        struct node *node = state->nodes[i];
        memset(node->ledger_gpus, 0, sizeof node->ledger_gpus);
        node->ledger_capacity = 0;
        node->ledger_set = set_of(ledger, node->groups);
        ledger_node(state, i);
    }
}

/* ---- who waits ---- */

static void want(struct state *state, int group, bool wanted) {
    struct ledger *ledger = &state->ledger;
    uint64_t bit = UINT64_C(1) << group, before = ledger->wanted;

    ledger->wanted = wanted ? before | bit : before & ~bit;
    for (int i = 0; i < ledger->n_sets; i++) {
        const struct ledger_set *set = &ledger->sets[i];
        int64_t turned = !!(set->groups & ledger->wanted) - !!(set->groups & before);
        ledger->gpus[LEDGER_IDLE_DEMAND] += turned * set->idle;
        ledger->gpus[LEDGER_IDLE] -= turned * set->idle;
    }
}

void ledger_wait(struct state *state, const struct place_need *need, int n) {
    int64_t *waiting = &state->ledger.waiting[need->group];

    if (!need->gpus_per_node || need->reserve) // in a reservation it waits for reserved nodes
        return;
    *waiting += n;
    if (*waiting == MAX(n, 0)) // the first one came, or the last one left
        want(state, need->group, n > 0);
}

/* ---- attempts ---- */

void ledger_open(struct state *state, struct job *job) {
    if (!is_kept(state) || !job->r.spec.gpus_per_node)
        return;
    job->r.booked.items = hai_new_array(int64_t, LEDGER_BOOKS);
    job->r.booked.n = LEDGER_BOOKS;
    job->r.booked_us = state->r.time_us;
}

/* Move GPU time of today that was booked as productive. */
static void move(struct state *state, struct job *job, enum ledger_class to, int64_t us) {
    job->r.booked.items[LEDGER_PRODUCTIVE] -= us;
    job->r.booked.items[to] += us;
    state->r.ledger.items[LEDGER_PRODUCTIVE] -= us;
    state->r.ledger.items[to] += us;
    if (to == LEDGER_RECOMPUTED)
        add_long(&job->r.recomputed_gpu_us, us);
}

void ledger_saved(struct state *state, struct job *job, int64_t stall_us) {
    if (!job->r.booked.n)
        return;
    book(job, state->r.time_us);
    job->r.booked.items[LEDGER_UNSAVED] = 0;
    if (stall_us == S_ABSENT)
        return;
    stall_us = MIN(stall_us, LEDGER_DAY_US) * job->ledger_gpus;
    if (stall_us > 0)
        move(state, job, LEDGER_STALLED, MIN(stall_us, job->r.booked.items[LEDGER_PRODUCTIVE]));
}

static void emit(const struct job *job, int64_t day, struct effects *fx) {
    int64_t sum = 0;

    for (int k = 0; k < LEDGER_JOB_CLASSES; k++)
        sum += job->r.booked.items[k];
    if (sum)
        effects_usage(fx, job, day, job->r.booked.items);
}

void ledger_close(struct state *state, struct job *job, bool again, struct effects *fx) {
    if (!job->r.booked.n)
        return;
    book(job, state->r.time_us);
    if (again)
        move(state, job, LEDGER_RECOMPUTED, job->r.booked.items[LEDGER_UNSAVED]);
    if (job->r.state == JOB_STATE_SUSPENDING && job->r.started_us != S_ABSENT)
        job->r.reloads = 1;
    emit(job, day_of(state->r.time_us), fx);
    free(job->r.booked.items);
    job->r.booked.items = NULL;
    job->r.booked.n = 0;
    job->r.booked_us = S_ABSENT;
}

bool ledger_sound(const struct state *state, const struct job *job) {
    if (!job->r.booked.n)
        return job->r.booked_us == S_ABSENT;
    return is_kept(state) && job->r.booked.n == LEDGER_BOOKS && job->r.booked_us != S_ABSENT &&
           job->r.booked_us <= state->r.time_us &&
           day_of(job->r.booked_us) == day_of(state->r.time_us);
}

/* ---- time ---- */

static void integrate(struct state *state, int64_t us) {
    for (int k = 0; k < LEDGER_COUNT; k++)
        state->r.ledger.items[k] += us * state->ledger.gpus[k];
    state->r.ledger.items[LEDGER_COUNT] += us * state->ledger.capacity;
}

static void day_row(const struct state *state, int64_t day, struct ledger_day *ret) {
    ret->day = day;
    memcpy(ret->gpu_us, state->r.ledger.items, sizeof ret->gpu_us);
    ret->capacity_us = state->r.ledger.items[LEDGER_COUNT];
}

/* The day ends at end_us; what is counted from then on begins at from_us. */
static void close_day(struct state *state, int64_t end_us, int64_t from_us, struct effects *fx) {
    int64_t day = day_of(end_us) - 1;
    struct ledger_day row;

    for (struct job *job = state->live_first; job; job = job->live_next) {
        if (!job->r.booked.n)
            continue;
        book(job, end_us);
        emit(job, day, fx);
        memset(job->r.booked.items, 0, LEDGER_BOOKS * sizeof *job->r.booked.items);
        job->r.booked_us = from_us;
    }
    day_row(state, day, &row);
    effects_day(fx, &row);
    memset(state->r.ledger.items, 0, (LEDGER_COUNT + 1) * sizeof *state->r.ledger.items);
}

void ledger_pass(struct state *state, int64_t last_us, struct effects *fx) {
    int64_t now_us = state->r.time_us, today = day_of(now_us);

    if (!is_kept(state))
        return;
    while (day_of(last_us) != today) {
        int64_t end_us = (day_of(last_us) + 1) * LEDGER_DAY_US;
        int64_t from_us = MAX(end_us, (today - LEDGER_GAP_DAYS_MAX) * LEDGER_DAY_US);
        integrate(state, end_us - last_us);
        close_day(state, end_us, from_us, fx);
        last_us = from_us;
    }
    integrate(state, now_us - last_us);
}

void ledger_begin(struct state *state) {
    if (is_kept(state))
        return;
    state->r.ledger.items = hai_new_array(int64_t, LEDGER_COUNT + 1);
    state->r.ledger.n = LEDGER_COUNT + 1;
    for (struct job *job = state->live_first; job; job = job->live_next)
        ledger_open(state, job);
}

/* ---- readers ---- */

static void peek_job(const struct job *job, int64_t from_us, int64_t until_us, bool first,
                     const struct ledger_peek *peek) {
    int64_t gpu_us[LEDGER_JOB_CLASSES] = {0}, sum = 0;

    if (first) {
        memcpy(gpu_us, job->r.booked.items, sizeof gpu_us);
        from_us = job->r.booked_us;
    }
    gpu_us[job->ledger_class] += (until_us - from_us) * job->ledger_gpus;
    for (int k = 0; k < LEDGER_JOB_CLASSES; k++)
        sum += gpu_us[k];
    if (sum)
        peek->on_job(peek->data, job, day_of(from_us), gpu_us);
}

static void peek_day(const struct state *state, int64_t from_us, int64_t until_us, bool first,
                     const struct ledger_peek *peek) {
    struct ledger_day row = {.day = day_of(from_us)};

    for (const struct job *job = state->live_first; job; job = job->live_next)
        if (job->r.booked.n && peek->on_job)
            peek_job(job, from_us, until_us, first, peek);
    if (first)
        day_row(state, row.day, &row);
    for (int k = 0; k < LEDGER_COUNT; k++)
        row.gpu_us[k] += (until_us - from_us) * state->ledger.gpus[k];
    row.capacity_us += (until_us - from_us) * state->ledger.capacity;
    if (peek->on_day)
        peek->on_day(peek->data, &row);
}

void ledger_peek(const struct state *state, int64_t until_us, const struct ledger_peek *peek) {
    int64_t from_us = state->r.time_us;

    if (!is_kept(state))
        return;
    until_us = MAX(until_us, from_us);
    for (bool first = true; first || from_us < until_us; first = false) {
        int64_t end_us = MIN((day_of(from_us) + 1) * LEDGER_DAY_US, until_us);
        peek_day(state, from_us, end_us, first, peek);
        from_us = end_us;
        if (day_of(until_us) - day_of(from_us) > LEDGER_GAP_DAYS_MAX)
            from_us = (day_of(until_us) - LEDGER_GAP_DAYS_MAX) * LEDGER_DAY_US;
    }
}

void ledger_used(const struct job *job, int64_t now_us, int64_t *ret_used_us,
                 int64_t *ret_recomputed_us) {
    int64_t us = job->r.booked.n ? MAX(now_us - job->r.booked_us, 0) * job->ledger_gpus : 0;

    *ret_used_us = MAX(job->r.used_gpu_us, 0);
    *ret_recomputed_us = MAX(job->r.recomputed_gpu_us, 0);
    add_long(ret_used_us, us);
    if (job->ledger_class == LEDGER_RECOMPUTED)
        add_long(ret_recomputed_us, us);
}
