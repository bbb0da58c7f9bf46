/* fit.h - train a network (net.h) on all ranks of a job: the outside of a training loop.
 *
 * Every rank computes its share of each step's batch, all add up their gradients in the fixed order
 * of engine/coll and make the same step of AdamW. Rank 0 saves checkpoints beside training and
 * prints progress; a run that was killed goes on from the newest one and comes to the same bits, on
 * as many ranks and the same kernel path. Under hai the node's agent hears of progress and
 * checkpoints; by hand (RANK, WORLD_SIZE, MASTER_ADDR, ... as for PyTorch, or one rank alone) it
 * works the same.
 */
#pragma once
#include "engine/net/net.h"

struct fit {
    const char *program;    // stands before what is said on stderr
    int64_t steps;          // of the whole run
    int64_t batch;          // items of a step over all ranks: a multiple of them
    int64_t every;          // steps between checkpoints; 0: only at the end and on SIGTERM
    int keep;               // complete checkpoints that stay
    struct adamw_rule rule; // the rate stays
    uint64_t seed, digest;  // of what the data are: a checkpoint of another one is refused
    const char *ckpt_dir;   // NULL: $HAI_CKPT_DIR, else none
    const char *log;        // step, loss and norm as exact hexadecimal floats, appended; or NULL
    const char *unit;       // of items, in the progress line: "windows"
    // Items number [first, first + n) of the endless row of samples: inputs and target of ret,
    // which must stay until the next call.
    void (*fill)(void *userdata, int64_t first, int64_t n, struct net_batch *ret);
    void *userdata;
};

struct fit_end {
    int64_t step;  // reached
    double loss;   // of the last step made here; NaN: none
    int signal;    // that ended the run after a checkpoint; 0: it came to its end
    bool is_first; // rank 0: who speaks for all
};

/* Train net, which is planned for training with n_items_max items at once (a larger share of a step
 * is computed in pieces), up to fit->steps. What a person should read goes to stdout (progress) and
 * stderr (what was resumed or passed over). -EINVAL: fit->batch; -ESTALE: a checkpoint of something
 * else; -EDOM: the loss is not a number; -ECONNRESET: another rank is gone, and under hai this one
 * was told to end meanwhile. */
int fit_run(struct net *net, const struct fit *fit, struct fit_end *ret, struct hai_err *err);
