/* saver.h - checkpoints beside training: a copy of the state, written by a thread of its own.
 *
 * Training stands still for the copy only (a gigabyte in some tenths of a second), not for the
 * disk. One save at a time: a second one waits for the first to end. A save that is cut off with
 * the process leaves nothing that could be taken for a checkpoint (ckpt.h).
 */
#pragma once
#include "engine/ckpt/ckpt.h"

struct saver;

/* dir and the parts' names are borrowed; memory for the copy is taken here. keep: checkpoints that
 * stay in dir after a save. */
struct saver *saver_new(const char *dir, const struct ckpt_part *parts, size_t n_parts, int keep);

/* Waits for a save under way. */
void saver_free(struct saver *saver);
DEFINE_CLEANUP(struct saver *, saver_free)

/* Copy the parts and begin to write them. */
int saver_start(struct saver *saver, const struct ckpt_meta *meta, struct hai_err *err);

struct saver_done {
    int64_t step;
    char *path; // caller frees
    char digest[CKPT_DIGEST_BYTES];
    struct hai_err pruning; // r below 0: older ones could not be removed, and why
};

/* A save that has ended since the last look: 1 and what it made, 0 if there is none, or its
 * failure. wait: for the one under way to end. */
int saver_look(struct saver *saver, bool wait, struct saver_done *ret, struct hai_err *err);
