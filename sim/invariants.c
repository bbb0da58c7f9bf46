#include "sim/invariants.h"
#include "scheduler/core/array.h"
#include "scheduler/core/fair.h"
#include "scheduler/core/hold.h"
#include "scheduler/core/order.h"
#include "scheduler/core/queue.h"
#include "scheduler/core/quota.h"
#include "scheduler/core/runners.h"
#include "scheduler/core/whyplan.h"
#include "sim/audit.h"
#include "sim/quota_rules.h"
#include "sim/touched.h"

#define FAIL(...) return hai_fail(err, -EINVAL, __VA_ARGS__)

static int check_job(const struct state *state, const struct job *job, uint32_t *gpus,
                     int64_t *cpus, struct hai_err *err) {
    int64_t id = job->r.id;
    size_t n_left = 0, n_assigned = 0;

    for (size_t i = 0; i < job->r.allocs.n; i++) {
        const struct state_alloc *alloc = &job->r.allocs.items[i];
        n_left += !alloc->gone;
        if (alloc->released && !alloc->gone)
            FAIL("job %lld released a node that is not gone", (long long)id);
        if (!alloc->released && !state_job_live(job))
            FAIL("job %lld is over and holds a node", (long long)id);
        if (alloc->released)
            continue;
        if (gpus[alloc->node] & alloc->gpus)
            FAIL("a GPU of %s is held twice, once by job %lld", state->nodes[alloc->node]->r.name,
                 (long long)id);
        gpus[alloc->node] |= (uint32_t)alloc->gpus;
        cpus[alloc->node] += job->cpus_per_node;
    }
    for (size_t i = 0; i < job->r.claim.n; i++)
        cpus[job->r.claim.items[i].node] += job->cpus_per_node;
    if (job->r.claim.n && (!job->queued || job->r.claim.n != (size_t)job->r.spec.nodes))
        FAIL("job %lld claims %zu nodes and is %s", (long long)id, job->r.claim.n,
             job_state_text(job->r.state));
    for (size_t i = 0; i < job->r.ranks.n; i++)
        n_assigned += job->r.ranks.items[i].state == RANK_STATE_ASSIGNED;
    if (n_left != job->n_left || n_assigned != job->n_assigned)
        FAIL("job %lld counts its ranks wrongly", (long long)id);
    if (n_left && (job->queued || state_job_ended(job)))
        FAIL("job %lld is %s with ranks left", (long long)id, job_state_text(job->r.state));
    if (!n_left && (job->r.state == JOB_STATE_STARTING || job->r.state == JOB_STATE_RUNNING ||
                    job->r.state == JOB_STATE_STOPPING || job->r.state == JOB_STATE_SUSPENDING))
        FAIL("job %lld is %s without ranks", (long long)id, job_state_text(job->r.state));
    if (job->r.restarts > job->r.spec.restart_max)
        FAIL("job %lld was restarted %lld times, more often than it may", (long long)id,
             (long long)job->r.restarts);
    if (n_left && job->r.allocs.n != (size_t)job->r.spec.nodes)
        FAIL("job %lld has %zu nodes, not all", (long long)id, job->r.allocs.n);
    return 0;
}

int invariants_explained(const struct state *state, struct hai_err *err) {
    for (const struct job *job = state->jobs_first; job; job = job->next) {
        struct why why;
        why_job(state, job, &why);
        if (job->queued)
            whyplan_explain(state, job, &why);
        if (!why.code[0] || !why.message[0])
            FAIL("job %lld is %s without a reason", (long long)job->r.id,
                 job_state_text(job->r.state));
    }
    return 0;
}

/* Has an earlier job of the user and name not ended? The whole list is looked through: what the
 * core derives is not trusted here. */
static bool has_earlier(const struct state *state, const struct job *job) {
    for (const struct job *one = state->jobs_first; one != job; one = one->next)
        if (!state_job_ended(one) && hai_streq(one->r.spec.name, job->r.spec.name) &&
            hai_streq(one->r.spec.user, job->r.spec.user))
            return true;
    return false;
}

