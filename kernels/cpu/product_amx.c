/* product_amx.c - products with weights of BF16 in tile registers (AMX-BF16).
 *
 * A tile product adds to 16 x 16 sums of float32 those of 16 outputs and 16 rows over 32 inputs in
 * bf16. A float32 of x is cut into three bf16 numbers, the upper, middle and lower eight bits of
 * its 24, whose sum it is. The order of sums is one at any number of rows: 32 inputs after 32
 * inputs, of each the upper, middle and lower products, up to SUM inputs from zero in a tile; then
 * total += sum, and at last y. Rows beside a row and zeros behind the inputs change nothing. The
 * instruction takes numbers below 2^-126 as zero and gives none.
 *
 * Weights are the instruction's first operand because that lies as files have it: at most FEW rows
 * are read in place at the speed of memory; for more, weights are packed once for PIECE_ROWS rows.
 * The second operand, x, holds pairs of inputs: a row of the tile is one pair of all its rows.
 */
#include "kernels/cpu/product.h"
#include "kernels/pool.h"

enum {
    TILE = 16,  // outputs, and rows of x, of a tile of sums
    STEP = 32,  // inputs of a tile of weights
    SUM = 512,  // inputs that are added up in a tile register
    CUTS = 3,   // numbers that a float32 is cut into
    FEW = TILE, // rows that weights are not packed for
    FEW_TILES = 2,
    SUMS = 4,    // tiles of sums at once
    AHEAD = 512, // bytes of a row that are asked for ahead
    TILE_BYTES = TILE * STEP * 2,
    TILE_FLOATS = TILE * TILE,
    BLOCK_BYTES = SUM / STEP * TILE_BYTES,
    FEW_PIECE_BYTES = 128 * 1024,
    PIECE_ROWS = 512, // what one thread takes
    PIECE_COLUMNS = 256,
    PACKED_BYTES = PIECE_COLUMNS / TILE * BLOCK_BYTES, // stays in the second-level cache
};

ALWAYS_INLINE uint32_t first_bits(int64_t n) {
    return n >= 32 ? ~0u : (1u << MAX(n, (int64_t)0)) - 1;
}

static int64_t tiles_of(int64_t n) {
    return (n + TILE - 1) / TILE;
}

static int64_t steps_of(int64_t n_in) {
    return (n_in + STEP - 1) / STEP;
}

static void transpose(const vi rows[TILE], vi ret[TILE]) {
    vi u[TILE], quarter[TILE / 4];

    for (int i = 0; i < TILE; i += 4)
        v_transpose_four(rows + i, u + i);
    for (int q = 0; q < 4; q++) {
        v_transpose_quarter(u, q, quarter);
        for (int i = 0; i < TILE / 4; i++)
            ret[4 * i + q] = quarter[i];
    }
}

/* The packed rows of a group: for each 16 of them, [n_steps, cuts, 16 pairs, rows] pairs of bf16.
 * Behind fewer than 16 rows a tile register has numbers of no meaning, in sums that no one reads.
 */
struct rows {
    const char *data;
    int64_t n_rows, n_steps;
};

/* Up to 16 rows from a step on: bytes from pair to pair, cut to cut, step to step. */
struct x_tile {
    const char *at;
    int64_t pair, cut, step;
};

static struct rows rows_of(const struct product *p, int64_t first, int64_t n_rows) {
    int64_t n_steps = steps_of(p->w->n_in);

    return (struct rows){p->packed + first * n_steps * CUTS * STEP * 2, n_rows, n_steps};
}

static struct x_tile x_tile(const struct rows *x, int64_t row, int64_t step) {
    int64_t pair = 4 * MIN(x->n_rows - row, (int64_t)TILE), cut = TILE
    *pair;

    return (struct x_tile){
        .at = x->data + row * x->n_steps * CUTS * STEP * 2 + step * CUTS * cut,
        .pair = pair,
        .cut = cut,
        .step = CUTS * cut,
    };
}

