/* textruns.h - run models over a text, window by window: two beside each other, or one to see what
 * its matrices meet.
 *
 * A text's ids are cut into windows of the same length, each read from an empty cache; ids that are
 * left over are not read.
 */
#pragma once
#include "engine/infer/generate.h"

struct textruns_compared {
    int64_t n;             // positions
    double kl;             // mean of KL(model || other) in nats, over the whole vocabulary
    double rms;            // root mean square of the logits' differences
    double same_best;      // part of the positions where both find the same token likeliest
    double nll, nll_other; // mean negative log-likelihood of the next token, in nats, of all but
                           // the last position of each window
};

/* place->fast_prefill and cache_dtype are for `other` alone: with one folder as both they are what
 * is compared. Positions before `skip` of each window are read and not counted: they have little
 * context. -EINVAL: another vocabulary, or not a window of ids. Memory: one window of logits. */
int textruns_compare(const char *dir, const char *other, const struct generate_place *place,
                     const int32_t *ids, int64_t n, int64_t window, int64_t skip,
                     struct textruns_compared *ret, struct hai_err *err);

/* Measure the importance of the model's inputs and write it to a file (engine/model/importance.h).
 */
int textruns_measure(const char *dir, const struct generate_place *place, const int32_t *ids,
                     int64_t n, int64_t window, const char *path, struct hai_err *err);

/* The ids of a text file by the tokenizer of a model's folder, at most n_max. -E2BIG: above 64 MiB.
 */
int textruns_read(const char *dir, const char *path, int64_t n_max, int32_t **ret, int64_t *ret_n,
                  struct hai_err *err);
