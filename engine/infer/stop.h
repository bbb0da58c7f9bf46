/* stop.h - where a text that comes in pieces ends: stop strings and stop ids.
 *
 * Bytes go in as tokens bring them, in any pieces: half a character, half a stop string. What comes
 * out is the text before the stop string. Bytes are held back exactly while they may be the start
 * of a stop string, so the same text comes out, and stops at the same byte, however it was cut.
 * The first stop string to be complete ends the text; of those complete at one byte the longest.
 * Characters that are not yet whole are engine/data/utf8.h's business (utf8_add_stream), after
 * this. Matching is Knuth, Morris and Pratt's, one state a string, so a byte costs the same always.
 */
#pragma once
#include "lib/pure/buf.h"

enum {
    STOP_STRINGS_MAX = 64,
    STOP_BYTES_MAX = 1024, // of one string
    STOP_IDS_MAX = 256,
};

/* What ends texts; texts share it. */
struct stop_rules;

/* strings  [n_strings] zero-terminated, copied; ids [n_ids]
 * keep     the stop string is part of what comes out
 * -EINVAL: too many, or one that is empty or too long. */
int stop_rules_new(const char *const *strings, int n_strings, const int32_t *ids, int n_ids,
                   bool keep, struct stop_rules **ret, struct hai_err *err);
void stop_rules_free(struct stop_rules *rules);
DEFINE_CLEANUP(struct stop_rules *, stop_rules_free)

/* Is it a stop id? Such a token's text is never part of the output. */
bool stop_rules_has_id(const struct stop_rules *rules, int32_t id);

/* One text. Takes its memory at once; none is taken later but by ret. */
struct stop;
struct stop *stop_new(const struct stop_rules *rules); // which must outlive it
void stop_free(struct stop *s);
DEFINE_CLEANUP(struct stop *, stop_free)

/* Append to ret what is certain to be output. Returns 1 if a stop string is complete: what follows
 * it in `bytes` is dropped, and nothing may be added any more; else 0. */
int stop_add(struct stop *s, const void *bytes, size_t n_bytes, struct buf *ret);

/* The text ended without a stop string: append what was held back. */
void stop_end(struct stop *s, struct buf *ret);

/* The stop string that ended the text, by its place in the list; -1: none yet. */
int stop_found(const struct stop *s);

/* How many bytes are held back now. */
size_t stop_held(const struct stop *s);
