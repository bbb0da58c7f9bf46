/* Operators of plain networks (norm, curves, masks, windows, cells, losses) with generated
 * operands; part of kernel_cases.h. */
#include "kernels/window.h"
#include "tests/unit/kernel_made.h"

#include <math.h>

#define ROWS pick(size, 1, 5, 33, 1024)
#define COLUMNS pick(size, 3, 40, 129, 1024)

static int run_layernorm(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_layernorm);
    *a = (struct k_layernorm){.x = f2(s, ROWS, COLUMNS),
                              .weight = f1(s, COLUMNS),
                              .y = f2(s, ROWS, COLUMNS),
                              .mean = f1(s, ROWS),
                              .scale = f1(s, ROWS),
                              .eps = 1e-5f};
    if (size)
        a->bias = f1(s, COLUMNS);
    for (int64_t i = 0; i < ROWS * COLUMNS; i++) // far from zero: the variance must not cancel
        ((float *)a->x.data)[i] += 50;
    output(s, &a->y);
    output(s, &a->mean);
    output(s, &a->scale);
    s->call = call_layernorm;
    s->arg = a;
    return 0;
}

static int run_layernorm_dx(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_layernorm_dx);
    *a = (struct k_layernorm_dx){.dx = f2(s, ROWS, COLUMNS),
                                 .dy = f2(s, ROWS, COLUMNS),
                                 .x = f2(s, ROWS, COLUMNS),
                                 .weight = f1(s, COLUMNS),
                                 .mean = f1(s, ROWS),
                                 .scale = f1(s, ROWS)};
    output(s, &a->dx);
    s->call = call_layernorm_dx;
    s->arg = a;
    return 0;
}

static int run_layernorm_dw(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_layernorm_dw);
    *a = (struct k_layernorm_dw){.dw = f1(s, COLUMNS),
                                 .dy = f2(s, ROWS, COLUMNS),
                                 .x = f2(s, ROWS, COLUMNS),
                                 .mean = f1(s, ROWS),
                                 .scale = f1(s, ROWS)};
    output(s, &a->dw);
    s->call = call_layernorm_dw;
    s->arg = a;
    return 0;
}

/* Numbers far and near: the curves' ends, and where their forms meet. */
static struct k_tensor spread(struct kernel_made *s, int64_t n) {
    struct k_tensor x = f1(s, n);

    for (int64_t i = 0; i < n; i++)
        ((float *)x.data)[i] *= i % 3 == 0 ? 0.1f : i % 3 == 1 ? 2 : 12;
    return x;
}

static int run_activate_of(struct kernel_made *s, int size, enum k_curve curve) {
    KEEP(struct k_activate);
    int64_t n = pick(size, 3, 40, 1029, 1 << 20);
    *a = (struct k_activate){.y = f1(s, n), .x = spread(s, n), .curve = curve};
    output(s, &a->y);
    s->call = call_activate;
    s->arg = a;
    return 0;
}

static int run_activate_dx_of(struct kernel_made *s, int size, enum k_curve curve) {
    KEEP(struct k_activate_dx);
    int64_t n = pick(size, 3, 40, 1029, 1 << 20);
    *a = (struct k_activate_dx){.dx = f1(s, n), .dy = f1(s, n), .x = spread(s, n), .curve = curve};
    if (size == 1)
        a->dx.data = a->dy.data;
    output(s, &a->dx);
    s->call = call_activate_dx;
    s->arg = a;
    return 0;
}

#define X(name, text)                                                                              \
    static int run_##name(struct k_ctx *ctx, struct kernel_made *s, int size) {                    \
        return run_activate_of(s, size, K_CURVE_##name);                                           \
    }                                                                                              \
    static int run_##name##_dx(struct k_ctx *ctx, struct kernel_made *s, int size) {               \
        return run_activate_dx_of(s, size, K_CURVE_##name);                                        \
    }
K_CURVES(X)
#undef X

