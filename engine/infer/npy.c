#include "engine/infer/npy.h"

#include <inttypes.h>

int npy_write_header(FILE *f, int64_t n_rows, int64_t n_columns) {
    enum { HEAD_BYTES = 10, TOTAL_BYTES = 128 }; // the data begins at a multiple of 64
    char text[TOTAL_BYTES - HEAD_BYTES + 1];
    int n =
        snprintf(text, sizeof text,
                 "{'descr': '<f4', 'fortran_order': False, 'shape': (%" PRId64 ", %" PRId64 "), }",
                 n_rows, n_columns);

    assert(n > 0);
    assert(n < (int)sizeof text - 1);
    memset(text + n, ' ', sizeof text - 2 - (size_t)n);
    text[sizeof text - 2] = '\n';
    const uint8_t head[HEAD_BYTES] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, TOTAL_BYTES - HEAD_BYTES,
                                      0};
    bool ok = fwrite(head, sizeof head, 1, f) == 1 && fwrite(text, sizeof text - 1, 1, f) == 1;
    return ok ? 0 : -EIO;
}
