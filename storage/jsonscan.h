/* jsonscan.h - read JSON of a known, flat form straight from the bytes, without building a tree.
 *
 * For headers of checkpoint files and the lists of a tokenizer.json: they hold one entry a tensor
 * or a token (megabytes for the big models), come from outside, and need what a general reader
 * loses: whole numbers of 64 bits, refusal of duplicates by the caller, position of the fault,
 * speed. Everything else reads JSON through lib/json.h. Strict RFC 8259; strings come out as UTF-8.
 */
#pragma once
#include "lib/base.h"
#include "lib/pure/buf.h"

struct jsonscan {
    const char *text;
    size_t n_bytes;
    size_t at;         // where the next byte is read, and after a failure where the fault is
    const char *fault; // what was expected there; set with every -EBADMSG
    bool zeros;        // strings may hold zero bytes ("\\u0000"): for text that is data
};

/* Step over the bracket ('{' or '[') that must come next. */
int jsonscan_enter(struct jsonscan *s, char bracket);

/* Is there another element before the closing bracket? 1, or 0 when it was stepped over.
 * n_seen  elements so far, starts at 0; counted up by this function; decides about the comma */
int jsonscan_next(struct jsonscan *s, char closing, size_t *n_seen);

/* Read a string into ret, which is cleared first. */
int jsonscan_string(struct jsonscan *s, struct buf *ret);

/* A string and the colon after it. */
int jsonscan_key(struct jsonscan *s, struct buf *ret);

/* A whole number from 0 to 2^64 - 1: no sign, fraction or exponent. */
int jsonscan_u64(struct jsonscan *s, uint64_t *ret);

/* Step over one value of any kind, nested at most 32 deep. */
int jsonscan_skip(struct jsonscan *s);

/* Only white space may be left. */
int jsonscan_end(struct jsonscan *s);

/* Report the fault of one of these: "PATH:LINE: bad JSON: expected ..."; returns -EBADMSG. */
int jsonscan_fail(const struct jsonscan *s, const char *path, struct hai_err *err);