/* The upper eight bits of numbers; what they leave. Of an infinity and a NaN that is nothing. */
ALWAYS_INLINE vf upper_bits(vf x, vf *ret_rest) {
    vf upper = _mm512_and_ps(x, v_as_floats(v_set_dwords((int)0xffff0000)));
    __mmask16 finite = _knot_mask16(_mm512_fpclass_ps_mask(x, 0x99));

    *ret_rest = _mm512_maskz_sub_ps(finite, x, upper);
    return _mm512_mask_or_ps(upper, _mm512_fpclass_ps_mask(x, 0x81), upper,
                             v_as_floats(v_set_dwords(0x7fc00000)));
}

/* n of 32 numbers, zeros behind, cut into bf16. */
ALWAYS_INLINE void cut_floats(const float *x, int64_t n, vi ret[CUTS]) {
    static const uint16_t odd_words[STEP] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21,
                                             23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43,
                                             45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    vf low = _mm512_maskz_loadu_ps((__mmask16)first_bits(n), x);
    vf high = _mm512_maskz_loadu_ps((__mmask16)first_bits(n - TILE), x + TILE);

    for (int c = 0; c < CUTS; c++) {
        vi a = _mm512_castps_si512(upper_bits(low, &low));
        vi b = _mm512_castps_si512(upper_bits(high, &high));
        ret[c] = _mm512_permutex2var_epi16(a, v_load_bits(odd_words), b);
    }
}

/* Up to 16 rows of a group: piece counts groups, then these. */
static void pack_x(void *arg, int64_t piece, int thread) {
    const struct product *p = arg;
    int64_t per_group = tiles_of(p->n_rows), group = piece / per_group, first;
    int64_t m = product_rows(p, group, &first), row = piece % per_group * TILE;
    int64_t n = MIN(m - row, (int64_t)TILE), x_row = p->x->stride[0];
    struct rows x = rows_of(p, first, m);
    const float *from = (const float *)p->x->data + product_at(p, p->x, group, first) + row * x_row;
    vi cut[CUTS], pairs[CUTS][TILE] = {0}, columns[TILE];

    for (int64_t s = 0; n > 0 && s < x.n_steps; s++) {
        struct x_tile tile = x_tile(&x, row, s);
        char *to = (char *)(uintptr_t)tile.at;
        for (int64_t r = 0; r < n; r++) {
            cut_floats(from + r * x_row + s * STEP, p->w->n_in - s * STEP, cut);
            for (int c = 0; c < CUTS; c++)
                pairs[c][r] = cut[c];
        }
        for (int c = 0; c < CUTS; c++, to += tile.cut) {
            if (n == 1) {
                v_store_bits(to, pairs[c][0]);
                continue;
            }
            transpose(pairs[c], columns);
            for (int i = 0; i < TILE; i++)
                _mm512_mask_storeu_epi32(to + i * tile.pair, (__mmask16)first_bits(n), columns[i]);
        }
    }
}

/* Tiles of weights of 16 outputs: bytes from output to output, step to step. */
struct w_tile {
    const char *at;
    int64_t output, step;
};

/* n_k inputs from k on of 16 outputs of a part: zeros where there are none. */
static struct w_tile pack_weights(const struct product *p, const struct product_spot *s,
                                  int64_t column, int64_t k, int64_t n_k, char *to) {
    int64_t row_bytes = p->w->n_in * 2;
    const char *from = (const char *)s->w->data + column * row_bytes + k * 2;

    for (int64_t o = 0; o < TILE; o++, from += row_bytes) {
        int64_t n = column + o < s->w->n_out ? n_k : 0;
        for (int64_t i = 0; i < steps_of(n_k); i++)
            v_store_bits(to + i * TILE_BYTES + o * STEP * 2,
                         _mm512_maskz_loadu_epi16(first_bits(n - i * STEP), from + i * STEP * 2));
    }
    return (struct w_tile){to, STEP * 2, TILE_BYTES};
}

/* The same where they lie, if these tiles are whole; else packed. */
static struct w_tile weights_at(const struct product *p, const struct product_spot *s,
                                int64_t column, int64_t k, int64_t n_k, char *buffer) {
    int64_t row_bytes = p->w->n_in * 2;

    if (column + TILE > s->w->n_out || n_k % STEP)
        return pack_weights(p, s, column, k, n_k, buffer);
    return (struct w_tile){(const char *)s->w->data + column * row_bytes + k * 2, row_bytes,
                           STEP * 2};
}

/* Sums that have left the tile registers and are to join their totals: while the next ones are
 * made, because tile products leave the vector units free. */
