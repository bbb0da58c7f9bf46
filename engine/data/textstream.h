/* textstream.h - text from token ids that come one by one: whole characters only.
 *
 * A character may take several tokens, so the start of one waits until it is complete or cannot be
 * completed any more; broken UTF-8 becomes U+FFFD, as tokenizer_decode does.
 */
#pragma once
#include "engine/data/tokenizer.h"

struct textstream {
    const struct tokenizer *tokenizer;
    bool skip_special;  // leave special tokens out
    struct buf pending; // the start of a character, owned
};

static inline void textstream_free(struct textstream *s) {
    buf_free(&s->pending);
}

/* Append what an id completes. -EINVAL: no such id; nothing is changed. */
int textstream_feed(struct textstream *s, int32_t id, struct buf *ret);

/* The end: append U+FFFD for the start of a character that is left. The stream may go on. */
void textstream_flush(struct textstream *s, struct buf *ret);
