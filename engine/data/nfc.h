/* nfc.h - Unicode's normal form C, touching only text that may not be in it.
 *
 * A character is plain if it is whole (its own normal form), starts a cluster and joins nothing
 * before it. Text of plain characters is in normal form; between plain characters the library does
 * the work. Source: Unicode, annex 15 (quick check); utf8proc behind it.
 */
#pragma once
#include "lib/base.h"
#include "lib/pure/buf.h"

struct nfc;

struct nfc *nfc_new(void);
void nfc_free(struct nfc *nfc);
DEFINE_CLEANUP(struct nfc *, nfc_free)

/* Is valid UTF-8 in normal form for certain? false: perhaps not. */
bool nfc_is_plain(struct nfc *nfc, const char *text, size_t n_bytes);

/* Append the normal form of valid UTF-8. marks, with one byte for each of the text, may be NULL;
 * what is rewritten bears the highest mark of what it came from. */
void nfc_add(struct nfc *nfc, const char *text, size_t n_bytes, const uint8_t *marks,
             struct buf *ret, struct buf *ret_marks);
