/* Operators that are bound by memory: norms, embeddings, caches, copies, losses. */
#include "kernels/cuda/cuda_impl.cuh"

enum { LOSS_THREADS = 1024 };

/* A weight, its scale included. */
static __device__ float weight_at(const struct weight_view &w, int64_t out, int64_t in) {
    int64_t row;
    const struct k_weight_part *part = find_part(w, 0, out, &row);

    if (w.dtype == K_Q8 || w.dtype == K_Q4) {
        int64_t group = row / K_QUANT_PANEL * (w.n_in / K_QUANT_GROUP) + in / K_QUANT_GROUP;
        int k = in % K_QUANT_GROUP, at = row % K_QUANT_PANEL, half = K_QUANT_GROUP / 2;
        const uint8_t *data = (const uint8_t *)part->data;
        float by = from_f16(((const uint16_t *)part->scale)[group * K_QUANT_PANEL + at]);
        int place = w.dtype == K_Q8 ? k : k % half;
        data += group * K_QUANT_PANEL * (w.dtype == K_Q8 ? K_QUANT_GROUP : half);
        int byte = data[place / 4 * K_QUANT_PANEL * 4 + at * 4 + place % 4];
        if (w.dtype == K_Q8)
            return by * (byte - 128);
        return by * ((k < half ? byte & 15 : byte >> 4) - 8);
    }
    float value = number_at(w.dtype, part->data, row * w.n_in + in);
    if (!part->scale)
        return value;
    int64_t block = (part->first_row + row) / K_BLOCK * ((w.n_in + K_BLOCK - 1) / K_BLOCK);
    return value * ((const float *)part->scale)[block + in / K_BLOCK];
}

static __global__ void embed_rows(view<float> y, const int32_t *ids, struct weight_view w) {
    FOR_ELEMENTS(e, y.n0 * y.n1) {
        int64_t t = e / y.n1, i = e % y.n1;
        y.row(t)[i] = ids[t] < 0 ? 0 : weight_at(w, ids[t], i);
    }
}

extern "C" int k_cuda_embed(struct k_ctx *ctx, const struct k_embed *a) {
    int64_t n = a->y.shape[0] * a->y.shape[1];

    if (n == 0)
        return 0;
    embed_rows<<<blocks_for(n), BLOCK_THREADS, 0, stream_of(ctx)>>>(
        view_of<float>(&a->y), (const int32_t *)a->ids.data, weight_of(a->w));
    return launched();
}

/* A block a row; the order of a sum depends on n_dim alone. */
static __global__ void norm_rows(view<float> y, view<const float> x, const float *weight,
                                 float *scale, float eps, bool fours) {
    const float *from = x.row(blockIdx.x);
    float *to = y.row(blockIdx.x), sum = 0;

    if (x.n1 % 4 == 0 && fours)
        for (int64_t i = threadIdx.x; i < x.n1 / 4; i += blockDim.x) {
            float4 a = ((const float4 *)from)[i];
            sum = fmaf(a.w, a.w, fmaf(a.z, a.z, fmaf(a.y, a.y, fmaf(a.x, a.x, sum))));
        }
    else
        for (int64_t i = threadIdx.x; i < (x.n1 + 3) / 4; i += blockDim.x)
            for (int64_t k = 4 * i; k < min(4 * i + 4, x.n1); k++)
                sum = fmaf(from[k], from[k], sum);
    sum = block_sum(sum);
    float by = __fdiv_rn(1.0f, __fsqrt_rn(sum / (float)x.n1 + eps));
    if (fours)
        for (int64_t i = threadIdx.x; i < x.n1 / 4; i += blockDim.x) {
            float4 a = ((const float4 *)from)[i], w = ((const float4 *)weight)[i];
            ((float4 *)to)[i] =
                make_float4(a.x * by * w.x, a.y * by * w.y, a.z * by * w.z, a.w * by * w.w);
        }
    else
        for (int64_t i = threadIdx.x; i < x.n1; i += blockDim.x)
            to[i] = from[i] * by * weight[i];
    if (scale && threadIdx.x == 0)
        scale[blockIdx.x] = by;
}

