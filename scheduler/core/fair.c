#include "scheduler/core/fair.h"

#define SECOND INT64_C(1000000)

enum {
    DECAYS = 16, // steps of a half-life
    LOOKS = 4,   // at aging, in the time that is worth a priority
};
/* 2^(-1/DECAYS) in 65536ths. */
#define DECAY INT64_C(62757)
#define USED_MAX (INT64_MAX / 4)

static struct state_share *share_find(const struct state *state, const char *user) {
    uintptr_t at = (uintptr_t)map_get_text(&state->share_by_user, user);

    return at ? &state->shares[at - 1] : NULL;
}

int fair_level(const struct state *state, const struct job *job) {
    if (state->r.fair_share_us == S_ABSENT)
        return 0;
    const struct state_share *share = share_find(state, job->r.spec.user);
    return share ? (int)share->level : 0;
}

/* Stays where external users are at most. */
static bool is_external(const struct state *state, const struct job *job) {
    const struct state_user *user = state_user_find(state, job->r.spec.user);

    return user && user->external == 1;
}

int fair_position(const struct state *state, const struct job *job) {
    int position = state_priority_level(job->r.priority);

    if (state->r.aging_us == S_ABSENT || job->r.line_us == S_ABSENT || job->r.priority == 0 ||
        state->r.turn_us == S_ABSENT || position <= FAIR_AGED_MAX)
        return position;
    int64_t up = MAX(state->r.turn_us - job->r.line_us, 0) / state->r.aging_us;
    if (up > 0 && is_external(state, job))
        return position;
    return (int)MAX(position - up, FAIR_AGED_MAX);
}

static int64_t mean_us(const struct state *state) {
    int64_t sum_us = 0, n = 0;

    for (size_t i = 0; i < state->n_shares; i++)
        n += state->shares[i].used_us > 0;
    for (size_t i = 0; i < state->n_shares; i++)
        sum_us += state->shares[i].used_us / MAX(n, 1); // no overflow, and near enough
    return sum_us;
}

bool fair_used(const struct state *state, const char *user, int64_t *ret_us, int64_t *ret_mean_us) {
    const struct state_share *share =
        state->r.fair_share_us == S_ABSENT ? NULL : share_find(state, user);

    if (!share)
        return false;
    *ret_us = share->used_us;
    *ret_mean_us = mean_us(state);
    return true;
}

/* Turns are at multiples of these since 1970. */
static int64_t decay_us(const struct state *state) {
    return state->r.fair_share_us == S_ABSENT ? INT64_MAX : state->r.fair_share_us / DECAYS;
}

static int64_t look_us(const struct state *state) {
    return state->r.aging_us == S_ABSENT ? INT64_MAX : state->r.aging_us / LOOKS;
}

static int64_t next_multiple(int64_t time_us, int64_t step_us) {
    return step_us == INT64_MAX ? INT64_MAX : (time_us / step_us + 1) * step_us;
}

int64_t fair_next_us(const struct state *state) {
    if (state->r.turn_us == S_ABSENT)
        return INT64_MAX;
    return MIN(next_multiple(state->r.turn_us, decay_us(state)),
               next_multiple(state->r.turn_us, look_us(state)));
}

static int64_t last_turn_us(const struct state *state) {
    int64_t time_us = state->r.time_us, decay = decay_us(state), look = look_us(state);

    return MAX(time_us / decay * decay, time_us / look * look);
}

static void add_used(struct state_share *share, int64_t gpus, int64_t from_us, int64_t to_us) {
    int64_t us;

    if (gpus <= 0 || to_us <= from_us)
        return;
    if (__builtin_mul_overflow(gpus, to_us - from_us, &us)) // the clock has leapt by years
        us = USED_MAX;
    share->used_us += MIN(us, USED_MAX - share->used_us);
}

/* What a live job had since the last turn. */
static void add_job(struct state *state, const struct job *job, int64_t to_us) {
    struct state_share *share = share_find(state, job->r.spec.user);

    if (share)
        add_used(share, job->r.spec.nodes * job->r.spec.gpus_per_node,
                 MAX(job->r.placed_us, state->r.turn_us), to_us);
}

static int64_t decayed(int64_t used_us, int64_t steps) {
    for (; steps > 0 && used_us > 0; steps--)
        used_us = used_us / 65536 * DECAY + used_us % 65536 * DECAY / 65536;
    return used_us;
}

