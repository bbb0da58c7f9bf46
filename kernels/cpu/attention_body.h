/* attention_body.h - causal attention over keys in rows or pages, block by block.
 *
 * A piece is queries of one sequence and the heads that share their key head, as rows of small
 * matrix products: rows times a block of keys, then the exponentials times the block's values. Few
 * queries take several key heads together, block by block: a cached row holds all heads, and read
 * head by head from a long sequence it would come from memory in short bits far apart. The
 * sums of CHUNK keys, cut at absolute positions, are kept apart and added up in ascending order, so
 * that long sequences with few queries can be spread over threads. What a row gets depends on its
 * own keys alone: a block's products are one chain for each element, its maximum and sum look at
 * the row's own keys, and keys behind them weigh exactly nothing, or are left out where their
 * values are not finite.
 * Source: Dao and others, FlashAttention, 2022 (the running maximum and sum).
 */
#pragma once
#include "kernels/cpu/gemm_body.h"
#include "kernels/kmath.h"

enum {
    KEYS = 64,   // of a block
    CHUNK = 512, // keys whose sums are kept apart
    ROWS = 56 / TILE_ROWS * TILE_ROWS,
    ROWS_PACKED = ROWS / TILE_ROWS * PANEL_ROWS,
    SPLIT_PIECES = 32,      // fewer pieces than this are split by chunks,
    SPLIT_FLOATS = 1 << 24, // if their sums fit
    AHEAD = 8,              // rows of keys and values on their way to the cache
    NEAR_BYTES = 1 << 17,   // of a block's keys and values, of all key heads of a piece
};

ALWAYS_INLINE float *head_row(const struct k_tensor *t, int64_t i, int64_t h) {
    return (float *)t->data + i * t->stride[0] + h * t->stride[1];
}

static int32_t int_at(const struct k_tensor *t, int64_t i) {
    return ((const int32_t *)t->data)[i];
}

/* p = exp(scale * s - shift) for the first n, zero up to n_keys; returns the sum. */
static float exponentials(float *s, int64_t n, int64_t n_keys, float scale, float shift) {
    vf sum = v_zero(), by = v_set(scale), minus = v_set(shift);
    int64_t i = 0;

    for (; i + VEC <= n; i += VEC) {
        vf e = v_exp(v_sub(v_mul(v_load(s + i), by), minus));
        v_store(s + i, e);
        sum = v_add(sum, e);
    }
    if (i < n) {
        v_store_n(s + i, v_exp(v_sub(v_mul(v_load_n(s + i, n - i), by), minus)), n - i);
        sum = v_add(sum, v_load_n(s + i, n - i));
    }
    memset(s + n, 0, (size_t)(n_keys - n) * sizeof *s);
    return v_sum(sum);
}

static float row_max(const float *s, int64_t n) {
    vf max = v_set(-__builtin_inff());
    int64_t i = 0;

    for (; i + VEC <= n; i += VEC)
        max = v_max(max, v_load(s + i));
    float m = v_max_all(max);
    for (; i < n; i++)
        m = MAX(m, s[i]);
    return m;
}

/* One call, its pieces and its workspace. */
struct attention_job {
    const struct k_attention *a;
    int64_t group, n_h; // heads of a key head, and how many of them a piece takes
    int64_t n_cuts;     // pieces that a group's heads are cut into
    int64_t n_q;        // queries of a piece
    int64_t n_j;        // key heads of a piece: n_j n_q n_h <= ROWS
    int64_t n_pieces;   // of all sequences, before they are split
    int64_t n_chunks;   // of the longest sequence; 0: pieces are not split
    int64_t *seq_piece; // [n_seqs + 1]: first piece of each sequence
    float *partial;     // [n_chunks, n_tokens, n_heads, d_value + 2]
    float *work;
    int64_t work_floats;
};

/* What one thread works with. */
struct attention_work {
    float *q;          // packed rows
    float *keys;       // packed block
    float *values;     // packed block
    float *scores;     // [ROWS, KEYS]
    float *p;          // packed exponentials
    float *out[2];     // [ROWS, d_value]: of the chunk, of all before it
    int64_t row[KEYS]; // of the block's keys and values in their tensors
};

