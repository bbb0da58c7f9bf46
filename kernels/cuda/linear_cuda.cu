/* Products with weights, one way of summing for every number of rows.
 *
 * Tensor cores multiply numbers of 11 bits (TF32) exactly and add in float32. BF16, F16, 8-bit
 * weights and whole numbers of 8 bits are such numbers; float32 is cut into a high and a low part,
 * and the product of the two low parts is left out, which leaves an error near 2^-21.
 *
 * The order of a sum is fixed by n_in: it is cut into 8 segments of whole units (32 inputs; 128
 * with a scale a block); a segment is one chain of products of 8 inputs, broken off where a scale
 * applies; segments are added in ascending order. With few rows the 8 warps of a block have a
 * segment each, with many a warp goes through all of them, and an element has the same bits in
 * both.
 *
 * Within 32 inputs lane l of 4 holds inputs 8 l up to 8 l + 7, so that weights are read 16 bytes at
 * a time; step i of 4 multiplies its numbers 2 i and 2 i + 1. A warp makes MT * 16 outputs of NT *
 * 8 rows; weights are the left operand.
 */
#include "kernels/cuda/cuda_impl.cuh"

enum {
    SEGMENTS = 8,
    UNIT = 32,
    WARPS_WIDE = 4, // of a block where warps go through all segments: 2 of outputs, 2 of rows
    GRID_ROWS_MAX = 65535,
};

struct product {
    struct weight_view w;
    const void *x;
    int64_t x_row, x_group; // strides
    const float *x_scale;
    float *y;
    int64_t y_row, y_group;
    int64_t n_rows;           // of all groups, or of each if there is no row_start
    const int32_t *row_start; // NULL: every group has n_rows of its own
    const float *bias;
    bool accumulate;
};

/* Where an output's weights are. */
struct weight_row {
    const uint8_t *data; // NULL: beyond the last output
    const void *scale;   // of its first block or group
};

template <enum k_dtype D> struct type_of {
    static const bool quant = D == K_Q8 || D == K_Q4;
    static const bool blocks = D == K_E4M3 || D == K_E5M2;
    static const bool scaled = quant || blocks;
    static const int units = blocks ? K_BLOCK / UNIT : 1; // between scales
    static const int n_bytes = D == K_F32 ? 4 : D == K_BF16 || D == K_F16 ? 2 : 1;
};

template <enum k_dtype D>
static __device__ struct weight_row find_row(const struct product &p, int64_t group, int64_t out) {
    int64_t row, n_in = p.w.n_in;

    if (out >= p.w.n_out)
        return {NULL, NULL};
    const struct k_weight_part *part = find_part(p.w, group, out, &row);
    const uint8_t *data = (const uint8_t *)part->data;
    if (type_of<D>::quant) {
        int64_t panel = row / K_QUANT_PANEL * (n_in / UNIT), at = row % K_QUANT_PANEL;
        return {data + panel * K_QUANT_PANEL * (D == K_Q8 ? UNIT : UNIT / 2) + at * 4,
                (const uint16_t *)part->scale + panel * K_QUANT_PANEL + at};
    }
    const float *scale = (const float *)part->scale;
    if (type_of<D>::blocks)
        scale += (part->first_row + row) / K_BLOCK * ((n_in + K_BLOCK - 1) / K_BLOCK);
    return {data + row * n_in * type_of<D>::n_bytes, scale};
}

/* Eight numbers of 16 bits. */
template <enum k_dtype D> static __device__ inline void widen_16(uint4 bits, float *ret) {
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};

    for (int i = 0; i < 4; i++)
        if (D == K_BF16) {
            ret[2 * i] = __uint_as_float(words[i] << 16);
            ret[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
        } else {
            ret[2 * i] = from_f16((uint16_t)words[i]);
            ret[2 * i + 1] = from_f16((uint16_t)(words[i] >> 16));
        }
}

template <enum k_dtype D> static __device__ inline void widen_8(uint2 bits, float *ret) {
    for (int i = 0; i < 4; i++) {
        uint16_t two = (uint16_t)((i < 2 ? bits.x : bits.y) >> 16 * (i % 2));
        __half2 pair = __half2(__nv_cvt_fp8x2_to_halfraw2((__nv_fp8x2_storage_t)two,
                                                          D == K_E4M3 ? __NV_E4M3 : __NV_E5M2));
        ret[2 * i] = __low2float(pair);
        ret[2 * i + 1] = __high2float(pair);
    }
}

