/* holder.h - the agent's side of one shim: starting it, finding it again, talking with it.
 *
 * Frames of shim_proto.h over a Unix socket in the attempt's run directory. What follows from them
 * is decided elsewhere (core/reconcile.h).
 */
#pragma once
#include "agent/shim_proto.h"
#include "lib/loop.h"

struct holder;

struct holder_ops {
    // What it holds; once after hello. The ranks are in an array [state->n_ranks].
    void (*state)(struct holder *holder, const struct shim_state *state,
                  const struct shim_rank_state *ranks, void *data);
    void (*exit)(struct holder *holder, const struct shim_rank_state *rank, void *data);
    void (*gone)(struct holder *holder, void *data);
    void (*output)(struct holder *holder, const void *bytes, size_t n_bytes,
                   void *data);                        // NULL: not
    void (*closed)(struct holder *holder, void *data); // it ended, or broke the protocol
    void (*taken)(struct holder *holder, void *data);  // some of what waited; NULL: not
};

/* Start a shim with a start message (launch.h), and greet it.
 *
 * program  path of hai-shim
 * dir      run directory of the attempt, exists
 */
int holder_start(struct loop *loop, const char *program, const char *dir, const void *spec,
                 size_t spec_bytes, const struct holder_ops *ops, void *data, struct holder **ret,
                 struct hai_err *err);

/* Connect to the shim of a run directory and greet it. -ECONNREFUSED, -ENOENT: none lives. */
int holder_connect(struct loop *loop, const char *dir, const struct holder_ops *ops, void *data,
                   struct holder **ret, struct hai_err *err);

void holder_free(struct holder *holder); // the shim lives on
DEFINE_CLEANUP(struct holder *, holder_free)

/* Orders; they wait until the shim reads. Times are of CLOCK_BOOTTIME. */
void holder_lease(struct holder *holder, int64_t until_us);
void holder_term(struct holder *holder, int64_t kill_at_us);
void holder_kill(struct holder *holder);
void holder_release(struct holder *holder); // it will end: `closed` is not called
void holder_watch(struct holder *holder, int64_t rank);
void holder_stdin(struct holder *holder, const void *bytes, size_t n_bytes); // 0: end of input

/* Bytes it has not taken yet: callers of _stdin hold back above some. */
size_t holder_waiting(const struct holder *holder);