/* The rows of a piece. */
struct attention_rows {
    int64_t s, j, n_j; // sequence, first key head, key heads
    int64_t token;     // the first query
    int64_t position;  // its position: it sees one key more
    int64_t n_q;       // queries
    int64_t head, n_h; // first head and number of heads of key head j
    int64_t group;     // from a key head's first head to the next one's
};

/* Those of key head i alone: rows i n_q n_h and so on of the piece. */
static struct attention_rows rows_of_head(const struct attention_rows *r, int64_t i) {
    struct attention_rows ret = *r;

    ret.j += i;
    ret.head += i * r->group;
    ret.n_j = 1;
    return ret;
}

/* Running maximum, and sum of what lies above it. No key yet: sum 0. */
struct running {
    float max, sum;
};

/* Rows of n <= KEYS keys from `first` on in the tensors of keys and values. */
static void find_rows(const struct k_attention *a, int64_t s, int64_t first, int64_t n,
                      int64_t row[KEYS]) {
    if (!a->pages.data) {
        for (int64_t i = 0; i < n; i++)
            row[i] = int_at(&a->q_start, s) + first + i;
        return;
    }
    int64_t page = first / a->page_tokens, at = first % a->page_tokens;
    for (int64_t i = 0; i < n; i++) {
        row[i] = int_at(&a->pages, s * a->pages.stride[0] + page) * a->page_tokens + at;
        if (++at == a->page_tokens) {
            at = 0;
            page++;
        }
    }
}

ALWAYS_INLINE const char *head_at(const struct k_tensor *t, int64_t row, int64_t j) {
    return (const char *)t->data + (size_t)(row * t->stride[0] + j * t->stride[1]) *
                                       (t->dtype == K_F32 ? sizeof(float) : sizeof(uint16_t));
}

/* Key head j of rows [from, to) on its way to the cache; none behind n. */
ALWAYS_INLINE void fetch_rows(const struct k_tensor *t, const int64_t *row, int64_t j, int64_t from,
                              int64_t to, int64_t n) {
    int64_t n_bytes = t->shape[2] * (t->dtype == K_F32 ? 4 : 2);

    for (; from < MIN(to, n); from++)
        for (int64_t b = 0; b < n_bytes; b += 64)
            _mm_prefetch(head_at(t, row[from], j) + b, _MM_HINT_T0);
}

ALWAYS_INLINE vf widen(const char *p, enum k_dtype dtype) {
    if (dtype == K_F32)
        return v_load((const float *)(const void *)p);
    if (dtype == K_F16)
        return v_from_f16(p);
    return v_from_bf16(p);
}

ALWAYS_INLINE float widen_1(const void *row, int64_t at, enum k_dtype dtype) {
    if (dtype == K_F32)
        return ((const float *)row)[at];
    uint16_t bits = ((const uint16_t *)row)[at];
    if (dtype == K_F16)
        return _cvtsh_ss(bits);
    uint32_t wide = (uint32_t)bits << 16;
    float f;
    memcpy(&f, &wide, sizeof f);
    return f;
}

/* Dimension by dimension, k to k + 8, of VEC keys: ret[i] is dimension k + i of all of them. Memory
 * puts the rows into the parts of a register that no shuffle crosses. */
ALWAYS_INLINE void eight_columns(const char *const rows[VEC], int64_t k, enum k_dtype dtype,
                                 vf ret[8]) {
    const int size = dtype == K_F32 ? 4 : 2;

    if (dtype != K_F32) {
        vh r[8];
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++)
            r[i] = v_load_half_parts(rows + i, k * size);
        v_transpose_words(r);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++)
            ret[i] = dtype == K_F16 ? v_widen_f16(r[i]) : v_widen_bf16(r[i]);
        return;
    }
#pragma GCC unroll 2
    for (int64_t half = 0; half < 8; half += 4) {
        vi r[4], u[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            r[i] = v_load_parts(rows + i, (k + half) * size);
        v_transpose_four(r, u);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            ret[half + i] = v_as_floats(u[i]);
    }
}

