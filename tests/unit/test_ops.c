/* Operators at the real sizes of published models, against tests/fixtures/ops. */
#include "kernels/formats.h"
#include "kernels/kernels.h"
#include "kernels/quant.h"
#include "kernels/rope.h"
#include "lib/fileio.h"
#include "lib/json.h"
#include "storage/safetensors.h"
#include "tests/unit/test.h"

#include <math.h>
#include <stdio.h>

static const char dir[] = "tests/fixtures/ops";

struct ops {
    struct safetensors *tensors;
    struct json *facts;
};

static void ops_open(struct ops *o) {
    _cleanup_free_ char *tensors = hai_asprintf("%s/ops.safetensors", dir);
    _cleanup_free_ char *facts = hai_asprintf("%s/ops.json", dir);
    _cleanup_(buf_free) struct buf text = {0};
    struct hai_err err = {0};

    CHECK_EQ(safetensors_open(tensors, &o->tensors, &err), 0, "%s", err.text);
    CHECK_EQ(fileio_read_file(facts, 1 << 20, &text, &err), 0, "%s", err.text);
    CHECK_EQ(json_parse(text.data, text.n_bytes, facts, &o->facts, &err), 0, "%s", err.text);
}

static void ops_close(struct ops *o) {
    safetensors_free(o->tensors);
    json_free(o->facts);
}

/* Every conversion's bits, there and back. */
TEST(format_bits)
{
    struct ops o = {0};

    ops_open(&o);
    const struct safetensors_tensor *from = safetensors_find(o.tensors, "fmt.f32");
    const uint16_t *bf16 = safetensors_find(o.tensors, "fmt.bf16_bits")->data;
    const uint16_t *f16 = safetensors_find(o.tensors, "fmt.f16_bits")->data;
    const uint8_t *e4m3 = safetensors_find(o.tensors, "fmt.e4m3_bits")->data;
    CHECK(from->shape[0] > 8000, "");
    for (int64_t i = 0; i < from->shape[0]; i++) {
        float x = ((const float *)from->data)[i];
        CHECK_EQ(k_to_bf16(x), bf16[i], "%a", (double)x);
        CHECK_EQ(k_to_f16(x), f16[i], "%a", (double)x);
        CHECK_EQ(k_to_e4m3(x), e4m3[i], "%a", (double)x);
    }
    ops_close(&o);
}

static double real(const struct json *object, const char *key, double fallback) {
    const struct json *value = json_get(object, key);

    return value ? json_as_real(value) : fallback;
}

static struct rope_rule rule_of(const struct json *config) {
    static const char *const names[] = {"plain", "linear", "llama3", "yarn"};
    const struct json *s = json_get(config, "rope_scaling");
    const char *type = json_get_string(s, "rope_type", json_get_string(s, "type", "plain"));
    struct rope_rule rule = {
        .theta = real(config, "rope_theta", 0),
        .factor = real(s, "factor", 1),
        .original_position = real(s, "original_max_position_embeddings", 0),
        .low_freq_factor = real(s, "low_freq_factor", 0),
        .high_freq_factor = real(s, "high_freq_factor", 0),
        .beta_fast = real(s, "beta_fast", 0),
        .beta_slow = real(s, "beta_slow", 0),
        .attention_factor = 1, /* both mscale fields are equal in every published model */
    };

    for (int i = 0; i < 4; i++)
        if (strcmp(names[i], type) == 0)
            rule.scaling = (enum rope_scaling)i;
    return rule;
}

static void check_rope(const struct ops *o, const struct json *config, int number) {
    const struct json *positions = json_get(json_get(o->facts, "rope"), "positions");
    int64_t d = json_get_int(config, "dim", 0), half = d / 2, n = 131072, row = 0;
    _cleanup_free_ float *cosine = hai_new_array(float, (size_t)(n * half));
    _cleanup_free_ float *sine = hai_new_array(float, (size_t)(n * half));
    struct rope_rule rule = rule_of(config);
    char name[2][32];

    (void)snprintf(name[0], sizeof name[0], "rope.%d.cos", number);
    (void)snprintf(name[1], sizeof name[1], "rope.%d.sin", number);
    const double *want_cos = safetensors_find(o->tensors, name[0])->data;
    const double *want_sin = safetensors_find(o->tensors, name[1])->data;
    rope_table(&rule, d, n, cosine, sine);
    for (const struct json *p = json_first(positions); p; p = json_next(p), row++)
        for (int64_t i = 0; i < half; i++) {
            int64_t at = json_as_int(p) * half + i, want = row * half + i;
            CHECK(fabs((double)cosine[at] - want_cos[want]) < 1e-7 &&
                      fabs((double)sine[at] - want_sin[want]) < 1e-7,
                  "rope %d position %lld pair %lld: %.9g %.9g, expected %.9g %.9g", number,
                  (long long)json_as_int(p), (long long)i, (double)cosine[at], (double)sine[at],
                  want_cos[want], want_sin[want]);
        }
}

