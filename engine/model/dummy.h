/* dummy.h - folders with random weights in the shapes of published models, for measuring speed.
 *
 * Values are uniform with standard deviation init_std, norms 1, biases 0: what such a model says
 * means nothing, what it costs is what the real one costs (experts are chosen about evenly). The
 * bytes depend on shape, type and seed only, not on the number of threads (Philox).
 */
#pragma once
#include "engine/model/folder.h"
#include "lib/base.h"
#include "lib/pure/buf.h"
#include "lib/pure/schema.h"

/* Types of the matrices of layers; of FP8, embedding, head, gates and vectors are bf16. */
#define DUMMY_DTYPES(P, X)                                                                         \
    X(P, BF16, "bf16")                                                                             \
    X(P, F32, "f32")                                                                               \
    X(P, FP8, "fp8") /* E4M3 with 128 x 128 scales */
DECLARE_ENUM(dummy_dtype, DUMMY, DUMMY_DTYPES);

/* Names of the shapes, for messages: "coder-1.3b, ...". */
const char *dummy_shapes(void);

/* Append the config.json of a shape; -EINVAL: there is no such shape. */
int dummy_config(const char *shape, enum dummy_dtype dtype, struct buf *ret, struct hai_err *err);

/* Write config.json and model.safetensors into a new folder (folder.h).
 *
 * said  may be NULL; called now and then with the bytes written so far and in all. A negative errno
 *       from it ends the work and is returned
 *
 * -EINVAL: no such shape; errors of writing. */
int dummy_write(const struct folder *folder, const char *shape, enum dummy_dtype dtype,
                uint64_t seed, int n_threads,
                int (*said)(void *userdata, int64_t done, int64_t all), void *userdata,
                struct hai_err *err);
