/* tlv.h - the one binary encoding: log payloads and canonical state.
 *
 * Pure. A struct is its fields in ascending tag order, each `varint tag, varint length, bytes`.
 * Numbers are zigzag varints, texts their bytes, structs nest, a list is `varint n` and then each
 * element as `varint length, bytes`. Absent values (NULL, S_ABSENT, empty lists) are left out; all
 * others are written, so equal values have equal bytes. Unknown tags are skipped by the decoder.
 */
#pragma once
#include "lib/pure/buf.h"
#include "lib/pure/schema.h"

/* Append the encoding of a struct. The struct must hold no SCHEMA_F64 or SCHEMA_JSON field. */
void tlv_encode(const struct schema *schema, const void *value, struct buf *ret);

/* Decode into *ret, which is initialised with defaults first and owned by the caller on success
 * (schema_free); zero on failure. Bounds are checked by schema_check. Returns 0, -EBADMSG for bytes
 * that are no encoding, or what schema_check returns. */
int tlv_decode(const struct schema *schema, const void *data, size_t n_bytes, void *ret,
               struct hai_err *err);
