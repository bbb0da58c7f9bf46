#include "agent/core/reconcile.h"
#include "lib/pure/map.h"
#include "lib/pure/plant.h"
#include <stdio.h>

DEFINE_ENUM(reconcile_action_kind, RECONCILE, RECONCILE_ACTIONS);

struct reconcile {
    struct map jobs; // job -> its newest hold
    struct reconcile_hold *first;
    const struct reconcile_want *wants;
    size_t n_wants;
    bool scanned;
    bool desired; // a set has come
    bool reporting;
    struct reconcile_action *actions;
    size_t n_actions, n_actions_max, actions_at;
};

static bool key_equal(const struct reconcile_key *a, const struct reconcile_key *b) {
    return a->job == b->job && a->attempt == b->attempt && a->epoch == b->epoch;
}

struct reconcile *reconcile_new(void) {
    return hai_new(struct reconcile);
}

static void hold_free(struct reconcile_hold *hold) {
    for (size_t i = 0; i < hold->n_exits; i++)
        free(hold->exits[i].message);
    free(hold->exits);
    free(hold->ranks);
    free(hold);
}

void reconcile_free(struct reconcile *core) {
    if (!core)
        return;
    for (struct reconcile_hold *hold = core->first, *next; hold; hold = next) {
        next = hold->next;
        hold_free(hold);
    }
    map_free(&core->jobs);
    free(core->actions);
    free(core);
}

static struct reconcile_hold *find(const struct reconcile *core, const struct reconcile_key *key) {
    struct reconcile_hold *hold = map_get(&core->jobs, key->job);

    while (hold && !key_equal(&hold->key, key))
        hold = hold->next_of_job;
    return hold;
}

const struct reconcile_hold *reconcile_find(const struct reconcile *core,
                                            const struct reconcile_key *key) {
    return find(core, key);
}

static struct reconcile_hold *hold_new(struct reconcile *core, const struct reconcile_key *key) {
    struct reconcile_hold *hold = hai_new(struct reconcile_hold);

    hold->key = *key;
    hold->next_of_job = map_put(&core->jobs, key->job, hold);
    hold->next = core->first;
    if (core->first)
        core->first->previous = hold;
    core->first = hold;
    return hold;
}

static void hold_remove(struct reconcile *core, struct reconcile_hold *hold) {
    struct reconcile_hold *of_job = map_get(&core->jobs, hold->key.job);

    if (of_job == hold && !hold->next_of_job) {
        map_remove(&core->jobs, hold->key.job);
    } else if (of_job == hold) {
        map_put(&core->jobs, hold->key.job, hold->next_of_job);
    } else {
        while (of_job->next_of_job != hold)
            of_job = of_job->next_of_job;
        of_job->next_of_job = hold->next_of_job;
    }
    if (hold->previous)
        hold->previous->next = hold->next;
    else
        core->first = hold->next;
    if (hold->next)
        hold->next->previous = hold->previous;
    hold_free(hold);
}

static void set_ranks(struct reconcile_hold *hold, const int64_t *ranks, size_t n_ranks) {
    free(hold->ranks);
    hold->ranks = hai_new_array(int64_t, n_ranks + 1);
    if (n_ranks)
        memcpy(hold->ranks, ranks, sizeof *ranks * n_ranks);
    hold->n_ranks = n_ranks;
}

static void act(struct reconcile *core, enum reconcile_action_kind kind,
                const struct reconcile_key *key, size_t want, int64_t kill_at_us) {
    if (core->n_actions == core->n_actions_max) {
        core->n_actions_max = MAX(core->n_actions_max * 2, (size_t)16);
        core->actions =
            hai_realloc_array(core->actions, core->n_actions_max, sizeof *core->actions);
    }
    core->actions[core->n_actions++] = (struct reconcile_action){kind, *key, want, kill_at_us};
}

static bool has_exited(const struct reconcile_hold *hold, int64_t rank) {
    for (size_t i = 0; i < hold->n_exits; i++)
        if (hold->exits[i].rank == rank)
            return true;
    return false;
}

static void add_exit(struct reconcile_hold *hold, const struct reconcile_exit *exit) {
    if (has_exited(hold, exit->rank))
        return;
    hold->exits = hai_realloc_array(hold->exits, hold->n_exits + 1, sizeof *exit);
    hold->exits[hold->n_exits] = *exit;
    hold->exits[hold->n_exits++].message = hai_strdup(exit->message);
}

static void exit_all(struct reconcile_hold *hold, int exit_code, int signal, enum exit_cause cause,
                     int64_t now_us, const char *message) {
    for (size_t i = 0; i < hold->n_ranks; i++)
        add_exit(hold, &(struct reconcile_exit){hold->ranks[i], exit_code, signal, cause, now_us,
                                                (char *)(uintptr_t)message});
}

/* Has the scheduler everything there is to know, so that the hold may be dropped? */
static bool all_known(const struct reconcile_hold *hold) {
    return hold->gone && hold->has_gone && hold->n_exits_had == hold->n_exits;
}

