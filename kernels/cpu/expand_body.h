/* expand_body.h - attention of many queries over compressed keys and values.
 *
 * A piece is a head and up to EXPAND_QUERIES queries of one sequence. It takes its keys block after
 * block: a block's cached rows are made wide, go through the head's two halves of kv_b by the
 * products of product_body.h, and all queries of the piece meet the keys and values that come out,
 * which are packed once for all of them. So a key is expanded once for EXPAND_QUERIES queries, and
 * what a thread works with is bounded whatever the context. Against the form that stays compressed
 * a pair of query and key costs d_key + d_value multiply-adds instead of 2 n_latent + d_rope.
 */
#pragma once
#include "kernels/cpu/attention_body.h"
#include "kernels/cpu/product_body.h"

enum {
    EXPAND_KEYS = 512,               // of a block
    EXPAND_QUERIES = 40 * TILE_ROWS, // of a piece
};

struct expand_job {
    const struct k_attention_expand *a;
    int64_t n_latent, d_nope, d_rope, d_key, d_value;
    int64_t q_pieces; // of the longest sequence that there can be
    char *work;
    size_t work_bytes; // of a thread
};

/* What one thread works with. */
struct expand_work {
    float *q;          // packed rows of all queries
    float *wide;       // [EXPAND_KEYS, n_latent + d_rope] of the cache
    float *turned;     // [n_latent, d_nope]: keys' half in float32, if it is turned
    float *key_rows;   // [EXPAND_KEYS, d_key]
    float *value_rows; // [EXPAND_KEYS, d_value]
    float *out;        // [EXPAND_QUERIES, d_value]
    struct running *run;
    struct attention_work block; // scores, p, and packed keys and values of KEYS keys
    char *product;               // the products' own
};

/* The queries of a piece. */
struct expand_rows {
    int64_t s, h;
    int64_t token, position; // of the first query
    int64_t n_q;
};

/* A head's half of kv_b as a weight of its own. */
static struct k_weight expand_weight(const struct k_weight *w, int64_t h) {
    struct k_weight one = *w;

    one.n_groups = 1;
    one.parts = w->parts + h * w->n_parts;
    return one;
}

/* y = x w^T in this thread, or what that takes of workspace. */
static struct product expand_product(const struct k_weight *w, const struct k_tensor *x,
                                     const struct k_tensor *y) {
    return (struct product){.w = w, .x = x, .y = y, .n_rows = x->shape[0], .n_all = x->shape[0]};
}

static size_t expand_product_bytes(const struct k_weight *w) {
    struct k_ctx alone = {.pool = NULL};
    size_t most = 0;

    /* Few rows and many are packed in different ways. */
    for (int i = 0; i < 2; i++) {
        struct k_weight one = expand_weight(w, 0);
        struct k_tensor x = k_tensor_2d(NULL, K_F32, i ? FEW_ROWS : EXPAND_KEYS, w->n_in);
        struct product p = expand_product(&one, &x, &x);
        most = MAX(most, product_place(&alone, &p, NULL));
    }
    return MAX(most, GEMM_FLOATS * sizeof(float));
}

/* Places in one thread's part of the workspace. Returns the bytes they take. */
static size_t expand_place(const struct expand_job *j, char *at, struct expand_work *w) {
    int64_t v = round_up(j->d_value, TILE_COLUMNS);
    const int64_t sizes[] = {EXPAND_QUERIES / TILE_ROWS * PANEL_ROWS * j->d_key,
                             EXPAND_KEYS * (j->n_latent + j->d_rope),
                             j->a->turned ? j->n_latent * j->d_nope : 0,
                             EXPAND_KEYS * j->d_key,
                             EXPAND_KEYS * j->d_value,
                             EXPAND_QUERIES * j->d_value,
                             EXPAND_QUERIES * (int64_t)(sizeof(struct running) / sizeof(float)),
                             KEYS * j->d_key,
                             KEYS * v,
                             ROWS * KEYS,
                             ROWS_PACKED * KEYS};
    float *run;
    float **const places[] = {
        &w->q, &w->wide,       &w->turned,       &w->key_rows,     &w->value_rows, &w->out,
        &run,  &w->block.keys, &w->block.values, &w->block.scores, &w->block.p};
    int64_t n = 0;

    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        *places[i] = (float *)(void *)at + n;
        n += round_up(sizes[i], 16);
    }
    w->run = (struct running *)(void *)run;
    w->product = at + (size_t)n * sizeof(float);
    return (size_t)n * sizeof(float) +
           MAX(expand_product_bytes(j->a->w_key), expand_product_bytes(j->a->w_value));
}

