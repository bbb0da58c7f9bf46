/* minhash.h - signatures of texts that tell how much of them is the same.
 *
 * A text is the set of its shingles: runs of `shingle` words (or bytes), hashed to 64 bits. For
 * each of `permutations` random functions the signature has the least value over the set; two sets
 * agree in one place with the probability of their Jaccard similarity, |both| / |either| (Broder,
 * 1997). Places are grouped into bands: texts that agree in all places of any band are candidates
 * (Indyk and Motwani, 1998), and of these, those that agree in at least `threshold` of all places
 * count as near-duplicates. Everything follows from text, parameters and seed. Remembering
 * signatures is dedup.h's business.
 */
#pragma once
#include "lib/base.h"

enum {
    MINHASH_PERMUTATIONS_MAX = 512,
    MINHASH_SHINGLE_MAX = 64,
};

struct minhash_params {
    int shingle;      // words or bytes of one
    bool bytes;       // of bytes; else of words: what white space parts, letters in lower case
    int permutations; // bands x rows
    int bands;
    double threshold; // share of places, above 0, at most 1
    uint64_t seed;
};

/* 5 words, 128 permutations in 16 bands of 8 rows, 0.8. */
struct minhash_params minhash_defaults(void);

/* -EINVAL: names the parameter, its value and what was expected. */
int minhash_check(const struct minhash_params *params, struct hai_err *err);

struct minhash;

struct minhash *minhash_new(const struct minhash_params *params);
void minhash_free(struct minhash *m);
DEFINE_CLEANUP(struct minhash *, minhash_free)

const struct minhash_params *minhash_params(const struct minhash *m);

/* Begin a set, add to it, take its signature: permutations values, 16 bits of each minimum. Two
 * different minima share these with probability 2^-16. A set without shingles gives all ones. */
void minhash_begin(struct minhash *m);
void minhash_add(struct minhash *m, uint64_t shingle);
void minhash_end(const struct minhash *m, uint16_t *ret);

/* Add the shingles of a text; one shorter than a shingle is one. Texts added one after the other
 * are one set, with no shingle across. */
void minhash_add_text(struct minhash *m, const char *text, size_t n_bytes);

/* Places in which two signatures agree. */
int minhash_agree(const struct minhash *m, const uint16_t *a, const uint16_t *b);

/* Places that near-duplicates agree in at least. */
int minhash_agree_min(const struct minhash_params *params);

/* The probability that two texts of this similarity become candidates, 1 - (1 - s^rows)^bands, and
 * that they count as near-duplicates: candidates with enough agreement. */
double minhash_candidate(const struct minhash_params *params, double similarity);
double minhash_near(const struct minhash_params *params, double similarity);
