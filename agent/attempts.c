#include "agent/attempts.h"
#include "agent/procs.h"
#include "agent/rankhub.h"
#include "agent/rankstream.h"
#include "lib/fileio.h"
#include "lib/json_schema.h"
#include "lib/log.h"
#include "lib/timefmt.h"
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    END_WAIT_US = 20000,        // in one look at the processes of a shim that was killed
    END_AGAIN_US = 200000,      // until the next
    GRACE_UNTOLD_US = 30000000, // from SIGTERM to SIGKILL where the scheduler names no time
    LEASE_STEPS = 200,          // a shim is told of a lease that is longer by such a part of it
};

static bool key_equal(const struct reconcile_key *a, const struct reconcile_key *b) {
    return a->job == b->job && a->attempt == b->attempt && a->epoch == b->epoch;
}

struct attempt *attempts_find(struct agentd *a, const struct reconcile_key *key) {
    for (size_t i = 0; i < a->n_attempts; i++)
        if (key_equal(&a->attempts[i]->key, key))
            return a->attempts[i];
    return NULL;
}

struct attempt *attempts_find_job(struct agentd *a, int64_t job, int64_t attempt) {
    struct attempt *newest = NULL;

    for (size_t i = 0; i < a->n_attempts; i++) {
        struct attempt *at = a->attempts[i];
        if (at->key.job == job && (!attempt || at->key.attempt == attempt) &&
            (!newest || at->key.attempt > newest->key.attempt ||
             (at->key.attempt == newest->key.attempt && at->key.epoch > newest->key.epoch)))
            newest = at;
    }
    return newest;
}

static struct attempt *attempt_new(struct agentd *a, const struct reconcile_key *key) {
    struct attempt *at = hai_new(struct attempt);

    at->agentd = a;
    at->key = *key;
    at->dir = hai_asprintf("%s/%" PRId64 ".%" PRId64 ".%" PRId64, a->config.run_dir, key->job,
                           key->attempt, key->epoch);
    // Until its shim has spoken, where it must be: it may be killed before.
    _cleanup_free_ char *cgroup =
        launch_cgroup(a->cgroups.base, key->job, key->attempt, key->epoch);
    snprintf(at->state.cgroup, sizeof at->state.cgroup, "%s", cgroup ? cgroup : "");
    if (a->n_attempts == a->n_attempts_max) {
        a->n_attempts_max = MAX(a->n_attempts_max * 2, (size_t)16);
        a->attempts = hai_realloc_array(a->attempts, a->n_attempts_max, sizeof *a->attempts);
    }
    a->attempts[a->n_attempts++] = at;
    return at;
}

static void attempt_free(struct attempt *at) {
    struct agentd *a = at->agentd;

    for (size_t i = 0; i < a->n_attempts; i++)
        if (a->attempts[i] == at)
            a->attempts[i] = a->attempts[--a->n_attempts];
    loop_source_free(at->ending);
    rankhub_free(at->hub);
    holder_free(at->holder);
    schema_free(desired_attempt_schema(), &at->desired);
    schema_free(job_spec_schema(), &at->spec);
    free(at->dir);
    free(at);
}

void attempts_free(struct agentd *a) {
    while (a->n_attempts)
        attempt_free(a->attempts[0]);
    free(a->attempts);
}

/* Remove what lies on disk. A scratch directory may be large: a child does that. */
static void remove_files(struct agentd *a, const struct reconcile_key *key, const char *dir) {
    static const char *const names[] = {"shim.sock", "rank.sock"};

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        _cleanup_free_ char *path = hai_asprintf("%s/%s", dir, names[i]);
        unlink(path);
    }
    if (rmdir(dir) < 0 && errno != ENOENT)
        log_warning("%s: %m", dir);
    _cleanup_free_ char *scratch = hai_asprintf("%s/%" PRId64 ".%" PRId64 ".%" PRId64,
                                                a->scratch_dir, key->job, key->attempt, key->epoch);
    if (rmdir(scratch) == 0 || errno == ENOENT)
        return;
    pid_t pid = fork();
    if (pid == 0) {
        // Nothing of ours stays open there: our lock and port must be free for the next agent.
        close_range(STDERR_FILENO + 1, ~0U, 0);
        _exit(fileio_remove_tree(scratch, NULL) < 0);
    }
}

/* ---- what shims say ---- */

