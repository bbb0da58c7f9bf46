/* kernel_made.h - how operands of a case are generated; for kernel_cases.c, kernel_products.c and
 * kernel_plain.c.
 */
#pragma once
#include "kernels/formats.h"
#include "kernels/philox.h"
#include "kernels/quant.h"

enum {
    KERNEL_OUTPUTS_MAX = 4,
    KERNEL_WEIGHTS_MAX = 2,
};

/* One prepared call: what it writes, what it costs. */
struct kernel_made {
    char *memory;
    size_t n_bytes, n_bytes_max;
    uint64_t seed;
    const struct k_tensor *outputs[KERNEL_OUTPUTS_MAX];
    int n_outputs;
    struct k_weight *weights[KERNEL_WEIGHTS_MAX]; // owned
    int n_weights;
    int (*call)(struct k_ctx *ctx, const void *a);
    void *arg;
    double flops, bytes; // of one call; bytes of all operands, each once
};

struct kernel_case {
    const char *name;
    int (*prepare)(struct k_ctx *ctx, struct kernel_made *s, int size);
};

/* Products and attention; what plain networks need; the rest is in kernel_cases.c. */
extern const struct kernel_case kernel_products[];
extern const int kernel_products_count;
extern const struct kernel_case kernel_plain[];
extern const int kernel_plain_count;

static inline void *take(struct kernel_made *s, size_t n_bytes) {
    void *p = s->memory + s->n_bytes;

    s->n_bytes += (n_bytes + 63) / 64 * 64;
    assert(s->n_bytes <= s->n_bytes_max);
    return p;
}

/* Bell-shaped numbers, the same for every backend; bf16 ones are rounded down to it. */
static inline struct k_tensor numbers(struct kernel_made *s, enum k_dtype dtype, int n_dims,
                                      int64_t n0, int64_t n1, int64_t n2) {
    int64_t n = n0 * (n_dims > 1 ? n1 : 1) * (n_dims > 2 ? n2 : 1);
    float *values = take(s, (size_t)n * sizeof *values);

    for (int64_t i = 0; i < n; i++) {
        struct philox_counter at = philox_at(PHILOX_SHUFFLE, (uint32_t)s->n_bytes, 0, (uint32_t)i);
        uint32_t words[4];
        philox_words(s->seed, &at, words);
        /* Variance 1; a sum of uniform numbers is cheaper than a normal one. */
        values[i] = (float)(1.7320508 * (philox_uniform(words[0]) + philox_uniform(words[1]) +
                                         philox_uniform(words[2]) + philox_uniform(words[3]) - 2));
        if (dtype == K_BF16)
            ((uint16_t *)(void *)values)[i] = (uint16_t)(words[2] % 0x200 + 0x3f00);
    }
    s->bytes += (double)n * (double)k_dtype_bytes(dtype);
    if (n_dims == 1)
        return k_tensor_1d(values, dtype, n0);
    return n_dims == 2 ? k_tensor_2d(values, dtype, n0, n1)
                       : k_tensor_3d(values, dtype, n0, n1, n2);
}

static inline struct k_tensor f1(struct kernel_made *s, int64_t n0) {
    return numbers(s, K_F32, 1, n0, 0, 0);
}

static inline struct k_tensor f2(struct kernel_made *s, int64_t n0, int64_t n1) {
    return numbers(s, K_F32, 2, n0, n1, 0);
}

static inline struct k_tensor f3(struct kernel_made *s, int64_t n0, int64_t n1, int64_t n2) {
    return numbers(s, K_F32, 3, n0, n1, n2);
}

