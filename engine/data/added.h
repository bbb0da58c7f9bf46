/* added.h - tokens that are looked for in a text before anything else, the longest first.
 *
 * Marks say who wrote a byte of the text. What a person wrote is never read as one of these tokens,
 * so nobody can forge a turn of a chat; single characters that are not special excepted, since
 * vocabularies without a byte add it that way (DeepSeek-Coder: õ). What a model wrote may hold the
 * two tokens around its thoughts.
 */
#pragma once
#include "lib/base.h"

enum { ADDED_BY_PROGRAM, ADDED_BY_PERSON, ADDED_BY_MODEL }; // marks

struct added_token {
    char *text; // owned
    size_t n_bytes;
    int32_t id;
    bool normalized; // looked for in normalised text, after the others
    bool special;    // not part of a decoded text
};

/* Start from {0}; fill list, then call added_sort. */
struct added {
    struct added_token *list;
    size_t n;
    uint32_t first[2][257]; // per pass: where in `order` the tokens with this first byte begin
    uint32_t *order;        // pass 0, then pass 1, each in order of bytes
};

void added_free(struct added *a);
void added_sort(struct added *a);

/* The longest token of a pass (1: normalised text) that the text begins with, or NULL. marks may
 * be NULL. */
const struct added_token *added_at(const struct added *a, int pass, const char *text,
                                   size_t n_bytes, const uint8_t *marks);

/* Are there tokens of this pass? */
static inline bool added_any(const struct added *a, int pass) {
    return a->first[pass][256] > a->first[pass][0];
}
