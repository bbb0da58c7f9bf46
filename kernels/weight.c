#include "kernels/weight.h"
#include "kernels/device.h"
#include "kernels/quant.h"

static bool is_float_8(enum k_dtype dtype) {
    return dtype == K_E4M3 || dtype == K_E5M2;
}

static bool is_quant(enum k_dtype dtype) {
    return dtype == K_Q8 || dtype == K_Q4;
}

static int check(const struct k_weight *w, struct hai_err *err) {
    if (w->dtype == K_F64 || w->dtype == K_I32 || w->dtype == K_E5M6)
        return hai_fail(err, -EINVAL, "weights of type %s", k_dtype_name(w->dtype));
    if (is_quant(w->dtype) && w->n_in % K_QUANT_GROUP)
        return hai_fail(err, -EINVAL, "%s weights with rows of %lld; expected a multiple of %d",
                        k_dtype_name(w->dtype), (long long)w->n_in, K_QUANT_GROUP);
    for (int64_t g = 0; g < w->n_groups; g++) {
        int64_t n_out = 0;
        for (int p = 0; p < w->n_parts; p++) {
            const struct k_weight_part *part = &w->parts[g * w->n_parts + p];
            if (!part->data ||
                (part->scale != NULL) != (is_float_8(w->dtype) || is_quant(w->dtype)))
                return hai_fail(err, -EINVAL, "%s weights %s", k_dtype_name(w->dtype),
                                part->scale ? "with scales" : "without values or scales");
            if (part->n_out != w->parts[p].n_out)
                return hai_fail(err, -EINVAL, "groups of weights are cut at different rows");
            n_out += part->n_out;
        }
        if (n_out != w->n_out)
            return hai_fail(err, -EINVAL, "a weight's parts have %lld rows; expected %lld",
                            (long long)n_out, (long long)w->n_out);
    }
    return 0;
}

int k_weight_new(struct k_ctx *ctx, enum k_dtype dtype, int64_t n_groups, int64_t n_out,
                 int64_t n_in, const struct k_weight_part *parts, int n_parts,
                 struct k_weight **ret, struct hai_err *err) {
    _cleanup_(k_weight_freep) struct k_weight *w = hai_new(struct k_weight);
    size_t n = (size_t)n_groups * (size_t)n_parts;

    assert(n_groups > 0);
    assert(n_parts > 0);
    *w = (struct k_weight){
        .dtype = dtype, .n_groups = n_groups, .n_out = n_out, .n_in = n_in, .n_parts = n_parts};
    w->parts = hai_new_array(struct k_weight_part, n);
    memcpy(w->parts, parts, n * sizeof *parts);
    int r = check(w, err);
    if (r < 0)
        return r;
    w->device = ctx->table->device;
    r = k_weight_update(ctx, w, err);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(w);
    return 0;
}

int k_weight_plain(struct k_ctx *ctx, enum k_dtype dtype, int64_t n_groups, int64_t n_out,
                   int64_t n_in, const void *data, struct k_weight **ret, struct hai_err *err) {
    _cleanup_free_ struct k_weight_part *parts =
        hai_new_array(struct k_weight_part, (size_t)n_groups);

    for (int64_t g = 0; g < n_groups; g++)
        parts[g] = (struct k_weight_part){
            .data = (const char *)data + k_dtype_n_bytes(dtype, g * n_out * n_in), .n_out = n_out};
    return k_weight_new(ctx, dtype, n_groups, n_out, n_in, parts, 1, ret, err);
}

void k_weight_free(struct k_weight *w) {
    if (!w)
        return;
    if (w->copy)
        w->device->memory_free(w->copy);
    free(w->parts);
    free(w);
}

int k_weight_update(struct k_ctx *ctx, struct k_weight *w, struct hai_err *err) {
    return ctx->table->bind ? ctx->table->bind(ctx, w, err) : 0;
}

enum k_dtype k_weight_dtype(const struct k_weight *w) {
    return w->dtype;
}

int64_t k_weight_size(const struct k_weight *w, int dimension) {
    return dimension == 0 ? w->n_groups : dimension == 1 ? w->n_out : w->n_in;
}

size_t k_weight_part_bytes(const struct k_weight *w, const struct k_weight_part *part,
                           size_t *ret_scale_bytes) {
    int64_t first = part->first_row / K_BLOCK, end = (part->first_row + part->n_out - 1) / K_BLOCK;

    *ret_scale_bytes = 0;
    if (is_quant(w->dtype)) {
        *ret_scale_bytes = k_quant_scale_bytes(part->n_out, w->n_in);
        return k_quant_bytes(w->dtype, part->n_out, w->n_in);
    }
    if (is_float_8(w->dtype))
        *ret_scale_bytes =
            (size_t)((end + 1 - first) * ((w->n_in + K_BLOCK - 1) / K_BLOCK)) * sizeof(float);
    return k_dtype_n_bytes(w->dtype, part->n_out * w->n_in);
}

size_t k_weight_bytes(const struct k_weight *w) {
    size_t n = 0;

    for (int64_t p = 0; p < w->n_groups * w->n_parts; p++) {
        int64_t n_out = w->parts[p].n_out;
        if (is_quant(w->dtype))
            n += k_quant_bytes(w->dtype, n_out, w->n_in) + k_quant_scale_bytes(n_out, w->n_in);
        else
            n += k_dtype_n_bytes(w->dtype, n_out * w->n_in);
        if (is_float_8(w->dtype))
            n += (size_t)((n_out + K_BLOCK - 1) / K_BLOCK * ((w->n_in + K_BLOCK - 1) / K_BLOCK)) *
                 sizeof(float);
    }
    return n;
}

const struct k_weight_part *k_weight_find(const struct k_weight *w, int64_t group, int64_t out,
                                          int64_t *ret_row) {
    const struct k_weight_part *part = &w->parts[group * w->n_parts];

    while (out >= part->n_out)
        out -= part++->n_out;
    *ret_row = out;
    return part;
}

const void *k_weight_row(const struct k_weight *w, const struct k_weight_part *part, int64_t row) {
    return (const char *)part->data + k_dtype_n_bytes(w->dtype, row * w->n_in);
}

float k_weight_block(const struct k_weight *w, const struct k_weight_part *part, int64_t row,
                     int64_t column) {
    int64_t n_blocks = (w->n_in + K_BLOCK - 1) / K_BLOCK;

    return ((const float *)
                part->scale)[(part->first_row + row) / K_BLOCK * n_blocks + column / K_BLOCK];
}
