#include "lib/digest.h"

#include <nettle/hmac.h>
#include <nettle/memops.h>
#include <nettle/sha2.h>
#include <xxhash.h>

struct digest {
    enum digest_kind kind;
    XXH3_state_t *xxh3;
    struct sha256_ctx sha256;
};

uint64_t digest_xxh3(const void *data, size_t n_bytes) {
    return XXH3_64bits(data, n_bytes);
}

void digest_sha256(const void *data, size_t n_bytes, uint8_t ret[static DIGEST_SHA256_BYTES]) {
    struct sha256_ctx context;

    sha256_init(&context);
    sha256_update(&context, n_bytes, data);
    sha256_digest(&context, DIGEST_SHA256_BYTES, ret);
}

void digest_hmac(const void *key, size_t key_bytes, const void *data, size_t n_bytes,
                 uint8_t ret[static DIGEST_SHA256_BYTES]) {
    struct hmac_sha256_ctx context;

    hmac_sha256_set_key(&context, key_bytes, key);
    hmac_sha256_update(&context, n_bytes, data);
    hmac_sha256_digest(&context, DIGEST_SHA256_BYTES, ret);
}

struct digest *digest_new(enum digest_kind kind) {
    struct digest *d = hai_new(struct digest);

    d->kind = kind;
    if (kind == DIGEST_SHA256) {
        sha256_init(&d->sha256);
        return d;
    }
    d->xxh3 = XXH3_createState(); // aligned to 64 bytes, which hai_alloc does not promise
    if (!d->xxh3)
        abort();
    XXH3_64bits_reset(d->xxh3);
    return d;
}

void digest_free(struct digest *d) {
    if (!d)
        return;
    XXH3_freeState(d->xxh3);
    free(d);
}

void digest_add(struct digest *d, const void *data, size_t n_bytes) {
    if (d->kind == DIGEST_SHA256)
        sha256_update(&d->sha256, n_bytes, data);
    else
        XXH3_64bits_update(d->xxh3, data, n_bytes);
}

uint64_t digest_end_xxh3(struct digest *d) {
    assert(d->kind == DIGEST_XXH3);
    return XXH3_64bits_digest(d->xxh3);
}

void digest_end_sha256(struct digest *d, uint8_t ret[static DIGEST_SHA256_BYTES]) {
    assert(d->kind == DIGEST_SHA256);
    sha256_digest(&d->sha256, DIGEST_SHA256_BYTES, ret);
}

void digest_hex(const void *data, size_t n_bytes, char *ret) {
    static const char figures[] = "0123456789abcdef";
    const uint8_t *bytes = data;

    for (size_t i = 0; i < n_bytes; i++) {
        ret[2 * i] = figures[bytes[i] >> 4];
        ret[2 * i + 1] = figures[bytes[i] & 15];
    }
    ret[2 * n_bytes] = 0;
}

static int figure(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int digest_unhex(const char *text, size_t n_bytes, void *ret) {
    uint8_t *bytes = ret;

    if (strlen(text) != 2 * n_bytes)
        return -EINVAL;
    for (size_t i = 0; i < 2 * n_bytes; i++)
        if (figure(text[i]) < 0)
            return -EINVAL;
    for (size_t i = 0; i < n_bytes; i++)
        bytes[i] = (uint8_t)(figure(text[2 * i]) << 4 | figure(text[2 * i + 1]));
    return 0;
}

bool digest_equal(const void *a, const void *b, size_t n_bytes) {
    return memeql_sec(a, b, n_bytes);
}