/* Eight inputs from k on, k a multiple of 8; zeros beyond n. VEC: n is a multiple of 8, aligned. */
template <enum k_dtype D, bool VEC>
static __device__ inline void read_eight(const void *row, int64_t k, int64_t n, float *ret) {
    if (!row || k >= n) {
        for (int i = 0; i < 8; i++)
            ret[i] = 0;
    } else if (!VEC) {
        for (int i = 0; i < 8; i++)
            ret[i] = k + i < n ? number_at(D, row, k + i) : 0;
    } else if (D == K_F32) {
        float4 a = __ldg((const float4 *)((const float *)row + k));
        float4 b = __ldg((const float4 *)((const float *)row + k) + 1);
        ret[0] = a.x, ret[1] = a.y, ret[2] = a.z, ret[3] = a.w;
        ret[4] = b.x, ret[5] = b.y, ret[6] = b.z, ret[7] = b.w;
    } else if (D == K_BF16 || D == K_F16) {
        widen_16<D>(__ldg((const uint4 *)((const uint16_t *)row + k)), ret);
    } else {
        widen_8<D>(__ldg((const uint2 *)((const uint8_t *)row + k)), ret);
    }
}

/* The eight inputs that lane l of 4 has in a group of 32 whole numbers. */
template <enum k_dtype D>
static __device__ inline void read_quant(const uint8_t *row, int64_t group, int l, float *ret) {
    if (!row) {
        for (int i = 0; i < 8; i++)
            ret[i] = 0;
        return;
    }
    const int line = K_QUANT_PANEL * 4;
    const uint8_t *at = row + group * K_QUANT_PANEL * (D == K_Q8 ? UNIT : UNIT / 2);
    at += (D == K_Q8 ? 2 * l : 2 * (l % 2)) * line;
    for (int i = 0; i < 2; i++) {
        uint32_t word = __ldg((const uint32_t *)(at + i * line));
        for (int j = 0; j < 4; j++) {
            int byte = (int)(word >> 8 * j & 0xff);
            ret[4 * i + j] =
                D == K_Q8 ? (float)(byte - 128) : (float)((l < 2 ? byte & 15 : byte >> 4) - 8);
        }
    }
}

/* Round a group's eight of each of 4 lanes to 8 bits, as k_quant_scale says; returns the scale.
 * A NaN stays in x, and of an infinite group too, so that sums become NaN. */
static __device__ inline float round_group(float *x) {
    float amax = 0;

    for (int i = 0; i < 8; i++)
        amax = fmaxf(amax, fabsf(x[i]));
    amax = fmaxf(amax, __shfl_xor_sync(FULL, amax, 1));
    amax = fmaxf(amax, __shfl_xor_sync(FULL, amax, 2));
    bool nothing = amax < 0x1p-100f;
    float inverse = nothing ? 0.0f : __fdiv_rn(127.0f, amax);
    for (int i = 0; i < 8; i++)
        x[i] = rintf(__fmul_rn(x[i], inverse));
    return nothing ? 0.0f : __fdiv_rn(amax, 127.0f);
}

static __device__ inline void multiply(float *acc, const uint32_t *a, const uint32_t *b) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ inline uint32_t high_part(float x) {
    return __float_as_uint(x) & 0xffffe000u;
}

static __device__ inline uint32_t low_part(float x) {
    return __float_as_uint(x - __uint_as_float(high_part(x)));
}

