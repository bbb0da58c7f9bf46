#include "scheduler/core/move.h"
#include "scheduler/core/array.h"
#include "scheduler/core/queue.h"
#include "scheduler/core/quota.h"

/* An array stands for its elements, which have places of their own. */
static bool waits(const struct job *job) {
    return !state_job_ended(job) && !state_job_live(job) && !array_is(job);
}

int move_check(struct mutate *c, const struct job *job, const struct entry_job_set *in) {
    const struct job *other = state_job_find(c->state, in->before);

    if (array_is(job))
        return hai_fail_at(&c->reply->err, -EINVAL, "array", "order", NULL,
                           "job %lld is an array; only its elements have places",
                           (long long)job->r.id);
    if (!waits(job))
        return hai_fail_at(&c->reply->err, -EINVAL, "not_waiting", "order", NULL,
                           "job %s is %s; only jobs that wait have an order",
                           array_label(&job->r).text, job_state_text(job->r.state));
    if (in->move != JOB_MOVE_BEFORE ||
        (other && waits(other) && hai_streq(other->r.spec.user, job->r.spec.user)))
        return 0;
    return hai_fail_at(&c->reply->err, -EINVAL, "not_waiting", "order", NULL,
                       "job %lld is no waiting job of %s", (long long)in->before, job->r.spec.user);
}

static int by_place(const void *pa, const void *pb) {
    int64_t a = queue_place(*(struct job *const *)pa), b = queue_place(*(struct job *const *)pb);

    return a < b ? -1 : a > b;
}

/* The user's waiting jobs in their order, the one that moves left out; all places in order. */
static size_t collect(const struct state *state, const struct job *moved, struct job ***ret,
                      int64_t **ret_places) {
    struct job **jobs = hai_new_array(struct job *, (size_t)state->n_jobs + 1);
    int64_t *places = hai_new_array(int64_t, (size_t)state->n_jobs + 1);
    size_t n = 0, n_left = 0;

    for (struct job *job = state->jobs_first; job; job = job->next)
        if (waits(job) && hai_streq(job->r.spec.user, moved->r.spec.user))
            jobs[n++] = job;
    qsort(jobs, n, sizeof *jobs, by_place);
    for (size_t i = 0; i < n; i++) {
        places[i] = queue_place(jobs[i]);
        if (jobs[i] != moved)
            jobs[n_left++] = jobs[i];
    }
    *ret = jobs;
    *ret_places = places;
    return n;
}

static void put(struct mutate *c, struct job *job, int64_t place) {
    if (queue_place(job) == place)
        return;
    queue_remove(c->state, job);
    quota_move(c->state, job, place);
    mutate_follow(c, job);
}

void move_job(struct mutate *c, struct job *job, const struct entry_job_set *in) {
    _cleanup_free_ struct job **jobs = NULL;
    _cleanup_free_ int64_t *places = NULL;
    size_t n = collect(c->state, job, &jobs, &places), at = 0;

    if (in->move == JOB_MOVE_BEFORE && in->before == job->r.id)
        return;
    while (at < n - 1 && (in->move == JOB_MOVE_LAST ||
                          (in->move == JOB_MOVE_BEFORE && jobs[at]->r.id != in->before)))
        at++;
    memmove(jobs + at + 1, jobs + at, (n - 1 - at) * sizeof(struct job *));
    jobs[at] = job;
    for (size_t i = 0; i < n; i++)
        put(c, jobs[i], places[i]);
}
