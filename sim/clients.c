#include "sim/clients.h"
#include "lib/pure/plant.h"

#include <stdio.h>

enum { PATIENCE_US = 2 * 1000 * 1000, KEY_NAME_BYTES = 32 };

#define FAIL(...) return hai_fail(err, -EINVAL, __VA_ARGS__)

void clients_init(struct clients *c, struct world *world, struct rng *rng) {
    *c = (struct clients){.world = world, .rng = rng};
}

void clients_free(struct clients *c) {
    for (size_t i = 0; i < c->n; i++)
        free(c->ops[i].spec.after.items);
    free(c->ops);
    *c = (struct clients){0};
}

static void name_of(const struct clients_op *op, char ret[static KEY_NAME_BYTES]) {
    (void)snprintf(ret, KEY_NAME_BYTES, "k%lld", (long long)op->key);
}

/* ---- promises ---- */

static int check_submitted(const struct clients *c, const struct clients_op *op,
                           struct hai_err *err) {
    const struct job *job = state_job_find(c->world->state, op->job);
    char name[KEY_NAME_BYTES];

    name_of(op, name);
    if (!job && c->world->state->n_ended < JOBS_ENDED_KEPT)
        FAIL("job %lld was acknowledged and is not there", (long long)op->job);
    if (job && !hai_streq(job->r.spec.name, name))
        FAIL("job %lld is not that of key %s, whose caller was told so", (long long)op->job, name);
    return 0;
}

/* Of the jobs of one key there is one, and if its caller was told an id it has that. */
static int check_keys(const struct clients *c, struct hai_err *err) {
    _cleanup_free_ int64_t *ids = hai_new_array(int64_t, c->n + 1);

    for (const struct job *job = c->world->state->jobs_first; job; job = job->next) {
        int64_t key = job->r.spec.name[0] == 'k' ? strtoll(job->r.spec.name + 1, NULL, 10) : 0;
        if (key < 1 || key > (int64_t)c->n)
            continue;
        const struct clients_op *op = &c->ops[key - 1];
        if (ids[key])
            FAIL("key k%lld made jobs %lld and %lld", (long long)key, (long long)ids[key],
                 (long long)job->r.id);
        if (op->done && op->r >= 0 && op->job != job->r.id)
            FAIL("key k%lld made job %lld, and its caller was told %lld", (long long)key,
                 (long long)job->r.id, (long long)op->job);
        ids[key] = job->r.id;
    }
    return 0;
}

static int check_stopped(const struct clients *c, const struct clients_op *op,
                         struct hai_err *err) {
    const struct job *job = state_job_find(c->world->state, op->job);

    if (job && !state_job_ended(job) && job->r.wanted != WANTED_STOP && (int)job->r.outcome < 0)
        FAIL("the stop of job %lld was acknowledged and it is %s", (long long)op->job,
             job_state_text(job->r.state));
    return 0;
}

/* The value is this one's unless another change came later or overlaps it. */
static int check_set(const struct clients *c, const struct clients_op *op, struct hai_err *err) {
    const struct job *job = state_job_find(c->world->state, op->job);

    /* Elements have the priority of their array as well; an operator may have said auto since. */
    if (!job || job->r.priority == op->value || job->r.array != S_ABSENT ||
        job->r.spec.auto_priority == 1)
        return 0;
    for (size_t i = 0; i < c->n; i++) {
        const struct clients_op *other = &c->ops[i];
        bool over = other->done && other->done_us < op->begun_us;
        if (other->kind == CLIENTS_SET && other->job == op->job && !over &&
            other->value == job->r.priority)
            return 0;
    }
    FAIL("priority %lld of job %lld was acknowledged and it is %lld", (long long)op->value,
         (long long)op->job, (long long)job->r.priority);
}

static int check_op(const struct clients *c, const struct clients_op *op, struct hai_err *err) {
    if (!op->done || op->r < 0)
        return 0;
    if (op->kind == CLIENTS_SUBMIT)
        return check_submitted(c, op, err);
    return op->kind == CLIENTS_STOP ? check_stopped(c, op, err) : check_set(c, op, err);
}

int clients_check(const struct clients *c, struct hai_err *err) {
    int r = c->err.r;

    if (r < 0)
        *err = c->err;
    if (r == 0)
        r = check_keys(c, err);
    for (size_t i = 0; i < c->n && r == 0; i++)
        r = check_op(c, &c->ops[i], err);
    return r;
}

/* ---- requests and answers ---- */