static bool as_wanted(const struct entry_after *after) {
    if (after->ended == JOB_STATE_SUCCEEDED)
        return after->want != AFTER_FAILED;
    return after->want == AFTER_ANY ||
           (after->want == AFTER_FAILED && after->ended != JOB_STATE_STOPPED);
}

/* Has come true what the job waits for? In the words of job files, from the records alone. */
static int conditions(const struct state *state, const struct job *job, bool *ret,
                      struct hai_err *err) {
    const struct entry_job_spec *spec = &job->r.spec;

    *ret = (spec->not_before_us == S_ABSENT || spec->not_before_us <= state->r.time_us) &&
           !(spec->singleton == 1 && has_earlier(state, job));
    for (size_t i = 0; i < spec->after.n; i++) {
        const struct entry_after *after = &spec->after.items[i];
        const struct job *ahead = state_job_find(state, after->job);
        bool open = (int)after->ended < 0;
        if (after->job >= job->r.id)
            FAIL("job %lld waits for a later one", (long long)job->r.id);
        if (ahead ? open == state_job_ended(ahead) : open)
            FAIL("job %lld does not know how job %lld is", (long long)job->r.id,
                 (long long)after->job);
        if (!open && !as_wanted(after))
            FAIL("job %lld waits for what cannot come true", (long long)job->r.id);
        *ret &= !open;
    }
    return 0;
}

/* What an array counts, counted anew; its cap; and nothing that could be made, or ended, is left.
 */
static int check_array(const struct state *state, const struct job *array, bool met,
                       struct hai_err *err) {
    int64_t n = 0, n_open = 0, n_fresh = 0, n_ended = 0;
    int64_t cap = array->r.spec.array_cap == S_ABSENT ? INT64_MAX : array->r.spec.array_cap;
    long long id = array->r.id;

    for (size_t i = 0; i < array->r.spec.array.n; i++)
        for (int64_t k = array->r.spec.array.items[i].first; k <= array->r.spec.array.items[i].last;
             k += array->r.spec.array.items[i].step)
            n++;
    for (const struct job *job = state->jobs_first; job; job = job->next) {
        if (job->r.array != array->r.id || state_job_ended(job))
            continue;
        n_open++;
        n_fresh += job->r.attempt == 0;
        if (array_index(&array->r.spec, job->r.id - array->r.id - 1) != job->r.array_index)
            FAIL("job %lld is not the element that its id says", (long long)job->r.id);
    }
    n_ended = MAX(array->r.array_succeeded, 0) + MAX(array->r.array_failed, 0) +
              MAX(array->r.array_stopped, 0) + MAX(array->r.array_timed_out, 0);
    int64_t n_made = MAX(array->r.array_made, 0) + (int64_t)array->r.array_early.n;
    if (n != array->array->n || n_open != array->array->n_open ||
        n_fresh != array->array->n_fresh || n_made != n_open + n_ended)
        FAIL("array %lld counts its elements wrongly", id);
    if (n_open > cap)
        FAIL("array %lld has %lld elements, more than its cap", id, (long long)n_open);
    if (!met && n_open)
        FAIL("array %lld has elements before what it waits for has come true", id);
    if (n_open == 0 && (n_made == n || array->r.wanted == WANTED_STOP))
        FAIL("array %lld has no element left and has not ended", id);
    if (met && array->r.state == JOB_STATE_QUEUED && array->r.wanted == WANTED_RUN && n_made < n &&
        n_open < cap && n_fresh < ARRAY_AHEAD)
        FAIL("array %lld could have one more element", id);
    return 0;
}

/* Nothing starts before what it waits for has come true, and nothing that may start is forgotten.
 */
