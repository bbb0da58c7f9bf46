/* Attention with the keys of a query cut at absolute positions: parts of 512 keys, in chunks of 64.
 *
 * A block of 128 threads has one query of one head. Within a part the softmax runs on with a
 * maximum and a sum, chunk by chunk; parts are then merged in ascending order. With few queries
 * every part gets a block and leaves its sums in the workspace; otherwise a block goes through all
 * parts. Both compute and merge parts by the same functions, so the bits are the same.
 */
#include "kernels/cuda/cuda_impl.cuh"

enum {
    THREADS = 128,
    CHUNK = 64,
    PART = 512,
    QUERIES_SPLIT_MAX = 1024, // queries times heads that are given a block a part
    D_KEY_MAX = 1024,
    D_VALUE_MAX = 512,
};

struct attend {
    view<float> y;
    view<const float> q;
    struct k_tensor k, v;
    float *lse;
    int64_t lse_row;
    const int32_t *q_start, *kv_length, *pages;
    int64_t n_seqs, page_row, page_tokens;
    float scale;
    float *parts; // [queries * heads, n_parts, d_value + 2], or NULL
    int64_t n_parts;
    bool in_fours; // q, and rows of k, can be read 4 numbers at a time
};

/* Running softmax of one query: thread i has the numbers i + 128 j of the value. */
template <int NJ> struct state { float max, sum, acc[NJ]; };

struct query {
    int64_t t, h, j, seq, n_keys;
};

static __device__ inline struct query find_query(const struct attend &a) {
    struct query q;

    q.t = blockIdx.x / a.q.n1;
    q.h = blockIdx.x % a.q.n1;
    q.j = q.h / (a.q.n1 / a.k.shape[1]);
    q.seq = 0;
    while (q.seq + 1 < a.n_seqs && a.q_start[q.seq + 1] <= q.t)
        q.seq++;
    q.n_keys = a.kv_length[q.seq] - (a.q_start[q.seq + 1] - 1 - q.t);
    return q;
}

static __device__ inline int64_t key_row(const struct attend &a, const struct query &q, int64_t p) {
    if (!a.pages)
        return a.q_start[q.seq] + p;
    return (int64_t)a.pages[q.seq * a.page_row + p / a.page_tokens] * a.page_tokens +
           p % a.page_tokens;
}

/* Four numbers. */
template <enum k_dtype D> static __device__ inline float4 read_four(const void *row, int64_t i) {
    if (D == K_F32)
        return __ldg((const float4 *)((const float *)row + i));
    uint2 bits = __ldg((const uint2 *)((const uint16_t *)row + i));
    if (D == K_BF16)
        return make_float4(__uint_as_float(bits.x << 16), __uint_as_float(bits.x & 0xffff0000u),
                           __uint_as_float(bits.y << 16), __uint_as_float(bits.y & 0xffff0000u));
    return make_float4(from_f16((uint16_t)bits.x), from_f16((uint16_t)(bits.x >> 16)),
                       from_f16((uint16_t)bits.y), from_f16((uint16_t)(bits.y >> 16)));
}

template <enum k_dtype D>
static __device__ inline const char *row_of(const struct k_tensor &t, int64_t i, int64_t j) {
    return (const char *)t.data + (i * t.stride[0] + j * t.stride[1]) * (D == K_F32 ? 4 : 2);
}

/* Product of the query with a key by 8 lanes, the same in each. */
template <enum k_dtype D>
static __device__ inline float dot(const struct attend &a, const float *q, const char *k,
                                   int lane) {
    float sum = 0;

    if (a.in_fours)
        for (int64_t i = lane * 4; i < a.q.n2; i += 32) {
            float4 x = read_four<D>(k, i);
            sum = fmaf(q[i], x.x, sum);
            sum = fmaf(q[i + 1], x.y, sum);
            sum = fmaf(q[i + 2], x.z, sum);
            sum = fmaf(q[i + 3], x.w, sum);
        }
    else
        for (int64_t i = lane; i < a.q.n2; i += 8)
            sum = fmaf(q[i], number_at(D, k, i), sum);
    for (int d = 4; d > 0; d /= 2)
        sum = __fadd_rn(sum, __shfl_xor_sync(FULL, sum, d));
    return sum;
}

/* Keys [first, first + n) of one chunk into the state. */
template <enum k_dtype D, int NJ>
static __device__ inline void add_chunk(const struct attend &a, const struct query &q,
                                        const float *shared_q, int64_t first, int n, state<NJ> &s) {
    __shared__ float score[CHUNK], weight[CHUNK];
    __shared__ int64_t rows[CHUNK];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;

    __syncthreads();
    if (threadIdx.x < n)
        rows[threadIdx.x] = key_row(a, q, first + threadIdx.x);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < CHUNK / 16; i++) {
        int key = warp * (CHUNK / 4) + i * 4 + lane / 8;
        const char *k = row_of<D>(a.k, rows[key < n ? key : 0], q.j);
        float x = dot<D>(a, shared_q, k, lane % 8);
        if (lane % 8 == 0)
            score[key] = key < n ? __fmul_rn(x, a.scale) : -INFINITY;
    }
    __syncthreads();
    float x0 = score[lane], x1 = score[lane + WARP];
    float max = warp_max(x0 != x0 || x0 > x1 ? x0 : x1);
    max = s.max != s.max || s.max > max ? s.max : max;
    float w0 = expf(x0 - max), w1 = expf(x1 - max), keep = expf(s.max - max);
    if (warp == 0) {
        weight[lane] = w0;
        weight[lane + WARP] = w1;
    }
    s.sum = fmaf(s.sum, keep, warp_sum(__fadd_rn(w0, w1)));
    s.max = max;
    __syncthreads();