struct pending {
    _Alignas(64) float sums[2][SUMS][TILE_FLOATS];
    float *totals[SUMS];
    int n, turn; // how many there are; where the next go
};

static void fold_one(const struct pending *q, int i) {
    const float *sum = q->sums[!q->turn][i];

    for (int o = 0; o < TILE_FLOATS; o += VEC)
        v_store(q->totals[i] + o, v_add(v_load(q->totals[i] + o), v_load(sum + o)));
}

static void fold_from(struct pending *q, int first) {
    for (int i = first; i < q->n; i++)
        fold_one(q, i);
    q->n = 0;
}

/* Four tiles begin, and end as pending; whose they are is for the caller to say. gcc does not know
 * that the instructions read memory, hence the barrier. */
ALWAYS_INLINE void sums_begin(void) {
    __asm__ volatile("" ::: "memory");
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

ALWAYS_INLINE void sums_end(struct pending *q, int64_t n_folded, int n) {
    float(*sums)[TILE_FLOATS] = q->sums[q->turn];

    fold_from(q, (int)MIN(n_folded, (int64_t)SUMS));
    _tile_stored(0, sums[0], TILE * 4);
    if (n > 1)
        _tile_stored(1, sums[1], TILE * 4);
    if (n > 2) {
        _tile_stored(2, sums[2], TILE * 4);
        _tile_stored(3, sums[3], TILE * 4);
    }
    q->turn = !q->turn;
    q->n = n;
}

/* Sums of up to 16 rows and of 16 or twice 16 outputs, over n_steps. Tile registers: 3 and 4
 * weights, 5 to 7 the cuts of x. ahead: bytes after which weights are asked for. */
ALWAYS_INLINE void few_sums(const int outputs, int64_t n_steps, const struct w_tile w[FEW_TILES],
                            const struct x_tile *x, int64_t ahead, struct pending *q) {
    sums_begin();
    for (int64_t s = 0; s < n_steps; s++) {
        const char *at = x->at + s * x->step;
        _tile_loadd(4, w[0].at + s * w[0].step, w[0].output);
        if (outputs > 1)
            _tile_loadd(3, w[1].at + s * w[1].step, w[1].output);
#define FEW_CUT(c, tile)                                                                           \
    _tile_loadd(tile, at + c * x->cut, x->pair);                                                   \
    _tile_dpbf16ps(0, 4, tile);                                                                    \
    if (outputs > 1)                                                                               \
        _tile_dpbf16ps(1, 3, tile);
        FEW_CUT(0, 5)
        FEW_CUT(1, 6)
        FEW_CUT(2, 7)
        for (int i = 0; i < outputs; i++)
            for (int o = 0; o < TILE; o++)
                _mm_prefetch(w[i].at + s * w[i].step + o * w[i].output + ahead, _MM_HINT_T0);
        if (s < q->n)
            fold_one(q, (int)s);
    }
    sums_end(q, n_steps, outputs);
}

/* Sums of 16 or twice 16 outputs and rows. Tile registers: 4 and 5 weights, 6 and 7 x. */
ALWAYS_INLINE void many_sums(const int outputs, const int rows, int64_t n_steps,
                             const struct w_tile w[2], const struct x_tile x[2],
                             struct pending *q) {
    sums_begin();
    for (int64_t s = 0; s < n_steps; s++) {
        _tile_loadd(4, w[0].at + s * w[0].step, w[0].output);
        if (outputs > 1)
            _tile_loadd(5, w[1].at + s * w[1].step, w[1].output);
        for (int c = 0; c < CUTS; c++) {
            _tile_loadd(6, x[0].at + s * x[0].step + c * x[0].cut, x[0].pair);
            if (rows > 1)
                _tile_loadd(7, x[1].at + s * x[1].step + c * x[1].cut, x[1].pair);
            _tile_dpbf16ps(0, 4, 6);
            if (outputs > 1)
                _tile_dpbf16ps(1, 5, 6);
            if (rows > 1)
                _tile_dpbf16ps(2, 4, 7);
            if (outputs > 1 && rows > 1)
                _tile_dpbf16ps(3, 5, 7);
        }
        if (s < q->n)
            fold_one(q, (int)s);
    }
    sums_end(q, n_steps, rows > 1 ? SUMS : outputs);
}

/* Totals of 16 outputs and rows into y. */
static void finish(const struct product *p, const struct product_spot *s, const float *total,
                   int64_t column, int64_t row) {
    int64_t n = MIN(s->w->n_out - column, (int64_t)TILE), y_row = p->y->stride[0];
    float *y = s->y + row * y_row + column;
    vi outputs[TILE], rows[TILE];

    for (int i = 0; i < TILE; i++)
        outputs[i] = v_load_bits(total + i * TILE);
    transpose(outputs, rows);
    for (int64_t i = 0; i < MIN(s->m - row, (int64_t)TILE); i++) {
        vf sum = v_as_floats(rows[i]);
        if (p->accumulate)
            sum = v_add(v_load_n(y + i * y_row, n), sum);
        v_store_n(y + i * y_row, sum, n);
    }
}

/* One or two times 16 outputs over all inputs, weights read once. */
static void few_outputs(const struct product *p, const struct product_spot *s, int64_t column,
                        int n_tiles) {
    int64_t n_in = p->w->n_in;
    struct rows x = rows_of(p, s->first, s->m);
    _Alignas(64) char buffers[FEW_TILES][BLOCK_BYTES];
    _Alignas(64) float totals[FEW_TILES][TILE_FLOATS] = {0};
    struct pending q;

    q.n = q.turn = 0;
    for (int64_t k = 0; k < n_in; k += SUM) {
        int64_t n_k = MIN(n_in - k, (int64_t)SUM);
        struct x_tile tile = x_tile(&x, 0, k / STEP);
        struct w_tile w[FEW_TILES];
        int64_t ahead = k + SUM < n_in ? AHEAD : AHEAD + (n_tiles * TILE - 1) * n_in * 2;
        for (int i = 0; i < n_tiles; i++)
            w[i] = weights_at(p, s, column + i * TILE, k, n_k, buffers[i]);
        if (n_tiles > 1)
            few_sums(2, steps_of(n_k), w, &tile, ahead, &q);
        else
            few_sums(1, steps_of(n_k), w, &tile, ahead, &q);
        for (int i = 0; i < n_tiles; i++)
            q.totals[i] = totals[i];
    }
    fold_from(&q, 0);
    for (int i = 0; i < n_tiles; i++)
        finish(p, s, totals[i], column + i * TILE, 0);
}

static void few_piece(const struct product *p, const struct product_spot *s) {
    for (int64_t column = s->column; column < s->column + s->n; column += FEW_TILES * TILE)
        few_outputs(p, s, column, column + TILE < s->column + s->n ? 2 : 1);
}

/* What a thread works with on many rows. */
struct many {
    const struct product_spot *s;
    struct rows x;
    char *packed;  // [16 outputs, steps of SUM inputs] tiles
    float *totals; // [16 rows, 16 outputs] tiles
    int64_t n_tiles;
    struct pending q;
};

/* 32 rows and outputs, or what there is of them, over n_steps from step on. */
static void many_tiles(struct many *m, int64_t row, int64_t tile, int64_t step, int64_t n_steps) {
    int outputs = tile + 1 < m->n_tiles ? 2 : 1;
    int rows = row + TILE
    < m->s->row + m->s->n_rows ? 2 : 1;
    const char *packed = m->packed + tile * BLOCK_BYTES;
    struct w_tile w[2] = {
        {packed,               STEP * 2, TILE_BYTES},
        {packed + BLOCK_BYTES, STEP * 2, TILE_BYTES}
    };
    struct x_tile x[2] = {x_tile(&m->x, row, step)};

    if (rows > 1)
        x[1] = x_tile(&m->x, row + TILE, step);
    if (outputs > 1 && rows > 1)
        many_sums(2, 2, n_steps, w, x, &m->q);
    else if (outputs > 1)
        many_sums(2, 1, n_steps, w, x, &m->q);
    else if (rows > 1)
        many_sums(1, 2, n_steps, w, x, &m->q);
    else
        many_sums(1, 1, n_steps, w, x, &m->q);
    for (int i = 0; i < SUMS; i++) {
        int64_t r = (row - m->s->row) / TILE
        +(i / 2) * (rows - 1), t = tile + i % 2 * (outputs - 1);
        m->q.totals[i] = m->totals + (r * m->n_tiles + t) * TILE_FLOATS;
    }
}

static void many_piece(const struct product *p, const struct product_spot *s, char *work) {
    int64_t n_in = p->w->n_in, n_tiles = tiles_of(s->n), row_tiles = tiles_of(s->n_rows);
    struct many m = {.s = s,
                     .x = rows_of(p, s->first, s->m),
                     .packed = work,
                     .totals = (float *)(void *)(work + PACKED_BYTES),
                     .n_tiles = n_tiles};

    memset(m.totals, 0, (size_t)(row_tiles * n_tiles) * TILE_FLOATS * sizeof(float));
    for (int64_t k = 0; k < n_in; k += SUM) {
        int64_t n_k = MIN(n_in - k, (int64_t)SUM);
        for (int64_t t = 0; t < n_tiles; t++)
            (void)pack_weights(p, s, s->column + t * TILE, k, n_k, m.packed + t * BLOCK_BYTES);
        for (int64_t row = s->row; row < s->row + s->n_rows; row += 2 * TILE)
            for (int64_t t = 0; t < n_tiles; t += 2)
                many_tiles(&m, row, t, k / STEP, steps_of(n_k));
        fold_from(&m.q, 0);
    }
    for (int64_t r = 0; r < row_tiles; r++)
        for (int64_t t = 0; t < n_tiles; t++)
            finish(p, s, m.totals + (r * n_tiles + t) * TILE_FLOATS, s->column + t * TILE,
                   s->row + r * TILE);
}

/* The tile registers of this thread: 16 rows each, of 64 bytes; of few rows x and sums have fewer.
 */
static void configure(int64_t n_rows) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t n_rows[16];
    } c = {.palette = 1};

    for (int i = 0; i < 8; i++) {
        c.row_bytes[i] = (uint16_t)(4 * (i == 3 || i == 4 ? TILE : MIN(n_rows, (int64_t)TILE)));
        c.n_rows[i] = TILE;
    }
    __asm__ volatile("" ::"r"(&c) : "memory"); /* gcc takes the operand for eight bytes */
    _tile_loadconfig(&c);
}

