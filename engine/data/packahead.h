/* packahead.h - the samples of one rank, read from disk by a thread before they are asked for.
 *
 * What a step needs is there when it begins, as long as the disk keeps up. Whoever asks says which
 * samples will come next; what was said and is then not asked for costs its reading and nothing
 * else. Memory: n_ahead samples, allocated at the start. The thread adds nothing to the position of
 * a run, which is the number of samples that all ranks have consumed.
 */
#pragma once
#include "engine/data/packing.h"

struct packahead_sample {
    const int32_t *ids;       // [n_window]
    const int32_t *seq_start; // [n_seqs + 1]
    int n_seqs;
};

struct packahead;

/* Begin to read, from any of the packings. They stay the caller's, and open until packahead_free.
 * n_ahead: 1 or more. -EAGAIN and the like: no thread could be started. */
int packahead_new(struct packing *const *packings, int n_packings, int n_ahead,
                  struct packahead **ret, struct hai_err *err);

/* Sample `index` of that packing will be asked for, after those named before. False: n_ahead
 * samples are named that nobody has asked for yet, and this one is not taken note of. */
bool packahead_expect(struct packahead *a, int packing, int64_t index);

/* A sample, valid until the next call; waits until it is there. What was expected before it is
 * forgotten. Errors as of packing_read: asked for again, it is read again. One thread at a time. */
int packahead_take(struct packahead *a, int packing, int64_t index, struct packahead_sample *ret,
                   struct hai_err *err);

/* How often packahead_take had to wait for the disk. */
int64_t packahead_n_waits(struct packahead *a);

void packahead_free(struct packahead *a); // the thread is stopped first
DEFINE_CLEANUP(struct packahead *, packahead_free)
