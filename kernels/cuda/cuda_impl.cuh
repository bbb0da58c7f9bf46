/* cuda_impl.cuh - what the CUDA operators share: tensors and weights as kernels see them, numbers
 * of 8 and 16 bits, sums over a warp and a block.
 *
 * Kernels get plain structs of pointers and strides by value; nothing on the host follows a pointer
 * of the device. Weights are found through a table of parts that lies on the device.
 */
#pragma once
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

extern "C" {
#include "kernels/cuda/cuda.h"
#include "kernels/device.h"
#include "kernels/quant.h"
#include "kernels/weight.h"
}

enum {
    WARP = 32,
    BLOCK_THREADS = 256, // of the plain kernels
    GRID_MAX = 1 << 16,  // blocks of a kernel that walks on by the size of its grid
};

static const unsigned FULL = 0xffffffffu;

static inline cudaStream_t stream_of(const struct k_ctx *ctx) {
    return (cudaStream_t)ctx->stream;
}

/* After a launch: 0, or -EIO. */
static inline int launched(void) {
    return cudaGetLastError() == cudaSuccess ? 0 : -EIO;
}

static inline int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/* Blocks for n elements, one a thread, walking on beyond GRID_MAX. n above 0. */
static inline unsigned blocks_for(int64_t n) {
    int64_t blocks = ceil_div(n, BLOCK_THREADS);

    return (unsigned)(blocks < GRID_MAX ? blocks : GRID_MAX);
}

#define FOR_ELEMENTS(i, n)                                                                         \
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < (n);                      \
         i += (int64_t)gridDim.x * blockDim.x)

/* A tensor of up to three dimensions in a kernel. */
template <typename T> struct view {
    T *data;
    int64_t n0, n1, n2, s0, s1;

    __device__ T *row(int64_t i) const {
        return data + i * s0;
    }
    __device__ T *row(int64_t i, int64_t j) const {
        return data + i * s0 + j * s1;
    }
};

template <typename T> static inline view<T> view_of(const struct k_tensor *t) {
    return {(T *)t->data, t->shape[0], t->shape[1], t->shape[2], t->stride[0], t->stride[1]};
}

/* Whether rows can be read four floats at a time. */
static inline bool in_fours(const struct k_tensor *t) {
    bool fits = t->shape[t->n_dims - 1] % 4 == 0 && (uintptr_t)t->data % 16 == 0;

    for (int d = 0; d < t->n_dims - 1; d++)
        fits = fits && t->stride[d] % 4 == 0;
    return fits;
}

/* A weight in a kernel. */
struct weight_view {
    const struct k_weight_part *parts; // on the device
    int n_parts;
    enum k_dtype dtype;
    int64_t n_groups, n_out, n_in;
};

static inline struct weight_view weight_of(const struct k_weight *w) {
    return {w->copy_parts, w->n_parts, w->dtype, w->n_groups, w->n_out, w->n_in};
}

static __device__ inline const struct k_weight_part *
find_part(const struct weight_view &w, int64_t group, int64_t out, int64_t *ret_row) {
    const struct k_weight_part *part = w.parts + group * w.n_parts;

    while (out >= part->n_out)
        out -= part++->n_out;
    *ret_row = out;
    return part;
}

static __device__ inline float from_bf16(uint16_t bits) {
    return __uint_as_float((uint32_t)bits << 16);
}

static __device__ inline float from_f16(uint16_t bits) {
    return __half2float(__ushort_as_half(bits));
}

static __device__ inline float from_e4m3(uint8_t bits) {
    return __half2float(__half(__nv_cvt_fp8_to_halfraw(bits, __NV_E4M3)));
}

static __device__ inline float from_e5m2(uint8_t bits) {
    return from_f16((uint16_t)(bits << 8));
}

/* Conversions as kernels/formats.c writes them, so that codes are the same bits. */
static __device__ inline uint16_t to_bf16(float x) {
    uint32_t bits = __float_as_uint(x);

    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static __device__ inline uint32_t narrow(uint32_t magnitude, int n_exponent, int n_fraction) {
    magnitude = min(magnitude, 0x47800000u);
    int bias = (1 << (n_exponent - 1)) - 1, drop = 23 - n_fraction;
    int exponent = (int)(magnitude >> 23) - 127 + bias;

    if (exponent >= 1) {
        uint32_t half = (1u << (drop - 1)) - 1 + (magnitude >> drop & 1);
        return ((magnitude + half) >> drop) - ((uint32_t)(127 - bias) << n_fraction);
    }
    float large = __uint_as_float((uint32_t)(127 + 1 - bias - n_fraction + 23) << 23);
    return __float_as_uint(__fadd_rn(__uint_as_float(magnitude), large)) - __float_as_uint(large);
}

/* float16 for caches: saturates; NaN stays. */
static __device__ inline uint16_t to_f16_saturated(float x) {
    uint32_t bits = __float_as_uint(x), magnitude = bits & 0x7fffffff, sign = bits >> 16 & 0x8000;

    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    return (uint16_t)(sign | min(narrow(magnitude, 5, 10), 0x7bffu));
}

static __device__ inline uint8_t to_e4m3(float x) {
    uint32_t bits = __float_as_uint(x), magnitude = bits & 0x7fffffff, sign = bits >> 24 & 0x80;

    if (magnitude > 0x7f800000)
        return (uint8_t)(sign | 0x7f);
    return (uint8_t)(sign | min(narrow(magnitude, 4, 3), 0x7eu));
}

/* Number i of memory of some type. */
static __device__ inline float number_at(enum k_dtype dtype, const void *data, int64_t i) {
    switch (dtype) {
    case K_BF16:
        return from_bf16(((const uint16_t *)data)[i]);
    case K_F16:
        return from_f16(((const uint16_t *)data)[i]);
    case K_E4M3:
        return from_e4m3(((const uint8_t *)data)[i]);
    case K_E5M2:
        return from_e5m2(((const uint8_t *)data)[i]);
    default:
        return ((const float *)data)[i];
    }
}

/* Sum over a warp, the same in every lane; one order. */
template <typename T> static __device__ inline T warp_sum(T x) {
    for (int d = WARP / 2; d > 0; d /= 2)
        x += __shfl_xor_sync(FULL, x, d);
    return x;
}

static __device__ inline float warp_max(float x) {
    for (int d = WARP / 2; d > 0; d /= 2) {
        float other = __shfl_xor_sync(FULL, x, d);
        x = x != x || x > other ? x : other; // NaN stays
    }
    return x;
}

/* Sum over a block of whole warps, the same in every thread; one order. */
template <typename T> static __device__ inline T block_sum(T x) {
    __shared__ T parts[WARP];
    int warp = threadIdx.x / WARP, n_warps = blockDim.x / WARP;

    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0)
        parts[warp] = x;
    __syncthreads();
    T sum = 0;
    for (int i = 0; i < n_warps; i++)
        sum += parts[i];
    return sum;
}
