/* Norm, activations, dropout, softmax, cells and losses of plain networks. */
#include "kernels/dropout.h"
#include "kernels/kmath.h"
#include "kernels/philox.h"
#include "kernels/ref/ref.h"

int k_ref_layernorm(struct k_ctx *ctx, const struct k_layernorm *a) {
    const float *weight = a->weight.data, *bias = a->bias.data;
    int64_t n = a->x.shape[1];

    for (int64_t r = 0; r < a->x.shape[0]; r++) {
        const float *x = ref_row(&a->x, r);
        float *y = ref_row(&a->y, r);
        double sum = 0, square = 0;
        for (int64_t i = 0; i < n; i++)
            sum += x[i];
        double mean = sum / (double)n;
        for (int64_t i = 0; i < n; i++)
            square += (x[i] - mean) * (x[i] - mean);
        double scale = 1 / kmath_sqrt(square / (double)n + (double)a->eps);
        for (int64_t i = 0; i < n; i++)
            y[i] = (float)((x[i] - mean) * scale * weight[i] + (bias ? bias[i] : 0));
        ((float *)a->mean.data)[r] = (float)mean;
        ((float *)a->scale.data)[r] = (float)scale;
    }
    return 0;
}

int k_ref_layernorm_dx(struct k_ctx *ctx, const struct k_layernorm_dx *a) {
    const float *weight = a->weight.data;
    int64_t n = a->x.shape[1];

    for (int64_t r = 0; r < a->x.shape[0]; r++) {
        const float *x = ref_row(&a->x, r), *dy = ref_row(&a->dy, r);
        float *dx = ref_row(&a->dx, r);
        double mean = ((const float *)a->mean.data)[r], scale = ((const float *)a->scale.data)[r];
        double sum = 0, dot = 0;
        for (int64_t i = 0; i < n; i++) {
            double g = (double)dy[i] * weight[i];
            sum += g;
            dot += g * (x[i] - mean) * scale;
        }
        for (int64_t i = 0; i < n; i++)
            dx[i] = (float)(scale * ((double)dy[i] * weight[i] - sum / (double)n -
                                     (x[i] - mean) * scale * dot / (double)n));
    }
    return 0;
}

int k_ref_layernorm_dw(struct k_ctx *ctx, const struct k_layernorm_dw *a) {
    const float *mean = a->mean.data, *scale = a->scale.data;
    float *dw = a->dw.data;

    for (int64_t i = 0; i < a->x.shape[1]; i++) {
        double sum = dw[i];
        for (int64_t r = 0; r < a->x.shape[0]; r++)
            sum +=
                (double)ref_row(&a->dy, r)[i] * ((double)ref_row(&a->x, r)[i] - mean[r]) * scale[r];
        dw[i] = (float)sum;
    }
    return 0;
}

static double sigmoid(double x) {
    return 1 / (1 + kmath_exp(-x));
}

static const double root_half = 0.70710678118654752;  // sqrt(1 / 2)
static const double density_0 = 0.39894228040143268;  // 1 / sqrt(2 pi)
static const double gelu_slope = 0.79788456080286536; // sqrt(2 / pi)
static const double gelu_cubic = 0.044715;

/* A curve at x, and its slope. */
static double curve_at(enum k_curve curve, double x, double *ret_slope) {
    double s;

    switch (curve) {
    case K_CURVE_RELU:
        *ret_slope = x <= 0 ? 0 : 1;
        return x < 0 ? 0 : x;
    case K_CURVE_TANH:
        s = kmath_tanh(x);
        *ret_slope = 1 - s * s;
        return s;
    case K_CURVE_SIGMOID:
        s = sigmoid(x);
        *ret_slope = s * (1 - s);
        return s;
    case K_CURVE_SILU:
        s = sigmoid(x);
        *ret_slope = s * (1 + x * (1 - s));
        return x * s;
    case K_CURVE_GELU:
        s = 0.5 * (1 + kmath_erf(x * root_half));
        *ret_slope = s + x * density_0 * kmath_exp(-0.5 * x * x);
        return x * s;
    default:
        s = kmath_tanh(gelu_slope * (x + gelu_cubic * x * x * x));
        *ret_slope =
            0.5 * (1 + s) + 0.5 * x * (1 - s * s) * gelu_slope * (1 + 3 * gelu_cubic * x * x);
        return 0.5 * x * (1 + s);
    }
}

