/* trainer_impl.h - what the parts of a trainer share: trainer_open.c makes it and finds its
 * checkpoint, trainer.c makes steps.
 */
#pragma once
#include "engine/ckpt/ckpt.h"
#include "engine/model/adamw.h"
#include "engine/model/model.h"
#include "engine/train/ema.h"
#include "engine/train/share.h"
#include "engine/train/trainer.h"

struct trainer {
    const struct trainconf *conf;
    struct trainer_place place;
    struct buf config_text; // config.json as it was read
    struct model *model;
    struct tokenizer *tokenizer;
    struct feed *feed;
    float *exp_avg, *exp_avg_sq; // [n_trained]
    struct ckpt_part *parts;
    size_t n_parts;
    struct spikes *spikes;   // NULL: only what is no number ends the run
    struct ema *ema;         // rank 0, if the run wants one; else NULL
    struct expertload *load; // NULL without experts
    struct saver *saver;     // rank 0 with a folder for checkpoints; else NULL
    struct model_rules rules;
    struct adamw_rule adamw;
    uint64_t config_digest;
    char recipe[PRECISION_NAME_BYTES];
    int64_t step;        // done
    int64_t next_sample; // of the whole batch
    struct schedule schedule;
    int64_t batch;       // sequences of the step that is made, or was last
    int64_t micro;       // of one model_train
    struct share *share; // of the batch, this rank's
    int record;          // file that says which samples these were; -1: none
};
