/* reconcile.h - what an agent does about the difference between what should run and what runs.
 *
 * Pure and level-triggered: the desired set, starts, exits and acknowledgements come in, actions
 * come out. Lost, repeated or late messages do no harm, because every decision is made from the two
 * whole sets. How a thing is started, signalled or reported is the daemon's business, and so is
 * refusing desired sets of an old revision.
 *
 * Two promises live here: an (attempt, epoch) is started at most once, also across a restart of the
 * agent (the daemon makes a durable mark before it starts one, and tells of all marks after its own
 * start); and an attempt is reported gone only when none of its processes is left.
 */
#pragma once
#include "lib/pure/terms.h"

struct reconcile_key {
    int64_t job;
    int64_t attempt;
    int64_t epoch;
};

/* One attempt of a desired set. */
struct reconcile_want {
    struct reconcile_key key;
    enum desired_phase phase;
    int64_t kill_at_us;   // phase term: when SIGKILL follows, passed on as it is
    const int64_t *ranks; // global numbers
    size_t n_ranks;
};

/* How a rank ended; text is copied. */
struct reconcile_exit {
    int64_t rank;
    int exit_code; // -1: killed by signal
    int signal;    // 0: exited
    enum exit_cause cause;
    int64_t at_us;
    char *message; // NULL: none
};

/* An attempt this node holds, or has held and has not finished reporting. Read only. */
struct reconcile_hold {
    struct reconcile_key key;
    bool starting; // asked for, not yet confirmed
    bool found;    // its shim lives, or did
    bool adopted;  // an agent before this one started it
    bool gone;     // nothing of it is left
    bool started;  // its ranks were started
    int64_t started_us;
    int64_t *ranks;
    size_t n_ranks;
    struct reconcile_exit *exits;
    size_t n_exits;
    // What is in the report under way, and what the scheduler has.
    bool sent_started, sent_gone, has_started, has_gone;
    size_t n_exits_sent, n_exits_had;
    // What it was last told.
    bool wanted; // in the newest desired set
    bool termed, killed, forget;
    int64_t kill_at_us;
    struct reconcile_hold *next_of_job;
    struct reconcile_hold *next, *previous; // of all, newest first
};

#define RECONCILE_ACTIONS(P, X)                                                                    \
    X(P, START, "start")                                                                           \
    X(P, TERM, "term")                                                                             \
    X(P, KILL, "kill")                                                                             \
    X(P, RELEASE, "release")
DECLARE_ENUM(reconcile_action_kind, RECONCILE, RECONCILE_ACTIONS);

/* START: mark durably, then start wants[want]; answer with _found or _failed.
 * TERM: SIGTERM, and SIGKILL at kill_at_us. KILL: SIGKILL. RELEASE: all is recorded and the hold is
 * no more: remove its mark, files and shim. */
struct reconcile_action {
    enum reconcile_action_kind kind;
    struct reconcile_key key;
    size_t want;
    int64_t kill_at_us;
};

struct reconcile;
struct reconcile *reconcile_new(void);
void reconcile_free(struct reconcile *core);
DEFINE_CLEANUP(struct reconcile *, reconcile_free)

/* After a start of the agent: an earlier one marked this attempt as started. Before _scanned. */
void reconcile_marked(struct reconcile *core, const struct reconcile_key *key);

/* A shim lives that holds these ranks: one just started, or one found after a start of the agent.
 */
void reconcile_found(struct reconcile *core, const struct reconcile_key *key, const int64_t *ranks,
                     size_t n_ranks, int64_t started_us);

/* All shims were found. Until then no desired set is acted upon. */
void reconcile_scanned(struct reconcile *core);

/* The holds are all there is, and nothing else will be started from the newest desired set. */
bool reconcile_synced(const struct reconcile *core);

/* The whole desired set. wants must stay valid until the next call: what waits for something older
 * to be gone is started from it later. */
void reconcile_desired(struct reconcile *core, const struct reconcile_want *wants, size_t n_wants);

/* Nothing of it was started, and nothing will be. cause: START where the job itself cannot be
 * started as described, UNKNOWN where this node could not (another may). */
void reconcile_failed(struct reconcile *core, const struct reconcile_key *key,
                      enum exit_cause cause, int64_t now_us, const char *message);

/* A rank ended; a second report of the same rank is ignored. */
void reconcile_exited(struct reconcile *core, const struct reconcile_key *key,
                      const struct reconcile_exit *exit);

/* No process of it is left. */
void reconcile_gone(struct reconcile *core, const struct reconcile_key *key);

/* Its shim ended without having said how its ranks did, and no process of it is left. */
void reconcile_lost(struct reconcile *core, const struct reconcile_key *key, int64_t now_us);

/* The next thing to do; false: nothing. */
bool reconcile_next(struct reconcile *core, struct reconcile_action *ret);

/* Something is there that the scheduler does not know. */
bool reconcile_unreported(const struct reconcile *core);

/* With their last output, in hexadecimal, so many exits fit into the body of one report. */
enum { RECONCILE_EXITS_MAX = 128 };

/* One report at a time: _report marks what is unknown to the scheduler as sent (holds with sent_*
 * or n_exits_sent beyond what it had), _reported says what became of it. The last exit of an
 * attempt is told with or after its being gone. */
void reconcile_report(struct reconcile *core);
void reconcile_reported(struct reconcile *core, bool ok);

/* Walk the holds, newest first: NULL starts, NULL ends. */
const struct reconcile_hold *reconcile_walk(const struct reconcile *core,
                                            const struct reconcile_hold *after);
const struct reconcile_hold *reconcile_find(const struct reconcile *core,
                                            const struct reconcile_key *key);