/* Where VEC keys from c on begin; the last is there again behind n, where nothing is read of it. */
ALWAYS_INLINE void begin_of_rows(const struct k_attention *a, int64_t j, const int64_t *row,
                                 int64_t c, int64_t n, const char *ret[VEC]) {
    for (int64_t i = 0; i < VEC; i++)
        ret[i] = head_at(&a->k, row[MIN(c + i, n - 1)], j);
}

/* Panels of TILE_COLUMNS keys, dimension by dimension. */
ALWAYS_INLINE void pack_keys_as(const struct k_attention *a, int64_t j, const int64_t *row,
                                int64_t n, float *dst, enum k_dtype dtype) {
    int64_t d = a->k.shape[2];
    const char *rows[VEC];

    for (int64_t c = 0; c < n; c += VEC) {
        float *to = dst + c / TILE_COLUMNS * d * TILE_COLUMNS + c % TILE_COLUMNS;
        int64_t k = 0;
        begin_of_rows(a, j, row, c, n, rows);
        fetch_rows(&a->k, row, j, c + AHEAD, c + VEC + AHEAD, n);
        for (; k + 8 <= d; k += 8) {
            vf v[8];
            eight_columns(rows, k, dtype, v);
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++)
                v_store(to + (k + i) * TILE_COLUMNS, v[i]);
        }
        for (; k < d; k++)
            for (int64_t i = 0; i < VEC; i++)
                to[k * TILE_COLUMNS + i] = widen_1(rows[i], k, dtype);
    }
}

/* Scores of one query with n keys, of a multiple of 8 dimensions: multiply's chains, the keys
 * straight from their rows. Two chains at a time hide each other's latency. */
ALWAYS_INLINE void score_row_as(const struct k_attention *a, int64_t j, const int64_t *row,
                                int64_t n, const float *q, float *scores, enum k_dtype dtype) {
    const char *rows[2][VEC];

    for (int64_t c = 0; c < n; c += 2 * VEC) {
        vf sum[2] = {v_zero(), v_zero()};
        begin_of_rows(a, j, row, c, n, rows[0]);
        begin_of_rows(a, j, row, c + VEC, n, rows[1]);
        fetch_rows(&a->k, row, j, c + AHEAD, c + 2 * VEC + AHEAD, n);
        for (int64_t k = 0; k < a->k.shape[2]; k += 8)
#pragma GCC unroll 2
            for (int v = 0; v < 2; v++) {
                vf x[8];
                eight_columns(rows[v], k, dtype, x);
#pragma GCC unroll 8
                for (int i = 0; i < 8; i++)
                    sum[v] = v_fma(v_set(q[(k + i) * PANEL_ROWS]), x[i], sum[v]);
            }
        v_store(scores + c, sum[0]);
        v_store(scores + c + VEC, sum[1]);
    }
}

static int64_t round_up(int64_t n, int64_t to) {
    return (n + to - 1) / to * to;
}

/* Panels of TILE_COLUMNS dimensions, value by value. */
ALWAYS_INLINE void pack_values_as(const struct k_attention *a, int64_t j, const int64_t *rows,
                                  int64_t n, float *dst, enum k_dtype dtype) {
    int64_t d = a->v.shape[2], size = dtype == K_F32 ? 4 : 2;

    for (int64_t i = 0; i < n; i++) {
        const char *row = head_at(&a->v, rows[i], j);
        int64_t c = 0;
        for (; c + VEC <= d; c += VEC)
            v_store(dst + (c / TILE_COLUMNS * n + i) * TILE_COLUMNS + c % TILE_COLUMNS,
                    widen(row + c * size, dtype));
        for (; c < round_up(d, TILE_COLUMNS); c++)
            dst[(c / TILE_COLUMNS * n + i) * TILE_COLUMNS + c % TILE_COLUMNS] =
                c < d ? widen_1(row, c, dtype) : 0;
    }
}