#pragma unroll
    for (int j = 0; j < NJ; j++)
        s.acc[j] = __fmul_rn(s.acc[j], keep);
#pragma unroll 4
    for (int key = 0; key < n; key++) {
        const char *v = row_of<D>(a.v, rows[key], q.j);
        float w = weight[key];
#pragma unroll
        for (int j = 0; j < NJ; j++)
            if (threadIdx.x + j * THREADS < a.v.shape[2])
                s.acc[j] = fmaf(w, number_at(D, v, threadIdx.x + j * THREADS), s.acc[j]);
    }
}

template <enum k_dtype D, int NJ>
static __device__ __noinline__ void attend_part(const struct attend &a, const struct query &q,
                                                const float *shared_q, int64_t part, state<NJ> &s) {
    int64_t end = min((part + 1) * PART, q.n_keys);

    s.max = -INFINITY;
    s.sum = 0;
    for (int j = 0; j < NJ; j++)
        s.acc[j] = 0;
    for (int64_t first = part * PART; first < end; first += CHUNK)
        add_chunk<D, NJ>(a, q, shared_q, first, (int)min((int64_t)CHUNK, end - first), s);
}

/* Add part b behind a. */
template <int NJ> static __device__ inline void merge(state<NJ> &a, const state<NJ> &b) {
    float max = a.max != a.max || a.max > b.max ? a.max : b.max;
    float keep = expf(a.max - max), by = expf(b.max - max);

    a.sum = fmaf(a.sum, keep, __fmul_rn(b.sum, by));
    for (int j = 0; j < NJ; j++)
        a.acc[j] = fmaf(a.acc[j], keep, __fmul_rn(b.acc[j], by));
    a.max = max;
}

template <int NJ>
static __device__ inline void store(const struct attend &a, const struct query &q,
                                    const state<NJ> &s) {
    float inverse = __fdiv_rn(1.0f, s.sum);

    for (int j = 0; j < NJ; j++)
        if (threadIdx.x + j * THREADS < a.y.n2)
            a.y.row(q.t, q.h)[threadIdx.x + j * THREADS] = __fmul_rn(s.acc[j], inverse);
    if (a.lse && threadIdx.x == 0)
        a.lse[q.t * a.lse_row + q.h] = s.max + logf(s.sum);
}

template <enum k_dtype D, int NJ, bool SPLIT>
static __global__ void __launch_bounds__(THREADS) attend_query(struct attend a) {
    __shared__ float shared_q[D_KEY_MAX];
    struct query q = find_query(a);
    const float *from = a.q.row(q.t, q.h);
    state<NJ> s, part;

    if (SPLIT && (int64_t)blockIdx.y * PART >= q.n_keys)
        return;
    for (int64_t i = threadIdx.x; i < a.q.n2; i += THREADS)
        shared_q[i] = from[i];
    if (!SPLIT) {
        attend_part<D, NJ>(a, q, shared_q, 0, s);
        for (int64_t p = 1; p * PART < q.n_keys; p++) {
            attend_part<D, NJ>(a, q, shared_q, p, part);
            merge(s, part);
        }
        store(a, q, s);
        return;
    }
    attend_part<D, NJ>(a, q, shared_q, blockIdx.y, s);
    float *to = a.parts + (blockIdx.x * a.n_parts + blockIdx.y) * (a.y.n2 + 2);
    for (int j = 0; j < NJ; j++)
        if (threadIdx.x + j * THREADS < a.y.n2)
            to[2 + threadIdx.x + j * THREADS] = s.acc[j];
    if (threadIdx.x == 0) {
        to[0] = s.max;
        to[1] = s.sum;
    }
}

template <int NJ>
static __device__ inline void load_part(const struct attend &a, int64_t p, state<NJ> &s) {
    const float *from = a.parts + (blockIdx.x * a.n_parts + p) * (a.y.n2 + 2);

    s.max = from[0];
    s.sum = from[1];
    for (int j = 0; j < NJ; j++)
        s.acc[j] = threadIdx.x + j * THREADS < a.y.n2 ? from[2 + threadIdx.x + j * THREADS] : 0;
}

template <int NJ> static __global__ void __launch_bounds__(THREADS) merge_parts(struct attend a) {
    struct query q = find_query(a);
    state<NJ> s, part;

    load_part(a, 0, s);
    for (int64_t p = 1; p * PART < q.n_keys; p++) {
        load_part(a, p, part);
        merge(s, part);
    }
    store(a, q, s);
}

