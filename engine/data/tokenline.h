/* tokenline.h - texts and token ids as lines of JSON, one value each.
 *
 * Texts are data: they may hold zero bytes, which lib/json.h refuses.
 */
#pragma once
#include "engine/data/token_list.h"
#include "lib/pure/buf.h"

/* A JSON string; ret is cleared first. -EBADMSG with the byte where it is none. */
int tokenline_read_text(const char *json, size_t n_bytes, struct buf *ret, struct hai_err *err);

/* The string that an object has under a name, whatever the others hold; ret is cleared first.
 * -EBADMSG: bad syntax, no such member or two of it, or it is no string. */
int tokenline_read_member(const char *json, size_t n_bytes, const char *name, struct buf *ret,
                          struct hai_err *err);

/* A JSON array of ids, appended; what is above 2^31 - 1 becomes that. */
int tokenline_read_ids(const char *json, size_t n_bytes, struct token_list *ret,
                       struct hai_err *err);

/* Append without a line feed. */
void tokenline_add_text(const struct buf *text, struct buf *ret);
void tokenline_add_ids(const struct token_list *ids, struct buf *ret);
