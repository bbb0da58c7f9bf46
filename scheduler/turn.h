/* turn.h - the one path of every change: input, log, commit, apply, reply, decide.
 *
 * Inputs (requests, reports, timers) and proposals of the core are collected; turn_run appends them
 * to the log as one batch, applies them once they are committed, answers, and lets the core decide
 * what to propose for the next batch. Nothing else changes the state. Opening a turn restores the
 * state from the newest sound snapshot and the log behind it.
 *
 * Knows no HTTP and no event loop: the daemon calls turn_run at the end of its loop's turns.
 */
#pragma once
#include "scheduler/core/core.h"
#include "scheduler/store/log_sqlite.h"

struct turn;

/* What became of an appended input: r 0 or why it was refused (apply.h); -EIO if it could not be
 * saved, and then nothing happened. reply is valid during the call. */
typedef void (*turn_reply_fn)(void *data, int64_t index, int r, const struct apply_reply *reply);

/* on_applied  called after each batch was applied, before its replies: wake watchers, agents
 * on_again    turn_run has left work for another call: make one soon */
struct turn_hooks {
    void (*on_applied)(void *data, const struct effects *fx, int64_t index);
    void (*on_again)(void *data);
    void *data;
};

struct turn_stats {
    int64_t n_entries;
    int64_t n_commits;
    int64_t n_failed; // commits that failed
    int64_t longest_commit_us;
    int64_t n_replayed; // entries applied at the start
};

/* The store must outlive the turn; its outstanding rows are the turn's. Errors: what the store and
 * the state's decoding give; -EBADMSG where snapshots and log do not fit together. */
int turn_open(struct store *store, const struct turn_hooks *hooks, struct turn **ret,
              struct hai_err *err);
void turn_close(struct turn *turn); // writes outstanding rows
DEFINE_CLEANUP(struct turn *, turn_close)

/* Collect an input. payload is a struct of entries.def for the kind, encoded at once. fn may be
 * NULL. */
void turn_append(struct turn *turn, enum entry_kind kind, const void *payload,
                 const char *principal, turn_reply_fn fn, void *data);

/* Commit and apply what was collected. Cheap when there is nothing. */
void turn_run(struct turn *turn);

/* When turn_run must be called at the latest for something that is due by itself, in the time of
 * turn_now_us; INT64_MAX: not before the next input. */
int64_t turn_due_us(const struct turn *turn);

/* The log's clock: wall time at the start, never before the newest entry, counted on as
 * CLOCK_BOOTTIME does. */
int64_t turn_now_us(const struct turn *turn);

const struct state *turn_state(const struct turn *turn);
struct rows *turn_rows(const struct turn *turn);
struct entry_log *turn_log(const struct turn *turn);
struct turn_stats turn_stats(const struct turn *turn);

/* SHA-256 of the canonical state as it is now. */
void turn_digest(const struct turn *turn, uint8_t ret[static DIGEST_BYTES]);

/* During a reply: how many entries were committed together, and the nodes on which a proposal just
 * made will start a job ("a1, a2" added to ret). */
size_t turn_batch_size(const struct turn *turn);
bool turn_placed_next(const struct turn *turn, int64_t job, struct buf *ret);