extern "C" int k_cuda_rmsnorm(struct k_ctx *ctx, const struct k_rmsnorm *a) {
    if (a->x.shape[0] == 0)
        return 0;
    norm_rows<<<(unsigned)a->x.shape[0], BLOCK_THREADS, 0, stream_of(ctx)>>>(
        view_of<float>(&a->y), view_of<const float>(&a->x), (const float *)a->weight.data,
        (float *)a->scale.data, a->eps, in_fours(&a->x) && in_fours(&a->y) && in_fours(&a->weight));
    return launched();
}

static __device__ inline float swish(float gate, float up) {
    return __fdiv_rn(gate, 1.0f + expf(-gate)) * up;
}

static __global__ void swiglu_rows(view<float> y, view<const float> gate, view<const float> up,
                                   bool fours) {
    const int64_t width = fours ? y.n1 / 4 : y.n1;

    FOR_ELEMENTS(e, y.n0 * width) {
        int64_t r = e / width, i = e % width;
        if (fours) {
            float4 g = ((const float4 *)gate.row(r))[i], u = ((const float4 *)up.row(r))[i];
            ((float4 *)y.row(r))[i] =
                make_float4(swish(g.x, u.x), swish(g.y, u.y), swish(g.z, u.z), swish(g.w, u.w));
        } else {
            y.row(r)[i] = swish(gate.row(r)[i], up.row(r)[i]);
        }
    }
}

extern "C" int k_cuda_swiglu(struct k_ctx *ctx, const struct k_swiglu *a) {
    bool fours = in_fours(&a->y) && in_fours(&a->gate) && in_fours(&a->up);
    int64_t n = a->y.shape[0] * a->y.shape[1] / (fours ? 4 : 1);

    if (n == 0)
        return 0;
    swiglu_rows<<<blocks_for(n), BLOCK_THREADS, 0, stream_of(ctx)>>>(
        view_of<float>(&a->y), view_of<const float>(&a->gate), view_of<const float>(&a->up), fours);
    return launched();
}

static __global__ void copy_rows(view<float> y, view<const float> x, bool accumulate, bool fours) {
    const int64_t width = fours ? y.n2 / 4 : y.n2;

    FOR_ELEMENTS(e, y.n0 * y.n1 * width) {
        int64_t i = e % width, h = e / width % y.n1, r = e / width / y.n1;
        if (fours) {
            float4 *to = (float4 *)y.row(r, h) + i, v = ((const float4 *)x.row(r, h))[i];
            if (accumulate)
                v = make_float4(to->x + v.x, to->y + v.y, to->z + v.z, to->w + v.w);
            *to = v;
        } else {
            float v = x.row(r, h)[i];
            y.row(r, h)[i] = accumulate ? y.row(r, h)[i] + v : v;
        }
    }
}

extern "C" int k_cuda_copy(struct k_ctx *ctx, const struct k_copy *a) {
    bool fours = in_fours(&a->y) && in_fours(&a->x);
    int64_t n = a->y.shape[0] * a->y.shape[1] * a->y.shape[2] / (fours ? 4 : 1);

    if (n == 0)
        return 0;
    copy_rows<<<blocks_for(n), BLOCK_THREADS, 0, stream_of(ctx)>>>(
        view_of<float>(&a->y), view_of<const float>(&a->x), a->accumulate, fours);
    return launched();
}

static __global__ void add_heads(view<float> y, view<const float> x) {
    FOR_ELEMENTS(e, y.n0 * y.n1) {
        int64_t r = e / y.n1, i = e % y.n1;
        float sum = 0;
        for (int64_t h = 0; h < x.n1; h++)
            sum += x.row(r, h)[i];
        y.row(r)[i] = sum;
    }
}