static void pack_keys(const struct k_attention *a, int64_t j, const int64_t *row, int64_t n,
                      float *dst) {
    if (a->k.dtype == K_F32)
        pack_keys_as(a, j, row, n, dst, K_F32);
    else if (a->k.dtype == K_F16)
        pack_keys_as(a, j, row, n, dst, K_F16);
    else
        pack_keys_as(a, j, row, n, dst, K_BF16);
}

static void score_row(const struct k_attention *a, int64_t j, const int64_t *row, int64_t n,
                      const float *q, float *scores) {
    if (a->k.dtype == K_F32)
        score_row_as(a, j, row, n, q, scores, K_F32);
    else if (a->k.dtype == K_F16)
        score_row_as(a, j, row, n, q, scores, K_F16);
    else
        score_row_as(a, j, row, n, q, scores, K_BF16);
}

static void pack_values(const struct k_attention *a, int64_t j, const int64_t *row, int64_t n,
                        float *dst) {
    if (a->v.dtype == K_F32)
        pack_values_as(a, j, row, n, dst, K_F32);
    else if (a->v.dtype == K_F16)
        pack_values_as(a, j, row, n, dst, K_F16);
    else
        pack_values_as(a, j, row, n, dst, K_BF16);
}

/* Rows in order of (query, head). */
static void pack_queries(const struct k_attention *a, const struct attention_rows *r, float *dst) {
    int64_t d = a->q.shape[2];

    for (int64_t m = 0; m < r->n_q * r->n_h; m++) {
        const float *q = head_row(&a->q, r->token + m / r->n_h, r->head + m % r->n_h);
        float *panel = dst + m / TILE_ROWS * d * PANEL_ROWS + m % TILE_ROWS;
        for (int64_t k = 0; k < d; k++)
            panel[k * PANEL_ROWS] = q[k];
    }
}

static void multiply_row(float *y, int64_t n, float by) {
    int64_t i = 0;

    for (; i + VEC <= n; i += VEC)
        v_store(y + i, v_mul(v_load(y + i), v_set(by)));
    for (; i < n; i++)
        y[i] *= by;
}

static float exp_1(float x) {
    return v_max_all(v_exp(v_set(x)));
}

/* Scores of one row to exponentials of its n own keys, zero up to n_keys; what was added before is
 * brought to the new maximum. */
static void soften(float *scores, int64_t n, int64_t n_keys, float scale, struct running *run,
                   float *out, int64_t d) {
    if (n <= 0) {
        memset(scores, 0, (size_t)n_keys * sizeof *scores);
        return;
    }
    /* The scale is positive, so the largest score stays the largest. */
    float max = row_max(scores, n) * scale;
    if (run->sum != 0 && !(max > run->max)) {
        max = run->max;
    } else if (run->sum != 0) {
        float by = exp_1(run->max - max);
        run->sum *= by;
        multiply_row(out, d, by);
    }
    run->max = max;
    run->sum += exponentials(scores, n, n_keys, scale, max);
}

/* Are the packed values of keys [first, n) of a block finite? */
static bool values_finite(const float *values, int64_t first, int64_t n, int64_t d) {
    vf sum = v_zero();

    for (int64_t c = 0; c < d; c += TILE_COLUMNS, values += n * TILE_COLUMNS)
        for (int64_t i = first * TILE_COLUMNS; i < n * TILE_COLUMNS; i += VEC)
            sum = v_fma(v_load(values + i), v_zero(), sum);
    return v_sum(sum) == 0;
}

/* out of rows [row, row + m) += their exponentials times the n keys whose values are packed. */
static void add_values(const struct attention_work *w, int64_t row, int64_t m, int64_t n, int64_t d,
                       float *out) {
    for (int64_t i = 0; i < m; i += TILE_ROWS)
        pack_across(K_F32, (const char *)(w->scores + (row + i) * KEYS), KEYS,
                    MIN(m - i, (int64_t)TILE_ROWS), 0, n, n, w->p + i / TILE_ROWS * n * PANEL_ROWS,
                    PANEL_ROWS, false);
    multiply(m, d, n, w->p, w->values, out + row * d, d, true, NULL);
}