/* A step of 8 inputs: numbers k and k + 1 of each lane. a: rows g and g + 8 of the outputs. */
template <bool SPLIT_W, bool SPLIT_X>
static __device__ inline void step(float *acc, const float *a0, const float *a8, const float *b,
                                   int k) {
    uint32_t high_w[4] = {__float_as_uint(a0[k]), __float_as_uint(a8[k]),
                          __float_as_uint(a0[k + 1]), __float_as_uint(a8[k + 1])};
    uint32_t high_x[2] = {__float_as_uint(b[k]), __float_as_uint(b[k + 1])};

    if (SPLIT_X) {
        high_x[0] = high_part(b[k]), high_x[1] = high_part(b[k + 1]);
        const uint32_t low_x[2] = {low_part(b[k]), low_part(b[k + 1])};
        if (SPLIT_W) {
            const uint32_t low_w[4] = {low_part(a0[k]), low_part(a8[k]), low_part(a0[k + 1]),
                                       low_part(a8[k + 1])};
            high_w[0] = high_part(a0[k]), high_w[1] = high_part(a8[k]);
            high_w[2] = high_part(a0[k + 1]), high_w[3] = high_part(a8[k + 1]);
            multiply(acc, low_w, high_x);
        }
        multiply(acc, high_w, low_x);
    }
    multiply(acc, high_w, high_x);
}

/* What a warp works on: first output and row, rows of weights and of x that this lane reads. */
template <int MT, int NT> struct tile {
    int64_t group, out, row, end; // end: first row that is another group's
    struct weight_row w[MT][2];
    const char *x[NT];
};

/* The scale of a lane's element c of 4, which belongs to output g + 8 (c / 2) and row 2 l + c % 2.
 */
template <enum k_dtype D, enum k_dtype XD, int MT, int NT>
static __device__ inline void apply_scale(const struct product &p, const tile<MT, NT> &t,
                                          int64_t unit, const float *x_scale, float acc[MT][NT][4],
                                          float seg[MT][NT][4]) {
    const int lane = threadIdx.x % WARP, l = lane % 4;

    for (int n = 0; n < NT; n++) {
        float by_row[2] = {1, 1};
        for (int c = 0; c < 2; c++) {
            int64_t row = t.row + n * 8 + 2 * l + c;
            if (type_of<D>::quant)
                by_row[c] = __shfl_sync(FULL, x_scale[n], (2 * l + c) * 4);
            else if (XD == K_E4M3 && row < t.end)
                by_row[c] = p.x_scale[unit / type_of<D>::units * p.n_rows + row];
        }
        for (int m = 0; m < MT; m++)
            for (int c = 0; c < 4; c++) {
                const void *scale = t.w[m][c / 2].scale;
                float by = 0;
                if (scale && type_of<D>::quant)
                    by = from_f16(__ldg((const uint16_t *)scale + unit * K_QUANT_PANEL));
                else if (scale)
                    by = __ldg((const float *)scale + unit / type_of<D>::units);
                seg[m][n][c] = fmaf(acc[m][n][c], __fmul_rn(by, by_row[c % 2]), seg[m][n][c]);
                acc[m][n][c] = 0;
            }
    }
}

