/* trainer.h - one training run on one rank: data, model, optimizer, checkpoints, step by step.
 *
 * Every rank holds the whole model (data parallel): it adds up the gradients of its share of the
 * batch, all ranks add theirs in the fixed order of engine/coll, and all make the same optimizer
 * step. The state after step N is a function of the configuration, the data and the numeric
 * identity alone, so a run that is resumed from any checkpoint comes to the same bits. Talking to
 * people and to the node's agent is the program's business (jobs/hai-train.c).
 */
#pragma once
#include "engine/coll/coll.h"
#include "engine/model/model.h"
#include "engine/train/expertload.h"
#include "engine/train/saver.h"
#include "engine/train/spikes.h"
#include "engine/train/trainconf.h"

struct trainer;

/* What the run stands on. Borrowed until trainer_free.
 * note: told, on rank 0, what a person should know: which checkpoint, why one was passed over. */
struct trainer_place {
    struct coll *coll;
    const char *ckpt_dir; // NULL: no checkpoints
    int64_t epoch;        // fencing number, part of the folders' names
    void (*note)(void *userdata, const char *text);
    void *userdata;
};

/* Everything up to the first step: reads and tokenises, makes the model, finds the newest
 * checkpoint. -ESTALE: the checkpoint is of other data, or has another numeric identity and
 * conf->exact; -EINVAL and so on for bad files. */
int trainer_open(const struct trainconf *conf, const struct trainer_place *place,
                 struct trainer **ret, struct hai_err *err);
void trainer_free(struct trainer *trainer);
DEFINE_CLEANUP(struct trainer *, trainer_free)

int64_t trainer_step_number(const struct trainer *trainer);     // steps done
int64_t trainer_tokens_per_step(const struct trainer *trainer); // of the last one

/* How often each expert was chosen in the last steps since the start, by the tokens of all ranks,
 * the same on all; NULL without experts. */
const struct expertload *trainer_load(const struct trainer *trainer);

/* What the run is made of, for a line at its start. */
struct trainer_size {
    int64_t parameters;
    int64_t tokens, documents; // of data
    const char *kernel_path, *recipe;
};
void trainer_size(const struct trainer *trainer, struct trainer_size *ret);

struct trainer_report {
    int64_t step;               // that was done, or would have been
    int64_t samples;            // consumed since the start of the run
    struct model_losses losses; // of the whole batch, the same bits on all ranks
    bool has_mtp, has_experts;  // is that part of the losses there?
    double norm;                // of the gradient, before clipping
    double rate;
    double comm_s; // of the step, waiting for and adding up with other ranks
    bool stop;     // some rank asked to stop: all ranks see it after the same step
    // SPIKES_SKIP: the batch was passed over, and nothing is changed but samples. SPIKES_BACK: the
    // same, and trainer_back must be called. spike: why; valid until the next step.
    enum spikes_verdict verdict;
    const char *spike;
};

/* One step. stop_wanted: this rank was told to end. -ECONNRESET: another rank is gone; -EDOM: the
 * loss is not a number, or spikes went on after the run had gone back as often as it may. */
int trainer_step(struct trainer *trainer, bool stop_wanted, struct trainer_report *ret,
                 struct hai_err *err);

/* Go back to the newest checkpoint and on with the samples behind those consumed. All ranks; no
 * save may be under way. -ENOENT: there is no checkpoint. */
int trainer_back(struct trainer *trainer, struct hai_err *err);

/* Floating point operations of a step's training for one token, attention included. */
double trainer_token_flops(const struct trainer *trainer);

/* Append how many samples of the run so far came from which source (feed.h). */
void trainer_tell_shares(const struct trainer *trainer, struct buf *ret);

/* Begin to save the state as it is now: rank 0 copies it and writes beside training, the others
 * have nothing to do. trainer_saved must have found no save under way, or waited for it. */
int trainer_save(struct trainer *trainer, struct hai_err *err);

/* A save that has ended since the last call: 1 and what it made (saver.h), or 0. wait: for the one
 * under way. */
int trainer_saved(struct trainer *trainer, bool wait, struct saver_done *ret, struct hai_err *err);

/* Write the model as a folder in Hugging Face layout, on rank 0. */
int trainer_export(struct trainer *trainer, const char *dir, struct hai_err *err);