static struct expand_job expand_cut(const struct k_attention_expand *a) {
    int64_t n_key_out = a->w_key->n_out, n_key_in = a->w_key->n_in;
    struct expand_job job = {
        .a = a,
        .n_latent = a->w_value->n_in,
        .d_nope = a->turned ? n_key_in : n_key_out,
        .d_key = a->q.shape[2],
        .d_value = a->y.shape[2],
        .q_pieces = (a->q.shape[0] + EXPAND_QUERIES - 1) / EXPAND_QUERIES,
    };

    job.d_rope = job.d_key - job.d_nope;
    return job;
}

static size_t attention_expand_workspace(const struct k_ctx *ctx,
                                         const struct k_attention_expand *a) {
    struct expand_job job = expand_cut(a);
    struct expand_work w;
    size_t n_bytes = (expand_place(&job, NULL, &w) + 63) / 64 * 64;

    return (size_t)pool_n_threads(ctx->pool) * n_bytes;
}

/* Cached rows of keys [first, first + n) as float32. */
static void expand_widen(const struct expand_job *j, int64_t s, int64_t first, int64_t n,
                         float *to) {
    const struct k_attention_expand *a = j->a;
    int64_t width = j->n_latent + j->d_rope, size = a->cache.dtype == K_F32 ? 4 : 2;

    for (int64_t i = 0; i < n; i++, to += width) {
        int64_t page = int_at(&a->pages, s * a->pages.stride[0] + (first + i) / a->page_tokens);
        int64_t row = page * a->page_tokens + (first + i) % a->page_tokens, c = 0;
        const char *from = (const char *)a->cache.data + row * a->cache.stride[0] * size;
        for (; c + VEC <= width; c += VEC)
            v_store(to + c, widen(from + c * size, a->cache.dtype));
        for (; c < width; c++)
            to[c] = widen_1(from, c, a->cache.dtype);
    }
}

/* A turned matrix of Q8 or Q4 as float32 [n_out, n_in], as quant.h lays it out. */
static void expand_unpack(const struct k_weight *w, float *to) {
    const struct k_weight_part *part = w->parts;
    int64_t n_groups = w->n_in / K_QUANT_GROUP;
    int bytes = w->dtype == K_Q8 ? K_QUANT_GROUP : K_QUANT_GROUP / 2;

    for (int64_t first = 0; first < w->n_out; first += K_QUANT_PANEL)
        for (int64_t g = 0; g < n_groups; g++) {
            int64_t at = (first / K_QUANT_PANEL * n_groups + g) * K_QUANT_PANEL;
            const uint8_t *code = (const uint8_t *)part->data + at * bytes;
            const uint16_t *scale = (const uint16_t *)part->scale + at;
            for (int64_t o = 0; o < MIN(w->n_out - first, (int64_t)K_QUANT_PANEL); o++) {
                float by = _cvtsh_ss(scale[o]),
                      *row = to + (first + o) * w->n_in + g * K_QUANT_GROUP;
                for (int i = 0; i < bytes; i++) {
                    int byte = code[(i / 4 * K_QUANT_PANEL + o) * 4 + i % 4];
                    if (w->dtype == K_Q8) {
                        row[i] = by * (float)(byte - 128);
                        continue;
                    }
                    row[i] = by * (float)((byte & 15) - 8);
                    row[i + K_QUANT_GROUP / 2] = by * (float)((byte >> 4) - 8);
                }
            }
        }
}

