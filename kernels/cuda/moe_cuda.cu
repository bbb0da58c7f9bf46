/* Routing: choice of experts, sorting by them, gathering and combining. */
#include "kernels/cuda/cuda_impl.cuh"

enum {
    EXPERTS_MAX = 1024,
    SORT_THREADS = 256,
};

/* Added to a sum of scores before it divides, as in ref. */
#define SUM_MIN 1e-20

struct route {
    struct k_router a;
    int n_experts, n_slots;
};

/* The warp's best of value[first, first + n) that is not marked; ties to the lower number. */
static __device__ inline int best_of(const double *value, const bool *mark, int first, int n) {
    double best = 0;
    int at = -1;

    for (int i = first + threadIdx.x; i < first + n; i += WARP)
        if (!mark[i] && (at < 0 || value[i] > best)) {
            best = value[i];
            at = i;
        }
    for (int d = WARP / 2; d > 0; d /= 2) {
        double other = __shfl_xor_sync(FULL, best, d);
        int from = __shfl_xor_sync(FULL, at, d);
        if (from >= 0 && (at < 0 || other > best || (other == best && from < at))) {
            best = other;
            at = from;
        }
    }
    return at;
}

static __device__ void mark_best(const double *value, bool *mark, int first, int n, int count) {
    for (int round = 0; round < count; round++) {
        int at = best_of(value, mark, first, n);
        if (threadIdx.x == 0 && at >= 0)
            mark[at] = true;
        __syncwarp();
    }
}

/* -inf for the experts outside the best groups. */
static __device__ void mask_groups(const struct route &r, double *choice, double *group_value,
                                   bool *mark, bool *kept) {
    int size = r.n_experts / r.a.n_groups;

    for (int g = 0; g < r.a.n_groups; g++) {
        mark_best(choice, mark, g * size, size, min(size, r.a.group_best));
        if (threadIdx.x == 0) {
            double sum = 0;
            for (int e = g * size; e < (g + 1) * size; e++)
                sum += mark[e] ? choice[e] : 0;
            group_value[g] = sum;
        }
    }
    for (int g = threadIdx.x; g < r.a.n_groups; g += WARP)
        kept[g] = false;
    __syncwarp();
    mark_best(group_value, kept, 0, r.a.n_groups, r.a.group_top);
    for (int e = threadIdx.x; e < r.n_experts; e += WARP) {
        if (!kept[e / size])
            choice[e] = -INFINITY;
        mark[e] = false;
    }
    __syncwarp();
}

static __device__ void score(const struct route &r, const float *logits, float *scores) {
    float max = -INFINITY;
    double sum = 0;

    if (r.a.score == K_SCORE_SIGMOID) {
        for (int e = threadIdx.x; e < r.n_experts; e += WARP)
            scores[e] = (float)(1 / (1 + exp(-(double)logits[e])));
        return;
    }
    for (int e = threadIdx.x; e < r.n_experts; e += WARP)
        max = fmaxf(max, logits[e]);
    max = warp_max(max);
    for (int e = threadIdx.x; e < r.n_experts; e += WARP)
        sum += exp((double)logits[e] - max);
    sum = warp_sum(sum);
    for (int e = threadIdx.x; e < r.n_experts; e += WARP)
        scores[e] = (float)(exp((double)logits[e] - max) / sum);
}

/* A warp a token. */
static __global__ void __launch_bounds__(WARP) choose(struct route r) {
    __shared__ double choice[EXPERTS_MAX], group_value[EXPERTS_MAX];
    __shared__ bool mark[EXPERTS_MAX], kept[EXPERTS_MAX];
    const int64_t t = blockIdx.x;
    float *scores = (float *)r.a.scores.data + t * r.a.scores.stride[0];
    float *weights = (float *)r.a.weights.data + t * r.a.weights.stride[0];
    int32_t *experts = (int32_t *)r.a.experts.data + t * r.a.experts.stride[0];
    const float *bias = (const float *)r.a.bias.data;

    score(r, (const float *)r.a.logits.data + t * r.a.logits.stride[0], scores);
    for (int e = threadIdx.x; e < r.n_experts; e += WARP) {
        choice[e] = (double)scores[e] + (bias ? bias[e] : 0);
        mark[e] = false;
    }
    __syncwarp();
    if (r.a.n_groups > 1)
        mask_groups(r, choice, group_value, mark, kept);
    mark_best(choice, mark, 0, r.n_experts, r.n_slots);
    if (threadIdx.x != 0)
        return;
    double sum = 0;
    for (int e = 0, s = 0; e < r.n_experts; e++)
        if (mark[e]) {
            experts[s++] = e;
            sum += scores[e];
        }
    for (int s = 0; s < r.n_slots; s++) {
        double share = scores[experts[s]];
        share = r.a.normalise ? share / (sum + SUM_MIN) : share;
        weights[s] = (float)(share * (double)r.a.scaling);
    }
}

extern "C" int k_cuda_router(struct k_ctx *ctx, const struct k_router *a) {
    struct route r = {*a, (int)a->logits.shape[1], (int)a->experts.shape[1]};

    if (a->logits.shape[1] > EXPERTS_MAX || a->n_groups < 1 || r.n_experts % a->n_groups ||
        a->group_top < 1 || a->group_best < 1 || a->group_top > a->n_groups ||
        r.n_slots > r.n_experts / a->n_groups * a->group_top)
        return -EINVAL;
    if (a->logits.shape[0] == 0)
        return 0;
    choose<<<(unsigned)a->logits.shape[0], WARP, 0, stream_of(ctx)>>>(r);
    return launched();
}

