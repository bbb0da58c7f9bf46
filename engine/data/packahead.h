/* packahead.h - the samples of one rank, read from disk by a thread before they are asked for.
 *
 * What a step needs is there when it begins, as long as the disk keeps up. Memory: n_ahead samples,
 * allocated at the start. Which samples these are follows from the plan; the thread adds nothing to
 * the position of a run, which is the number of samples that all ranks have consumed.
 */
#pragma once
#include "engine/data/packing.h"

/* A step takes `batch` samples, beginning with number `first`; of each batch this rank has `share`,
 * beginning with its number `offset`. */
struct packahead_plan {
    int64_t first, batch, offset, share;
};

/* The plan of a rank when a run goes on with that sample: the batch is cut evenly, the first ranks
 * have one more where it does not divide. share is 0 where there are more ranks than samples. */
struct packahead_plan packahead_plan_of(int64_t first, int64_t batch, int rank, int world);

/* The global index of sample n (from 0) of a plan with a share. */
int64_t packahead_index(const struct packahead_plan *plan, int64_t n);

struct packahead_sample {
    int64_t index;
    const int32_t *ids;       // [n_window]
    const int32_t *seq_start; // [n_seqs + 1]
    int n_seqs;
};

struct packahead;

/* Begin to read. p stays the caller's, and open until packahead_free. n_ahead: 1 or more. -EAGAIN
 * and the like: no thread could be started. */
int packahead_new(const struct packing *p, const struct packahead_plan *plan, int n_ahead,
                  struct packahead **ret, struct hai_err *err);

/* The next sample of the plan, valid until the next call; waits until it is there. Errors as of
 * packing_read: the same sample is tried again by the call after it. One thread at a time. */
int packahead_next(struct packahead *a, struct packahead_sample *ret, struct hai_err *err);

/* How often packahead_next had to wait for the disk. */
int64_t packahead_n_waits(struct packahead *a);

void packahead_free(struct packahead *a); // the thread is stopped first
DEFINE_CLEANUP(struct packahead *, packahead_free)
