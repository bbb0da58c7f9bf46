#include "sim/people.h"

#define SECOND INT64_C(1000000)
#define PASSING_US (60 * SECOND)

static bool chance(struct people *p, int64_t n) {
    return rng_once_in(p->rng, n);
}

static int append(struct people *p, const char *principal, enum entry_kind kind,
                  const void *payload) {
    return p->append(p->userdata, principal, kind, payload);
}

static const int64_t levels[] = {50, 30, 30, 30, 10};
static int64_t any_job(struct people *p) {
    return 1 + rng_below(p->rng, MAX(p->world->state->r.next_job, 1));
}

/* What a job waits for: recent jobs or old ones, some that there are not, a turn, a time. */
static void add_conditions(struct people *p, struct entry_job_spec *spec) {
    static char *const names[] = {(char *)"sync", (char *)"eval", (char *)"pack"};

    for (int64_t n = chance(p, 4) ? 1 + rng_below(p->rng, 3) : 0; n > 0; n--) {
        struct entry_after *after = LIST_ADD(&spec->after);
        schema_init(entry_after_schema(), after);
        after->want = (enum after_want)rng_below(p->rng, AFTER_COUNT);
        after->job = any_job(p);
        if (chance(p, 2))
            after->job = MAX(p->world->state->r.next_job - 1 - rng_below(p->rng, 5), 1);
    }
    if (chance(p, 5))
        spec->name = names[rng_below(p->rng, ARRAY_SIZE(names))];
    if (spec->name && chance(p, 2))
        spec->singleton = 1;
    if (chance(p, 8))
        spec->not_before_us = p->world->now_us + rng_below(p->rng, 60 * SECOND);
}

/* A few elements, now and then more than wait at a time; with gaps, and often with a cap. */
static void make_array(struct people *p, struct entry_job_spec *spec) {
    int64_t from = rng_below(p->rng, 5);

    for (int64_t n = 1 + rng_below(p->rng, 3); n > 0; n--) {
        struct entry_range *range = LIST_ADD(&spec->array);
        range->step = 1 + rng_below(p->rng, 3);
        range->first = from;
        range->last = from + rng_below(p->rng, chance(p, 60) ? 200 : 8);
        from = range->last + 1 + rng_below(p->rng, 3);
    }
    if (chance(p, 2))
        spec->array_cap = 1 + rng_below(p->rng, 4);
    spec->nodes = 1;
}

/* Whose the job is: bob is an external user. Callers of clients.h are alice. */
static void choose_holder(struct people *p, struct entry_job_spec *spec) {
    static char *const users[] = {(char *)"alice", (char *)"bob", (char *)"carol"};
    static char *const teams[] = {(char *)"nlp", (char *)"vision"};

    if (chance(p, 3))
        spec->user = users[rng_below(p->rng, ARRAY_SIZE(users))];
    if (chance(p, 2))
        spec->team = teams[rng_below(p->rng, ARRAY_SIZE(teams))];
    if (hai_streq(spec->user, "bob") || chance(p, 4))
        spec->auto_priority = 1;
}

void people_submit(struct people *p) {
    struct entry_job_spec spec = world_spec();

    choose_holder(p, &spec);
    spec.nodes = chance(p, 2) ? 1 : 1 + rng_below(p->rng, 5);
    spec.gpus_per_node = rng_below(p->rng, 5);
    spec.ranks_per_node = 1 + rng_below(p->rng, chance(p, 3) ? 4 : 2);
    spec.priority = levels[rng_below(p->rng, ARRAY_SIZE(levels))];
    spec.cross_zones = chance(p, 3);
    spec.held = chance(p, 20);
    spec.grace_us = 1 + rng_below(p->rng, 20 * SECOND);
    spec.restart_when = chance(p, 4) ? RESTART_ALL : RESTART_FAULTS;
    spec.restart_max = rng_below(p->rng, 20);
    if (chance(p, 5))
        spec.time_limit_us = (5 + rng_below(p->rng, 60)) * SECOND;
    if (chance(p, 10))
        spec.warn_us = rng_below(p->rng, 5 * SECOND);
    if (chance(p, 6))
        spec.anti_affinity = 1;
    add_conditions(p, &spec);
    if (chance(p, 15))
        make_array(p, &spec);
    const struct state *state = p->world->state;
    if (state->n_reserves && chance(p, 4))
        spec.reservation = state->reserves[rng_below(p->rng, (int64_t)state->n_reserves)].name;
    /* Callers know their jobs by names of their own, one job a name. */
    if (spec.name || spec.array.n || spec.reservation || spec.user)
        p->n_jobs += world_submit(p->world, &spec) > 0;
    else
        p->n_jobs += clients_submit(p->clients, &spec) == 0;
    free(spec.after.items);
    free(spec.array.items);
}

static void move_some(struct people *p, int64_t id) {
    struct entry_job_set set = {
        id, S_ABSENT, S_ABSENT, NULL, (enum job_move)rng_below(p->rng, 4), any_job(p)};

    append(p, "submit:alice", ENTRY_JOB_SET, &set);
}