struct sort {
    const int32_t *experts;
    int32_t *row_start, *row_token, *pair_row;
    int64_t n_pairs, n_slots;
    int n_experts;
};

/* A block an expert: how many pairs it has. Block n_experts clears what no expert takes. */
static __global__ void count_pairs(struct sort s) {
    const int e = blockIdx.x;
    int n = 0;

    if (e == s.n_experts) {
        for (int64_t p = threadIdx.x; p < s.n_pairs; p += blockDim.x) {
            s.row_token[p] = 0;
            if (s.experts[p] < 0 || s.experts[p] >= s.n_experts)
                s.pair_row[p] = -1;
        }
        return;
    }
    for (int64_t p = threadIdx.x; p < s.n_pairs; p += blockDim.x)
        n += s.experts[p] == e;
    n = block_sum(n);
    if (threadIdx.x == 0)
        s.row_start[e + 1] = n;
}

static __global__ void add_counts(struct sort s) {
    int32_t at = 0;

    s.row_start[0] = 0;
    for (int e = 1; e <= s.n_experts; e++)
        s.row_start[e] = at += s.row_start[e];
}

/* A block an expert: rows to its pairs, in ascending order. */
static __global__ void give_rows(struct sort s) {
    __shared__ int counts[SORT_THREADS / WARP];
    const int e = blockIdx.x, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int32_t at = s.row_start[e];

    if (at == s.row_start[e + 1])
        return;
    for (int64_t first = 0; first < s.n_pairs; first += SORT_THREADS) {
        int64_t p = first + threadIdx.x;
        bool mine = p < s.n_pairs && s.experts[p] == e;
        unsigned mask = __ballot_sync(FULL, mine);
        if (lane == 0)
            counts[warp] = __popc(mask);
        __syncthreads();
        int before = __popc(mask & ((1u << lane) - 1)), all = 0;
        for (int w = 0; w < SORT_THREADS / WARP; w++) {
            before += w < warp ? counts[w] : 0;
            all += counts[w];
        }
        if (mine) {
            s.pair_row[p] = at + before;
            s.row_token[at + before] = (int32_t)(p / s.n_slots);
        }
        at += all;
        __syncthreads();
    }
}

extern "C" int k_cuda_route_sort(struct k_ctx *ctx, const struct k_route_sort *a) {
    struct sort s = {};
    cudaStream_t stream = stream_of(ctx);

    s.n_slots = a->experts.shape[1];
    s.n_pairs = a->experts.shape[0] * s.n_slots;
    s.n_experts = (int)(a->row_start.shape[0] - 1);
    s.experts = (const int32_t *)a->experts.data;
    s.row_start = (int32_t *)a->row_start.data;
    s.row_token = (int32_t *)a->row_token.data;
    s.pair_row = (int32_t *)a->pair_row.data;
    if (a->row_token.shape[0] != s.n_pairs || a->experts.stride[0] != s.n_slots ||
        a->pair_row.stride[0] != s.n_slots || s.n_pairs > INT32_MAX)
        return -EINVAL;
    count_pairs<<<(unsigned)s.n_experts + 1, SORT_THREADS, 0, stream>>>(s);
    add_counts<<<1, 1, 0, stream>>>(s);
    if (s.n_experts > 0)
        give_rows<<<(unsigned)s.n_experts, SORT_THREADS, 0, stream>>>(s);
    return launched();
}

/* A block a row. */
static __global__ void gather_rows(view<float> y, view<const float> x, const int32_t *token,
                                   bool fours) {
    float *to = y.row(blockIdx.x);
    const float *from = x.row(token[blockIdx.x]);

    if (fours)
        for (int64_t i = threadIdx.x; i < y.n1 / 4; i += blockDim.x)
            ((float4 *)to)[i] = ((const float4 *)from)[i];
    else
        for (int64_t i = threadIdx.x; i < y.n1; i += blockDim.x)
            to[i] = from[i];
}

extern "C" int k_cuda_gather(struct k_ctx *ctx, const struct k_gather *a) {
    if (a->y.shape[0] == 0)
        return 0;
    gather_rows<<<(unsigned)a->y.shape[0], BLOCK_THREADS, 0, stream_of(ctx)>>>(
        view_of<float>(&a->y), view_of<const float>(&a->x), (const int32_t *)a->row_token.data,
        in_fours(&a->y) && in_fours(&a->x));
    return launched();
}

/* A row of pair_row is below 0 where there was no such expert: it adds nothing. */
static __global__ void combine_rows(view<float> y, view<const float> x, view<const int32_t> rows,
                                    view<const float> weights) {
    const int64_t t = blockIdx.y, i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;

    if (i >= y.n1)
        return;
    float sum = y.row(t)[i];
    for (int64_t s = 0; s < rows.n1; s++) {
        int32_t row = rows.row(t)[s];
        if (row >= 0)
            sum = fmaf(weights.data ? weights.row(t)[s] : 1.0f, x.row(row)[i], sum);
    }
    y.row(t)[i] = sum;
}

extern "C" int k_cuda_combine(struct k_ctx *ctx, const struct k_combine *a) {
    dim3 grid((unsigned)ceil_div(a->y.shape[1], BLOCK_THREADS), (unsigned)a->y.shape[0]);

    if (a->y.shape[0] == 0 || a->y.shape[1] == 0)
        return 0;
    if (a->y.shape[0] > 65535)
        return -ENOTSUP;
    combine_rows<<<grid, BLOCK_THREADS, 0, stream_of(ctx)>>>(
        view_of<float>(&a->y), view_of<const float>(&a->x), view_of<const int32_t>(&a->pair_row),
        view_of<const float>(&a->weights));
    return launched();
}