/* One segment of the sums of a tile. */
template <enum k_dtype D, enum k_dtype XD, int MT, int NT, bool VEC>
static __device__ inline void sum_segment(const struct product &p, const tile<MT, NT> &t,
                                          int segment, float seg[MT][NT][4]) {
    const int units = type_of<D>::units, l = threadIdx.x % 4;
    const int64_t n_in = p.w.n_in, n_units = (n_in + UNIT * units - 1) / (UNIT * units);
    const int64_t length = (n_units + SEGMENTS - 1) / SEGMENTS * units;
    const int64_t end = min((segment + 1) * length, (n_in + UNIT - 1) / UNIT);
    float acc[MT][NT][4] = {}, x_scale[NT];

    for (int m = 0; m < MT; m++)
        for (int n = 0; n < NT; n++)
            for (int c = 0; c < 4; c++)
                seg[m][n][c] = 0;
#pragma unroll(MT == 1 && NT == 1 ? 4 : 1)
    for (int64_t unit = segment * length; unit < end; unit++) {
        int64_t k = unit * UNIT + 8 * l;
        float w[MT][2][8], x[NT][8];
        for (int m = 0; m < MT; m++)
            for (int i = 0; i < 2; i++)
                if (type_of<D>::quant)
                    read_quant<D>(t.w[m][i].data, unit, l, w[m][i]);
                else
                    read_eight<D, VEC>(t.w[m][i].data, k, n_in, w[m][i]);
        for (int n = 0; n < NT; n++) {
            read_eight<XD, VEC>(t.x[n], k, n_in, x[n]);
            if (type_of<D>::quant)
                x_scale[n] = round_group(x[n]);
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
            for (int m = 0; m < MT; m++)
                for (int n = 0; n < NT; n++)
                    step<D == K_F32, XD == K_F32 && !type_of<D>::quant>(acc[m][n], w[m][0], w[m][1],
                                                                        x[n], 2 * i);
        if (type_of<D>::scaled && ((unit + 1) % units == 0 || unit + 1 == end))
            apply_scale<D, XD, MT, NT>(p, t, unit, x_scale, acc, seg);
    }
    if (!type_of<D>::scaled)
        for (int m = 0; m < MT; m++)
            for (int n = 0; n < NT; n++)
                for (int c = 0; c < 4; c++)
                    seg[m][n][c] = acc[m][n][c];
}

/* The group and rows of tile `at` of n rows; false: there is none. */
static __device__ inline bool find_rows(const struct product &p, int64_t at, int n, int64_t *group,
                                        int64_t *first, int64_t *end) {
    if (!p.row_start) {
        *group = blockIdx.z;
        *first = at * n;
        *end = p.n_rows;
        return true;
    }
    for (int64_t g = 0; g < p.w.n_groups; g++) {
        int64_t start = p.row_start[g], rows = p.row_start[g + 1] - start;
        if (at * n < rows) {
            *group = g;
            *first = start + at * n;
            *end = start + rows;
            return true;
        }
        at -= (rows + n - 1) / n;
    }
    return false;
}

template <enum k_dtype D, enum k_dtype XD, int MT, int NT>
static __device__ inline void open_tile(const struct product &p, tile<MT, NT> &t) {
    const int g = threadIdx.x % WARP / 4;

    for (int m = 0; m < MT; m++)
        for (int i = 0; i < 2; i++)
            t.w[m][i] = find_row<D>(p, t.group, t.out + m * 16 + i * 8 + g);
    for (int n = 0; n < NT; n++) {
        int64_t row = t.row + n * 8 + g;
        t.x[n] = row < t.end ? (const char *)p.x +
                                   (row * p.x_row + t.group * p.x_group) * (XD == K_F32 ? 4 : 1)
                             : NULL;
    }
}

static __device__ inline void put(const struct product &p, int64_t group, int64_t row, int64_t out,
                                  float sum) {
    float *y = p.y + row * p.y_row + group * p.y_group + out;

    if (p.bias)
        sum = __fadd_rn(sum, p.bias[out]);
    *y = p.accumulate ? __fadd_rn(*y, sum) : sum;
}

/* Few rows: a warp has a segment of 16 outputs. */
template <enum k_dtype D, enum k_dtype XD, int NT, bool VEC>
static __global__ void __launch_bounds__(SEGMENTS *WARP) narrow_product(struct product p) {
    __shared__ float sums[SEGMENTS][NT * 4][WARP];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    tile<1, NT> t;
    float seg[1][NT][4];

    if (!find_rows(p, blockIdx.y, NT * 8, &t.group, &t.row, &t.end))
        return;
    t.out = (int64_t)blockIdx.x * 16;
    open_tile<D, XD, 1, NT>(p, t);
    sum_segment<D, XD, 1, NT, VEC>(p, t, warp, seg);
    for (int i = 0; i < NT * 4; i++)
        sums[warp][i][lane] = seg[0][i / 4][i % 4];
    __syncthreads();
    for (int i = threadIdx.x; i < NT * 4 * WARP; i += SEGMENTS * WARP) {
        int of = i % WARP, c = i / WARP % 4;
        int64_t out = t.out + of / 4 + c / 2 * 8;
        int64_t row = t.row + i / WARP / 4 * 8 + 2 * (of % 4) + c % 2;
        float sum = 0;
        for (int s = 0; s < SEGMENTS; s++)
            sum = __fadd_rn(sum, sums[s][i / WARP][of]);
        if (out < p.w.n_out && row < t.end)
            put(p, t.group, row, out, sum);
    }
}

/* Many rows: a block makes 64 outputs of 64 rows. */
template <enum k_dtype D, enum k_dtype XD>
static __global__ void __launch_bounds__(WARPS_WIDE *WARP) wide_product(struct product p) {
    const int MT = 2, NT = 4, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    tile<MT, NT> t;
    float sum[MT][NT][4] = {}, seg[MT][NT][4];

    if (!find_rows(p, blockIdx.y, 64, &t.group, &t.row, &t.end))
        return;
    t.out = (int64_t)blockIdx.x * 64 + warp % 2 * 32;
    t.row += warp / 2 * 32;
    open_tile<D, XD, MT, NT>(p, t);
#pragma unroll 1
    for (int s = 0; s < SEGMENTS; s++) {
        sum_segment<D, XD, MT, NT, true>(p, t, s, seg);
#pragma unroll
        for (int i = 0; i < MT * NT * 4; i++)
            sum[i / 16][i / 4 % 4][i % 4] =
                __fadd_rn(sum[i / 16][i / 4 % 4][i % 4], seg[i / 16][i / 4 % 4][i % 4]);
    }
    for (int m = 0; m < MT; m++)
        for (int n = 0; n < NT; n++)
            for (int c = 0; c < 4; c++) {
                int64_t out = t.out + m * 16 + lane / 4 + c / 2 * 8;
                int64_t row = t.row + n * 8 + 2 * (lane % 4) + c % 2;
                if (out < p.w.n_out && row < t.end)
                    put(p, t.group, row, out, sum[m][n][c]);
            }
}

template <enum k_dtype D, enum k_dtype XD>
static int run(struct k_ctx *ctx, const struct product &p) {
    int64_t n_groups = p.w.n_groups,
            rows_each = p.row_start ? ceil_div(p.n_rows, n_groups) : p.n_rows;
    const int x_line = XD == K_F32 ? 4 : 8; // elements of aligned reads
    bool vec = p.w.n_in % 8 == 0 && (uintptr_t)p.x % 16 == 0 && p.x_row % x_line == 0 &&
               p.x_group % x_line == 0;
    int n = !vec || rows_each <= 8 ? 8 : rows_each <= 64 ? 32 : 64;
    int64_t n_tiles = ceil_div(p.n_rows, n) + (p.row_start ? n_groups : 0);
    dim3 grid((unsigned)ceil_div(p.w.n_out, n == 64 ? 64 : 16), (unsigned)n_tiles,
              p.row_start ? 1 : (unsigned)n_groups);
    cudaStream_t stream = stream_of(ctx);

    if (p.n_rows == 0 || p.w.n_out == 0)
        return 0;
    if (n_tiles > GRID_ROWS_MAX || grid.z > GRID_ROWS_MAX)
        return -ENOTSUP;
    if (!vec)
        narrow_product<D, XD, 1, false><<<grid, SEGMENTS * WARP, 0, stream>>>(p);
    else if (n == 8)
        narrow_product<D, XD, 1, true><<<grid, SEGMENTS * WARP, 0, stream>>>(p);
    else if (n == 32)
        narrow_product<D, XD, 4, true><<<grid, SEGMENTS * WARP, 0, stream>>>(p);
    else
        wide_product<D, XD><<<grid, WARPS_WIDE * WARP, 0, stream>>>(p);
    return launched();
}

static int run_typed(struct k_ctx *ctx, const struct product &p) {
    switch (p.w.dtype) {
    case K_F32:
        return run<K_F32, K_F32>(ctx, p);
    case K_BF16:
        return run<K_BF16, K_F32>(ctx, p);
    case K_F16:
        return run<K_F16, K_F32>(ctx, p);
    case K_E4M3:
        return run<K_E4M3, K_F32>(ctx, p);
    case K_E5M2:
        return run<K_E5M2, K_F32>(ctx, p);
    case K_Q8:
        return run<K_Q8, K_F32>(ctx, p);
    case K_Q4:
        return run<K_Q4, K_F32>(ctx, p);
    default:
        return -ENOTSUP;
    }
}

extern "C" int k_cuda_linear(struct k_ctx *ctx, const struct k_linear *a) {
    struct product p = {};

    if (!a->row_start.data && a->w->n_groups != 1)
        return -EINVAL;
    p.w = weight_of(a->w);
    p.x = a->x.data;
    p.x_row = a->x.stride[0];
    p.y = (float *)a->y.data;
    p.y_row = a->y.stride[0];
    p.n_rows = a->x.shape[0];
    p.row_start = (const int32_t *)a->row_start.data;
    p.bias = (const float *)a->bias.data;
    p.accumulate = a->accumulate;
    if (a->x.dtype == K_F32)
        return run_typed(ctx, p);
    if (a->x.dtype != K_E4M3 || a->w->dtype != K_E4M3 || a->sum != K_SUM_F32)
        return -ENOTSUP; /* what training needs */
    if (a->x.scale_kind != K_SCALE_TILES)
        return -EINVAL;
    p.x_scale = (const float *)a->x.scale;
    return run<K_E4M3, K_E4M3>(ctx, p);
}

extern "C" int k_cuda_linear_heads(struct k_ctx *ctx, const struct k_linear_heads *a) {
    struct product p = {};

    p.w = weight_of(a->w);
    p.x = a->x.data;
    p.x_row = a->x.stride[0];
    p.x_group = a->x.stride[1];
    p.y = (float *)a->y.data;
    p.y_row = a->y.stride[0];
    p.y_group = a->y.stride[1];
    p.n_rows = a->x.shape[0];
    return run_typed(ctx, p);
}

enum { ACROSS_ROWS = 4 }; // that a thread of linear_heads_dx makes one input of

template <enum k_dtype D>
static __global__ void across(view<float> dx, view<const float> dy, struct weight_view w) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, h = blockIdx.z;
    int64_t first = (int64_t)blockIdx.y * ACROSS_ROWS;
    float sum[ACROSS_ROWS] = {};

    if (i >= w.n_in)
        return;
    for (int64_t o = 0, row; o < w.n_out; o++) {
        const struct k_weight_part *part = find_part(w, h, o, &row);
        float value = number_at(D, part->data, row * w.n_in + i);
        if (part->scale)
            value *= ((const float *)part->scale)[(part->first_row + row) / K_BLOCK *
                                                      ((w.n_in + K_BLOCK - 1) / K_BLOCK) +
                                                  i / K_BLOCK];
        for (int r = 0; r < ACROSS_ROWS; r++)
            if (first + r < dy.n0)
                sum[r] = fmaf(dy.row(first + r, h)[o], value, sum[r]);
    }
    for (int r = 0; r < ACROSS_ROWS; r++)
        if (first + r < dy.n0)
            dx.row(first + r, h)[i] = sum[r];
}

