#include "engine/data/textstream.h"
#include "engine/data/utf8.h"

int textstream_feed(struct textstream *s, int32_t id, struct buf *ret) {
    if (s->skip_special && tokenizer_is_special(s->tokenizer, id))
        return 0;
    int r = tokenizer_add_bytes(s->tokenizer, id, &s->pending);
    if (r == 0)
        utf8_add_stream(ret, &s->pending);
    return r;
}

void textstream_flush(struct textstream *s, struct buf *ret) {
    utf8_add_lossy(ret, s->pending.data, s->pending.n_bytes);
    buf_clear(&s->pending);
}