extern "C" int k_cuda_sum_heads(struct k_ctx *ctx, const struct k_sum_heads *a) {
    int64_t n = a->y.shape[0] * a->y.shape[1];

    if (n == 0)
        return 0;
    add_heads<<<blocks_for(n), BLOCK_THREADS, 0, stream_of(ctx)>>>(view_of<float>(&a->y),
                                                                   view_of<const float>(&a->x));
    return launched();
}

static __global__ void add_rows(float *y, view<const float> x) {
    FOR_ELEMENTS(i, x.n1) {
        float sum = y[i];
        for (int64_t r = 0; r < x.n0; r++)
            sum += x.row(r)[i];
        y[i] = sum;
    }
}

extern "C" int k_cuda_sum_rows(struct k_ctx *ctx, const struct k_sum_rows *a) {
    if (a->x.shape[1] == 0)
        return 0;
    add_rows<<<blocks_for(a->x.shape[1]), BLOCK_THREADS, 0, stream_of(ctx)>>>(
        (float *)a->y.data, view_of<const float>(&a->x));
    return launched();
}

static __global__ void add_scaled(float *y, const float *x, int64_t n, float alpha, float beta) {
    FOR_ELEMENTS(i, n) {
        float old = beta == 0 ? 0 : beta * y[i];
        y[i] = x ? fmaf(alpha, x[i], old) : old;
    }
}

extern "C" int k_cuda_add(struct k_ctx *ctx, const struct k_add *a) {
    int64_t n = a->y.shape[0];

    if (n == 0)
        return 0;
    add_scaled<<<blocks_for(n), BLOCK_THREADS, 0, stream_of(ctx)>>>(
        (float *)a->y.data, (const float *)a->x.data, n, a->alpha, a->beta);
    return launched();
}

/* A warp a tile of a row. */
static __global__ void quantize_tiles(uint8_t *y, int64_t y_row, view<float> scale,
                                      view<const float> x, float amax_min, bool power_of_two) {
    const int64_t at = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / WARP;
    const int64_t n_tiles = scale.n0, r = at / n_tiles, b = at % n_tiles;
    const int lane = threadIdx.x % WARP;

    if (r >= x.n0)
        return;
    const float *from = x.row(r) + b * K_BLOCK;
    int64_t n = min((int64_t)K_BLOCK, x.n1 - b * K_BLOCK);
    float amax = 0;
    for (int64_t i = lane; i < n; i += WARP)
        amax = fmaxf(amax, fabsf(from[i]));
    for (int d = WARP / 2; d > 0; d /= 2)
        amax = fmaxf(amax, __shfl_xor_sync(FULL, amax, d));
    amax = fmaxf(amax, amax_min);
    float by = __fdiv_rn(amax, 448.0f);
    if (by < 1.17549435e-38f) /* 2^-126 */
        by = 1;
    if (power_of_two)
        by = __uint_as_float((__float_as_uint(by) + 0x7fffff) & 0x7f800000);
    if (lane == 0)
        scale.row(b)[r] = by;
    for (int64_t i = lane; i < n; i += WARP)
        y[r * y_row + b * K_BLOCK + i] = to_e4m3(__fdiv_rn(from[i], by));
}

extern "C" int k_cuda_quantize(struct k_ctx *ctx, const struct k_quantize *a) {
    int64_t n = a->scale.shape[0] * a->x.shape[0];

    if (a->y.dtype != K_E4M3 || a->y.scale_kind != K_SCALE_TILES || a->x.dtype != K_F32)
        return -ENOTSUP; /* what training needs */
    if (a->scale.shape[0] != ceil_div(a->x.shape[1], K_BLOCK))
        return -EINVAL;
    if (n == 0)
        return 0;
    quantize_tiles<<<(unsigned)ceil_div(n, BLOCK_THREADS / WARP), BLOCK_THREADS, 0,
                     stream_of(ctx)>>>((uint8_t *)a->y.data, a->y.stride[0],
                                       view_of<float>(&a->scale), view_of<const float>(&a->x),
                                       a->amax_min, a->power_of_two);
    return launched();
}