extern "C" int k_cuda_linear_heads_dx(struct k_ctx *ctx, const struct k_linear_heads_dx *a) {
    struct weight_view w = weight_of(a->w);
    int64_t n_tiles = ceil_div(a->dy.shape[0], ACROSS_ROWS);
    dim3 grid((unsigned)ceil_div(w.n_in, BLOCK_THREADS), (unsigned)n_tiles, (unsigned)w.n_groups);
    view<float> dx = view_of<float>(&a->dx);
    view<const float> dy = view_of<const float>(&a->dy);
    cudaStream_t stream = stream_of(ctx);

    if (n_tiles == 0)
        return 0;
    if (n_tiles > GRID_ROWS_MAX || w.n_groups > GRID_ROWS_MAX)
        return -ENOTSUP;
    switch (w.dtype) {
    case K_F32:
        across<K_F32><<<grid, BLOCK_THREADS, 0, stream>>>(dx, dy, w);
        break;
    case K_BF16:
        across<K_BF16><<<grid, BLOCK_THREADS, 0, stream>>>(dx, dy, w);
        break;
    case K_F16:
        across<K_F16><<<grid, BLOCK_THREADS, 0, stream>>>(dx, dy, w);
        break;
    case K_E4M3:
        across<K_E4M3><<<grid, BLOCK_THREADS, 0, stream>>>(dx, dy, w);
        break;
    case K_E5M2:
        across<K_E5M2><<<grid, BLOCK_THREADS, 0, stream>>>(dx, dy, w);
        break;
    default:
        return -ENOTSUP;
    }
    return launched();
}