static int append_submit(struct clients *c, const struct clients_op *op) {
    uint8_t key_hash[KEY_HASH_BYTES] = {0}, digest[KEY_HASH_BYTES] = {1};
    char name[KEY_NAME_BYTES];
    struct rng mix = {(uint64_t)op->key}; // the first bytes of a hash are as good as random
    uint64_t h = rng_u64(&mix);
    struct entry_job_submit submit = {
        .job = op->spec,
        .key_hash = {key_hash, sizeof key_hash},
        .body_digest = {digest,   sizeof digest  },
    };

    memcpy(key_hash, &h, sizeof h);
    name_of(op, name);
    submit.job.user = (char *)"alice";
    submit.job.group = (char *)"default";
    submit.job.name = name;
    return world_append(c->world, "submit:alice", ENTRY_JOB_SUBMIT, &submit);
}

static int append_op(struct clients *c, const struct clients_op *op) {
    struct entry_job_stop stop = {op->job, op->force, NULL};
    struct entry_job_set set = {op->job, op->value, S_ABSENT, NULL};

    if (op->kind == CLIENTS_SUBMIT)
        return append_submit(c, op);
    if (op->kind == CLIENTS_STOP)
        return world_append(c->world, "submit:alice", ENTRY_JOB_STOP, &stop);
    return world_append(c->world, "submit:alice", ENTRY_JOB_SET, &set);
}

static void answer(struct clients *c, struct clients_op *op) {
    op->sent = false;
    op->done = true;
    op->done_us = c->world->now_us;
    if (op->kind == CLIENTS_SUBMIT)
        op->job = op->id;
    if (c->err.r == 0)
        check_op(c, op, &c->err);
}

static int ask(struct clients *c, size_t at) {
    struct clients_op *op = &c->ops[at];

    op->r = append_op(c, op);
    op->id = c->world->reply.id;
    op->sent = true;
    if (HAI_PLANT(PLANT_EARLY_REPLY))
        answer(c, op);
    return op->r;
}

static int begin(struct clients *c, const struct clients_op *op) {
    if (c->n == c->n_max) {
        c->n_max = MAX(2 * c->n_max, (size_t)64);
        c->ops = hai_realloc_array(c->ops, c->n_max, sizeof *c->ops);
    }
    c->ops[c->n] = *op;
    c->ops[c->n].begun_us = c->world->now_us;
    c->ops[c->n].key = (int64_t)c->n + 1;
    return ask(c, c->n++);
}

int clients_submit(struct clients *c, const struct entry_job_spec *spec) {
    struct clients_op op = {.kind = CLIENTS_SUBMIT, .spec = *spec};
    size_t n = spec->after.n;

    op.spec.after.items = n ? hai_new_array(struct entry_after, n) : NULL;
    if (n)
        memcpy(op.spec.after.items, spec->after.items, n * sizeof *spec->after.items);
    return begin(c, &op);
}

int clients_stop(struct clients *c, int64_t job, bool force) {
    return begin(c, &(struct clients_op){.kind = CLIENTS_STOP, .job = job, .force = force});
}

int clients_set(struct clients *c, int64_t job, int64_t priority) {
    return begin(c, &(struct clients_op){.kind = CLIENTS_SET, .job = job, .value = priority});
}

/* A submission that was answered long ago arrives once more. */
static void repeat_old(struct clients *c) {
    struct clients_op *op = &c->ops[rng_below(c->rng, (int64_t)c->n)];

    if (op->kind != CLIENTS_SUBMIT || !op->done || op->r < 0)
        return;
    int r = append_submit(c, op);
    if (c->err.r == 0 && (r < 0 || c->world->reply.id != op->job || !c->world->reply.repeated))
        hai_fail(&c->err, -EINVAL, "key k%lld came again: job %lld, %d, not job %lld",
                 (long long)op->key, (long long)c->world->reply.id, r, (long long)op->job);
}

void clients_retry(struct clients *c) {
    for (size_t i = c->first_open; i < c->n; i++)
        if (!c->ops[i].done && !c->ops[i].sent && c->ops[i].at_us <= c->world->now_us) {
            c->n_retries++;
            ask(c, i);
        }
    if (c->n && rng_once_in(c->rng, 60))
        repeat_old(c);
}

static void miss(struct clients *c, struct clients_op *op) {
    op->sent = false;
    op->at_us = c->world->now_us + rng_below(c->rng, PATIENCE_US);
    c->n_lost++;
}

void clients_commit(struct clients *c) {
    for (size_t i = c->first_open; i < c->n; i++) {
        struct clients_op *op = &c->ops[i];
        if (op->sent && rng_once_in(c->rng, 10))
            miss(c, op);
        else if (op->sent)
            answer(c, op);
    }
    while (c->first_open < c->n && c->ops[c->first_open].done)
        c->first_open++;
}

void clients_crash(struct clients *c) {
    for (size_t i = c->first_open; i < c->n; i++)
        if (c->ops[i].sent)
            miss(c, &c->ops[i]);
}