TEST(rope_tables)
{
    struct ops o = {0};
    int number = 0;

    ops_open(&o);
    const struct json *configs = json_get(json_get(o.facts, "rope"), "configs");
    for (const struct json *c = json_first(configs); c; c = json_next(c))
        check_rope(&o, c, number++);
    CHECK_EQ(number, 5, "");
    ops_close(&o);
}

static void *ops_data(const struct ops *o, const char *format, int number) {
    char name[64];

    (void)snprintf(name, sizeof name, format, number);
    const struct safetensors_tensor *t = safetensors_find(o->tensors, name);
    return t ? (void *)(uintptr_t)t->data : NULL;
}

/* The gates of DeepSeekMoE, V2 and V3 at their sizes, from the gate's product on. */
static const struct {
    int n_experts, n_slots;
    enum k_score score;
    int n_groups, group_best, group_top;
    bool normalise;
    float scaling;
} routes[] = {
    {64,  6, K_SCORE_SOFTMAX, 1, 1, 1, false, 1   },
    {160, 6, K_SCORE_SOFTMAX, 8, 1, 3, false, 16  },
    {256, 8, K_SCORE_SIGMOID, 8, 2, 4, true,  2.5f},
};

static void check_route(const struct ops *o, int n) {
    enum { TOKENS = 96, EXPERTS_MAX = 256, SLOTS_MAX = 8, WIDTH = 48 };
    static float logits[TOKENS * EXPERTS_MAX], scores[TOKENS * EXPERTS_MAX];
    static float weights[TOKENS * SLOTS_MAX];
    static int32_t experts[TOKENS * SLOTS_MAX];
    int n_experts = routes[n].n_experts, n_slots = routes[n].n_slots;
    const int32_t *want = ops_data(o, "route.%d.expert_idx", n);
    const double *want_weight = ops_data(o, "route.%d.expert_weight_f64", n);
    const uint8_t *clear = ops_data(o, "route.%d.clear", n);
    _cleanup_(k_weight_freep) struct k_weight *gate = NULL;
    struct k_ctx ctx;

    CHECK_EQ(k_ctx_init(&ctx, K_BACKEND_REF, NULL, NULL), 0, "");
    CHECK_EQ(k_weight_plain(&ctx, K_F32, 1, n_experts, WIDTH,
                            ops_data(o, "route.%d.gate_weight", n), &gate, NULL),
             0, "");
    struct k_linear product = {.y = k_tensor_2d(logits, K_F32, TOKENS, n_experts),
                               .x = k_tensor_2d(ops_data(o, "route.%d.x", n), K_F32, TOKENS, WIDTH),
                               .w = gate};
    struct k_router route = {.experts = k_tensor_2d(experts, K_I32, TOKENS, n_slots),
                             .weights = k_tensor_2d(weights, K_F32, TOKENS, n_slots),
                             .scores = k_tensor_2d(scores, K_F32, TOKENS, n_experts),
                             .logits = product.y,
                             .bias = k_tensor_1d(ops_data(o, "route.%d.bias", n), K_F32, n_experts),
                             .score = routes[n].score,
                             .n_groups = routes[n].n_groups,
                             .group_best = routes[n].group_best,
                             .group_top = routes[n].group_top,
                             .normalise = routes[n].normalise,
                             .scaling = routes[n].scaling};
    CHECK_EQ(k_linear(&ctx, &product), 0, "");
    CHECK_EQ(k_router(&ctx, &route), 0, "");
    for (int i = 0; i < TOKENS * n_slots; i++) {
        if (!clear[i / n_slots])
            continue;
        CHECK_EQ(experts[i], want[i], "route %d token %d slot %d", n, i / n_slots, i % n_slots);
        CHECK(fabs((double)weights[i] - want_weight[i]) < 1e-5, "route %d token %d slot %d: %g", n,
              i / n_slots, i % n_slots, (double)weights[i]);
    }
}

TEST(routing)
{
    struct ops o = {0};

    ops_open(&o);
    for (int n = 0; n < (int)ARRAY_SIZE(routes); n++)
        check_route(&o, n);
    ops_close(&o);
}