static void note_exit(struct attempt *at, const struct shim_rank_state *rank) {
    struct reconcile_exit exit = {
        .rank = rank->rank,
        .exit_code = rank->code == CLD_EXITED ? rank->status : -1,
        .signal = rank->code == CLD_EXITED ? 0 : rank->status,
        .cause = (enum exit_cause)MIN(rank->cause, (uint32_t)EXIT_CAUSE_UNKNOWN),
        .at_us = rank->at_us,
        .message = rank->message[0] ? (char *)(uintptr_t)rank->message : NULL,
    };

    reconcile_exited(at->agentd->core, &at->key, &exit);
}

static void adopted(struct attempt *at) {
    struct agentd *a = at->agentd;

    if (!at->adopting)
        return;
    at->adopting = false;
    if (--a->n_adopting == 0)
        reconcile_scanned(a->core);
}

/* Look once at what is left of an attempt outside its shim, and kill it. Returns whether something
 * still is. */
static bool is_left(const struct attempt *at) {
    if (at->state.cgroup[0])
        return cgroups_end(at->state.cgroup, END_WAIT_US) < 0;
    // Without a cgroup: a PID namespace ends a little later than its shim, and of a walk's
    // processes only the ranks themselves end with it.
    _cleanup_free_ char *entry = hai_asprintf("HAI_SOCKET=%s/rank.sock", at->dir);
    return procs_end(entry, END_WAIT_US) < 0;
}

static void on_gone(struct holder *holder, void *data) {
    struct attempt *at = data;

    // A cgroup has our shells in it, the other boxes have not: no shell outlives its attempt.
    if (!at->gone && !at->state.cgroup[0] && rankstream_has_shell(at->agentd, &at->key))
        is_left(at);
    at->gone = true;
    reconcile_gone(at->agentd->core, &at->key);
}

static void on_exit_of_rank(struct holder *holder, const struct shim_rank_state *rank, void *data) {
    note_exit(data, rank);
}

static void on_state(struct holder *holder, const struct shim_state *state,
                     const struct shim_rank_state *ranks, void *data) {
    struct attempt *at = data;
    struct agentd *a = at->agentd;
    _cleanup_free_ int64_t *numbers = hai_new_array(int64_t, state->n_ranks + 1);

    at->state = *state;
    at->state.cgroup[sizeof at->state.cgroup - 1] = '\0';
    for (uint32_t i = 0; i < state->n_ranks; i++)
        numbers[i] = ranks[i].rank;
    reconcile_found(a->core, &at->key, numbers, state->n_ranks, state->started_us);
    for (uint32_t i = 0; i < state->n_ranks; i++)
        if (ranks[i].exited)
            note_exit(at, &ranks[i]);
    if (at->adopting) {
        log_write(LOG_LEVEL_NOTICE, LOG_FIELDS(.job = at->key.job, .attempt = (int)at->key.attempt),
                  "adopted job %" PRId64 " with %u ranks", at->key.job, state->n_ranks);
        rankhub_open(at);
    }
    if (state->gone)
        on_gone(holder, at);
    adopted(at);
}

/* In v1 the memory limit has a hierarchy of its own, which the shim would have cleared. */
static void remove_memory_cgroup(const struct attempt *at) {
    _cleanup_free_ char *path =
        launch_cgroup(at->agentd->cgroups.memory, at->key.job, at->key.attempt, at->key.epoch);

    if (path && rmdir(path) < 0 && errno != ENOENT)
        log_warning("%s: %m", path);
}

/* End what a dead shim held. Its GPUs are free only when nothing is left, however long a process
 * hangs in the kernel: until then it is looked at again and again. */
static void end_lost(void *data) {
    struct attempt *at = data;
    struct agentd *a = at->agentd;

    if (is_left(at)) {
        if (!at->end_told && at->ending)
            log_error("job %" PRId64 ": processes are left that do not end", at->key.job);
        at->end_told = at->ending;
        if (!at->ending)
            at->ending = loop_timer_new(a->loop, LOOP_MONOTONIC, end_lost, at);
        loop_timer_after(at->ending, END_AGAIN_US);
        return;
    }
    remove_memory_cgroup(at);
    at->gone = true;
    reconcile_lost(a->core, &at->key, timefmt_now_us());
    adopted(at);
    if (!at->holder) { // found without a shim: only its mark tells of it
        remove_files(a, &at->key, at->dir);
        attempt_free(at);
    }
}

/* The shim is no more, without having said that nothing is left. */
static void on_closed(struct holder *holder, void *data) {
    struct attempt *at = data;

    if (at->gone) {
        adopted(at);
        return;
    }
    log_write(LOG_LEVEL_WARNING, LOG_FIELDS(.job = at->key.job),
              "the shim of job %" PRId64 " is gone", at->key.job);
    end_lost(at);
}