static int run_dropout(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_dropout);
    int64_t n = pick(size, 3, 70, 1029, 1 << 20);
    *a = (struct k_dropout){.y = f1(s, n),
                            .x = f1(s, n),
                            .key = 0x123456789,
                            .step = 3,
                            .layer = 1,
                            .first = pick(size, 0, 61, (1LL << 34) - 1029, 0),
                            .rate = size ? 0.3f : 0};
    output(s, &a->y);
    s->call = call_dropout;
    s->arg = a;
    return 0;
}

static int run_softmax(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_softmax);
    *a = (struct k_softmax){.y = f2(s, ROWS, COLUMNS), .x = f2(s, ROWS, COLUMNS)};
    output(s, &a->y);
    s->call = call_softmax;
    s->arg = a;
    return 0;
}

static int run_softmax_dx(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_softmax_dx);
    *a = (struct k_softmax_dx){
        .dx = f2(s, ROWS, COLUMNS), .dy = f2(s, ROWS, COLUMNS), .y = f2(s, ROWS, COLUMNS)};
    output(s, &a->dx);
    s->call = call_softmax_dx;
    s->arg = a;
    return 0;
}

/* Size 0: no mask. 1: causal, padded, a sequence without keys, a mask that hides. 2: a mask to add
 * for each sequence and head, some of it -infinity, a query that sees nothing. */
static struct k_attention_masked some_attention(struct kernel_made *s, int size) {
    int64_t n = pick(size, 1, 3, 2, 8), heads = pick(size, 1, 2, 3, 8);
    int64_t queries = pick(size, 1, 9, 70, 128), keys = pick(size, 3, 11, 75, 128), d = 8 + size;
    struct k_attention_masked a = {.q = f3(s, n * queries, heads, d),
                                   .k = f3(s, n * keys, heads, d),
                                   .v = f3(s, n * keys, heads, d + 3),
                                   .y = f3(s, n * queries, heads, d + 3),
                                   .lse = f2(s, n * queries, heads),
                                   .n_seqs = n,
                                   .scale = 0.3f,
                                   .causal = size == 1};
    if (size == 1) {
        a.kv_length = ints(s, n, keys, false);
        ((int32_t *)a.kv_length.data)[1] = 0;
        a.mask = ints(s, queries * keys, 2, false);
        a.mask = k_tensor_3d(a.mask.data, K_I32, 1, queries, keys);
    } else if (size == 2) {
        a.mask = f3(s, n * heads, queries, keys);
        float *mask = a.mask.data;
        for (int64_t i = 0; i < n * heads * queries * keys; i++)
            mask[i] = i % 7 == 0 || (i >= 5 * keys && i < 6 * keys) ? -HUGE_VALF : mask[i];
    }
    return a;
}

static int run_attention_masked(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_attention_masked);
    *a = some_attention(s, size);
    output(s, &a->y);
    s->call = call_attention_masked;
    s->arg = a;
    return 0;
}

static int run_attention_masked_dx(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_attention_masked_dx);
    struct k_ctx ref;
    a->of = some_attention(s, size);
    int r = k_ctx_init(&ref, K_BACKEND_REF, NULL, NULL);
    r = r < 0 ? r : k_attention_masked(&ref, &a->of); // y and lse, the same for every backend
    a->dy = f3(s, a->of.y.shape[0], a->of.y.shape[1], a->of.y.shape[2]);
    a->dq = f3(s, a->of.q.shape[0], a->of.q.shape[1], a->of.q.shape[2]);
    a->dk = f3(s, a->of.k.shape[0], a->of.k.shape[1], a->of.k.shape[2]);
    a->dv = f3(s, a->of.v.shape[0], a->of.v.shape[1], a->of.v.shape[2]);
    output(s, &a->dq);
    output(s, &a->dk);
    output(s, &a->dv);
    s->call = call_attention_masked_dx;
    s->arg = a;
    return r;
}

static struct k_tensor f4(struct kernel_made *s, int64_t n, int64_t h, int64_t w, int64_t c) {
    struct k_tensor t = f3(s, n, h, w * c);

    t.n_dims = 4;
    t.shape[2] = w;
    t.shape[3] = c;
    t.stride[2] = c;
    t.stride[3] = 1;
    return t;
}

static struct k_window some_window(int size) {
    return size == 0   ? (struct k_window){1, 3, 1, 1, 0, 1, 1, 1}
           : size == 1 ? (struct k_window){3, 2, 2, 1, 1, 0, 1, 2}
                       : (struct k_window){3, 3, 1, 1, 1, 1, 1, 1};
}

