/* tokenizer_made.h - tokenizers for tests that are not about tokenizers. */
#pragma once
#include "engine/data/tokenizer.h"
#include "tests/unit/test.h"

/* A tokenizer of bytes with the added tokens named, ids from 256 on; those that begin or end
 * something (sentence, EOT) are special. */
static inline struct tokenizer *with_tokens(const char *const *names) {
    _cleanup_(buf_free) struct buf text = {0};
    struct tokenizer *t = NULL;
    struct hai_err err = {0};
    int next = 256;

    buf_add_str(&text, "{\"added_tokens\": [");
    for (int i = 0; names[i]; i++)
        buf_printf(&text, "%s{\"id\": %d, \"content\": \"%s\", \"special\": %s}", i ? ", " : "",
                   256 + i, names[i],
                   strstr(names[i], "sentence") || strstr(names[i], "EOT") ? "true" : "false");
    buf_add_str(&text, "], \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": "
                       "[{\"type\": \"ByteLevel\", \"use_regex\": false}]},"
                       "\"model\": {\"type\": \"BPE\", \"merges\": [], \"vocab\": {");
    for (int i = 0; i < 256; i++) {
        bool printed = (i >= '!' && i <= '~') || (i >= 0xA1 && i <= 0xAC) || i >= 0xAE;
        buf_printf(&text, "%s\"\\u%04x\": %d", i ? ", " : "", printed ? i : next++, i);
    }
    buf_add_str(&text, "}}}");
    CHECK_EQ(tokenizer_parse((const char *)text.data, text.n_bytes, &t, &err), 0, "%s", err.text);
    return t;
}