/* Keys and values of a block's n wide rows. */
static void expand_block(const struct expand_job *j, const struct expand_work *w, int64_t h,
                         int64_t n) {
    const struct k_attention_expand *a = j->a;
    struct k_ctx alone = {.workspace = w->product};
    int64_t width = j->n_latent + j->d_rope;
    struct k_tensor x = k_tensor_2d(w->wide, K_F32, n, j->n_latent);
    struct k_tensor keys = k_tensor_2d(w->key_rows, K_F32, n, j->d_nope);
    struct k_tensor values = k_tensor_2d(w->value_rows, K_F32, n, j->d_value);
    struct k_weight key = expand_weight(a->w_key, h), value = expand_weight(a->w_value, h);
    struct product of_keys = expand_product(&key, &x, &keys);
    struct product of_values = expand_product(&value, &x, &values);

    x.stride[0] = width;
    keys.stride[0] = j->d_key;
    if (a->turned) {
        const struct gemm g = {.m = n,
                               .n = j->d_nope,
                               .k = j->n_latent,
                               .a = w->wide,
                               .a_row = width,
                               .a_k = 1,
                               .b = w->turned,
                               .b_k = j->d_nope,
                               .b_column = 1,
                               .c = w->key_rows,
                               .c_row = j->d_key};
        gemm(&g, (float *)(void *)w->product);
    } else {
        (void)product_run(&alone, &of_keys);
    }
    (void)product_run(&alone, &of_values);
    for (int64_t i = 0; i < n; i++)
        memcpy(w->key_rows + i * j->d_key + j->d_nope, w->wide + i * width + j->n_latent,
               (size_t)j->d_rope * sizeof(float));
}

static void expand_pack_queries(const struct expand_job *j, const struct expand_rows *r,
                                float *dst) {
    for (int64_t i = 0; i < r->n_q; i += TILE_ROWS)
        pack_across(K_F32, (const char *)head_row(&j->a->q, r->token + i, r->h), j->a->q.stride[0],
                    MIN(r->n_q - i, (int64_t)TILE_ROWS), 0, j->d_key, j->d_key,
                    dst + i / TILE_ROWS * j->d_key * PANEL_ROWS, PANEL_ROWS, false);
}

/* The queries from `query` on, at most ROWS, meet the n packed keys of positions from `first` on;
 * finite: their values are. As attend_block does it. */
static void expand_meet(const struct expand_job *j, const struct expand_rows *r,
                        struct expand_work *w, const struct k_attention *rows, int64_t query,
                        int64_t first, int64_t n, bool finite) {
    int64_t m = MIN(r->n_q - query, (int64_t)ROWS), d = j->d_value;
    int64_t sees = r->position + query + 1 - first; // keys of this block that the first one sees
    float *out = w->out + query * d;

    multiply(m, n, j->d_key, w->q + query / TILE_ROWS * j->d_key * PANEL_ROWS, w->block.keys,
             w->block.scores, KEYS, false, NULL);
    for (int64_t i = 0; i < m; i++)
        soften(w->block.scores + i * KEYS, MIN(sees + i, n), n, j->a->scale, &w->run[query + i],
               out + i * d, d);
    if (finite) {
        add_values(&w->block, 0, m, n, d, out);
        return;
    }
    for (int64_t i = 0; i < m; i++) {
        int64_t own = MIN(sees + i, n);
        if (own <= 0)
            continue;
        pack_values(rows, 0, w->block.row, own, w->block.values);
        add_values(&w->block, i, 1, own, d, out);
    }
    pack_values(rows, 0, w->block.row, n, w->block.values);
}

