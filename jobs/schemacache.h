/* schemacache.h - grammars of JSON Schemas that many requests share: each text is compiled once,
 * and kept while it is used and for as long as there is room.
 */
#pragma once
#include "engine/infer/grammar.h"

enum { SCHEMACACHE_MAX = 64 };

struct schemacache;

/* vocab is handed over. */
struct schemacache *schemacache_new(struct grammar_vocab *vocab);
void schemacache_free(struct schemacache *c);
DEFINE_CLEANUP(struct schemacache *, schemacache_free)

/* The grammar of a schema, until schemacache_drop. -EAGAIN: SCHEMACACHE_MAX others are in use;
 * errors of grammar_new. */
int schemacache_take(struct schemacache *c, const char *schema, size_t n_bytes,
                     struct grammar **ret, struct hai_err *err);
void schemacache_drop(struct schemacache *c, const struct grammar *g);
