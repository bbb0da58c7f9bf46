/* dedup.h - which of many documents were there before: exactly, or nearly (minhash.h).
 *
 * The first of its like is kept, the later ones are found; what was found is not remembered. So the
 * answer depends on the order of the documents and nothing else. Memory is set aside at the start.
 */
#pragma once
#include "engine/data/minhash.h"

enum dedup_kind { DEDUP_NEW, DEDUP_EXACT, DEDUP_NEAR, DEDUP_KIND_COUNT };

struct dedup;

/* Remember as many documents as n_bytes_max of memory have room for. near: false finds exact
 * duplicates only, with 16 bytes a document. -EINVAL: room for not even one. */
int dedup_new(const struct minhash_params *params, bool near, int64_t n_bytes_max,
              struct dedup **ret, struct hai_err *err);
void dedup_free(struct dedup *d);
DEFINE_CLEANUP(struct dedup *, dedup_free)

int64_t dedup_n_documents_max(const struct dedup *d);

/* Begin a document, add its text in one or several pieces, and ask. Returns an enum dedup_kind, and
 * remembers the document if it is new. *ret_of: the number of the document remembered that it is
 * like, counted from 0 as they were. Exact is by 64 bits of XXH3: of 10^8 documents one pair is
 * taken for equal wrongly with probability 3e-4. -EFBIG: no room for another. */
void dedup_begin(struct dedup *d);
void dedup_add(struct dedup *d, const char *text, size_t n_bytes);
int dedup_end(struct dedup *d, int64_t *ret_of, struct hai_err *err);