/* All queries meet a block of n expanded keys, KEYS at a time. */
static void expand_attend(const struct expand_job *j, const struct expand_rows *r,
                          struct expand_work *w, int64_t first, int64_t n) {
    struct k_attention rows = {.k = k_tensor_3d(w->key_rows, K_F32, n, 1, j->d_key),
                               .v = k_tensor_3d(w->value_rows, K_F32, n, 1, j->d_value)};

    for (int64_t k = 0; k < n; k += KEYS) {
        int64_t n_k = MIN(n - k, (int64_t)KEYS);
        int64_t query = MAX(first + k - r->position, (int64_t)0) / ROWS * ROWS;
        for (int64_t i = 0; i < n_k; i++)
            w->block.row[i] = k + i;
        pack_keys(&rows, 0, w->block.row, n_k, w->block.keys);
        pack_values(&rows, 0, w->block.row, n_k, w->block.values);
        bool finite = values_finite(w->block.values, 0, n_k, j->d_value);
        for (; query < r->n_q; query += ROWS)
            expand_meet(j, r, w, &rows, query, first + k, n_k, finite);
    }
}

/* Pieces: heads of a run of queries follow each other, so that they read the same cached rows. */
static void expand_piece(void *arg, int64_t piece, int thread) {
    const struct expand_job *j = arg;
    const struct k_attention_expand *a = j->a;
    int64_t n_heads = a->q.shape[1], s = piece / n_heads / j->q_pieces;
    int64_t query = piece / n_heads % j->q_pieces * EXPAND_QUERIES;
    int64_t token = int_at(&a->q_start, s), n = int_at(&a->q_start, s + 1) - token;
    struct expand_rows r = {.s = s,
                            .h = piece % n_heads,
                            .token = token + query,
                            .position = int_at(&a->kv_length, s) - n + query,
                            .n_q = MIN(n - query, (int64_t)EXPAND_QUERIES)};
    struct expand_work w;

    if (r.n_q <= 0)
        return;
    (void)expand_place(j, j->work + (size_t)thread * j->work_bytes, &w);
    memset(w.run, 0, (size_t)r.n_q * sizeof *w.run);
    memset(w.out, 0, (size_t)(r.n_q * j->d_value) * sizeof *w.out);
    expand_pack_queries(j, &r, w.q);
    if (a->turned) {
        struct k_weight key = expand_weight(a->w_key, r.h);
        expand_unpack(&key, w.turned);
    }
    int64_t end = r.position + r.n_q;
    for (int64_t first = 0; first < end; first += EXPAND_KEYS) {
        n = MIN(end - first, (int64_t)EXPAND_KEYS);
        expand_widen(j, s, first, n, w.wide);
        expand_block(j, &w, r.h, n);
        expand_attend(j, &r, &w, first, n);
    }
    for (int64_t i = 0; i < r.n_q; i++) {
        float *y = head_row(&a->y, r.token + i, r.h);
        memcpy(y, w.out + i * j->d_value, (size_t)j->d_value * sizeof *y);
        multiply_row(y, j->d_value, 1 / w.run[i].sum);
    }
}

static int attention_expand(struct k_ctx *ctx, const struct k_attention_expand *a) {
    struct expand_job job = expand_cut(a);
    struct expand_work w;

    if ((a->turned ? a->w_key->n_out : a->w_key->n_in) != job.n_latent || job.d_rope < 0 ||
        a->cache.shape[1] != job.n_latent + job.d_rope || a->scale <= 0 || a->page_tokens < 1)
        return -EINVAL;
    if (a->turned && (!is_quant(a->w_key) || a->w_key->n_parts > 1))
        return -ENOTSUP;
    job.work = ctx->workspace;
    job.work_bytes = (expand_place(&job, NULL, &w) + 63) / 64 * 64;
    pool_run(ctx->pool, a->kv_length.shape[0] * job.q_pieces * a->q.shape[1], expand_piece, &job);
    return 0;
}