static void release_if_done(struct reconcile *core, struct reconcile_hold *hold) {
    bool unwanted = core->desired && (!hold->wanted || hold->forget);

    if (core->scanned && unwanted && !core->reporting &&
        (all_known(hold) || (hold->gone && hold->forget))) {
        act(core, RECONCILE_RELEASE, &hold->key, 0, 0);
        hold_remove(core, hold);
    }
}

/* Of another attempt or epoch of the job, is something still here? */
static bool older_is_here(const struct reconcile *core, const struct reconcile_key *key) {
    for (const struct reconcile_hold *hold = map_get(&core->jobs, key->job); hold;
         hold = hold->next_of_job)
        if (!key_equal(&hold->key, key) && !hold->gone)
            return true;
    return false;
}

/* A wanted attempt of which this node has nothing but perhaps a mark. */
static void want_absent(struct reconcile *core, size_t i, struct reconcile_hold *hold) {
    const struct reconcile_want *want = &core->wants[i];

    if (want->phase == DESIRED_PHASE_FORGET && !hold)
        return;
    if (want->phase != DESIRED_PHASE_RUN || hold) {
        // Never started, or started by an agent before us with nothing left of it: it is gone.
        bool marked = hold != NULL;
        if (!hold)
            hold = hold_new(core, &want->key);
        hold->wanted = true;
        hold->forget = want->phase == DESIRED_PHASE_FORGET;
        hold->gone = true;
        set_ranks(hold, want->ranks, want->n_ranks);
        if (marked)
            exit_all(hold, -1, 9, EXIT_CAUSE_UNKNOWN, 0,
                     "it was started before the agent was, and nothing of it is left");
        return;
    }
    if (older_is_here(core, &want->key))
        return; // starts when that is gone
    hold = hold_new(core, &want->key);
    hold->wanted = true;
    hold->starting = true;
    set_ranks(hold, want->ranks, want->n_ranks);
    act(core, RECONCILE_START, &want->key, i, 0);
}

static void want_present(struct reconcile *core, const struct reconcile_want *want,
                         struct reconcile_hold *hold) {
    hold->wanted = true;
    hold->forget = want->phase == DESIRED_PHASE_FORGET;
    if (hold->gone || want->phase == DESIRED_PHASE_RUN)
        return;
    if (want->phase == DESIRED_PHASE_TERM && !hold->killed &&
        (!hold->termed || want->kill_at_us < hold->kill_at_us)) {
        hold->termed = true;
        hold->kill_at_us = want->kill_at_us;
        act(core, RECONCILE_TERM, &hold->key, 0, want->kill_at_us);
    } else if (want->phase != DESIRED_PHASE_TERM && !hold->killed) {
        hold->killed = true;
        act(core, RECONCILE_KILL, &hold->key, 0, 0);
    }
}

/* Which holds are asked for. A mark alone that is not stands for nothing any more: it must not make
 * a newer attempt of its job wait. */
static void note_wanted(struct reconcile *core) {
    for (struct reconcile_hold *hold = core->first; hold; hold = hold->next)
        hold->wanted = false;
    for (size_t i = 0; i < core->n_wants; i++) {
        struct reconcile_hold *hold = find(core, &core->wants[i].key);
        if (hold)
            hold->wanted = true;
    }
    for (struct reconcile_hold *hold = core->first; hold; hold = hold->next)
        if (!hold->wanted && !hold->gone && !hold->found && !hold->starting &&
            !HAI_PLANT(PLANT_MARK_BLOCKS))
            hold->gone = hold->has_gone = true;
}

/* Compare the two sets and queue what follows. */
static void compare(struct reconcile *core) {
    if (!core->scanned || !core->desired)
        return;
    note_wanted(core);
    for (size_t i = 0; i < core->n_wants; i++) {
        struct reconcile_hold *hold = find(core, &core->wants[i].key);
        if (hold && (hold->found || hold->starting || hold->gone))
            want_present(core, &core->wants[i], hold);
        else
            want_absent(core, i, hold);
    }
    for (struct reconcile_hold *hold = core->first, *next; hold; hold = next) {
        next = hold->next;
        if (!hold->wanted && !hold->gone && !hold->killed) {
            hold->killed = true;
            act(core, RECONCILE_KILL, &hold->key, 0, 0);
        }
        release_if_done(core, hold);
    }
}

void reconcile_marked(struct reconcile *core, const struct reconcile_key *key) {
    assert(!core->scanned);
    if (!find(core, key))
        hold_new(core, key);
}

void reconcile_found(struct reconcile *core, const struct reconcile_key *key, const int64_t *ranks,
                     size_t n_ranks, int64_t started_us) {
    struct reconcile_hold *hold = find(core, key);

    if (!hold)
        hold = hold_new(core, key);
    if (hold->gone)
        return;
    hold->adopted = !hold->starting;
    hold->starting = false;
    hold->found = hold->started = true;
    hold->started_us = started_us;
    set_ranks(hold, ranks, n_ranks);
}