/* Activations in tiles by weights in blocks: codes and scales exact, products as in double. */
static void check_fp8(const struct ops *o, int number) {
    char name[32];
    (void)snprintf(name, sizeof name, "fp8.%d.x", number);
    const struct safetensors_tensor *x = safetensors_find(o->tensors, name);
    (void)snprintf(name, sizeof name, "fp8.%d.w_q", number);
    const struct safetensors_tensor *w = safetensors_find(o->tensors, name);
    int64_t n_rows = x->shape[0], n_in = x->shape[1], n_out = w->shape[0];
    int64_t n_tiles = (n_in + K_BLOCK - 1) / K_BLOCK;
    _cleanup_free_ uint8_t *codes = hai_new_array(uint8_t, (size_t)(n_rows * n_in));
    _cleanup_free_ float *scale = hai_new_array(float, (size_t)(n_rows * n_tiles));
    _cleanup_free_ float *y = hai_new_array(float, (size_t)(n_rows * n_out));
    const float *want_scale = ops_data(o, "fp8.%d.x_scale", number);
    const double *want = ops_data(o, "fp8.%d.y_f64", number);
    const struct k_weight_part part = {
        .data = w->data, .scale = ops_data(o, "fp8.%d.w_scale_inv", number), .n_out = n_out};
    _cleanup_(k_weight_freep) struct k_weight *weight = NULL;
    struct k_ctx ctx;
    double largest = 0;

    CHECK_EQ(k_ctx_init(&ctx, K_BACKEND_REF, NULL, NULL), 0, "");
    CHECK_EQ(k_weight_new(&ctx, K_E4M3, 1, n_out, n_in, &part, 1, &weight, NULL), 0, "");
    struct k_quantize q = {.y = k_tensor_2d(codes, K_E4M3, n_rows, n_in),
                           .scale = k_tensor_2d(scale, K_F32, n_tiles, n_rows),
                           .x = k_tensor_2d((void *)(uintptr_t)x->data, K_F32, n_rows, n_in),
                           .amax_min = 1e-4f};
    q.y.scale_kind = K_SCALE_TILES;
    CHECK_EQ(k_quantize(&ctx, &q), 0, "");
    CHECK(memcmp(codes, ops_data(o, "fp8.%d.x_q", number), (size_t)(n_rows * n_in)) == 0,
          "fp8 %d: codes", number);
    for (int64_t r = 0; r < n_rows; r++)
        for (int64_t b = 0; b < n_tiles; b++)
            CHECK(scale[b * n_rows + r] == want_scale[r * n_tiles + b], "fp8 %d: scale", number);
    struct k_linear product = {.y = k_tensor_2d(y, K_F32, n_rows, n_out), .x = q.y, .w = weight};
    product.x.scale = scale;
    product.x.scale_kind = K_SCALE_TILES;
    CHECK_EQ(k_linear(&ctx, &product), 0, "");
    for (int64_t i = 0; i < n_rows * n_out; i++)
        largest = fmax(largest, fabs(want[i]));
    for (int64_t i = 0; i < n_rows * n_out; i++)
        CHECK(fabs((double)y[i] - want[i]) < 1e-6 * largest, "fp8 %d: %g, expected %g", number,
              (double)y[i], want[i]);
}

TEST(fp8_blocks)
{
    struct ops o = {0};

    ops_open(&o);
    for (int number = 0; number < 3; number++)
        check_fp8(&o, number);
    ops_close(&o);
}

/* Rounding to 8 and 4 bits: what comes back is near, and better scales are never worse. */
TEST(quant_round_trip)
{
    enum { N_OUT = 21, N_IN = 96 };
    static const struct {
        enum k_dtype dtype;
        double error; // rms, of numbers with deviation 1
    } kinds[] = {
        {K_Q8, 0.0065},
        {K_Q4, 0.095 },
    };
    float w[N_OUT * N_IN];
    struct ops o = {0};

    ops_open(&o);
    const float *x = ops_data(&o, "fp8.%d.x", 0);
    for (int i = 0; i < N_OUT * N_IN; i++)
        w[i] = x[(i * 7) % 1024];
    for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
        _cleanup_free_ void *data = hai_alloc(k_quant_bytes(kinds[k].dtype, N_OUT, N_IN));
        _cleanup_free_ uint16_t *scale = hai_alloc(k_quant_scale_bytes(N_OUT, N_IN));
        double square = 0, all = 0;
        k_quant_pack(kinds[k].dtype, w, N_OUT, N_IN, NULL, data, scale);
        for (int i = 0; i < N_OUT * N_IN; i++) {
            double d =
                k_quant_value(kinds[k].dtype, data, scale, N_IN, i / N_IN, i % N_IN) - (double)w[i];
            square += d * d;
            all += (double)w[i] * (double)w[i];
        }
        CHECK(sqrt(square / all) < kinds[k].error, "%s: error %g", k_dtype_name(kinds[k].dtype),
              sqrt(square / all));
    }
    ops_close(&o);
}