int k_ref_activate(struct k_ctx *ctx, const struct k_activate *a) {
    const float *x = a->x.data;
    float *y = a->y.data;
    double slope;

    if ((unsigned)a->curve >= K_CURVE_COUNT)
        return -EINVAL;
    for (int64_t i = 0; i < a->x.shape[0]; i++)
        y[i] = (float)curve_at(a->curve, x[i], &slope);
    return 0;
}

int k_ref_activate_dx(struct k_ctx *ctx, const struct k_activate_dx *a) {
    const float *x = a->x.data, *dy = a->dy.data;
    float *dx = a->dx.data;
    double slope;

    if ((unsigned)a->curve >= K_CURVE_COUNT)
        return -EINVAL;
    for (int64_t i = 0; i < a->x.shape[0]; i++) {
        (void)curve_at(a->curve, x[i], &slope);
        dx[i] = (float)(dy[i] * slope);
    }
    return 0;
}

int k_ref_dropout(struct k_ctx *ctx, const struct k_dropout *a) {
    const float *x = a->x.data;
    float *y = a->y.data;

    if (!dropout_is_whole(a))
        return -EINVAL;
    for (int64_t i = 0; i < a->x.shape[0]; i++) {
        uint64_t number = (uint64_t)(a->first + i);
        struct philox_counter at =
            philox_at(PHILOX_DROPOUT, a->step, a->layer, (uint32_t)(number / 4));
        uint32_t words[4];
        philox_words(a->key, &at, words);
        y[i] = words[number % 4] >= dropout_threshold(a) ? x[i] * dropout_scale(a) : 0;
    }
    return 0;
}

int k_ref_softmax(struct k_ctx *ctx, const struct k_softmax *a) {
    int64_t n = a->x.shape[1];

    for (int64_t r = 0; r < a->x.shape[0]; r++) {
        const float *x = ref_row(&a->x, r);
        float *y = ref_row(&a->y, r);
        double max = x[0], sum = 0;
        for (int64_t i = 1; i < n; i++)
            max = MAX(max, (double)x[i]);
        for (int64_t i = 0; i < n; i++)
            sum += kmath_exp(x[i] - max);
        for (int64_t i = 0; i < n; i++)
            y[i] = (float)(kmath_exp(x[i] - max) / sum);
    }
    return 0;
}

int k_ref_softmax_dx(struct k_ctx *ctx, const struct k_softmax_dx *a) {
    for (int64_t r = 0; r < a->y.shape[0]; r++) {
        const float *y = ref_row(&a->y, r), *dy = ref_row(&a->dy, r);
        float *dx = ref_row(&a->dx, r);
        double dot = 0;
        for (int64_t i = 0; i < a->y.shape[1]; i++)
            dot += (double)dy[i] * y[i];
        for (int64_t i = 0; i < a->y.shape[1]; i++)
            dx[i] = (float)(y[i] * (dy[i] - dot));
    }
    return 0;
}

int k_ref_lstm_cell(struct k_ctx *ctx, const struct k_lstm_cell *a) {
    int64_t n = a->h.shape[1];

    if (a->gates.shape[1] != 4 * n)
        return -EINVAL;
    for (int64_t r = 0; r < a->h.shape[0]; r++) {
        const float *before = a->c_before.data ? ref_row(&a->c_before, r) : NULL;
        float *gates = ref_row(&a->gates, r);
        for (int64_t u = 0; u < n; u++) {
            double i = sigmoid(gates[u]), f = sigmoid(gates[n + u]);
            double g = kmath_tanh(gates[2 * n + u]), o = sigmoid(gates[3 * n + u]);
            double c = i * g + (before ? f * before[u] : 0);
            ref_row(&a->c, r)[u] = (float)c;
            ref_row(&a->h, r)[u] = (float)(o * kmath_tanh(c));
            gates[u] = (float)i;
            gates[n + u] = (float)f;
            gates[2 * n + u] = (float)g;
            gates[3 * n + u] = (float)o;
        }
    }
    return 0;
}