static const struct holder_ops shim_ops = {
    .state = on_state,
    .exit = on_exit_of_rank,
    .gone = on_gone,
    .closed = on_closed,
};

/* ---- starting ---- */

static const struct desired_attempt *desired_of(struct agentd *a, const struct reconcile_key *key) {
    for (size_t i = 0; i < a->desired.desired.n; i++) {
        const struct desired_attempt *d = &a->desired.desired.items[i];
        if (d->job == key->job && d->attempt == key->attempt && d->epoch == key->epoch)
            return d;
    }
    return NULL;
}

static int set_desired(struct attempt *at, const struct desired_attempt *d, struct hai_err *err) {
    const char *text = d->spec ? d->spec : "{}";
    struct job_spec spec;

    int r = json_schema_parse(job_spec_schema(), text, strlen(text), JSON_SCHEMA_IGNORE_UNKNOWN,
                              &spec, err);
    if (r < 0)
        return hai_err_prefix(err, "the job as submitted: ");
    schema_free(job_spec_schema(), &at->spec);
    at->spec = spec;
    schema_free(desired_attempt_schema(), &at->desired);
    schema_copy(desired_attempt_schema(), &at->desired, d);
    return 0;
}

/* ret_cause: on failure, whether the job cannot be started as described or this node could not. */
static int start_shim(struct attempt *at, const struct desired_attempt *d,
                      enum exit_cause *ret_cause, struct hai_err *err) {
    struct agentd *a = at->agentd;
    _cleanup_free_ char *rank_socket = hai_asprintf("%s/rank.sock", at->dir);
    _cleanup_(buf_free) struct buf spec = {0};
    struct launch_account account;

    *ret_cause = EXIT_CAUSE_START;
    int r = set_desired(at, d, err);
    if (r < 0)
        return r;
    if (d->memory_bytes != S_ABSENT && d->memory_bytes > 0 && !a->cgroups.limits_memory)
        at->desired.memory_bytes = S_ABSENT; // nobody here can hold it to that
    accounts_get(a->accounts, (uint32_t)d->uid, (uint32_t)d->gid, d->user, &account);
    r = launch_spec(&a->launch, &account, &at->desired, &at->spec, rank_socket, a->lease_until_us,
                    &spec, err);
    if (r < 0)
        return r;
    *ret_cause = EXIT_CAUSE_UNKNOWN;
    // Ranks pass through to their socket; only root may look at the shim's.
    if (mkdir(at->dir, 0711) < 0 && errno != EEXIST)
        return hai_fail(err, -errno, "%s: %m", at->dir);
    at->state.uid = account.uid;
    at->state.gid = account.gid;
    rankhub_open(at);
    at->lease_sent_us = a->lease_until_us;
    return holder_start(a->loop, a->shim, at->dir, spec.data, spec.n_bytes, &shim_ops, at,
                        &at->holder, err);
}

static void start(struct agentd *a, const struct reconcile_key *key) {
    const struct desired_attempt *d = desired_of(a, key);
    struct hai_err err = {0};
    enum exit_cause cause;

    if (!d) // another set has come meanwhile, and the core has dealt with it
        return;
    struct attempt *at = attempt_new(a, key);
    int r = start_shim(at, d, &cause, &err);
    if (r < 0) {
        log_write(LOG_LEVEL_ERROR, LOG_FIELDS(.job = key->job),
                  "job %" PRId64 " does not start: %s", key->job, hai_err_text(&err));
        remove_files(a, key, at->dir);
        attempt_free(at);
        reconcile_failed(a->core, key, cause, timefmt_now_us(), hai_err_text(&err));
    }
}

/* ---- finding what an agent before us started ---- */

static void adopt_one(struct agentd *a, const struct reconcile_key *key) {
    struct attempt *at = attempt_new(a, key);
    struct hai_err err = {0};

    at->adopting = true;
    a->n_adopting++;
    if (holder_connect(a->loop, at->dir, &shim_ops, at, &at->holder, &err) == 0)
        return;
    end_lost(at); // no shim lives; if one was killed, something of it may be left
}

int attempts_adopt(struct agentd *a, struct hai_err *err) {
    struct reconcile_key key;
    DIR *dir = opendir(a->config.run_dir);
    int end;

    if (!dir)
        return hai_fail(err, -errno, "%s: %m", a->config.run_dir);
    a->n_adopting = 1; // ourselves, until all are found
    for (struct dirent *entry; (entry = readdir(dir));)
        if (sscanf(entry->d_name, "%" SCNd64 ".%" SCNd64 ".%" SCNd64 "%n", &key.job, &key.attempt,
                   &key.epoch, &end) == 3 &&
            !entry->d_name[end])
            adopt_one(a, &key);
    closedir(dir);
    if (--a->n_adopting == 0)
        reconcile_scanned(a->core);
    return 0;
}