static void piece_of(void *arg, int64_t piece, int thread) {
    const struct product *p = arg;
    struct product_spot s;

    if (!product_find(p, piece, &s))
        return;
    configure(s.m);
    if (s.m <= FEW)
        few_piece(p, &s);
    else
        many_piece(p, &s, p->work + (size_t)thread * p->work_bytes);
    _tile_release(); /* or this thread would have more to save at every switch */
    product_add_bias(p, &s);
}

static size_t place(const struct k_ctx *ctx, struct product *p, char *workspace) {
    size_t x_bytes = (size_t)(p->n_all * steps_of(p->w->n_in)) * CUTS * STEP * 2;

    x_bytes = (x_bytes + STEP * 2 + 63) / 64 * 64; /* the last rows' tiles reach behind them */
    p->work_bytes = 0;
    if (p->n_rows > FEW)
        p->work_bytes = PACKED_BYTES +
                        (size_t)tiles_of(MIN(p->n_rows, (int64_t)PIECE_ROWS)) * PIECE_COLUMNS * TILE
    *sizeof(float);
    if (workspace) {
        p->packed = workspace;
        p->work = workspace + x_bytes;
    }
    return x_bytes + (size_t)pool_n_threads(ctx->pool) * p->work_bytes;
}

size_t k_amx_product_bytes(const struct k_ctx *ctx, const struct product *p) {
    struct product here = *p;

    return place(ctx, &here, NULL);
}

void k_amx_product_run(struct k_ctx *ctx, struct product *p) {
    int64_t panel_bytes = MAX(p->w->n_in, (int64_t)1) * 2 * FEW_TILES * TILE
    , columns = PIECE_COLUMNS;

    if (p->n_rows <= FEW)
        columns = MIN(MAX(FEW_PIECE_BYTES / panel_bytes, (int64_t)1) * FEW_TILES * TILE, columns);
    product_cut_into(p, PIECE_ROWS, columns);
    (void)place(ctx, p, ctx->workspace);
    pool_run(p->n_all > FEW ? ctx->pool : NULL, p->w->n_groups * tiles_of(p->n_rows), pack_x, p);
    pool_run(ctx->pool, product_n_pieces(p), piece_of, p);
}
