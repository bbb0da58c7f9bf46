/* trainconf.h - the file that hai-train reads: one training run.
 *
 * YAML, described key by key in etc/examples/train.yaml. Every key and value is checked before
 * anything starts: an unknown key, a value of the wrong kind or outside its bounds is an error with
 * file, line and column, and the nearest name. Paths are relative to where the program runs.
 */
#pragma once
#include "engine/nn/precision.h"
#include "engine/train/schedule.h"
#include "engine/train/sourceconf.h"
#include "engine/train/spikes.h"

struct trainconf {
    char *model;     // config.json, or a folder with one
    char *init;      // folder of the weights to begin with; NULL: drawn by seed
    char *out;       // folder for the trained model; NULL: none is written
    char *log;       // per-step losses with all their bits; NULL: OUT/steps.log, or none
    char *metrics;   // a line of JSON a step; NULL: OUT/metrics.jsonl, or none
    char *tokenizer; // "bytes" or a folder; NULL: init's if it has one, else bytes
    char **files;    // files, folders and patterns of text
    size_t n_files;
    int64_t max_bytes;         // of text; 0: no limit
    struct sourceconf sources; // folders of shards instead of files
    bool within;               // a sequence a document of theirs; else one a sample
    bool sft;                  // files have conversations, whose answers are learnt
    char *chat_form;           // of theirs, one of ours (chat_form.h); NULL: the tokenizer's
    bool cut;                  // longer ones than seq; else they are refused
    char *record;              // which samples each rank took, PATH.RANK; NULL: nowhere
    int64_t steps;
    int64_t batch;       // samples of a step, over all ranks
    int64_t micro_batch; // samples a rank works on at once; 0: its whole share
    int64_t seq;         // tokens
    int64_t seed;
    int64_t threads;
    enum k_backend backend;
    struct precision precision;
    bool exact;               // required: refuse to resume with another numeric identity
    struct schedule schedule; // what the file says of it; whole: trainconf_schedule
    double beta1, beta2, eps, weight_decay, clip;
    double mtp_weight;
    double balance_alpha; // of the expert-level loss; negative: the model's own
    double device_alpha, communication_alpha;
    int64_t balance_groups, max_groups;
    bool balance_micro_batch;     // balance losses over micro-batches, not sequences
    double bias_rate, bias_until; // until: part of the run
    double drop_capacity;         // 0: nothing is dropped
    double drop_whole;            // share of samples of which nothing is
    double ema_decay;             // of the averaged weights; 0: none are kept
    struct spikes_rule spikes;
    char *ckpt_dir;     // NULL: $HAI_CKPT_DIR, else OUT/ckpt
    int64_t ckpt_every; // steps; 0: only at the end and when told to stop
    int64_t ckpt_keep;
};

/* Defaults: what etc/examples/train.yaml says of a key that is left out. */
void trainconf_init(struct trainconf *conf);
void trainconf_free(struct trainconf *conf);

/* Read a file over the defaults. -EINVAL: err->where is file:line:column. */
int trainconf_read(const char *path, struct trainconf *conf, struct hai_err *err);

/* Put command-line options over what was read: NULL and 0 leave it. Texts are copied. */
void trainconf_set(struct trainconf *conf, const char *model, const char *out,
                   const char *const *files, size_t n_files);

/* Of keys that were left out: model and tokenizer may be those of init. */
const char *trainconf_model(const struct trainconf *conf); // NULL: there is none
const char *trainconf_tokenizer(const struct trainconf *conf);

/* What must hold between the fields once command-line options have had their say. */
int trainconf_check(const struct trainconf *conf, int world, struct hai_err *err);

/* The schedule with steps, batch and seq in it, not yet prepared. */
void trainconf_schedule(const struct trainconf *conf, struct schedule *ret);
