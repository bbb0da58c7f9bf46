/* digest.h - checksums and keyed digests: XXH3-64, SHA-256, HMAC-SHA256, hexadecimal.
 *
 * XXH3 finds damage (records, chunks, canonical state); it does not resist an attacker. What
 * crosses a trust border (tokens, request bodies, rendezvous) uses SHA-256.
 */
#pragma once
#include "lib/base.h"

enum {
    DIGEST_SHA256_BYTES = 32,
    DIGEST_SHA256_HEX_BYTES = 2 * DIGEST_SHA256_BYTES + 1,
};

uint64_t digest_xxh3(const void *data, size_t n_bytes);
void digest_sha256(const void *data, size_t n_bytes, uint8_t ret[static DIGEST_SHA256_BYTES]);

/* RFC 2104 over SHA-256. */
void digest_hmac(const void *key, size_t key_bytes, const void *data, size_t n_bytes,
                 uint8_t ret[static DIGEST_SHA256_BYTES]);

/* Digests of data that comes in pieces. xxh3 is the same value as digest_xxh3. */
struct digest;
enum digest_kind { DIGEST_XXH3, DIGEST_SHA256 };
struct digest *digest_new(enum digest_kind kind);
void digest_free(struct digest *d);
DEFINE_CLEANUP(struct digest *, digest_free)
void digest_add(struct digest *d, const void *data, size_t n_bytes);
uint64_t digest_end_xxh3(struct digest *d);
void digest_end_sha256(struct digest *d, uint8_t ret[static DIGEST_SHA256_BYTES]);

/* Lower-case hexadecimal with a terminating zero: 2 * n_bytes + 1 characters. */
void digest_hex(const void *data, size_t n_bytes, char *ret);

/* Exactly n_bytes from 2 * n_bytes digits of either case; -EINVAL otherwise. */
int digest_unhex(const char *text, size_t n_bytes, void *ret);

/* Compare in a time that depends on n_bytes only: for secrets. */
bool digest_equal(const void *a, const void *b, size_t n_bytes);