template <enum k_dtype D, int NJ> static int run(struct k_ctx *ctx, const struct attend &a) {
    int64_t n = a.q.n0 * a.q.n1;

    if (!a.parts)
        attend_query<D, NJ, false><<<(unsigned)n, THREADS, 0, stream_of(ctx)>>>(a);
    else {
        dim3 grid((unsigned)n, (unsigned)a.n_parts);
        attend_query<D, NJ, true><<<grid, THREADS, 0, stream_of(ctx)>>>(a);
        merge_parts<NJ><<<(unsigned)n, THREADS, 0, stream_of(ctx)>>>(a);
    }
    return launched();
}

template <enum k_dtype D> static int run_typed(struct k_ctx *ctx, const struct attend &a) {
    return a.y.n2 <= THREADS ? run<D, 1>(ctx, a) : run<D, D_VALUE_MAX / THREADS>(ctx, a);
}

/* Parts of the longest sequence there could be; 1: none are made apart. */
static int64_t parts_of(const struct k_attention *a) {
    int64_t n_keys = a->pages.data ? a->pages.shape[1] * a->page_tokens : a->k.shape[0];

    return n_keys > 0 ? ceil_div(n_keys, PART) : 1;
}

/* Grows with the shapes, so that a measuring pass over the largest finds enough for all. */
extern "C" size_t k_cuda_attention_workspace(const struct k_ctx *ctx, const struct k_attention *a) {
    int64_t n = a->q.shape[0] * a->q.shape[1];

    n = n < QUERIES_SPLIT_MAX ? n : QUERIES_SPLIT_MAX;
    return (size_t)(n * parts_of(a) * (a->y.shape[2] + 2)) * sizeof(float);
}

extern "C" int k_cuda_attention(struct k_ctx *ctx, const struct k_attention *a) {
    int64_t n = a->q.shape[0] * a->q.shape[1], n_parts = parts_of(a);
    const int line = a->k.dtype == K_F32 ? 16 : 8; // bytes of four numbers
    struct attend s = {};

    if (n == 0)
        return 0;
    if (a->k.shape[1] == 0 || a->q.shape[1] % a->k.shape[1] || a->k.dtype != a->v.dtype ||
        (a->pages.data && a->page_tokens < 1))
        return -EINVAL;
    if (a->q.shape[2] > D_KEY_MAX || a->y.shape[2] > D_VALUE_MAX || n > INT_MAX || n_parts > 65535)
        return -ENOTSUP;
    s.y = view_of<float>(&a->y);
    s.q = view_of<const float>(&a->q);
    s.k = a->k;
    s.v = a->v;
    s.lse = (float *)a->lse.data;
    s.lse_row = a->lse.stride[0];
    s.q_start = (const int32_t *)a->q_start.data;
    s.kv_length = (const int32_t *)a->kv_length.data;
    s.pages = (const int32_t *)a->pages.data;
    s.n_seqs = a->kv_length.shape[0];
    s.page_row = a->pages.stride[0];
    s.page_tokens = a->page_tokens;
    s.scale = a->scale;
    s.n_parts = n_parts;
    s.parts = n <= QUERIES_SPLIT_MAX && n_parts > 1 ? (float *)ctx->workspace : NULL;
    s.in_fours = a->q.shape[2] % 4 == 0 && (uintptr_t)a->k.data % line == 0 &&
                 a->k.stride[0] % 4 == 0 && a->k.stride[1] % 4 == 0;
    return a->k.dtype == K_F32    ? run_typed<K_F32>(ctx, s)
           : a->k.dtype == K_BF16 ? run_typed<K_BF16>(ctx, s)
                                  : run_typed<K_F16>(ctx, s);
}

/* A thread a pair of one head. */
static __global__ void turn(view<float> x, view<const float> cosine, view<const float> sine,
                            const int32_t *position, bool adjacent, bool inverse) {
    const int64_t half = cosine.n1;

    FOR_ELEMENTS(e, x.n0 * x.n1 * half) {
        int64_t i = e % half, h = e / half % x.n1, t = e / half / x.n1;
        float *row = x.row(t, h), c = cosine.row(position[t])[i], s = sine.row(position[t])[i];
        float *even = adjacent ? &row[2 * i] : &row[i];
        float *odd = adjacent ? &row[2 * i + 1] : &row[i + half];
        float u = *even, v = *odd;
        s = inverse ? -s : s;
        *even = u * c - v * s;
        *odd = v * c + u * s;
    }
}

extern "C" int k_cuda_rope(struct k_ctx *ctx, const struct k_rope *a) {
    int64_t n = a->x.shape[0] * a->x.shape[1] * a->cosine.shape[1];

    if (a->x.shape[2] != 2 * a->cosine.shape[1])
        return -EINVAL;
    if (n == 0)
        return 0;
    turn<<<blocks_for(n), BLOCK_THREADS, 0, stream_of(ctx)>>>(
        view_of<float>(&a->x), view_of<const float>(&a->cosine), view_of<const float>(&a->sine),
        (const int32_t *)a->position.data, a->adjacent, a->inverse);
    return launched();
}
