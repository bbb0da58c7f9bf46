/* Whatever a line of conversations holds: ids with a mark each, an answer among them, or an error.
 */
#include "engine/data/conversation.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    static const char *const forms[] = {NULL, "llm", "r1", "v31"};
    static struct chat *chats[ARRAY_SIZE(forms)];
    static struct tokenizer *t;
    struct conversation c = {0};

    for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
        struct hai_err err = {0};
        int r = t ? 0 : tokenizer_read("tests/fixtures/tokenizer/tiny", &t, &err);
        if (r == 0 && !chats[i])
            r = chat_open("tests/fixtures/tokenizer/tiny", t, forms[i], &chats[i], &err);
        assert(r == 0);
        conversation_clear(&c);
        r = conversation_read((const char *)data, n_bytes, chats[i], t, &c, &err);
        if (r < 0) {
            assert(err.text[0]);
            continue;
        }
        assert(c.ids.n >= 1);
        assert(c.ids.n == c.counts.n_bytes);
        for (size_t k = 0; k < c.ids.n; k++) {
            assert(c.ids.ids[k] >= 0);
            assert(c.ids.ids[k] < tokenizer_n_vocab(t));
            assert(c.counts.data[k] <= 1);
        }
    }
    conversation_free(&c);
    return 0;
}