/* out += p times values, for one row and whole vectors: multiply's chains without its packing. */
ALWAYS_INLINE void add_row_as(const struct k_attention *a, int64_t j, const int64_t *rows,
                              int64_t n, const float *p, float *out, enum k_dtype dtype) {
    int64_t d = a->v.shape[2], size = dtype == K_F32 ? 4 : 2;

    for (int64_t c = 0; c < d; c += 8 * VEC) {
        int64_t n_v = MIN(d - c, (int64_t)8 * VEC) / VEC;
        vf sum[8];
        for (int64_t i = 0; i < 8; i++)
            sum[i] = i < n_v ? v_load(out + c + i * VEC) : v_zero();
        for (int64_t k = 0; k < n; k++) {
            const char *row = head_at(&a->v, rows[k], j) + c * size;
            fetch_rows(&a->v, rows, j, k + AHEAD, k + AHEAD + 1, n);
            vf by = v_set(p[k]);
            if (n_v == 8)
#pragma GCC unroll 8
                for (int64_t i = 0; i < 8; i++)
                    sum[i] = v_fma(by, widen(row + i * VEC * size, dtype), sum[i]);
            else
#pragma GCC unroll 8
                for (int64_t i = 0; i < 8; i++)
                    if (i < n_v)
                        sum[i] = v_fma(by, widen(row + i * VEC * size, dtype), sum[i]);
        }
        for (int64_t i = 0; i < n_v; i++)
            v_store(out + c + i * VEC, sum[i]);
    }
}

static void add_row(const struct k_attention *a, int64_t j, const int64_t *rows, int64_t n,
                    const float *p, float *out) {
    if (a->v.dtype == K_F32)
        add_row_as(a, j, rows, n, p, out, K_F32);
    else if (a->v.dtype == K_F16)
        add_row_as(a, j, rows, n, p, out, K_F16);
    else
        add_row_as(a, j, rows, n, p, out, K_BF16);
}

/* One block of keys, added to out and run. Nothing times a value that is not finite is NaN, so a
 * query must not meet such a value of a key behind it: then each has a product of its own. */
static void attend_block(const struct k_attention *a, const struct attention_rows *r,
                         const struct attention_work *w, int64_t first, int64_t n, float *out,
                         struct running *run) {
    int64_t m = r->n_q * r->n_h, d = a->v.shape[2];
    int64_t own = MIN(MAX(r->position + 1 - first, (int64_t)0), n); // keys of the first query

    if (m == 1 && a->k.shape[2] % 8 == 0) {
        score_row(a, r->j, w->row, n, w->q, w->scores);
    } else {
        pack_keys(a, r->j, w->row, n, w->keys);
        multiply(m, n, a->k.shape[2], w->q, w->keys, w->scores, KEYS, false, NULL);
    }
    fetch_rows(&a->v, w->row, r->j, 0, AHEAD, n);
    for (int64_t i = 0; i < m; i++)
        soften(w->scores + i * KEYS, MIN(r->position + i / r->n_h + 1 - first, n), n, a->scale,
               &run[i], out + i * d, d);
    if (m == 1 && d % VEC == 0) {
        add_row(a, r->j, w->row, n, w->scores, out);
        return;
    }
    pack_values(a, r->j, w->row, n, w->values);
    if (values_finite(w->values, own, n, d)) {
        add_values(w, 0, m, n, d, out);
        return;
    }
    for (int64_t q = 0; q < r->n_q; q++) {
        own = MIN(r->position + q + 1 - first, n);
        if (own <= 0)
            continue;
        pack_values(a, r->j, w->row, own, w->values);
        add_values(w, q * r->n_h, r->n_h, own, d, out);
    }
}