static int check_conditions(const struct state *state, const struct job *job, struct hai_err *err) {
    bool met;
    int r = state_job_ended(job) ? 1 : conditions(state, job, &met, err);

    if (r)
        return r;
    if (array_is(job))
        return check_array(state, job, met, err);
    if (!met && (job->queued || job->r.attempt > 0))
        FAIL("job %lld is %s before what it waits for has come true", (long long)job->r.id,
             job->queued ? "tried" : job_state_text(job->r.state));
    if (met && job->r.state == JOB_STATE_QUEUED && job->group >= 0 && !job->queued &&
        !quota_bars(state, job))
        FAIL("job %lld may start and is queued in no queue", (long long)job->r.id);
    if (!met && job->r.state == JOB_STATE_QUEUED && job->r.spec.not_before_us != S_ABSENT &&
        job->r.spec.not_before_us > state->r.time_us && !job->timer.position)
        FAIL("job %lld waits for its time and nothing will wake it", (long long)job->r.id);
    return 0;
}

static int check_queues(const struct state *state, struct hai_err *err) {
    struct queue_walk walk = {0};
    int64_t n_queued = 0, n_waiting = 0;

    queue_walk_begin(&walk, state);
    for (const struct job *job, *last = NULL; (job = queue_walk_next(&walk)); last = job) {
        n_queued++;
        if (job->queued && (!last || queue_before(last, job)))
            continue;
        queue_walk_end(&walk);
        FAIL("job %lld stands wrongly in its line", (long long)job->r.id);
    }
    queue_walk_end(&walk);
    for (const struct job *job = state->jobs_first; job; job = job->next) {
        n_waiting += job->queued;
        if (job->queued &&
            (job->tier != order_tier(state, job) || job->level != fair_level(state, job)))
            FAIL("job %lld stands in a line that is no longer its own", (long long)job->r.id);
        if (job->queued && order_backfills(state) && job->hold_s != hold_seconds(state, job))
            FAIL("job %lld is no longer taken to last %lld s", (long long)job->r.id,
                 (long long)job->hold_s);
        if (check_conditions(state, job, err) < 0)
            return -EINVAL;
        if (job->r.state == JOB_STATE_RECOVERING && !state_job_live(job) && !job->queued &&
            job->group >= 0 && !job->timer.position && !quota_bars(state, job))
            FAIL("job %lld recovers and nothing will start it", (long long)job->r.id);
    }
    if (n_queued != n_waiting || n_queued != state->queue.n)
        FAIL("%lld jobs in queues, %lld marked so", (long long)n_queued, (long long)n_waiting);
    return 0;
}

/* The GPUs that waiting jobs claim: each by one, none held by a job that does not leave it. */
static int check_claims(const struct state *state, uint32_t *claimed, struct hai_err *err) {
    int64_t n = 0;

    for (const struct job *job = state->jobs_first; job; job = job->next) {
        n += job->r.claim.n > 0;
        for (size_t i = 0; i < job->r.claim.n; i++) {
            const struct state_claim *claim = &job->r.claim.items[i];
            if (claimed[claim->node] & claim->gpus)
                FAIL("a GPU of %s is claimed twice, once by job %lld",
                     state->nodes[claim->node]->r.name, (long long)job->r.id);
            claimed[claim->node] |= (uint32_t)claim->gpus;
        }
    }
    for (const struct job *job = state->jobs_first; job; job = job->next)
        for (size_t i = 0; i < job->r.allocs.n; i++) {
            const struct state_alloc *alloc = &job->r.allocs.items[i];
            if (!alloc->released && (alloc->gpus & claimed[alloc->node]) &&
                job->r.phase == DESIRED_PHASE_RUN)
                FAIL("job %lld holds claimed GPUs of %s and was not told to leave",
                     (long long)job->r.id, state->nodes[alloc->node]->r.name);
        }
    for (const struct job *job = state->claimants; job; job = job->claimant_next)
        n--;
    if (n)
        FAIL("the list of claims is wrong by %lld", (long long)n);
    return 0;
}

/* Nodes know the reservation that is active; nobody else runs there without having been told to
 * leave; and who was placed just now has exactly its nodes. */
