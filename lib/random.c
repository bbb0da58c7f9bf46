#include "lib/random.h"

#include "lib/digest.h"

#include <sys/random.h>

void random_bytes(void *ret, size_t n_bytes) {
    uint8_t *at = ret;

    while (n_bytes > 0) {
        ssize_t n = getrandom(at, n_bytes, 0);
        if (n < 0 && errno != EINTR)
            abort();
        if (n > 0) {
            at += n;
            n_bytes -= (size_t)n;
        }
    }
}

uint64_t random_u64(void) {
    uint64_t value;

    random_bytes(&value, sizeof value);
    return value;
}

void random_token(char ret[static RANDOM_TOKEN_BYTES]) {
    uint8_t bytes[(RANDOM_TOKEN_BYTES - 1) / 2];

    random_bytes(bytes, sizeof bytes);
    digest_hex(bytes, sizeof bytes, ret);
}