int k_ref_lstm_cell_dx(struct k_ctx *ctx, const struct k_lstm_cell_dx *a) {
    int64_t n = a->dh.shape[1];

    if (a->gates.shape[1] != 4 * n)
        return -EINVAL;
    for (int64_t r = 0; r < a->dh.shape[0]; r++) {
        const float *before = a->c_before.data ? ref_row(&a->c_before, r) : NULL;
        const float *gates = ref_row(&a->gates, r), *dh = ref_row(&a->dh, r);
        float *dgates = ref_row(&a->dgates, r), *dc = ref_row(&a->dc, r);
        for (int64_t u = 0; u < n; u++) {
            double i = gates[u], f = gates[n + u], g = gates[2 * n + u], o = gates[3 * n + u];
            double out = kmath_tanh(ref_row(&a->c, r)[u]);
            double d = dc[u] + dh[u] * o * (1 - out * out);
            dgates[u] = (float)(d * g * i * (1 - i));
            dgates[n + u] = (float)(before ? d * before[u] * f * (1 - f) : 0);
            dgates[2 * n + u] = (float)(d * i * (1 - g * g));
            dgates[3 * n + u] = (float)(dh[u] * out * o * (1 - o));
            dc[u] = (float)(d * f);
        }
    }
    return 0;
}

int k_ref_gru_cell(struct k_ctx *ctx, const struct k_gru_cell *a) {
    int64_t n = a->h.shape[1];

    if (a->input.shape[1] != 3 * n)
        return -EINVAL;
    for (int64_t row = 0; row < a->h.shape[0]; row++) {
        const float *before = a->h_before.data ? ref_row(&a->h_before, row) : NULL;
        const float *state = ref_row(&a->state, row);
        float *input = ref_row(&a->input, row);
        for (int64_t u = 0; u < n; u++) {
            double r = sigmoid((double)input[u] + state[u]);
            double z = sigmoid((double)input[n + u] + state[n + u]);
            double fresh = kmath_tanh(input[2 * n + u] + r * state[2 * n + u]);
            ref_row(&a->h, row)[u] = (float)((1 - z) * fresh + (before ? z * before[u] : 0));
            input[u] = (float)r;
            input[n + u] = (float)z;
            input[2 * n + u] = (float)fresh;
        }
    }
    return 0;
}

int k_ref_gru_cell_dx(struct k_ctx *ctx, const struct k_gru_cell_dx *a) {
    int64_t n = a->dh.shape[1];

    if (a->gates.shape[1] != 3 * n)
        return -EINVAL;
    for (int64_t row = 0; row < a->dh.shape[0]; row++) {
        const float *before = a->h_before.data ? ref_row(&a->h_before, row) : NULL;
        const float *gates = ref_row(&a->gates, row), *state = ref_row(&a->state, row);
        float *dinput = ref_row(&a->dinput, row), *dstate = ref_row(&a->dstate, row);
        for (int64_t u = 0; u < n; u++) {
            double r = gates[u], z = gates[n + u], fresh = gates[2 * n + u];
            double d = ref_row(&a->dh, row)[u];
            double dfresh = d * (1 - z) * (1 - fresh * fresh);
            dinput[u] = dstate[u] = (float)(dfresh * state[2 * n + u] * r * (1 - r));
            dinput[n + u] = dstate[n + u] =
                (float)(d * ((before ? before[u] : 0) - fresh) * z * (1 - z));
            dinput[2 * n + u] = (float)dfresh;
            dstate[2 * n + u] = (float)(dfresh * r);
            ref_row(&a->dh_before, row)[u] = (float)(d * z);
        }
    }
    return 0;
}

static double log_at_least(double x) {
    double y = kmath_log(x);

    return y < -100 ? -100 : y;
}

/* The loss of x against t, and its slope. */
static double loss_at(enum k_loss_kind kind, double x, double t, double *ret_slope) {
    double size = x < 0 ? -x : x;

    switch (kind) {
    case K_LOSS_SQUARE:
        *ret_slope = 2 * (x - t);
        return (x - t) * (x - t);
    case K_LOSS_BINARY:
        *ret_slope = (x - t) / MAX(x * (1 - x), 1e-12);
        return -t * log_at_least(x) - (1 - t) * log_at_least(1 - x);
    default:
        *ret_slope = sigmoid(x) - t;
        return (x < 0 ? 0 : x) - x * t + kmath_log(1 + kmath_exp(-size));
    }
}

int k_ref_loss(struct k_ctx *ctx, const struct k_loss *a) {
    const float *x = a->x.data, *target = a->target.data;
    float *dx = a->dx.data;
    double sum = 0, slope;

    if ((unsigned)a->kind >= K_LOSS_COUNT)
        return -EINVAL;
    for (int64_t i = 0; i < a->x.shape[0]; i++) {
        sum += loss_at(a->kind, x[i], target[i], &slope);
        if (dx)
            dx[i] = (float)(slope * (double)a->grad_scale);
    }
    *(double *)a->loss.data += sum * (double)a->loss_scale;
    return 0;
}