static int check_reserves(const struct state *state, struct hai_err *err) {
    _cleanup_free_ int64_t *reserved = hai_new_array(int64_t, (size_t)state->n_nodes);

    for (size_t i = 0; i < state->n_reserves; i++) {
        const struct state_reserve *reserve = &state->reserves[i];
        if (reserve->until_us != S_ABSENT && reserve->until_us <= state->r.time_us)
            FAIL("reservation %s is over and still there", reserve->name);
        for (size_t k = 0; k < reserve->nodes.n; k++) {
            int64_t node = reserve->nodes.items[k];
            if (reserve->from_us > state->r.time_us)
                continue;
            if (reserved[node])
                FAIL("%s is in two reservations at once", state->nodes[node]->r.name);
            reserved[node] = reserve->number;
        }
    }
    for (int i = 0; i < state->n_nodes; i++)
        if (reserved[i] != state->nodes[i]->reserved)
            FAIL("%s does not know its reservation", state->nodes[i]->r.name);
    for (const struct job *job = state->live_first; job; job = job->live_next)
        for (size_t i = 0; i < job->r.allocs.n && job->r.phase == DESIRED_PHASE_RUN; i++) {
            const struct state_alloc *alloc = &job->r.allocs.items[i];
            int64_t of = reserved[alloc->node], its = MAX(job->r.reserve, 0);
            bool new = job->r.placed_us == state->r.time_us;
            if (of != its && !alloc->gone && (of || new))
                FAIL("job %lld of reservation %lld runs on %s of %lld", (long long)job->r.id,
                     (long long)its, state->nodes[alloc->node]->r.name, (long long)of);
        }
    return 0;
}

/* Every GPU is in one class, and time was added up so. */
static int check_ledger(const struct state *state, struct hai_err *err) {
    int64_t count[LEDGER_COUNT], sum = 0, sum_us = 0;
    int64_t capacity = audit_count(state, count);

    for (int k = 0; k < LEDGER_COUNT; k++) {
        sum += count[k];
        sum_us += state->r.ledger.n ? state->r.ledger.items[k] : 0;
        if (state->ledger.gpus[k] != count[k])
            FAIL("%lld GPUs are counted as %s, of which there are %lld",
                 (long long)state->ledger.gpus[k], ledger_class_text((enum ledger_class)k),
                 (long long)count[k]);
    }
    if (sum != capacity || state->ledger.capacity != capacity)
        FAIL("%lld GPUs have a class, %lld are counted, there are %lld", (long long)sum,
             (long long)state->ledger.capacity, (long long)capacity);
    if (state->r.ledger.n && sum_us != state->r.ledger.items[LEDGER_COUNT])
        FAIL("the classes have %lld GPU-us of %lld", (long long)sum_us,
             (long long)state->r.ledger.items[LEDGER_COUNT]);
    return 0;
}

/* All jobs that run undisturbed, as they are now, those that would lose most first. */
static int check_runners(const struct state *state, struct hai_err *err) {
    int64_t last_us = 0, last_id = 0, n = 0;

    for (const struct job *job = state->live_first; job; job = job->live_next)
        n += order_runs(job);
    for (size_t i = 0; i < state->runners.n; i++) {
        const struct order_view *one = &state->runners.items[i];
        if (one->saved_us < last_us || (one->saved_us == last_us && one->id < last_id))
            FAIL("runner %lld stands behind those that would lose less", (long long)one->id);
        last_us = one->saved_us;
        last_id = one->id;
        if (!one->job)
            continue;
        struct order_view now = order_view_of(state, one->job);
        if (!order_runs(one->job) || one->id != now.id || one->began_us != now.began_us ||
            one->running_us != now.running_us || one->saved_us != now.saved_us ||
            one->gpus != now.gpus || one->position != now.position || one->gang != now.gang ||
            one->over != now.over)
            FAIL("job %lld runs otherwise than is known", (long long)one->id);
        n--;
    }
    if (n)
        FAIL("%lld more jobs run than are known to", (long long)n);
    return 0;
}

/* In the order of their ids, each found by its hash. */
static int check_tokens(const struct state *state, struct hai_err *err) {
    for (size_t i = 0; i < state->n_tokens; i++) {
        const struct state_token *token = &state->tokens[i];
        if (i && token->id <= token[-1].id)
            FAIL("token %lld is out of order", (long long)token->id);
        if (state_token_find(state, token->hash.data) != token)
            FAIL("token %lld is not found", (long long)token->id);
    }
    if (state->token_by_hash.n != state->n_tokens)
        FAIL("%zu tokens, others are found", state->n_tokens);
    return 0;
}

