/* charclass.h - what kinds a character is of: eight bits each, filled in as characters are met.
 *
 * Where the kinds come from is the caller's business (split.h asks PCRE2, nfc.h its library), so a
 * table agrees with that source by construction and costs nothing for scripts that a text does not
 * use. One thread at a time.
 */
#pragma once
#include "lib/base.h"

enum { CHARCLASS_BLOCK = 256, CHARCLASS_BLOCKS = 0x110000 / CHARCLASS_BLOCK };

/* Say the kinds of the CHARCLASS_BLOCK characters from `first`; ret is zeroed. */
typedef void (*charclass_fill)(void *userdata, uint32_t first, uint8_t ret[CHARCLASS_BLOCK]);

struct charclass {
    charclass_fill fill;
    void *userdata;
    uint8_t *blocks[CHARCLASS_BLOCKS]; // owned; NULL: not asked for yet
};

/* The first block is filled at once. */
struct charclass *charclass_new(charclass_fill fill, void *userdata);
void charclass_free(struct charclass *c);
const uint8_t *charclass_block(struct charclass *c, uint32_t block);

static inline uint8_t charclass_of(struct charclass *c, uint32_t character) {
    const uint8_t *block = c->blocks[character / CHARCLASS_BLOCK];

    if (__builtin_expect(!block, 0))
        block = charclass_block(c, character / CHARCLASS_BLOCK);
    return block[character % CHARCLASS_BLOCK];
}
