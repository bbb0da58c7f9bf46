/* weighthash.h - a number that tells models apart, without reading all of their weights.
 *
 * SHA-256 over config.json, and of every tensor in the order of names: name, type, shape, and a
 * sample of 4 KiB: 64 pieces of 64 bytes, evenly over its bytes from the first to the last. A
 * tensor that was trained differs nearly everywhere, so models differ in what is sampled; one that
 * was changed by hand in a few places between the samples is not told apart. Made for caches, not
 * against forgers.
 */
#pragma once
#include "lib/digest.h"

enum { WEIGHTHASH_SAMPLE_BYTES = 4096, WEIGHTHASH_PIECE_BYTES = 64 };

/* Errors as safetensors_open, or of reading config.json. */
int weighthash(const char *dir, uint8_t ret[static DIGEST_SHA256_BYTES], struct hai_err *err);
