/* sampler.h - which part of the data a sample is, from its global index alone.
 *
 * The stream of tokens is cut into windows of one sequence. Epoch e visits every window once, in an
 * order keyed by (seed, e), with the cut shifted by a number below the window's length that is
 * drawn per epoch. Nothing is stored: any rank, in any layout, after any restart, finds the same
 * sample under the same index, so nothing is repeated or skipped.
 */
#pragma once
#include "lib/base.h"

/* The first token of sample `index` (from 0). n_tokens of data, windows of n_window;
 * n_tokens >= n_window. The window lies within the data. */
int64_t sampler_start(uint64_t seed, int64_t index, int64_t n_tokens, int64_t n_window);

/* How many samples one epoch has. */
int64_t sampler_epoch(int64_t n_tokens, int64_t n_window);

/* The parts of that, for samples of several sources (packing.h): place `value` of [0, n) in the
 * order of a round, and a number below n drawn for it. */
int64_t sampler_permute(uint64_t seed, int64_t round, int64_t value, int64_t n);
int64_t sampler_shift(uint64_t seed, int64_t round, int64_t n);

/* The samples of a batch that a rank takes: `n` from number `first` of the batch on. Cut evenly,
 * the first ranks have one more where it does not divide; n is 0 where there are more ranks than
 * samples. */
struct sampler_share {
    int64_t first, n;
};
struct sampler_share sampler_share(int64_t n_batch, int rank, int world);
