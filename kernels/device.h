/* device.h - what a backend with memory of its own gives besides operators, for kernels/device.c
 * and weight.c. A table without one works in the host's memory.
 */
#pragma once
#include "kernels/kernels.h"

/* As the functions of kernels.h that are named alike. */
struct k_device {
    int (*memory_new)(struct k_ctx *ctx, size_t n_bytes, void **ret, struct hai_err *err);
    void (*memory_free)(void *memory);
    int (*upload)(struct k_ctx *ctx, void *to, const void *from, size_t n_bytes);
    int (*download)(struct k_ctx *ctx, void *to, const void *from, size_t n_bytes);
    int (*finish)(struct k_ctx *ctx, struct hai_err *err);
    int (*event_new)(struct k_ctx *ctx, void **ret, struct hai_err *err);
    void (*event_free)(void *event);
    int (*event_record)(struct k_ctx *ctx, void *event);
    int (*event_wait)(struct k_ctx *ctx, void *event);
};
