/* Operators at the real sizes of published models, against tests/fixtures/ops. */
#include "kernels/kernels.h"
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

/* bf16 is what weights are narrowed to on the way into a model. */
TEST(bf16_bits)
{
    struct ops o = {0};

    ops_open(&o);
    const struct safetensors_tensor *from = safetensors_find(o.tensors, "fmt.f32");
    const struct safetensors_tensor *want = safetensors_find(o.tensors, "fmt.bf16_bits");
    CHECK_EQ(from->shape[0], want->shape[0], "");
    CHECK(from->shape[0] > 8000, "");
    for (int64_t i = 0; i < from->shape[0]; i++) {
        float x = ((const float *)from->data)[i];
        CHECK_EQ(k_bf16(x), ((const uint16_t *)want->data)[i], "%a", (double)x);
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

/* 256 experts in 8 groups, 8 chosen, from the gate's product on. */
TEST(routing_v3)
{
    enum { TOKENS = 96, EXPERTS = 256, SLOTS = 8, WIDTH = 48 };
    static float logits[TOKENS * EXPERTS], scores[TOKENS * EXPERTS], weights[TOKENS * SLOTS];
    static int32_t experts[TOKENS * SLOTS];
    struct ops o = {0};
    struct k_ctx ctx;

    ops_open(&o);
    const struct safetensors_tensor *x = safetensors_find(o.tensors, "route.2.x");
    const struct safetensors_tensor *gate = safetensors_find(o.tensors, "route.2.gate_weight");
    const struct safetensors_tensor *bias = safetensors_find(o.tensors, "route.2.bias");
    const int32_t *want = safetensors_find(o.tensors, "route.2.expert_idx")->data;
    const double *want_weight = safetensors_find(o.tensors, "route.2.expert_weight_f64")->data;
    const uint8_t *clear = safetensors_find(o.tensors, "route.2.clear")->data;
    struct k_linear product = {
        .y = k_tensor_2d(logits, K_F32, TOKENS, EXPERTS),
        .x = k_tensor_2d((void *)(uintptr_t)x->data, K_F32, TOKENS, WIDTH),
        .w = k_tensor_3d((void *)(uintptr_t)gate->data, K_F32, 1, EXPERTS, WIDTH)};
    struct k_router route = {.experts = k_tensor_2d(experts, K_I32, TOKENS, SLOTS),
                             .weights = k_tensor_2d(weights, K_F32, TOKENS, SLOTS),
                             .scores = k_tensor_2d(scores, K_F32, TOKENS, EXPERTS),
                             .logits = product.y,
                             .bias = k_tensor_1d((void *)(uintptr_t)bias->data, K_F32, EXPERTS),
                             .n_groups = 8,
                             .group_top = 4,
                             .normalise = true,
                             .scaling = 2.5f};
    CHECK_EQ(k_ctx_init(&ctx, K_BACKEND_REF, NULL, NULL), 0, "");
    CHECK_EQ(k_linear(&ctx, &product), 0, "");
    CHECK_EQ(k_router(&ctx, &route), 0, "");
    for (int i = 0; i < TOKENS * SLOTS; i++) {
        if (!clear[i / SLOTS])
            continue;
        CHECK_EQ(experts[i], want[i], "token %d slot %d", i / SLOTS, i % SLOTS);
        CHECK(fabs((double)weights[i] - want_weight[i]) < 1e-5, "token %d slot %d: %g", i / SLOTS,
              i % SLOTS, (double)weights[i]);
    }
    ops_close(&o);
}