/* Numbers rounded to a type of weights, with the scales it needs. */
static inline struct k_weight_part weight_part(struct kernel_made *s, enum k_dtype dtype,
                                               int64_t n_out, int64_t n_in) {
    int64_t n = n_out * n_in, n_blocks = ((n_out + 127) / 128) * ((n_in + 127) / 128);
    struct k_weight_part part = {.n_out = n_out};
    const float *values = numbers(s, K_F32, 1, n, 0, 0).data;

    if (dtype == K_Q8 || dtype == K_Q4) {
        void *data = take(s, k_quant_bytes(dtype, n_out, n_in));
        uint16_t *scale = take(s, k_quant_scale_bytes(n_out, n_in));
        k_quant_pack(dtype, values, n_out, n_in, NULL, data, scale);
        part.data = data;
        part.scale = scale;
        return part;
    }
    uint8_t *narrow = take(s, k_dtype_n_bytes(dtype, n));
    for (int64_t i = 0; i < n; i++) {
        if (dtype == K_F32)
            memcpy(narrow + 4 * i, &values[i], sizeof values[i]);
        else if (dtype == K_BF16 || dtype == K_F16)
            ((uint16_t *)(void *)narrow)[i] =
                dtype == K_F16 ? k_to_f16(values[i]) : k_to_bf16(values[i]);
        else
            narrow[i] = dtype == K_E4M3 ? k_to_e4m3(values[i] / 8) : k_to_e5m2(values[i] / 8);
    }
    part.data = narrow;
    if (dtype == K_E4M3 || dtype == K_E5M2) {
        float *scale = take(s, (size_t)n_blocks * sizeof *scale);
        for (int64_t b = 0; b < n_blocks; b++)
            scale[b] = 4 + (float)b * 0.125f;
        part.scale = scale;
    }
    return part;
}

/* n_groups matrices, each of two parts of different height if there are rows for that. */
static inline struct k_weight *weights(struct k_ctx *ctx, struct kernel_made *s, enum k_dtype dtype,
                                       int64_t n_groups, int64_t n_out, int64_t n_in, bool cut) {
    struct k_weight_part parts[2 * 16];
    int n_parts = cut && n_out > 16 ? 2 : 1;
    double bytes = s->bytes;

    assert(n_groups <= 16);
    for (int64_t g = 0; g < n_groups; g++) {
        parts[g * n_parts] = weight_part(s, dtype, n_parts == 2 ? 16 : n_out, n_in);
        if (n_parts == 2)
            parts[g * 2 + 1] = weight_part(s, dtype, n_out - 16, n_in);
    }
    assert(s->n_weights < KERNEL_WEIGHTS_MAX);
    int r = k_weight_new(ctx, dtype, n_groups, n_out, n_in, parts, n_parts,
                         &s->weights[s->n_weights], NULL);
    assert(r == 0);
    (void)r;
    s->bytes = bytes + (double)k_weight_bytes(s->weights[s->n_weights]);
    return s->weights[s->n_weights++];
}

static inline void drop_weights(struct kernel_made *s) {
    while (s->n_weights > 0)
        k_weight_free(s->weights[--s->n_weights]);
}

/* Whole numbers from 0 to below n_values, or ascending ones from 0 to n_values over n0. */
static inline struct k_tensor ints(struct kernel_made *s, int64_t n0, int64_t n_values, bool cuts) {
    int32_t *values = take(s, (size_t)n0 * sizeof *values);

    for (int64_t i = 0; i < n0; i++) {
        struct philox_counter at = philox_at(PHILOX_SAMPLE, (uint32_t)s->n_bytes, 0, (uint32_t)i);
        uint32_t words[4];
        philox_words(s->seed, &at, words);
        values[i] = cuts ? (int32_t)(n_values * i / (n0 - 1)) : (int32_t)(words[0] % n_values);
    }
    return k_tensor_1d(values, K_I32, n0);
}

static inline void output(struct kernel_made *s, const struct k_tensor *t) {
    assert(s->n_outputs < KERNEL_OUTPUTS_MAX);
    s->outputs[s->n_outputs++] = t;
}

/* What runs the operator that a case has prepared. */
#define X(op)                                                                                      \
    static inline int call_##op(struct k_ctx *ctx, const void *a) {                                \
        return k_##op(ctx, a);                                                                     \
    }
K_OPS(X)
#undef X

static inline int64_t pick(int size, int64_t a, int64_t b, int64_t c, int64_t d) {
    return size == 0 ? a : size == 1 ? b : size == 2 ? c : d;
}

/* The struct outlives the call: outputs point into it. */
#define KEEP(type) type *a = take(s, sizeof *a)