/* Keys of one chunk. */
static void attend_chunk(const struct k_attention *a, const struct attention_rows *r,
                         struct attention_work *w, int64_t chunk, float *out, struct running *run) {
    int64_t m = r->n_q * r->n_h, end = MIN(r->position + r->n_q, (chunk + 1) * CHUNK);
    int64_t d = a->v.shape[2];

    memset(out, 0, (size_t)(r->n_j * m * d) * sizeof *out);
    memset(run, 0, (size_t)(r->n_j * m) * sizeof *run);
    for (int64_t first = chunk * CHUNK; first < end; first += KEYS) {
        int64_t n = MIN(end - first, (int64_t)KEYS);
        find_rows(a, r->s, first, n, w->row);
        for (int64_t i = 0; i < r->n_j; i++) {
            struct attention_rows one = rows_of_head(r, i);
            if (r->n_j > 1)
                pack_queries(a, &one, w->q);
            attend_block(a, &one, w, first, n, out + i * m * d, run + i * m);
        }
    }
}

/* Add a later chunk's row to all before it. */
static void join(float *out, struct running *run, const float *next, const struct running *add,
                 int64_t d) {
    float mine = 1, theirs = 1;

    if (add->sum == 0)
        return;
    if (run->sum == 0) {
        memcpy(out, next, (size_t)d * sizeof *out);
        *run = *add;
        return;
    }
    if (add->max > run->max) {
        mine = exp_1(run->max - add->max);
        run->max = add->max;
    } else {
        theirs = exp_1(add->max - run->max);
    }
    run->sum = run->sum * mine + add->sum * theirs;
    int64_t i = 0;
    for (; i + VEC <= d; i += VEC)
        v_store(out + i,
                v_fma(v_load(next + i), v_set(theirs), v_mul(v_load(out + i), v_set(mine))));
    for (; i < d; i++)
        out[i] = __builtin_fmaf(next[i], theirs, out[i] * mine);
}

static void finish_row(const struct k_attention *a, int64_t token, int64_t h, const float *out,
                       const struct running *run) {
    float *y = head_row(&a->y, token, h);

    memcpy(y, out, (size_t)a->v.shape[2] * sizeof *y);
    multiply_row(y, a->v.shape[2], 1 / run->sum);
    if (a->lse.data)
        ((float *)a->lse.data)[token * a->lse.stride[0] + h] =
            (float)((double)run->max + kmath_log((double)run->sum));
}

static struct attention_rows rows_of(const struct attention_job *job, int64_t piece) {
    const struct k_attention *a = job->a;
    int64_t low = 0, high = a->kv_length.shape[0];

    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (job->seq_piece[middle] <= piece)
            low = middle;
        else
            high = middle;
    }
    piece -= job->seq_piece[low];
    int64_t token = int_at(&a->q_start, low), end = int_at(&a->q_start, low + 1);
    int64_t cut = piece % job->n_cuts, n_sets = (a->k.shape[1] + job->n_j - 1) / job->n_j;
    int64_t j = piece / job->n_cuts % n_sets * job->n_j;
    int64_t query = piece / job->n_cuts / n_sets * job->n_q;
    return (struct attention_rows){
        .s = low,
        .j = j,
        .n_j = MIN(a->k.shape[1] - j, job->n_j),
        .token = token + query,
        .position = int_at(&a->kv_length, low) - (end - token) + query,
        .n_q = MIN(end - token - query, job->n_q),
        .head = j * job->group + cut * job->n_h,
        .n_h = MIN(job->group - cut * job->n_h, job->n_h),
        .group = job->group,
    };
}

/* Places in one thread's part of the workspace. Returns the floats they take. */
static int64_t place_work(const struct k_attention *a, float *at, struct attention_work *w) {
    int64_t d = a->k.shape[2], v = round_up(a->v.shape[2], TILE_COLUMNS), n = 0;
    const int64_t sizes[] = {ROWS_PACKED * d,    KEYS * d, KEYS * v, ROWS * KEYS,
                             ROWS_PACKED * KEYS, ROWS * v, ROWS * v};
    float **const places[] = {&w->q, &w->keys,   &w->values, &w->scores,
                              &w->p, &w->out[0], &w->out[1]};

    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        *places[i] = at + n;
        n += round_up(sizes[i], 16);
    }
    return n;
}