template <enum k_dtype D>
static __global__ void put_rows(view<char> cache, view<const float> x, const int32_t *row) {
    FOR_ELEMENTS(e, x.n0 * x.n1 * x.n2) {
        int64_t i = e % x.n2, h = e / x.n2 % x.n1, t = e / x.n2 / x.n1;
        float v = x.row(t, h)[i];
        if (row[t] < 0)
            continue;
        int64_t at = row[t] * cache.s0 + h * cache.s1 + i;
        if (D == K_F32)
            ((float *)cache.data)[at] = v;
        else
            ((uint16_t *)cache.data)[at] = D == K_BF16 ? to_bf16(v) : to_f16_saturated(v);
    }
}

extern "C" int k_cuda_cache_put(struct k_ctx *ctx, const struct k_cache_put *a) {
    int64_t n = k_tensor_n_elements(&a->x);
    view<char> cache = view_of<char>(&a->cache);
    view<const float> x = view_of<const float>(&a->x);
    const int32_t *row = (const int32_t *)a->row.data;

    if (n == 0)
        return 0;
    if (a->cache.dtype == K_F32)
        put_rows<K_F32><<<blocks_for(n), BLOCK_THREADS, 0, stream_of(ctx)>>>(cache, x, row);
    else if (a->cache.dtype == K_BF16)
        put_rows<K_BF16><<<blocks_for(n), BLOCK_THREADS, 0, stream_of(ctx)>>>(cache, x, row);
    else
        put_rows<K_F16><<<blocks_for(n), BLOCK_THREADS, 0, stream_of(ctx)>>>(cache, x, row);
    return launched();
}

/* A block a row: its loss into losses, its gradient in place. */
static __global__ void row_losses(view<float> logits, const int32_t *labels, double *losses,
                                  float grad_scale, bool backward) {
    const int64_t t = blockIdx.x, n = logits.n1;
    float *x = logits.row(t);

    if (labels[t] < 0) {
        for (int64_t i = threadIdx.x; backward && i < n; i += blockDim.x)
            x[i] = 0;
        if (threadIdx.x == 0)
            losses[t] = 0;
        return;
    }
    __shared__ float maxima[WARP];
    float max = -INFINITY;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        max = max != max || max > x[i] ? max : x[i];
    max = warp_max(max);
    if (threadIdx.x % WARP == 0)
        maxima[threadIdx.x / WARP] = max;
    __syncthreads();
    for (int w = 0; w < (int)blockDim.x / WARP; w++)
        max = max != max || max > maxima[w] ? max : maxima[w];
    double sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        sum += expf(x[i] - max);
    double lse = max + log(block_sum(sum));
    float label = x[labels[t]];
    __syncthreads();
    for (int64_t i = threadIdx.x; backward && i < n; i += blockDim.x)
        x[i] = (expf((float)(x[i] - lse)) - (i == labels[t])) * grad_scale;
    if (threadIdx.x == 0)
        losses[t] = lse - label;
}

static __global__ void add_losses(double *loss, const double *losses, int64_t n, float scale) {
    double sum = 0;

    for (int64_t t = threadIdx.x; t < n; t += blockDim.x)
        sum += losses[t];
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        *loss += sum * (double)scale;
}

extern "C" size_t k_cuda_cross_entropy_workspace(const struct k_ctx *ctx,
                                                 const struct k_cross_entropy *a) {
    return (size_t)a->logits.shape[0] * sizeof(double);
}

extern "C" int k_cuda_cross_entropy(struct k_ctx *ctx, const struct k_cross_entropy *a) {
    int64_t n = a->logits.shape[0];
    double *losses = (double *)ctx->workspace;

    if (n == 0)
        return 0;
    row_losses<<<(unsigned)n, BLOCK_THREADS, 0, stream_of(ctx)>>>(
        view_of<float>(&a->logits), (const int32_t *)a->labels.data, losses, a->grad_scale,
        a->backward);
    add_losses<<<1, LOSS_THREADS, 0, stream_of(ctx)>>>((double *)a->loss.data, losses, n,
                                                       a->loss_scale);
    return launched();
}
