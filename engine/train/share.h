/* share.h - what a rank takes of a step's batch: its samples, as micro-batches for the model.
 *
 * A sample's window has tokens behind its inputs that are labels only (feed.h): here windows are
 * cut into inputs and what each is to predict, one token on and two.
 */
#pragma once
#include "engine/model/model.h"
#include "engine/train/feed.h"

struct share;

/* Room for n_max samples of a feed (0 or more), of which a micro-batch has n_micro. */
struct share *share_new(const struct feed *feed, int64_t n_max, int64_t n_micro);
void share_free(struct share *share);
DEFINE_CLEANUP(struct share *, share_free)

/* Most sequences of a micro-batch, for the model. */
int64_t share_n_seqs_max(const struct feed *feed, int64_t n_micro);

/* Samples of which token dropping takes nothing are told to the model: that part of all, drawn by
 * seed and the sample's number (dropping.h). 0, as at first: none. */
void share_spare(struct share *share, uint64_t seed, double part);

/* Read n samples from number `first` on. */
int share_read(struct share *share, struct feed *feed, int64_t first, int64_t n,
               struct hai_err *err);

int64_t share_n_batches(const struct share *share);

/* Micro-batch i, valid until the next call. */
struct model_batch share_batch(struct share *share, int64_t i);