/* Each makes those go that have expired. */
static void add_passing_token(struct people *p) {
    uint8_t hash[DIGEST_BYTES] = {3};
    struct entry_token_create token = {
        {hash, sizeof hash},
        (char *)"bob", SCOPE_SUBMIT, p->world->now_us + PASSING_US, NULL
    };

    memcpy(hash + 1, &p->world->state->r.index, sizeof p->world->state->r.index);
    append(p, "admin:root", ENTRY_TOKEN_CREATE, &token);
}

static struct entry_quota some_quota(struct people *p) {
    static char *const names[] = {(char *)"alice", (char *)"bob", (char *)"carol", (char *)"nlp",
                                  (char *)"vision"};
    static const int64_t given[] = {50, 30, 10, 5, 0};
    int64_t n = rng_below(p->rng, ARRAY_SIZE(names) + 1);
    struct entry_quota quota = {.group = (char *)"default"};

    quota.holder = n < 3                        ? QUOTA_HOLDER_USER
                   : n < (int)ARRAY_SIZE(names) ? QUOTA_HOLDER_TEAM
                                                : QUOTA_HOLDER_EVERY;
    quota.name = quota.holder == QUOTA_HOLDER_EVERY ? NULL : names[n];
    quota.priority = given[rng_below(p->rng, ARRAY_SIZE(given))];
    quota.gpus = chance(p, 4) ? S_ABSENT : rng_below(p->rng, 24);
    return quota;
}

/* Quotas are given, changed or taken away, now and then several at once; or a user becomes external
 * or internal. */
static void change_quota(struct people *p) {
    struct entry_user_set user = {(char *)"bob", 1001, 1001, SCOPE_SUBMIT, false, chance(p, 2)};
    struct entry_quota quota = some_quota(p), more[4];
    struct entry_quota_set set = {quota.holder, quota.name, quota.group, quota.priority,
                                  quota.gpus};

    if (chance(p, 4)) {
        set.more.n = (size_t)rng_below(p->rng, ARRAY_SIZE(more)) + 1;
        set.more.items = more;
        for (size_t i = 0; i < set.more.n; i++)
            more[i] = some_quota(p);
    }
    append(p, "operate:root", ENTRY_QUOTA_SET, &set);
    if (!chance(p, 10))
        return;
    user.only = chance(p, 2) ? 0 : USER_SET_KNOWN | rng_below(p->rng, USER_SET_FIELDS + 1);
    append(p, "admin:root", ENTRY_USER_SET, &user);
    add_passing_token(p);
}

/* In strict order a job larger than its quota waits for more of it. */
void people_lift_quotas(struct people *p) {
    struct entry_quota_set set = {.gpus = S_ABSENT};

    for (bool ok = true; ok && p->world->state->n_quotas;) {
        const struct state_quota *quota = &p->world->state->quotas[0];
        set.holder = quota->holder;
        set.name = quota->name;
        set.group = quota->group;
        set.priority = quota->priority;
        ok = append(p, "operate:root", ENTRY_QUOTA_SET, &set) == 0;
    }
}

static void ask_auto(struct people *p, int64_t id) {
    struct entry_job_set set = {
        .job = id, .priority = S_ABSENT, .time_limit_us = S_ABSENT, .auto_priority = 1};

    append(p, "operate:root", ENTRY_JOB_SET, &set);
}

void people_ask(struct people *p) {
    int64_t id = any_job(p);
    struct entry_job_suspend suspend = {id};
    struct entry_job_resume resume = {id};

    switch (rng_below(p->rng, 8)) {
    case 7:
        move_some(p, id);
        break;
    case 5:
        change_quota(p);
        break;
    case 6:
        ask_auto(p, id);
        break;
    case 0:
        clients_stop(p->clients, id, chance(p, 3));
        break;
    case 1:
        append(p, "operate:root", ENTRY_JOB_SUSPEND, &suspend);
        break;
    case 2:
    case 3:
        append(p, "submit:alice", ENTRY_JOB_RESUME, &resume);
        break;
    default:
        clients_set(p->clients, id, levels[rng_below(p->rng, ARRAY_SIZE(levels))]);
    }
}

/* Overlapping ones are refused, others changed. */
void people_reserve(struct people *p) {
    static const char *const names[] = {"demo", "upgrade", "fan"};
    const struct state *state = p->world->state;
    struct entry_reserve_set set;
    char *name = (char *)names[rng_below(p->rng, ARRAY_SIZE(names))], *user = (char *)"alice";
    struct entry_reserve_remove away = {name};
    int64_t now_us = p->world->now_us;

    if (chance(p, 3)) {
        append(p, "operate:root", ENTRY_RESERVE_REMOVE, &away);
        return;
    }
    schema_init(entry_reserve_set_schema(), &set);
    set.name = name;
    if (!chance(p, 3))
        set.from_us = now_us + rng_below(p->rng, 30 * SECOND);
    if (!chance(p, 4))
        set.until_us = MAX(set.from_us, now_us) + rng_below(p->rng, 60 * SECOND);
    for (int64_t n = 1 + rng_below(p->rng, 3); n > 0; n--)
        *LIST_ADD(&set.nodes) = state->nodes[rng_below(p->rng, state->n_nodes)]->r.name;
    if (chance(p, 2))
        *LIST_ADD(&set.users) = user;
    append(p, "operate:root", ENTRY_RESERVE_SET, &set);
    free(set.nodes.items);
    free(set.users.items);
}