static struct k_tensor some_pictures(struct kernel_made *s, int size) {
    return f4(s, pick(size, 1, 2, 3, 8), pick(size, 1, 6, 9, 32), pick(size, 5, 7, 9, 32),
              pick(size, 1, 3, 20, 32));
}

static struct k_tensor rows_of(struct kernel_made *s, const struct k_tensor *x,
                               const struct k_window *w) {
    return f2(s, x->shape[0] * window_down(w, x->shape[1]) * window_across(w, x->shape[2]),
              x->shape[3] * w->height * w->width);
}

static struct k_tensor places_of(struct kernel_made *s, const struct k_tensor *x,
                                 const struct k_window *w) {
    return f4(s, x->shape[0], window_down(w, x->shape[1]), window_across(w, x->shape[2]),
              x->shape[3]);
}

static int run_unfold(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_unfold);
    *a = (struct k_unfold){.x = some_pictures(s, size), .window = some_window(size)};
    a->y = rows_of(s, &a->x, &a->window);
    output(s, &a->y);
    s->call = call_unfold;
    s->arg = a;
    return 0;
}

static int run_fold(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_fold);
    *a = (struct k_fold){.x = some_pictures(s, size), .window = some_window(size)};
    a->y = rows_of(s, &a->x, &a->window);
    output(s, &a->x);
    s->call = call_fold;
    s->arg = a;
    return 0;
}

static int run_pooling(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_pooling);
    *a = (struct k_pooling){
        .x = some_pictures(s, size), .window = some_window(size), .mean = size == 2};
    a->y = places_of(s, &a->x, &a->window);
    output(s, &a->y);
    if (size < 2) {
        a->from = places_of(s, &a->x, &a->window);
        a->from.dtype = K_I32;
        output(s, &a->from);
    }
    s->call = call_pooling;
    s->arg = a;
    return 0;
}

static int run_pooling_dx(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_pooling_dx);
    *a = (struct k_pooling_dx){
        .dx = some_pictures(s, size), .window = some_window(size), .mean = size == 2};
    a->dy = places_of(s, &a->dx, &a->window);
    if (size < 2) {
        a->from = places_of(s, &a->dx, &a->window);
        a->from.dtype = K_I32;
        for (int64_t i = 0; i < k_tensor_n_elements(&a->from); i++)
            ((int32_t *)a->from.data)[i] = (int32_t)(i % (a->dx.shape[1] * a->dx.shape[2]));
    }
    output(s, &a->dx);
    s->call = call_pooling_dx;
    s->arg = a;
    return 0;
}

static int run_lstm_cell(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_lstm_cell);
    *a = (struct k_lstm_cell){
        .h = f2(s, ROWS, COLUMNS), .c = f2(s, ROWS, COLUMNS), .gates = f2(s, ROWS, 4 * COLUMNS)};
    if (size)
        a->c_before = f2(s, ROWS, COLUMNS);
    output(s, &a->h);
    output(s, &a->c);
    output(s, &a->gates);
    s->call = call_lstm_cell;
    s->arg = a;
    return 0;
}

static int run_lstm_cell_dx(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_lstm_cell_dx);
    *a = (struct k_lstm_cell_dx){.dgates = f2(s, ROWS, 4 * COLUMNS),
                                 .dc = f2(s, ROWS, COLUMNS),
                                 .dh = f2(s, ROWS, COLUMNS),
                                 .gates = f2(s, ROWS, 4 * COLUMNS),
                                 .c = f2(s, ROWS, COLUMNS)};
    if (size)
        a->c_before = f2(s, ROWS, COLUMNS);
    output(s, &a->dgates);
    output(s, &a->dc);
    s->call = call_lstm_cell_dx;
    s->arg = a;
    return 0;
}

static int run_gru_cell(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_gru_cell);
    *a = (struct k_gru_cell){.h = f2(s, ROWS, COLUMNS),
                             .input = f2(s, ROWS, 3 * COLUMNS),
                             .state = f2(s, ROWS, 3 * COLUMNS)};
    if (size)
        a->h_before = f2(s, ROWS, COLUMNS);
    output(s, &a->h);
    output(s, &a->input);
    s->call = call_gru_cell;
    s->arg = a;
    return 0;
}