/* Less than half of the mean, up to the mean, up to twice, more. */
static int level_of(int64_t used_us, int64_t mean) {
    if (used_us < mean / 2)
        return 0;
    if (used_us <= mean)
        return 1;
    return used_us / 2 <= mean ? 2 : 3;
}

static void set_levels(struct state *state) {
    int64_t mean = mean_us(state);

    for (size_t i = 0; i < state->n_shares; i++) {
        struct state_share *share = &state->shares[i];
        share->level = share->used_us > 0 ? level_of(share->used_us, mean) : 0;
    }
}

/* Forget users who had nothing for long and have no jobs. */
static void drop_idle(struct state *state) {
    _cleanup_free_ bool *busy = hai_new_array(bool, state->n_shares + 1);
    size_t n = 0;

    for (const struct job *job = state->jobs_first; job; job = job->next) {
        struct state_share *share =
            state_job_ended(job) ? NULL : share_find(state, job->r.spec.user);
        if (share)
            busy[share - state->shares] = true;
    }
    map_free(&state->share_by_user);
    for (size_t i = 0; i < state->n_shares; i++) {
        if (state->shares[i].used_us < SECOND && !busy[i]) {
            schema_free(state_share_schema(), &state->shares[i]);
            continue;
        }
        state->shares[n++] = state->shares[i];
        map_put_text(&state->share_by_user, state->shares[n - 1].user, (void *)(uintptr_t)n);
    }
    state->n_shares = n;
}

static void add_live(struct state *state, int64_t to_us) {
    for (const struct job *job = state->jobs_first; job; job = job->next)
        if (state_job_live(job))
            add_job(state, job, to_us);
}

void fair_turn(struct state *state) {
    int64_t to_us = last_turn_us(state);
    int64_t steps = to_us / decay_us(state) - state->r.turn_us / decay_us(state);

    if (state->r.fair_share_us != S_ABSENT) {
        add_live(state, to_us);
        for (size_t i = 0; i < state->n_shares; i++)
            state->shares[i].used_us = decayed(state->shares[i].used_us, steps);
        set_levels(state);
        drop_idle(state);
    }
    state->r.turn_us = to_us;
}

void fair_enter(struct state *state, const struct job *job) {
    if (state->r.fair_share_us == S_ABSENT || state_job_ended(job) ||
        share_find(state, job->r.spec.user))
        return;
    state->shares = hai_realloc_array(state->shares, state->n_shares + 1, sizeof *state->shares);
    struct state_share *share = &state->shares[state->n_shares++];
    schema_init(state_share_schema(), share);
    share->user = hai_strdup(job->r.spec.user);
    map_put_text(&state->share_by_user, share->user, (void *)(uintptr_t)state->n_shares);
}

void fair_left(struct state *state, const struct job *job) {
    if (state->r.fair_share_us != S_ABSENT)
        add_job(state, job, state->r.time_us);
}

/* Jobs that stand in line have waited since now as far as anybody knows. */
static void begin_aging(struct state *state) {
    for (struct job *job = state->jobs_first; job; job = job->next)
        job->r.line_us = state->r.aging_us != S_ABSENT && job->queued ? state->r.time_us : S_ABSENT;
}

static void forget_shares(struct state *state) {
    for (size_t i = 0; i < state->n_shares; i++)
        schema_free(state_share_schema(), &state->shares[i]);
    state->n_shares = 0;
    map_free(&state->share_by_user);
}

void fair_set(struct state *state, int64_t fair_share_us, int64_t aging_us) {
    bool ages = (aging_us == S_ABSENT) != (state->r.aging_us == S_ABSENT);

    if (fair_share_us == state->r.fair_share_us && aging_us == state->r.aging_us)
        return;
    if (state->r.turn_us != S_ABSENT) // what was had counts, however it decays from now on
        add_live(state, state->r.time_us);
    state->r.turn_us =
        fair_share_us == S_ABSENT && aging_us == S_ABSENT ? S_ABSENT : state->r.time_us;
    state->r.aging_us = aging_us;
    state->r.fair_share_us = fair_share_us;
    if (ages)
        begin_aging(state);
    if (fair_share_us == S_ABSENT)
        forget_shares(state);
    for (const struct job *job = state->jobs_first; job; job = job->next)
        fair_enter(state, job);
}

int fair_derive(struct state *state) {
    for (size_t i = 0; i < state->n_shares; i++)
        if (map_put_text(&state->share_by_user, state->shares[i].user, (void *)(uintptr_t)(i + 1)))
            return -EBADMSG;
    return 0;
}