static float *partial_row(const struct attention_job *job, int64_t chunk, int64_t token,
                          int64_t h) {
    const struct k_attention *a = job->a;

    return job->partial +
           ((chunk * a->q.shape[0] + token) * a->q.shape[1] + h) * (a->v.shape[2] + 2);
}

/* Token and head of a piece's row. */
static void place_of_row(const struct attention_rows *r, int64_t i, int64_t *token, int64_t *head) {
    int64_t m = r->n_q * r->n_h;

    *token = r->token + i % m / r->n_h;
    *head = r->head + i / m * r->group + i % r->n_h;
}

/* A piece's rows of one chunk, left for attention_join. Pieces of a chunk follow each other: they
 * read the same pages. */
static void attention_split(void *arg, int64_t piece, int thread) {
    const struct attention_job *job = arg;
    struct attention_rows r = rows_of(job, piece % job->n_pieces);
    int64_t chunk = piece / job->n_pieces, d = job->a->v.shape[2], token, head;
    struct running run[ROWS];
    struct attention_work w;

    (void)place_work(job->a, job->work + thread * job->work_floats, &w);
    pack_queries(job->a, &r, w.q);
    attend_chunk(job->a, &r, &w, chunk, w.out[0], run);
    for (int64_t i = 0; i < r.n_j * r.n_q * r.n_h; i++) {
        place_of_row(&r, i, &token, &head);
        float *to = partial_row(job, chunk, token, head);
        to[0] = run[i].max;
        to[1] = run[i].sum;
        memcpy(to + 2, w.out[0] + i * d, (size_t)d * sizeof *to);
    }
}

static void attention_join(void *arg, int64_t piece, int thread) {
    const struct attention_job *job = arg;
    int64_t token = piece / job->a->q.shape[1], h = piece % job->a->q.shape[1];
    float *total = partial_row(job, 0, token, h);
    struct running run = {total[0], total[1]};

    for (int64_t chunk = 1; chunk < job->n_chunks; chunk++) {
        const float *next = partial_row(job, chunk, token, h);
        struct running add = {next[0], next[1]};
        join(total + 2, &run, next + 2, &add, job->a->v.shape[2]);
    }
    finish_row(job->a, token, h, total + 2, &run);
}

/* A piece's rows, one chunk after the other. */
static void attention_piece(void *arg, int64_t piece, int thread) {
    const struct attention_job *job = arg;
    struct attention_rows r = rows_of(job, piece);
    int64_t d = job->a->v.shape[2], m = r.n_j * r.n_q * r.n_h, token, head;
    struct running total[ROWS] = {0}, run[ROWS];
    struct attention_work w;

    (void)place_work(job->a, job->work + thread * job->work_floats, &w);
    pack_queries(job->a, &r, w.q);
    for (int64_t chunk = 0; chunk * CHUNK < r.position + r.n_q; chunk++) {
        attend_chunk(job->a, &r, &w, chunk, w.out[0], run);
        for (int64_t i = 0; i < m; i++)
            join(w.out[1] + i * d, &total[i], w.out[0] + i * d, &run[i], d);
    }
    for (int64_t i = 0; i < m; i++) {
        place_of_row(&r, i, &token, &head);
        finish_row(job->a, token, head, w.out[1] + i * d, &total[i]);
    }
}

/* Pieces of one query. */
static int64_t pieces_of_query(const struct k_attention *a) {
    int64_t group = a->q.shape[1] / a->k.shape[1];

    return a->k.shape[1] * ((group + ROWS - 1) / ROWS);
}

static int64_t chunks_max(const struct k_attention *a) {
    return a->pages.data ? (a->pages.shape[1] * a->page_tokens + CHUNK - 1) / CHUNK : 1;
}

/* Floats of the chunks' sums of n_tokens queries. */
static int64_t partial_floats(const struct k_attention *a, int64_t n_tokens) {
    return round_up(chunks_max(a) * n_tokens * a->q.shape[1] * (a->v.shape[2] + 2), 16);
}

static bool is_split(const struct k_attention *a) {
    int64_t n = a->q.shape[0];

    return chunks_max(a) > 1 && n * pieces_of_query(a) < SPLIT_PIECES &&
           partial_floats(a, n) <= SPLIT_FLOATS;
}

