/* ckpt.h - checkpoints of training: written whole or not at all, found again, verified.
 *
 * A checkpoint is the folder DIR/step-N.E<epoch>/: safetensors files of parts, and manifest.json,
 * which says what every part is, with an XXH3-64 of each tensor and of
 * itself. It is made under another name, synchronised, and renamed without replacing anything, so
 * that a folder of that name is complete; its SHA-256 of the manifest is what the scheduler
 * records. A save waits for the disk and for nobody else. What is trained, and when, is
 * engine/train's.
 */
#pragma once
#include "lib/base.h"

#define CKPT_STATES(X)                                                                             \
    X(WEIGHT, "weight")                                                                            \
    X(MASTER, "master")                                                                            \
    X(EXP_AVG, "exp_avg")                                                                          \
    X(EXP_AVG_SQ, "exp_avg_sq")                                                                    \
    X(EMA, "ema")                                                                                  \
    X(RUN, "run")

enum ckpt_state {
#define X(name, text) CKPT_STATE_##name,
    CKPT_STATES(X)
#undef X
        CKPT_STATE_COUNT,
};

enum {
    CKPT_DIMS_MAX = 4,
    CKPT_PARTS_MAX = 1 << 20,
    CKPT_TEXT_BYTES = 64,
    CKPT_DIGEST_BYTES = 65, // SHA-256 in hexadecimal, terminating zero included
};

/* A tensor of the training state, float32. data is read by ckpt_save, written by ckpt_load; there
 * NULL: not wanted. optional: one that an older checkpoint may lack, which leaves data as it is. */
struct ckpt_part {
    const char *name; // as published
    enum ckpt_state state;
    int n_dims;
    int64_t shape[CKPT_DIMS_MAX];
    float *data;
    bool optional;
};

/* Everything else that a run needs to go on with the same bits. The last five are its numeric
 * identity. */
struct ckpt_meta {
    int64_t step;           // optimizer steps done
    int64_t epoch;          // fencing number of the attempt that saved it
    uint64_t seed;          // key of all random draws
    int64_t next_sample;    // global index of the next sample
    uint64_t data_digest;   // of the tokens
    uint64_t config_digest; // of what the schedule and the model are made of
    int64_t world;
    int64_t group_ranks;               // of the reduction shape
    char kernel_path[CKPT_TEXT_BYTES]; // "avx512", ...
    char recipe[CKPT_TEXT_BYTES];      // precision, "f32"
    char version[CKPT_TEXT_BYTES];     // of this program
};

struct ckpt;

/* Save. Returns the folder's full name and its manifest's digest for the scheduler's record.
 * A folder of the same step and epoch that is already there stays if it is the same, byte for byte,
 * and is replaced if not (it was damaged, or left by another run).
 */
int ckpt_save(const char *dir, const struct ckpt_meta *meta, const struct ckpt_part *parts,
              size_t n_parts, char **ret_path, char ret_digest[CKPT_DIGEST_BYTES],
              struct hai_err *err);

/* The newest complete one in dir, every checksum verified. Damaged or incomplete ones are passed
 * over; on_skip (may be NULL) hears of each and why. -ENOENT: none (also if dir is not there). */
int ckpt_newest(const char *dir,
                void (*on_skip)(void *userdata, const char *path, const char *reason),
                void *userdata, struct ckpt **ret, struct hai_err *err);

/* Open and verify one folder. -EBADMSG: damaged. */
int ckpt_open(const char *path, struct ckpt **ret, struct hai_err *err);
void ckpt_free(struct ckpt *ckpt);
DEFINE_CLEANUP(struct ckpt *, ckpt_free)

const char *ckpt_path(const struct ckpt *ckpt);
const struct ckpt_meta *ckpt_meta_of(const struct ckpt *ckpt);
const char *ckpt_digest(const struct ckpt *ckpt); // as ckpt_save returned it

/* Copy the parts out. -EINVAL: one is missing or has another shape, or there are parts that the
 * caller does not have. */
int ckpt_load(const struct ckpt *ckpt, const struct ckpt_part *parts, size_t n_parts,
              struct hai_err *err);

/* How many parts there are of a state. */
size_t ckpt_count(const struct ckpt *ckpt, enum ckpt_state state);

/* A part's values, in the mapped file until ckpt_free. -ENOENT: there is none; -EINVAL: it has
 * another shape. */
int ckpt_values(const struct ckpt *ckpt, enum ckpt_state state, const char *name, int n_dims,
                const int64_t *shape, const float **ret, struct hai_err *err);

/* Remove all but the newest `keep` (at least 1) of those up to the one just saved, that of step and
 * epoch, and what saves that were cut off left behind. Folders with newer names stay and do not
 * count: a run that saves behind them has passed them over as damaged, and they must not push out
 * what it can resume from. Only names of our own making are touched. */
int ckpt_prune(const char *dir, int64_t step, int64_t epoch, int keep, struct hai_err *err);
