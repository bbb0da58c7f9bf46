/* Whatever a tokenizer.json holds: an answer, never a crash. */
#include "engine/data/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    struct hai_err err = {0};

    if (tokenizer_check((const char *)data, n_bytes, &err) < 0)
        assert(err.text[0]);
    return 0;
}