void reconcile_scanned(struct reconcile *core) {
    core->scanned = true;
    compare(core);
}

bool reconcile_synced(const struct reconcile *core) {
    // What waits for something older to end may start, and be reported, before a poll that does not
    // name it arrives: the scheduler would conclude that it is gone.
    for (size_t i = 0; core->scanned && i < core->n_wants; i++)
        if (core->wants[i].phase == DESIRED_PHASE_RUN && !find(core, &core->wants[i].key))
            return false;
    return core->scanned || HAI_PLANT(PLANT_SYNCED_EARLY);
}

void reconcile_desired(struct reconcile *core, const struct reconcile_want *wants, size_t n_wants) {
    core->wants = wants;
    core->n_wants = n_wants;
    core->desired = true;
    compare(core);
}

void reconcile_failed(struct reconcile *core, const struct reconcile_key *key,
                      enum exit_cause cause, int64_t now_us, const char *message) {
    struct reconcile_hold *hold = find(core, key);

    if (!hold || hold->gone)
        return;
    exit_all(hold, 127, 0, cause, now_us, message);
    reconcile_gone(core, key);
}

void reconcile_exited(struct reconcile *core, const struct reconcile_key *key,
                      const struct reconcile_exit *exit) {
    struct reconcile_hold *hold = find(core, key);

    if (hold)
        add_exit(hold, exit);
}

void reconcile_gone(struct reconcile *core, const struct reconcile_key *key) {
    struct reconcile_hold *hold = find(core, key);

    if (!hold || hold->gone)
        return;
    hold->starting = false;
    hold->gone = true;
    compare(core); // a newer attempt of the job may have waited for this
}

void reconcile_lost(struct reconcile *core, const struct reconcile_key *key, int64_t now_us) {
    struct reconcile_hold *hold = find(core, key);

    if (!hold || hold->gone)
        return;
    exit_all(hold, -1, 9, EXIT_CAUSE_UNKNOWN, now_us, "the process that held it was killed");
    reconcile_gone(core, key);
}

bool reconcile_next(struct reconcile *core, struct reconcile_action *ret) {
    if (core->actions_at == core->n_actions) {
        core->actions_at = core->n_actions = 0;
        return false;
    }
    *ret = core->actions[core->actions_at++];
    return true;
}

/* How many exits may be told. With its last exit an attempt gives its GPUs back, so one is kept
 * back until nothing that a rank has left behind still uses them. Where an agent before us may have
 * told some, and told us not which, that one may be any of those that we have not told ourselves.
 */
static size_t tellable(const struct reconcile_hold *hold) {
    bool last = hold->n_exits && hold->n_exits >= hold->n_ranks;

    if (!last || hold->gone || HAI_PLANT(PLANT_GONE_EARLY))
        return hold->n_exits;
    if (hold->adopted && !hold->n_exits_had && !HAI_PLANT(PLANT_ADOPTED_TOLD))
        return 0;
    return hold->n_exits - 1;
}

static bool unreported(const struct reconcile_hold *hold) {
    return (hold->started && !hold->has_started) || tellable(hold) > hold->n_exits_had ||
           (hold->gone && !hold->has_gone);
}

bool reconcile_unreported(const struct reconcile *core) {
    for (const struct reconcile_hold *hold = NULL; (hold = reconcile_walk(core, hold));)
        if (unreported(hold))
            return true;
    return false;
}

void reconcile_report(struct reconcile *core) {
    size_t left = RECONCILE_EXITS_MAX;

    assert(!core->reporting);
    core->reporting = true;
    for (struct reconcile_hold *hold = core->first; hold; hold = hold->next) {
        size_t may = tellable(hold);
        size_t n = may > hold->n_exits_had ? may - hold->n_exits_had : 0;
        n = MIN(n, left);
        left -= n;
        hold->sent_started = hold->started;
        hold->n_exits_sent = hold->n_exits_had + n;
        hold->sent_gone = hold->gone && hold->n_exits_sent == hold->n_exits;
    }
}

void reconcile_reported(struct reconcile *core, bool ok) {
    assert(core->reporting);
    core->reporting = false;
    for (struct reconcile_hold *hold = core->first, *next; hold; hold = next) {
        next = hold->next;
        if (ok) {
            hold->has_started |= hold->sent_started;
            hold->has_gone |= hold->sent_gone;
            hold->n_exits_had = MAX(hold->n_exits_had, hold->n_exits_sent);
        }
        hold->sent_started = hold->sent_gone = false;
        hold->n_exits_sent = 0;
        release_if_done(core, hold);
    }
}

const struct reconcile_hold *reconcile_walk(const struct reconcile *core,
                                            const struct reconcile_hold *after) {
    return after ? after->next : core->first;
}