static int run_gru_cell_dx(struct k_ctx *ctx, struct kernel_made *s, int size) {
    KEEP(struct k_gru_cell_dx);
    *a = (struct k_gru_cell_dx){.dinput = f2(s, ROWS, 3 * COLUMNS),
                                .dstate = f2(s, ROWS, 3 * COLUMNS),
                                .dh = f2(s, ROWS, COLUMNS),
                                .gates = f2(s, ROWS, 3 * COLUMNS),
                                .state = f2(s, ROWS, 3 * COLUMNS)};
    a->dh_before = a->dh;
    if (size)
        a->h_before = f2(s, ROWS, COLUMNS);
    output(s, &a->dinput);
    output(s, &a->dstate);
    output(s, &a->dh_before);
    s->call = call_gru_cell_dx;
    s->arg = a;
    return 0;
}

static int run_loss_of(struct kernel_made *s, int size, enum k_loss_kind kind) {
    KEEP(struct k_loss);
    int64_t n = pick(size, 3, 40, 1029, 1 << 16);
    *a = (struct k_loss){.loss = numbers(s, K_F64, 1, 2, 0, 0),
                         .x = f1(s, n),
                         .target = f1(s, n),
                         .kind = kind,
                         .loss_scale = 0.25f,
                         .grad_scale = 0.5f};
    if (size)
        a->dx = f1(s, n);
    for (int64_t i = 0; i < n && kind != K_LOSS_SQUARE; i++) {
        float *x = (float *)a->x.data + i, *t = (float *)a->target.data + i;
        *x = kind == K_LOSS_BINARY ? *x * *x / (1 + *x * *x) : *x;
        *t = *t > 0;
    }
    a->loss.shape[0] = 1;
    *(double *)a->loss.data = 1;
    output(s, &a->loss);
    if (size)
        output(s, &a->dx);
    s->call = call_loss;
    s->arg = a;
    return 0;
}

#define X(name, text)                                                                              \
    static int run_loss_##name(struct k_ctx *ctx, struct kernel_made *s, int size) {               \
        return run_loss_of(s, size, K_LOSS_##name);                                                \
    }
K_LOSSES(X)
#undef X

const struct kernel_case kernel_plain[] = {
    {"layernorm",           run_layernorm          },
    {"layernorm_dx",        run_layernorm_dx       },
    {"layernorm_dw",        run_layernorm_dw       },
    {"relu",                run_RELU               },
    {"relu_dx",             run_RELU_dx            },
    {"tanh",                run_TANH               },
    {"tanh_dx",             run_TANH_dx            },
    {"sigmoid",             run_SIGMOID            },
    {"sigmoid_dx",          run_SIGMOID_dx         },
    {"silu",                run_SILU               },
    {"silu_dx",             run_SILU_dx            },
    {"gelu",                run_GELU               },
    {"gelu_dx",             run_GELU_dx            },
    {"gelu_tanh",           run_GELU_TANH          },
    {"gelu_tanh_dx",        run_GELU_TANH_dx       },
    {"dropout",             run_dropout            },
    {"softmax",             run_softmax            },
    {"softmax_dx",          run_softmax_dx         },
    {"attention_masked",    run_attention_masked   },
    {"attention_masked_dx", run_attention_masked_dx},
    {"unfold",              run_unfold             },
    {"fold",                run_fold               },
    {"pooling",             run_pooling            },
    {"pooling_dx",          run_pooling_dx         },
    {"lstm_cell",           run_lstm_cell          },
    {"lstm_cell_dx",        run_lstm_cell_dx       },
    {"gru_cell",            run_gru_cell           },
    {"gru_cell_dx",         run_gru_cell_dx        },
    {"loss_square",         run_loss_SQUARE        },
    {"loss_binary",         run_loss_BINARY        },
    {"loss_binary_logit",   run_loss_BINARY_LOGIT  },
};
const int kernel_plain_count = ARRAY_SIZE(kernel_plain);
