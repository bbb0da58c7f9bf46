/* Whatever bytes a safetensors file holds: an answer, never a crash. */
#include "storage/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    struct hai_err err = {0};
    int r = safetensors_check(data, n_bytes, &err);

    if (r < 0)
        assert(err.text[0]);
    return 0;
}