/* ---- what the core wants ---- */

static void release(struct agentd *a, const struct reconcile_key *key) {
    struct attempt *at = attempts_find(a, key);

    marks_remove(a->marks, key);
    if (!at)
        return;
    if (at->holder)
        holder_release(at->holder);
    remove_files(a, key, at->dir);
    attempt_free(at);
}

/* A time by the scheduler's clock on that of the shims' deadlines: our own wall clock may be wrong
 * by more than a grace. */
static int64_t boottime_of(const struct agentd *a, int64_t at_us) {
    if (at_us == S_ABSENT)
        return timefmt_boottime_us() + GRACE_UNTOLD_US;
    if (a->clock_offset_us == S_ABSENT) // a scheduler of an earlier version
        return at_us - timefmt_now_us() + timefmt_boottime_us();
    return at_us - a->clock_offset_us;
}

static void act(struct agentd *a, const struct reconcile_action *action) {
    struct attempt *at = attempts_find(a, &action->key);

    switch (action->kind) {
    case RECONCILE_TERM:
        if (at && at->holder)
            holder_term(at->holder, boottime_of(a, action->kill_at_us));
        if (at)
            rankhub_terminate(at->hub, boottime_of(a, action->kill_at_us));
        break;
    case RECONCILE_KILL:
        if (at && at->holder)
            holder_kill(at->holder);
        break;
    case RECONCILE_RELEASE:
        release(a, &action->key);
        break;
    default:
        break;
    }
}

void attempts_act(struct agentd *a) {
    _cleanup_free_ struct reconcile_key *starts = NULL;
    struct reconcile_action action;
    struct hai_err err = {0};
    size_t n_starts;

    do { // what fails to start may let something else begin
        n_starts = 0;
        while (reconcile_next(a->core, &action)) {
            if (action.kind != RECONCILE_START) {
                act(a, &action);
                continue;
            }
            starts = hai_realloc_array(starts, n_starts + 1, sizeof *starts);
            starts[n_starts++] = action.key;
            marks_add(a->marks, &action.key);
        }
        // One write to disk for all: from here on none of them is ever started again.
        int r = n_starts ? marks_sync(a->marks, &err) : 0;
        for (size_t i = 0; i < n_starts; i++)
            if (r < 0)
                reconcile_failed(a->core, &starts[i], EXIT_CAUSE_UNKNOWN, timefmt_now_us(),
                                 hai_err_text(&err));
            else
                start(a, &starts[i]);
    } while (n_starts);
}

void attempts_free_wants(struct agentd *a) {
    for (size_t i = 0; a->wants && a->wants[i].ranks; i++)
        free((void *)(uintptr_t)a->wants[i].ranks);
    free(a->wants);
    a->wants = NULL;
}

void attempts_desired(struct agentd *a) {
    size_t n = a->desired.desired.n;
    struct reconcile_want *old = a->wants;
    struct hai_err err = {0};

    a->wants = hai_new_array(struct reconcile_want, n + 1);
    for (size_t i = 0; i < n; i++) {
        const struct desired_attempt *d = &a->desired.desired.items[i];
        int64_t *ranks = hai_new_array(int64_t, d->ranks.n + 1);
        for (size_t k = 0; k < d->ranks.n; k++)
            ranks[k] = d->ranks.items[k].rank;
        a->wants[i] = (struct reconcile_want){
            .key = {d->job, d->attempt, d->epoch},
            .phase = d->phase,
            .kill_at_us = d->kill_at,
            .ranks = ranks,
            .n_ranks = d->ranks.n,
        };
        struct attempt *at = attempts_find(a, &a->wants[i].key);
        // Within an epoch nothing of it changes but the phase, which is the core's business.
        if (at && !at->desired.job && set_desired(at, d, &err) == 0)
            rankhub_desired(at->hub);
    }
    reconcile_desired(a->core, a->wants, n);
    struct reconcile_want *new = a->wants;
    a->wants = old;
    attempts_free_wants(a);
    a->wants = new;
}

void attempts_lease(struct agentd *a, int64_t lease_us) {
    for (size_t i = 0; i < a->n_attempts; i++) {
        struct attempt *at = a->attempts[i];
        if (!at->holder || at->gone ||
            a->lease_until_us - at->lease_sent_us < lease_us / LEASE_STEPS)
            continue;
        at->lease_sent_us = a->lease_until_us;
        holder_lease(at->holder, a->lease_until_us);
    }
}
