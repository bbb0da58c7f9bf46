/* Whatever a tokenizer.json holds: an answer, never a crash, and a tokenizer that was read encodes
 * and decodes any text. */
#include "engine/data/tokenizer.h"

static const char text[] =
    "Hello 12345 \xE6\xAF\x95\xE8\x80\x81\xE5\xB8\x88!\r\n  e\xCC\x81<think>\xFF'll it's \t x";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    _cleanup_(tokenizer_freep) struct tokenizer *t = NULL;
    _cleanup_(token_list_free) struct token_list ids = {0};
    _cleanup_(buf_free) struct buf back = {0};
    struct hai_err err = {0};

    if (tokenizer_parse((const char *)data, n_bytes, &t, &err) < 0) {
        assert(err.text[0]);
        return 0;
    }
    uint8_t marks[sizeof text] = {[10] = 1, [40] = 1};
    if (tokenizer_encode(t, text, strlen(text), &ids, &err) == 0 &&
        tokenizer_encode_marked(t, text, marks, strlen(text), &ids, &err) == 0) {
        int r = tokenizer_decode(t, ids.ids, ids.n, true, &back, &err);
        assert(r == 0);
    }
    return 0;
}
