/* bench_precision - what few bits cost in accuracy: errors of every layer of a model against
 * float32 for each recipe, and of single products with two controls that must be visibly worse.
 *
 * usage: bench-precision [DIR_WITH_CONFIG [TOKENS]]
 */
#include "kernels/philox.h"
#include "tests/unit/layer_errors.h"

#include <math.h>
#include <stdio.h>

static const char llama[] =
    "{\"model_type\": \"llama\", \"hidden_size\": 512, \"intermediate_size\": 1408,"
    " \"num_hidden_layers\": 2, \"num_attention_heads\": 8, \"num_key_value_heads\": 4,"
    " \"vocab_size\": 512, \"max_position_embeddings\": 4096, \"rms_norm_eps\": 1e-6}";

static const struct precision recipes[] = {
    {PRECISION_BF16, 0,                       0},
    {PRECISION_FP8,  PRECISION_FORMAT_E4M3,   0},
    {PRECISION_FP8,  PRECISION_FORMAT_HYBRID, 0},
    {PRECISION_FP8,  PRECISION_FORMAT_E5M2,   0},
};

static int layers(const struct model_config *config, int64_t n_tokens, struct hai_err *err) {
    const struct model_options options = {
        .backend = K_BACKEND_CPU, .n_tokens_max = n_tokens, .n_seqs_max = 2};
    struct layer_error *errors = hai_new_array(struct layer_error, (size_t)(2 * config->n_layers));
    int r = 0;

    for (size_t i = 0; i < ARRAY_SIZE(recipes) && r == 0; i++) {
        char name[PRECISION_NAME_BYTES];
        precision_name(&recipes[i], name);
        r = layer_errors(config, &options, &recipes[i], errors, err);
        for (int l = 0; l < 2 * config->n_layers && r == 0; l++)
            printf("%-12s layer %2d %-4s  y %.5f  dx %.5f  dw %.5f\n", name, l, errors[l].layer,
                   errors[l].y, errors[l].dx, errors[l].dw);
    }
    free(errors);
    return r;
}

enum { ROWS = 32, OUTPUTS = 32, LONG = 4096, TILES = LONG / K_BLOCK };

/* A product of ROWS x LONG by OUTPUTS x LONG in E4M3. */
struct product {
    float x[ROWS * LONG], w[OUTPUTS * LONG];
    uint8_t x_codes[ROWS * LONG], w_codes[OUTPUTS * LONG];
    float x_scale[TILES * ROWS], w_scale[TILES];
    float y[ROWS * OUTPUTS];
};

static float normal(uint32_t which, int i) {
    struct philox_counter at = philox_at(PHILOX_SHUFFLE, which, 0, (uint32_t)i);
    uint32_t words[4];

    philox_words(5, &at, words);
    return (float)philox_normal(words[0], words[1]);
}

static double largest(const float *x, int n) {
    double amax = 0;

    for (int i = 0; i < n; i++)
        amax = fmax(amax, fabs((double)x[i]));
    return amax;
}

/* From values to codes and scales; one_scale: the same for the whole tensor. */
static int round_product(struct k_ctx *ctx, struct product *p, bool one_scale) {
    struct k_quantize x = {.y = k_tensor_2d(p->x_codes, K_E4M3, ROWS, LONG),
                           .scale = k_tensor_2d(p->x_scale, K_F32, TILES, ROWS),
                           .x = k_tensor_2d(p->x, K_F32, ROWS, LONG),
                           .amax_min = one_scale ? (float)largest(p->x, ROWS * LONG) : 0};
    struct k_quantize w = {.y = k_tensor_2d(p->w_codes, K_E4M3, OUTPUTS, LONG),
                           .scale = k_tensor_2d(p->w_scale, K_F32, 1, TILES),
                           .x = k_tensor_2d(p->w, K_F32, OUTPUTS, LONG)};

    x.y.scale_kind = K_SCALE_TILES;
    w.y.scale_kind = K_SCALE_BLOCKS;
    int r = k_quantize(ctx, &x);
    return r < 0 ? r : k_quantize(ctx, &w);
}

static int run_product(struct k_ctx *ctx, struct product *p, enum k_sum sum) {
    const struct k_weight_part part = {.data = p->w_codes, .scale = p->w_scale, .n_out = OUTPUTS};
    _cleanup_(k_weight_freep) struct k_weight *w = NULL;
    struct k_linear a = {.y = k_tensor_2d(p->y, K_F32, ROWS, OUTPUTS),
                         .x = k_tensor_2d(p->x_codes, K_E4M3, ROWS, LONG),
                         .sum = sum};

    a.x.scale = p->x_scale;
    a.x.scale_kind = K_SCALE_TILES;
    int r = k_weight_new(ctx, K_E4M3, 1, OUTPUTS, LONG, &part, 1, &w, NULL);
    a.w = w;
    return r < 0 ? r : k_linear(ctx, &a);
}

struct errors {
    double rms, worst; // against the rms of the results
};