static struct attention_job attention_cut(const struct k_attention *a) {
    struct attention_job job = {.a = a, .group = a->q.shape[1] / a->k.shape[1]};
    struct attention_work w;

    job.n_h = MIN(job.group, (int64_t)ROWS);
    job.n_cuts = (job.group + job.n_h - 1) / job.n_h;
    job.n_q = ROWS / job.n_h;
    job.work_floats = place_work(a, NULL, &w);
    job.n_chunks = is_split(a) ? chunks_max(a) : 0;
    return job;
}

/* With room for the sums of any smaller batch that would be split. */
static int64_t partial_floats_max(const struct k_attention *a) {
    int64_t n = MIN(a->q.shape[0], (SPLIT_PIECES - 1) / pieces_of_query(a));

    return chunks_max(a) > 1 ? MIN(partial_floats(a, n), (int64_t)SPLIT_FLOATS) : 0;
}

static size_t attention_workspace(const struct k_ctx *ctx, const struct k_attention *a) {
    struct attention_job job = attention_cut(a);

    return (size_t)round_up(a->kv_length.shape[0] + 1, 8) * sizeof(int64_t) +
           (size_t)partial_floats_max(a) * sizeof(float) +
           (size_t)pool_n_threads(ctx->pool) * (size_t)job.work_floats * sizeof(float);
}

/* Few queries take key heads together: as many as leave each thread a piece of a query, and of
 * which a block of keys and values and the next one stay in the second-level cache. */
static void share_heads(const struct k_ctx *ctx, struct attention_job *job, int64_t n_queries) {
    const struct k_attention *a = job->a;
    int64_t n_threads = pool_n_threads(ctx->pool),
            n_j = (a->k.shape[1] + n_threads - 1) / n_threads;
    int64_t head_bytes = KEYS * (a->k.shape[2] * (a->k.dtype == K_F32 ? 4 : 2) +
                                 a->v.shape[2] * (a->v.dtype == K_F32 ? 4 : 2));

    job->n_q = MAX(MIN(job->n_q, n_queries), (int64_t)1);
    n_j = MIN(n_j, NEAR_BYTES / head_bytes);
    n_j = MIN(n_j, ROWS / (job->n_q * job->n_h));
    job->n_j = job->n_cuts > 1 ? 1 : MAX(n_j, (int64_t)1);
}

static int attention(struct k_ctx *ctx, const struct k_attention *a) {
    if (a->q.shape[1] % a->k.shape[1] || a->scale <= 0 || (a->pages.data && a->page_tokens < 1))
        return -EINVAL;
    struct attention_job job = attention_cut(a);
    int64_t n_seqs = a->kv_length.shape[0], n = 0, n_queries_max = 0;

    job.seq_piece = ctx->workspace;
    job.partial = (float *)ctx->workspace + 2 * round_up(n_seqs + 1, 8);
    job.work = job.partial + partial_floats_max(a);
    for (int64_t s = 0; s < n_seqs; s++)
        n_queries_max =
            MAX(n_queries_max, (int64_t)int_at(&a->q_start, s + 1) - int_at(&a->q_start, s));
    share_heads(ctx, &job, n_queries_max);
    for (int64_t s = 0; s < n_seqs; s++) {
        int64_t n_queries = int_at(&a->q_start, s + 1) - int_at(&a->q_start, s);
        job.seq_piece[s] = n;
        n += (n_queries + job.n_q - 1) / job.n_q * ((a->k.shape[1] + job.n_j - 1) / job.n_j) *
             job.n_cuts;
    }
    job.seq_piece[n_seqs] = job.n_pieces = n;
    if (job.n_chunks) {
        pool_run(ctx->pool, n * job.n_chunks, attention_split, &job);
        pool_run(ctx->pool, a->q.shape[0] * a->q.shape[1], attention_join, &job);
    } else {
        pool_run(ctx->pool, n, attention_piece, &job);
    }
    return 0;
}