int invariants_state(const struct state *state, struct hai_err *err) {
    _cleanup_free_ uint32_t *claimed = hai_new_array(uint32_t, (size_t)state->n_nodes);
    _cleanup_free_ uint32_t *gpus = hai_new_array(uint32_t, (size_t)state->n_nodes);
    _cleanup_free_ int64_t *cpus = hai_new_array(int64_t, (size_t)state->n_nodes);

    for (const struct job *job = state->jobs_first; job; job = job->next) {
        int r = check_job(state, job, gpus, cpus, err);
        if (r < 0)
            return r;
    }
    int r = check_claims(state, claimed, err);
    if (r < 0)
        return r;
    for (int i = 0; i < state->n_nodes; i++) {
        const struct node *node = state->nodes[i];
        if (gpus[i] != node->gpus_held || node->cpus_free + cpus[i] != node->r.cpus)
            FAIL("%s: held and free do not add up", node->r.name);
        if (node->gpus_claimed != claimed[i])
            FAIL("%s: claims do not add up", node->r.name);
        if (node->gpus_claimed && !state_node_usable(node))
            FAIL("%s is claimed and out of service", node->r.name);
        if (node->r.state == NODE_STATE_LOST && node->n_jobs && !node->timer.position)
            FAIL("%s is lost and its ranks are held for ever", node->r.name);
    }
    r = check_reserves(state, err);
    if (r == 0)
        r = check_tokens(state, err);
    if (r == 0)
        r = check_ledger(state, err);
    if (r == 0)
        r = check_runners(state, err);
    if (r == 0)
        r = quota_rules(state, err);
    return r < 0 ? r : check_queues(state, err);
}

int invariants_nodes(const struct state *state, const struct shims *shims, struct hai_err *err) {
    for (int i = 0; i < shims->n_nodes; i++)
        for (const struct shim *shim = shims->first[i]; shim; shim = shim->next) {
            int r = touched_belief(state, shim, err);
            for (const struct shim *other = shim->next; other && r == 0; other = other->next)
                if (shim->left && other->left && (shim->gpus & other->gpus))
                    FAIL("a GPU of %s runs jobs %lld and %lld", state->nodes[i]->r.name,
                         (long long)shim->key.job, (long long)other->key.job);
            if (r < 0)
                return r;
        }
    return 0;
}

static bool same(const struct buf *a, const struct buf *b) {
    return a->n_bytes == b->n_bytes && !memcmp(a->data, b->data, a->n_bytes);
}

int invariants_replay(const struct world *w, bool audit, struct hai_err *err) {
    _cleanup_(buf_free) struct buf live = {0};
    _cleanup_(buf_free) struct buf read = {0};
    _cleanup_(buf_free) struct buf replayed = {0};
    _cleanup_(state_freep) struct state *copy = NULL;

    state_encode(w->state, &live);
    int r = state_decode(live.data, live.n_bytes, &copy, err);
    if (r < 0)
        return r;
    r = invariants_state(copy, err);
    if (r < 0)
        return r;
    state_encode(copy, &read);
    if (!same(&live, &read))
        FAIL("a snapshot read back has other bytes");
    if (quota_rules_settled(copy))
        FAIL("a snapshot read back charges jobs that were over quota");
    if (state_next_wakeup(copy) != state_next_wakeup(w->state))
        FAIL("a snapshot read back wakes at another time");
    _cleanup_(state_freep) struct state *other = state_new();
    if (audit)
        r = audit_replay(w->log, w->n_log, other, NULL, err);
    for (size_t i = 0; i < w->n_log && !audit; i++)
        world_apply(other, &w->log[i], i + 1, NULL);
    if (r < 0)
        return r;
    state_encode(other, &replayed);
    if (!same(&live, &replayed))
        FAIL("a replay of the log has other bytes");
    return 0;
}