/* Of y against the exact product. */
static struct errors errors_of(const struct product *p, const double *want) {
    double square = 0, difference = 0, worst = 0;

    for (int i = 0; i < ROWS * OUTPUTS; i++) {
        double d = (double)p->y[i] - want[i];
        square += want[i] * want[i];
        difference += d * d;
        worst = fmax(worst, fabs(d));
    }
    return (struct errors){sqrt(difference / square), worst / sqrt(square / (ROWS * OUTPUTS))};
}

static void multiply(const struct product *p, double *ret) {
    for (int r = 0; r < ROWS; r++)
        for (int o = 0; o < OUTPUTS; o++) {
            double sum = 0;
            for (int k = 0; k < LONG; k++)
                sum += (double)p->x[r * LONG + k] * (double)p->w[o * LONG + k];
            ret[r * OUTPUTS + o] = sum;
        }
}

static void print_errors(const char *what, struct errors e) {
    printf("K = %d  %-44s rms %.6f  worst %.6f\n", LONG, what, e.rms, e.worst);
}

/* The sums alone: what was rounded to E4M3 counts as exact. */
static int sums(struct k_ctx *ctx, struct product *p) {
    static const struct {
        enum k_sum sum;
        const char *what;
    } ways[] = {
        {K_SUM_F32,               "sums in float32"            },
        {K_SUM_HOPPER14_PROMOTED, "14 bits, promoted every 128"},
        {K_SUM_HOPPER14,          "14 bits, without promotion" },
    };
    static double want[ROWS * OUTPUTS];
    struct k_dequantize x = {.y = k_tensor_2d(p->x, K_F32, ROWS, LONG),
                             .x = k_tensor_2d(p->x_codes, K_E4M3, ROWS, LONG)};
    struct k_dequantize w = {.y = k_tensor_2d(p->w, K_F32, OUTPUTS, LONG),
                             .x = k_tensor_2d(p->w_codes, K_E4M3, OUTPUTS, LONG)};

    x.x.scale = p->x_scale;
    x.x.scale_kind = K_SCALE_TILES;
    w.x.scale = p->w_scale;
    w.x.scale_kind = K_SCALE_BLOCKS;
    int r = round_product(ctx, p, false);
    r = r < 0 ? r : k_dequantize(ctx, &x);
    r = r < 0 ? r : k_dequantize(ctx, &w);
    multiply(p, want);
    for (size_t i = 0; i < ARRAY_SIZE(ways) && r >= 0; i++) {
        r = run_product(ctx, p, ways[i].sum);
        if (r >= 0)
            print_errors(ways[i].what, errors_of(p, want));
    }
    return r;
}

/* One channel far larger than the rest, which meets weights of zero: what is wanted is in the rest,
 * and a scale for the whole tensor leaves it few codes. */
static int outlier(struct k_ctx *ctx, struct product *p) {
    static double want[ROWS * OUTPUTS];
    int r = 0;

    for (int i = 0; i < ROWS; i++)
        p->x[i * LONG + 77] = 3e5f;
    for (int o = 0; o < OUTPUTS; o++)
        p->w[o * LONG + 77] = 0;
    multiply(p, want);
    for (int one = 0; one < 2 && r >= 0; one++) {
        r = round_product(ctx, p, one);
        r = r < 0 ? r : run_product(ctx, p, K_SUM_F32);
        if (r >= 0)
            print_errors(one ? "one channel of 3e5, one scale for the tensor"
                             : "one channel of 3e5, tiles of 128",
                         errors_of(p, want));
    }
    return r;
}

static int products(void) {
    static struct product p;
    struct k_ctx ctx;
    int r = k_ctx_init(&ctx, K_BACKEND_REF, NULL, NULL);

    for (int positive = 0; positive < 2 && r >= 0; positive++) {
        for (int i = 0; i < ROWS * LONG; i++)
            p.x[i] = normal(1, i);
        for (int i = 0; i < OUTPUTS * LONG; i++)
            p.w[i] = normal(2, i);
        for (int i = 0; i < ROWS * LONG && positive; i++)
            p.x[i] = fabsf(p.x[i]);
        for (int i = 0; i < OUTPUTS * LONG && positive; i++)
            p.w[i] = fabsf(p.w[i]);
        printf("%s\n", positive ? "numbers above zero" : "bell-shaped numbers");
        r = sums(&ctx, &p);
        if (!positive && r >= 0)
            r = outlier(&ctx, &p);
    }
    return r;
}

int main(int argc, char **argv) {
    struct model_config config;
    struct hai_err err = {0};
    int r = argc > 1 ? config_read(argv[1], &config, &err)
                     : config_parse(llama, strlen(llama), "built in", &config, &err);

    if (r >= 0)
        r = layers(&config, argc > 2 ? atoi(argv[2]) : 512, &err);
    if (r >= 0)
        r = products();
    if (r < 0)
        fprintf(stderr, "bench-precision: %s\n", err.text[0] ? hai_err_text(&err) : strerror(-r));
    return r < 0;
}
