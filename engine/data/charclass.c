#include "engine/data/charclass.h"

struct charclass *charclass_new(charclass_fill fill, void *userdata) {
    struct charclass *c = hai_new(struct charclass);

    c->fill = fill;
    c->userdata = userdata;
    charclass_block(c, 0);
    return c;
}

void charclass_free(struct charclass *c) {
    if (!c)
        return;
    for (size_t i = 0; i < CHARCLASS_BLOCKS; i++)
        free(c->blocks[i]);
    free(c);
}

const uint8_t *charclass_block(struct charclass *c, uint32_t block) {
    assert(block < CHARCLASS_BLOCKS);
    if (!c->blocks[block]) {
        c->blocks[block] = hai_alloc(CHARCLASS_BLOCK);
        c->fill(c->userdata, block * CHARCLASS_BLOCK, c->blocks[block]);
    }
    return c->blocks[block];
}
