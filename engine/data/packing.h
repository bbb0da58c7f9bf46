/* packing.h - which tokens a training sample has, from its global index alone.
 *
 * Sources are folders of shards with weights. A cycle of PACKING_CYCLE samples has a fixed number
 * of each source, in an order drawn per cycle, so the share of a source is exact over every cycle
 * and its k-th draw has a number that needs no counting. A source's tokens are a ring of windows
 * `stride` apart: an epoch visits each once in an order drawn per epoch, from a start drawn per
 * epoch, so every token is an input once an epoch (the last window, cut by the ring's end, shows
 * less than a window of tokens twice). Any rank, in any layout, after any restart finds the same
 * sample under the same index: the index is all the position there is.
 *
 * Documents are packed: a window goes on with the next document where one ends, and where they
 * begin is given, so that attention can be kept within documents or not. Reading ahead is
 * packahead.h's business.
 */
#pragma once
#include "engine/data/shardset.h"

enum { PACKING_CYCLE = 65536, PACKING_SOURCES_MAX = 1024 };

struct packing_source {
    const char *dir;
    double weight; // above 0; shares are weights over their sum
    int number;    // keys its order: the same in another packing goes the same way. 0: its place
    int64_t first_draw; // draws are counted from here (packing_next_draw of another packing)
};

struct packing_spec {
    const struct packing_source *sources;
    int n_sources;
    const struct shards_vocabulary *vocabulary; // NULL: all must have that of the first
    uint64_t seed;
    int64_t stride;   // inputs of a sample
    int64_t n_window; // tokens of a sample, stride or more: labels need one more, others several
    bool direct;      // read past the page cache where that is possible
};

struct packing;

/* -EINVAL: a weight is no number above 0 or too small to be drawn once a cycle, a source is shorter
 * than a window; and the errors of shardset_open. */
int packing_open(const struct packing_spec *spec, struct packing **ret, struct hai_err *err);
void packing_close(struct packing *p);
DEFINE_CLEANUP(struct packing *, packing_close)

int64_t packing_n_window(const struct packing *p);
const struct shardset *packing_source(const struct packing *p, int source);

/* Tells data apart, for checkpoints: sources with their files, weights, seed, window. */
uint64_t packing_digest(const struct packing *p);

struct packing_place {
    int source;
    int64_t draw;  // of this source, from 0: each once
    int64_t epoch; // of this source
    int64_t first; // token of the source, where the window begins
};

/* Where sample `index` lies. */
struct packing_place packing_find(const struct packing *p, int64_t index);

/* The samples of an epoch of a source. */
int64_t packing_epoch(const struct packing *p, int source);

/* The share of the samples that a source has over a cycle: its weight, to 1 / PACKING_CYCLE. */
double packing_share(const struct packing *p, int source);

/* How many of the samples from `from` up to `to` are of each source; ret: [n_sources]. */
void packing_count(const struct packing *p, int64_t from, int64_t to, int64_t *ret);

/* The first draw of a source that none of the first n samples is, and none of that number or later:
 * where another packing goes on with it. Draws of a cycle are dealt out in its order, so up to a
 * cycle's of them are left out. */
int64_t packing_next_draw(const struct packing *p, int source, int64_t n_samples);

/* Room that packing_read needs, aligned to SHARDS_ALIGN. */
size_t packing_room(const struct packing *p);

/* A sample: its tokens, and its sequences as layers want them. ids: [n_window]. seq_start:
 * [n_window + 1], of which the n_seqs + 1 first are set: 0, where documents begin, n_window.
 * Several threads may read at once, each with a room of its own. */
int packing_read(const struct packing *p, int64_t index, void *room, int32_t *ret_ids,
                 int32_t *ret_seq_start, int *ret_n_seqs, struct hai_err *err);
