/* tokenizer.h - text to token ids and back: raw bytes, or the byte-level BPE of a tokenizer.json.
 *
 * Encoding gives the ids that Hugging Face's tokenizers give (tests/fixtures/tokenizer). What a
 * file asks for and this reader does not do is refused by name. Chat templates are chat.h's
 * business, text that comes token by token textstream.h's.
 */
#pragma once
#include "engine/data/token_list.h"
#include "lib/pure/buf.h"

struct tokenizer;

/* Ids 0 to 255 are bytes; 256 begins a text, 257 ends it. */
struct tokenizer *tokenizer_new_bytes(void);

/* Read DIR/tokenizer.json, or the file itself, and tokenizer_config.json beside it if there;
 * "bytes" gives the above. -ENOTSUP: a kind of tokenizer, or an option, that is not built in (err
 * names it). */
int tokenizer_read(const char *path, struct tokenizer **ret, struct hai_err *err);

/* Read the text of a tokenizer.json (no configuration: nothing begins or ends a text, unless the
 * file itself says so). */
int tokenizer_parse(const char *text, size_t n_bytes, struct tokenizer **ret, struct hai_err *err);
void tokenizer_free(struct tokenizer *t);
DEFINE_CLEANUP(struct tokenizer *, tokenizer_free)

/* Ids are below this number. */
int32_t tokenizer_n_vocab(const struct tokenizer *t);

/* Tells tokenizers apart: XXH3-64 of what makes it. */
uint64_t tokenizer_digest(const struct tokenizer *t);

/* Special ids; -1: none. begin is -1 also where the configuration says not to add it. */
int32_t tokenizer_begin(const struct tokenizer *t);
int32_t tokenizer_end(const struct tokenizer *t);

/* The id of an added token by its text; -1: none. */
int32_t tokenizer_added(const struct tokenizer *t, const char *text);

/* Is it one of the special tokens, which texts leave out? */
bool tokenizer_is_special(const struct tokenizer *t, int32_t id);

/* Append the ids of a text. Special tokens written in the text are recognised; none are added.
 * Bytes that are not UTF-8 become the tokens of those bytes. -E2BIG: the split pattern gave up.
 * t is not const: it keeps a cache of words. One thread at a time. */
int tokenizer_encode(struct tokenizer *t, const char *text, size_t n_bytes, struct token_list *ret,
                     struct hai_err *err);

/* The same for a text that several wrote. marks has a byte for each of the text, ADDED_BY_... of
 * added.h: special tokens are recognised where a program wrote them. */
int tokenizer_encode_marked(struct tokenizer *t, const char *text, const uint8_t *marks,
                            size_t n_bytes, struct token_list *ret, struct hai_err *err);

/* Append the bytes of one id, as they are: half a character may come. -EINVAL: no such id. */
int tokenizer_add_bytes(const struct tokenizer *t, int32_t id, struct buf *ret);

/* Append the text of ids; U+FFFD where the bytes are no UTF-8. */
int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                     struct buf *ret, struct hai_err *err);

/* Copy the files that make this tokenizer into a folder, so that a model exported there is whole.
 * Nothing to do for bytes: tokenizer_read knows a folder without tokenizer.json but with
 * `"tokenizer_class": "bytes"` in tokenizer_config.json, which is written. */
int tokenizer_export(const struct tokenizer *t, const char *dir, struct hai_err *err);
