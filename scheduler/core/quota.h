/* quota.h - who holds how many GPUs within quota, and at which level a job of priority `auto` is.
 *
 * Pure. A quota (state_quota) is how many GPUs of a group a holder may hold at a priority level: a
 * user, a team, or every user without a quota of his own. The user's and the team's apply to a job
 * both; where there is none there is no limit. A job that waits for nodes or has them, and asks for
 * GPUs, is either within quota, and then charged to its accounts, or over (r.over).
 *
 * Who is charged next, when an account has room again: its jobs over quota in the order of their
 * places (queue.h): that of their ids, but where a user moved his own. The first for which this
 * account lacks room holds up those behind it; one that another account stops does not. A job
 * larger than the whole quota holds up nobody and is never charged.
 *
 * A job of priority `auto` is at the highest level whose quota has room for it, and rises as soon
 * as a higher one has. Levels above QUOTA_AUTO_PRIORITY count only where somebody was given a
 * quota: no quota means no limit, and else everything automatic would be at the top. Where it fits
 * nowhere it is over quota at the lowest level.
 *
 * Jobs with the same user, team, group and level stand in one line; a line has up to two accounts.
 * Whether a job is over is in its record; lines, accounts and what is charged follow from the
 * records: state_decode makes them again.
 */
#pragma once
#include "scheduler/core/state.h"

/* Where `auto` begins without quotas; for external users. */
enum { QUOTA_AUTO_PRIORITY = 30, QUOTA_EXTERNAL_PRIORITY = 5 };

enum { QUOTA_ACCOUNTS = 2 };

struct quota_account {
    const struct state_quota *record;
    int level;
    int64_t used;             // GPUs charged
    struct quota_line *lines; // by next[i], i being its place in the line's accounts
    int64_t n_listed;
    bool touched;
    struct quota_account *touched_next;
};

struct quota_line {
    int level;
    struct quota_account *accounts[QUOTA_ACCOUNTS]; // the user's, the team's; NULL: no limit
    struct quota_line *next[QUOTA_ACCOUNTS];
    struct quota_stand *first, *last; // ascending places
    int64_t head;                     // place of the first, INT64_MAX: nobody stands
    int64_t n;                        // jobs charged or standing, listed or not
    char key[];
};

/* A job that would be charged in a line. */
struct quota_stand {
    struct job *job;
    struct quota_line *line;
    struct quota_stand *next, *prev;
    bool listed; // false: it is larger than the whole quota
};

static inline bool quota_is_over(const struct job *job) {
    return job->r.over == 1;
}

static inline bool quota_is_auto(const struct job *job) {
    return job->r.spec.auto_priority == 1;
}

/* ---- reading ---- */

/* The quota of exactly this holder, or NULL. name: NULL for every user. */
const struct state_quota *quota_find(const struct state *state, enum quota_holder holder,
                                     const char *name, const char *group, int64_t priority);

/* GPUs charged to a user or team at a level where a quota of theirs applies. */
int64_t quota_used(const struct state *state, enum quota_holder holder, const char *name,
                   const char *group, int64_t priority);

/* GPUs that they hold there over quota: of all, by one look at what runs; then of one of them. The
 * caller frees the map. */
void quota_loans(const struct state *state, struct map *ret);
int64_t quota_borrowed(const struct map *loans, enum quota_holder holder, const char *name,
                       const char *group, int64_t priority);

/* What limits a job at a level: up to two records, with the GPUs charged to it now. Returns how
 * many. */
struct quota_limit {
    const struct state_quota *record;
    int64_t used;
    int64_t ahead; // the first job that stands before it, 0: none
};
int quota_limits(const struct state *state, const struct job *job, int64_t priority,
                 struct quota_limit ret[QUOTA_ACCOUNTS]);

/* Must it wait because it is over quota? Only where jobs share no time: nobody could send it away
 * again. */
bool quota_bars(const struct state *state, const struct job *job);

/* 0, or -EINVAL with the numbers: in strict order a job larger than every quota that it could be
 * within would never start. */
int quota_possible(const struct state *state, const struct job *job, struct hai_err *err);

bool quota_external(const struct state *state, const char *user);

/* May the user say at which level his jobs are? 0, or -EACCES: external users take what is left.
 * Operators may for them. */
int quota_may_choose(const struct state *state, const char *user, enum scope scope,
                     struct hai_err *err);

/* The priority of an automatic job that is not counted. */
int64_t quota_auto_priority(const struct state *state, const char *user);

/* Fill in whether a job that the state does not have would be over, and its priority. */
void quota_draft(const struct state *state, struct job *job);

/* ---- for apply and state_decode ---- */

bool quota_sound(const struct state *state);
void quota_levels(struct state *state);

/* A job may count now, or no more: it is charged if nobody is before it, else it stands. */
void quota_follow(struct state *state, struct job *job, bool counts);

/* It counts no more, e.g. since its priority is about to change. */
void quota_leave(struct state *state, struct job *job);

/* Its user gives it another place, which is the job of nobody else once all are moved. */
void quota_move(struct state *state, struct job *job, int64_t place);

/* A job that was read is where its record says. Then nothing is left to be settled. */
void quota_read(struct state *state, struct job *job, bool counts);
void quota_settled(struct state *state);

/* Charge the next job whose turn has come, or return NULL. The caller follows it up. */
struct job *quota_next(struct state *state);

/* Set a record, or take it away (gpus S_ABSENT); false: as before. Then quota_rebuild. */
bool quota_put(struct state *state, const struct state_quota *quota);

/* Limits changed: everything is made again. Jobs for which changed is true give back their charge,
 * to be charged anew in the order of their places, but for those that hold nodes, recover or gave
 * way. */
typedef bool (*quota_changed_fn)(const struct state *state, const struct job *job,
                                 const void *data);
void quota_rebuild(struct state *state, quota_changed_fn changed, const void *data);
