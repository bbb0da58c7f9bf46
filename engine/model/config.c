#include "engine/model/config.h"

#include "kernels/kmath.h"
#include "kernels/quant.h"
#include "lib/fileio.h"
#include "lib/json.h"

enum {
    LLAMA = 1 << MODEL_LLAMA,
    QWEN2 = 1 << MODEL_QWEN2,
    MOE = 1 << MODEL_DEEPSEEK,
    V2 = 1 << MODEL_DEEPSEEK_V2,
    V3 = 1 << MODEL_DEEPSEEK_V3,
    LATENT = V2 | V3,
    EXPERTS = MOE | V2 | V3,
    ANY = LLAMA | QWEN2 | EXPERTS,
    CONFIG_BYTES_MAX = 1 << 20,
};

/* Numbers and flags that are taken over. required: kinds that cannot do without. */
static const struct field {
    const char *name;
    enum json_kind kind;
    size_t offset;
    double min, max;
    int kinds, required;
} fields[] = {
#define INT(name, member, min, max, kinds, required)                                               \
    { name, JSON_KIND_INT, offsetof(struct model_config, member), min, max, kinds, required }
#define REAL(name, member, min, max, kinds, required)                                              \
    { name, JSON_KIND_REAL, offsetof(struct model_config, member), min, max, kinds, required }
#define BOOL(name, member, kinds)                                                                  \
    { name, JSON_KIND_BOOL, offsetof(struct model_config, member), 0, 1, kinds, 0 }
    INT("vocab_size", n_vocab, 1, 1 << 20, ANY, ANY),
    INT("hidden_size", n_dim, 1, 1 << 16, ANY, ANY),
    INT("intermediate_size", n_dim_ffn, 1, 1 << 20, ANY, ANY),
    INT("num_hidden_layers", n_layers, 1, 1000, ANY, ANY),
    INT("num_attention_heads", n_heads, 1, 1024, ANY, ANY),
    INT("num_key_value_heads", n_kv_heads, 1, 1024, ANY, 0),
    INT("head_dim", d_head, 1, 4096, ANY, 0),
    INT("max_position_embeddings", n_position, 1, 1 << 24, ANY, ANY),
    INT("bos_token_id", bos_token, 0, 1 << 20, ANY, 0),
    INT("q_lora_rank", q_lora, 1, 1 << 16, LATENT, 0),
    INT("kv_lora_rank", kv_lora, 1, 1 << 16, LATENT, LATENT),
    INT("qk_nope_head_dim", d_nope, 1, 4096, LATENT, LATENT),
    INT("qk_rope_head_dim", d_rope, 2, 4096, LATENT, LATENT),
    INT("v_head_dim", d_value, 1, 4096, LATENT, LATENT),
    INT("n_routed_experts", n_experts, 1, 1024, EXPERTS, EXPERTS),
    INT("n_shared_experts", n_shared_experts, 1, 64, EXPERTS, EXPERTS),
    INT("num_experts_per_tok", n_expert_slots, 1, 64, EXPERTS, EXPERTS),
    INT("moe_intermediate_size", n_dim_expert, 1, 1 << 16, EXPERTS, EXPERTS),
    INT("first_k_dense_replace", n_dense_layers, 0, 1000, EXPERTS, EXPERTS),
    INT("n_group", n_expert_groups, 1, 1024, EXPERTS, V3),
    INT("topk_group", n_expert_groups_top, 1, 1024, EXPERTS, V3),
    INT("num_nextn_predict_layers", n_mtp, 0, 1, V3, 0),
    REAL("rms_norm_eps", norm_eps, 1e-12, 1e-2, ANY, ANY),
    REAL("initializer_range", init_std, 0, 10, ANY, 0),
    REAL("rope_theta", rope.theta, 2, 1e12, ANY, 0), // YaRN divides by its logarithm
    REAL("routed_scaling_factor", routed_scaling, 1e-6, 1e6, EXPERTS, V3),
    REAL("aux_loss_alpha", balance_alpha, 0, 1e3, EXPERTS, 0),
    BOOL("tie_word_embeddings", tied_embeddings, ANY),
    BOOL("norm_topk_prob", normalise_slots, EXPERTS),
};

static const struct field rope_fields[] = {
    REAL("factor", rope.factor, 1, 1e6, 0, 0),
    INT("original_max_position_embeddings", rope.original_position, 1, 1 << 24, 0, 0),
    REAL("low_freq_factor", rope.low_freq_factor, 1e-3, 1e6, 0, 0),
    REAL("high_freq_factor", rope.high_freq_factor, 1e-3, 1e6, 0, 0),
    REAL("beta_fast", rope.beta_fast, 1e-3, 1e6, 0, 0),
    REAL("beta_slow", rope.beta_slow, 1e-3, 1e6, 0, 0),
    REAL("mscale", rope.mscale, 0, 1e3, 0, 0),
    REAL("mscale_all_dim", rope.mscale_all_dim, 0, 1e3, 0, 0),
};

/* Options with one value this engine follows; another value would be another model. */
static const struct {
    const char *name;
    const char *value; // as JSON
    int kinds;
} fixed[] = {
    {"hidden_act",         "\"silu\"",     ANY                 },
    {"attention_bias",     "false",        LLAMA | MOE | LATENT},
    {"attention_dropout",  "0",            ANY                 },
    {"mlp_bias",           "false",        LLAMA               },
    {"use_sliding_window", "false",        QWEN2               },
    {"use_mrope",          "false",        QWEN2               },
    {"pretraining_tp",     "1",            LLAMA | EXPERTS     },
    {"moe_layer_freq",     "1",            EXPERTS             },
    {"ep_size",            "1",            EXPERTS             },
    {"scoring_func",       "\"softmax\"",  MOE | V2            },
    {"scoring_func",       "\"sigmoid\"",  V3                  },
    {"topk_method",        "\"greedy\"",   MOE                 },
    {"topk_method",        "\"noaux_tc\"", V3                  },
    {"seq_aux",            "true",         EXPERTS             },
    {"rope_interleave",    "true",         V3                  },
};

/* Fields that say nothing about the computation. */
static const char *const ignored[] = {
    "architectures", "auto_map",     "torch_dtype",          "dtype",      "use_cache",
    "_name_or_path", "pad_token_id", "transformers_version", "model_type",
};

/* The same of a window that use_sliding_window switches off. */
static const char *const ignored_qwen2[] = {"sliding_window", "max_window_layers"};

/* Fields read by functions of their own. */
static const char *const special[] = {"qk_head_dim"};

static bool listed(const char *const *names, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0)
            return true;
    return false;
}

/* Find a field by name that counts for this kind of model; kinds 0: any. */
static const struct field *field_find(const struct field *table, size_t n, const char *name,
                                      int kinds) {
    for (size_t i = 0; i < n; i++)
        if ((!kinds || table[i].kinds & kinds) && strcmp(table[i].name, name) == 0)
            return &table[i];
    return NULL;
}

/* Take one number or flag over, within its bounds. */
static int field_set(const struct field *f, const struct json *value, const char *file,
                     struct model_config *config, struct hai_err *err) {
    char *at = (char *)config + f->offset;
    enum json_kind kind = json_kind(value);

    if (f->kind == JSON_KIND_BOOL) {
        if (kind != JSON_KIND_BOOL)
            return hai_fail(err, -EINVAL, "%s: %s is %s; expected true or false", file, f->name,
                            json_kind_name(kind));
        *(bool *)at = json_as_bool(value);
        return 0;
    }
    bool whole = f->kind == JSON_KIND_INT;
    if (kind != JSON_KIND_INT && (whole || kind != JSON_KIND_REAL))
        return hai_fail(err, -EINVAL, "%s: %s is %s; expected a %snumber", file, f->name,
                        json_kind_name(kind), whole ? "whole " : "");
    double number = json_as_real(value);
    if (!(number >= f->min && number <= f->max))
        return hai_fail(err, -EINVAL, "%s: %s is %.17g; expected %.17g to %.17g", file, f->name,
                        number, f->min, f->max);
    if (whole)
        *(int64_t *)(void *)at = json_as_int(value);
    else
        *(double *)(void *)at = number;
    return 0;
}

static int fixed_check(const struct json *value, size_t i, const char *file, struct hai_err *err) {
    _cleanup_(buf_free) struct buf text = {0};

    /* 0.0 and 0 are the same number. */
    if (json_kind(value) == JSON_KIND_REAL && json_as_real(value) == 0)
        buf_add_str(&text, "0");
    else
        json_dump(value, 0, &text);
    if (strcmp(buf_cstr(&text), fixed[i].value) == 0)
        return 0;
    return hai_fail(err, -ENOTSUP, "%s: %s is %.100s; this engine has only %s", file, fixed[i].name,
                    buf_cstr(&text), fixed[i].value);
}

static int eos_read(const struct json *value, const char *file, struct model_config *config,
                    struct hai_err *err) {
    const struct json *item = json_kind(value) == JSON_KIND_ARRAY ? json_first(value) : value;

    for (; item; item = item == value ? NULL : json_next(item)) {
        if (json_kind(item) != JSON_KIND_INT || json_as_int(item) < 0 ||
            json_as_int(item) > 1 << 20 ||
            config->n_eos_tokens == (int)ARRAY_SIZE(config->eos_tokens))
            return hai_fail(err, -EINVAL, "%s: eos_token_id: expected up to %zu token ids", file,
                            ARRAY_SIZE(config->eos_tokens));
        config->eos_tokens[config->n_eos_tokens++] = json_as_int(item);
    }
    return 0;
}

/* Which fields a kind of scaling needs; a field of another kind is refused. */
static const struct {
    const char *name;
    enum model_rope rope;
    int kinds;
    const char *required[5];
    const char *optional[5];
} ropes[] = {
    {"default", MODEL_ROPE_PLAIN,  ANY,                 {NULL},                             {NULL}},
    {"linear",  MODEL_ROPE_LINEAR, LLAMA | QWEN2 | MOE, {"factor"},                         {NULL}},
    {"llama3",
     MODEL_ROPE_LLAMA3,            LLAMA,
     {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
     {NULL}                                                                                       },
    {"yarn",
     MODEL_ROPE_YARN,              LATENT,
     {"factor", "original_max_position_embeddings"},
     {"beta_fast", "beta_slow", "mscale", "mscale_all_dim"}                                       },
};

static bool in_list(const char *const names[5], const char *name) {
    for (int i = 0; i < 5 && names[i]; i++)
        if (strcmp(names[i], name) == 0)
            return true;
    return false;
}

static int rope_read(const struct json *value, const char *file, struct model_config *config,
                     struct hai_err *err) {
    const char *type = json_get_string(value, "rope_type", json_get_string(value, "type", NULL));
    size_t k = 0;

    if (json_kind(value) != JSON_KIND_OBJECT || !type)
        return hai_fail(err, -EINVAL, "%s: rope_scaling: expected an object with rope_type", file);
    while (k < ARRAY_SIZE(ropes) &&
           (strcmp(ropes[k].name, type) != 0 || !(ropes[k].kinds & 1 << config->kind)))
        k++;
    if (k == ARRAY_SIZE(ropes))
        return hai_fail(err, -ENOTSUP, "%s: rope_scaling: type %s is not known for this model_type",
                        file, type);
    config->rope.kind = ropes[k].rope;
    for (struct json *v = json_first(value); v; v = json_next(v)) {
        const char *key = json_key(v);
        if (strcmp(key, "type") == 0 || strcmp(key, "rope_type") == 0)
            continue;
        const struct field *f = field_find(rope_fields, ARRAY_SIZE(rope_fields), key, 0);
        if (!f || !(in_list(ropes[k].required, key) || in_list(ropes[k].optional, key)))
            return hai_fail(err, -EINVAL, "%s: rope_scaling: unknown field %s for type %s", file,
                            key, type);
        int r = field_set(f, v, file, config, err);
        if (r < 0)
            return r;
    }
    for (int i = 0; i < 5 && ropes[k].required[i]; i++)
        if (!json_get(value, ropes[k].required[i]))
            return hai_fail(err, -EINVAL, "%s: rope_scaling: %s is missing", file,
                            ropes[k].required[i]);
    if (config->rope.kind == MODEL_ROPE_LLAMA3 &&
        config->rope.low_freq_factor >= config->rope.high_freq_factor)
        return hai_fail(err, -EINVAL,
                        "%s: rope_scaling: low_freq_factor is %g; expected less than "
                        "high_freq_factor, %g",
                        file, config->rope.low_freq_factor, config->rope.high_freq_factor);
    return 0;
}

/* V2 has two ways to choose experts. */
static int topk_method_read(const struct json *value, const char *file, struct model_config *config,
                            struct hai_err *err) {
    const char *method = json_kind(value) == JSON_KIND_STRING ? json_as_string(value) : "";

    if (strcmp(method, "greedy") != 0 && strcmp(method, "group_limited_greedy") != 0)
        return hai_fail(err, -ENOTSUP,
                        "%s: topk_method is %.60s; expected greedy or group_limited_greedy", file,
                        method);
    config->limit_groups = method[1] == 'r' && method[2] == 'o';
    return 0;
}

/* What hai-quantize wrote: the tensors say themselves which of them are quantised (source.h). */
static int own_quantization_read(const struct json *value, const char *file, struct hai_err *err) {
    int64_t layout = json_get_int(value, "layout", -1), group = json_get_int(value, "group", -1);

    for (const struct json *v = json_first(value); v; v = json_next(v)) {
        static const char *const known[] = {"quant_method", "format",     "layout",
                                            "group",        "importance", "kept"};
        if (!listed(known, ARRAY_SIZE(known), json_key(v)))
            return hai_fail(err, -EINVAL, "%s: quantization_config: unknown field %s", file,
                            json_key(v));
    }
    if (layout != K_QUANT_LAYOUT || group != K_QUANT_GROUP)
        return hai_fail(err, -ENOTSUP,
                        "%s: quantization_config: layout %lld in groups of %lld; expected %d in "
                        "groups of %d",
                        file, (long long)layout, (long long)group, K_QUANT_LAYOUT, K_QUANT_GROUP);
    return 0;
}

/* The one form of quantisation that DeepSeek publishes, of any model, and our own. */
static int quantization_read(const struct json *value, const char *file,
                             struct model_config *config, struct hai_err *err) {
    static const struct {
        const char *name, *value;
    } expected[] = {
        {"quant_method",      "\"fp8\""    },
        {"fmt",               "\"e4m3\""   },
        {"weight_block_size", "[128,128]"  },
        {"activation_scheme", "\"dynamic\""},
    };

    if (json_kind(value) != JSON_KIND_OBJECT)
        return hai_fail(err, -EINVAL, "%s: quantization_config: expected an object", file);
    if (hai_streq(json_get_string(value, "quant_method", ""), "hai"))
        return own_quantization_read(value, file, err);
    for (const struct json *v = json_first(value); v; v = json_next(v)) {
        _cleanup_(buf_free) struct buf text = {0};
        size_t i = 0;
        json_dump(v, 0, &text);
        while (i < ARRAY_SIZE(expected) && strcmp(expected[i].name, json_key(v)) != 0)
            i++;
        if (strcmp(json_key(v), "scale_fmt") == 0) {
            config->fp8_power_of_two = strcmp(buf_cstr(&text), "\"ue8m0\"") == 0;
            if (config->fp8_power_of_two || strcmp(buf_cstr(&text), "\"float\"") == 0)
                continue;
        } else if (i < ARRAY_SIZE(expected) && strcmp(buf_cstr(&text), expected[i].value) == 0) {
            continue;
        }
        return hai_fail(err, -ENOTSUP, "%s: quantization_config: %s is %.100s; expected %s", file,
                        json_key(v), buf_cstr(&text),
                        i < ARRAY_SIZE(expected) ? expected[i].value : "no such field");
    }
    config->fp8 = true;
    return 0;
}

/* Fields that are more than a number. */
static const struct {
    const char *name;
    int kinds;
    int (*read)(const struct json *value, const char *file, struct model_config *config,
                struct hai_err *err);
} readers[] = {
    {"eos_token_id",        ANY, eos_read         },
    {"rope_scaling",        ANY, rope_read        },
    {"topk_method",         V2,  topk_method_read },
    {"quantization_config", ANY, quantization_read},
};

static int field_read(const struct json *value, const char *file, struct model_config *config,
                      struct hai_err *err) {
    const char *key = json_key(value);
    int kinds = 1 << config->kind;
    const struct field *f = field_find(fields, ARRAY_SIZE(fields), key, kinds);

    /* null stands for "absent" in published files, whatever the field. */
    if (json_kind(value) == JSON_KIND_NULL || listed(ignored, ARRAY_SIZE(ignored), key) ||
        (kinds & QWEN2 && listed(ignored_qwen2, ARRAY_SIZE(ignored_qwen2), key)))
        return 0;
    if (f)
        return field_set(f, value, file, config, err);
    for (size_t i = 0; i < ARRAY_SIZE(fixed); i++)
        if (fixed[i].kinds & kinds && strcmp(fixed[i].name, key) == 0)
            return fixed_check(value, i, file, err);
    for (size_t i = 0; i < ARRAY_SIZE(readers); i++)
        if (readers[i].kinds & kinds && strcmp(readers[i].name, key) == 0)
            return readers[i].read(value, file, config, err);
    if (listed(special, ARRAY_SIZE(special), key))
        return 0;
    return hai_fail(err, -EINVAL, "%s: unknown field %s", file, key);
}

static int check_heads(struct model_config *c, const char *file, struct hai_err *err) {
    if (!c->n_kv_heads)
        c->n_kv_heads = c->n_heads;
    if (!c->d_head) {
        if (c->n_dim % c->n_heads)
            return hai_fail(err, -EINVAL,
                            "%s: hidden_size %lld is not a multiple of num_attention_heads %lld",
                            file, (long long)c->n_dim, (long long)c->n_heads);
        c->d_head = c->n_dim / c->n_heads;
    }
    if (c->d_head % 2)
        return hai_fail(err, -EINVAL, "%s: head_dim %lld is odd; rotary pairs need an even one",
                        file, (long long)c->d_head);
    if (c->n_heads % c->n_kv_heads)
        return hai_fail(
            err, -EINVAL,
            "%s: num_attention_heads %lld is not a multiple of num_key_value_heads %lld", file,
            (long long)c->n_heads, (long long)c->n_kv_heads);
    return 0;
}

static int check_latent(struct model_config *c, const char *file, struct hai_err *err) {
    if (c->n_kv_heads && c->n_kv_heads != c->n_heads)
        return hai_fail(err, -EINVAL,
                        "%s: num_key_value_heads is %lld; latent attention has as many as heads",
                        file, (long long)c->n_kv_heads);
    if (c->d_head && c->d_head != c->d_rope)
        return hai_fail(err, -EINVAL, "%s: head_dim is %lld; expected qk_rope_head_dim", file,
                        (long long)c->d_head);
    c->n_kv_heads = c->n_heads;
    c->d_head = 0;
    c->rope.adjacent = true;
    c->latent_attention = true;
    if (c->d_rope % 2)
        return hai_fail(err, -EINVAL, "%s: qk_rope_head_dim %lld is odd", file,
                        (long long)c->d_rope);
    return 0;
}

/* What the kinds do without saying so: a V2 file in greedy mode may name groups that are not used,
 * and only V3 multiplies normalised weights. */
static void complete_experts(struct model_config *c) {
    bool v3 = c->kind == MODEL_DEEPSEEK_V3;

    if (!v3 && !c->limit_groups)
        c->n_expert_groups = c->n_expert_groups_top = 1;
    if (!c->n_expert_groups)
        c->n_expert_groups = 1;
    if (!c->n_expert_groups_top)
        c->n_expert_groups_top = 1;
    if (c->routed_scaling == 0 || (!v3 && c->normalise_slots))
        c->routed_scaling = 1;
    c->router_bias = v3;
    c->softmax_scores = !v3;
    c->group_best = v3 ? 2 : 1;
}

static int check_experts(struct model_config *c, const char *file, struct hai_err *err) {
    complete_experts(c);
    if (c->n_dense_layers > c->n_layers)
        return hai_fail(err, -EINVAL, "%s: first_k_dense_replace exceeds num_hidden_layers", file);
    if (c->n_experts % c->n_expert_groups || c->n_expert_groups_top > c->n_expert_groups)
        return hai_fail(err, -EINVAL, "%s: n_routed_experts, n_group and topk_group do not fit",
                        file);
    if (c->n_expert_slots > c->n_experts / c->n_expert_groups * c->n_expert_groups_top)
        return hai_fail(err, -EINVAL, "%s: num_experts_per_tok exceeds the experts of topk_group",
                        file);
    if (c->tied_embeddings && c->n_mtp)
        return hai_fail(err, -ENOTSUP,
                        "%s: tie_word_embeddings with num_nextn_predict_layers is not supported",
                        file);
    return 0;
}

static int check_all(struct model_config *config, const struct json *root, const char *file,
                     struct hai_err *err) {
    for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
        const struct json *value = json_get(root, fields[i].name);
        if (fields[i].required & 1 << config->kind &&
            (!value || json_kind(value) == JSON_KIND_NULL))
            return hai_fail(err, -EINVAL, "%s: %s is missing", file, fields[i].name);
    }
    if (config->bos_token >= config->n_vocab)
        return hai_fail(err, -EINVAL, "%s: bos_token_id is outside the vocabulary", file);
    config->attention_bias = config->kind == MODEL_QWEN2;
    int r = 1 << config->kind & LATENT ? check_latent(config, file, err)
                                       : check_heads(config, file, err);
    return r == 0 && 1 << config->kind & EXPERTS ? check_experts(config, file, err) : r;
}

static const char *const types[MODEL_KIND_COUNT] = {
    [MODEL_LLAMA] = "llama",
    [MODEL_QWEN2] = "qwen2",
    [MODEL_DEEPSEEK] = "deepseek",
    [MODEL_DEEPSEEK_V2] = "deepseek_v2",
    [MODEL_DEEPSEEK_V3] = "deepseek_v3",
};

/* Which kind a model_type is. The first DeepSeek-V2 files call themselves "deepseek". */
static int find_kind(const struct json *root, const char *type, const char *file,
                     struct model_config *config, struct hai_err *err) {
    int k = 0;

    while (k < MODEL_KIND_COUNT && strcmp(types[k], type) != 0)
        k++;
    if (k == MODEL_KIND_COUNT)
        return hai_fail(err, -ENOTSUP,
                        "%s: model_type is %.60s; expected llama, qwen2, deepseek, deepseek_v2 or "
                        "deepseek_v3",
                        file, type);
    config->kind = (enum model_kind)k;
    if (k == MODEL_DEEPSEEK && json_get(root, "kv_lora_rank"))
        config->kind = MODEL_DEEPSEEK_V2;
    return 0;
}

int config_parse(const char *text, size_t n_bytes, const char *name, struct model_config *ret,
                 struct hai_err *err) {
    struct model_config config = {
        .init_std = 0.02,
        .bos_token = -1,
        .rope = {.theta = 10000, .factor = 1, .beta_fast = 32, .beta_slow = 1, .mscale = 1},
    };
    _cleanup_(json_freep) struct json *root = NULL;

    int r = json_parse(text, n_bytes, name, &root, err);
    if (r < 0)
        return r;
    const char *type = json_get_string(root, "model_type", NULL);
    if (json_kind(root) != JSON_KIND_OBJECT || !type)
        return hai_fail(err, -EINVAL, "%s: expected an object with model_type", name);
    r = find_kind(root, type, name, &config, err);
    if (r < 0)
        return r;
    for (struct json *v = json_first(root); v; v = json_next(v)) {
        r = field_read(v, name, &config, err);
        if (r < 0)
            return r;
    }
    r = check_all(&config, root, name, err);
    if (r < 0)
        return r;
    *ret = config;
    return 0;
}

/* Fields that two models of one architecture may differ in: what is said of texts and of training.
 */
static bool may_differ(const struct field *f) {
    static const char *const free_to_differ[] = {"max_position_embeddings", "bos_token_id",
                                                 "initializer_range", "aux_loss_alpha"};

    for (size_t i = 0; i < ARRAY_SIZE(free_to_differ); i++)
        if (hai_streq(f->name, free_to_differ[i]))
            return true;
    return false;
}

static double field_value(const struct field *f, const struct model_config *config) {
    const uint8_t *at = (const uint8_t *)config + f->offset;

    return f->kind == JSON_KIND_INT    ? (double)*(const int64_t *)(const void *)at
           : f->kind == JSON_KIND_REAL ? *(const double *)(const void *)at
                                       : (double)*(const bool *)(const void *)at;
}

static int check_fields(const struct field *f, size_t n, const struct model_config *config,
                        const struct model_config *other, const char *name, const char *other_name,
                        struct hai_err *err) {
    for (size_t i = 0; i < n; i++) {
        double a = field_value(&f[i], config), b = field_value(&f[i], other);
        if (!may_differ(&f[i]) && a != b)
            return hai_fail(err, -EINVAL, "%s: %s is %.15g; %s has %.15g", name, f[i].name, a,
                            other_name, b);
    }
    return 0;
}

int config_check_same(const struct model_config *config, const struct model_config *other,
                      const char *name, const char *other_name, struct hai_err *err) {
    if (config->kind != other->kind)
        return hai_fail(err, -EINVAL, "%s: model_type is %s; %s has %s", name, types[config->kind],
                        other_name, types[other->kind]);
    if (config->rope.kind != other->rope.kind)
        return hai_fail(err, -EINVAL, "%s: rope_scaling is of another type than %s's", name,
                        other_name);
    if (config->limit_groups != other->limit_groups)
        return hai_fail(err, -EINVAL, "%s: topk_method is not %s's", name, other_name);
    int r = check_fields(fields, ARRAY_SIZE(fields), config, other, name, other_name, err);
    return r < 0 ? r
                 : check_fields(rope_fields, ARRAY_SIZE(rope_fields), config, other, name,
                                other_name, err);
}

int config_read(const char *dir, struct model_config *ret, struct hai_err *err) {
    _cleanup_free_ char *path = hai_asprintf("%s/config.json", dir);
    _cleanup_(buf_free) struct buf text = {0};

    int r = fileio_read_file(path, CONFIG_BYTES_MAX, &text, err);
    if (r < 0)
        return r;
    return config_parse((const char *)text.data, text.n_bytes, path, ret, err);
}

bool config_layer_has_experts(const struct model_config *config, int64_t layer) {
    return config->n_experts && layer >= config->n_dense_layers;
}

int64_t config_d_key(const struct model_config *config) {
    return config->latent_attention ? config->d_nope + config->d_rope : config->d_head;
}

int64_t config_d_value(const struct model_config *config) {
    return config->latent_attention ? config->d_value : config->d_head;
}

/* YaRN's temperature for one of its two mscale fields. */
static double yarn_mscale(const struct model_config *config, double mscale) {
    if (config->rope.kind != MODEL_ROPE_YARN || config->rope.factor <= 1)
        return 1;
    return 0.1 * mscale * kmath_log(config->rope.factor) + 1;
}

double config_attention_scale(const struct model_config *config) {
    double m = yarn_mscale(config, config->rope.mscale_all_dim);

    return m * m / kmath_sqrt((double)config_d_key(config));
}

double config_rope_amplitude(const struct model_config *config) {
    return yarn_mscale(config, config->rope.mscale) /
           yarn_mscale(config, config->rope.mscale_all_dim);
}

double config_flops_per_token(const struct model_config *config) {
    double d = (double)config->n_dim, heads = (double)config->n_heads, attention, sum = 0;

    if (!config->latent_attention) {
        attention = 2 * d * (double)config->d_head * (heads + (double)config->n_kv_heads);
    } else {
        double key = heads * (double)config_d_key(config), q = (double)config->q_lora;
        double kv = (double)config->kv_lora;
        attention = q > 0 ? d * q + q * key : d * key;
        attention += d * (kv + (double)config->d_rope) + heads * (double)config->d_value * d;
        attention += kv * heads * (double)(config->d_nope + config->d_value);
    }
    for (int64_t layer = 0; layer < config->n_layers; layer++) {
        double width = (double)config->n_dim_ffn;
        if (config_layer_has_experts(config, layer))
            width = (double)((config->n_expert_slots + config->n_shared_experts) *
                             config->n_dim_expert);
        sum += attention + 3 * d * width;
    }
    return 2 * (sum + d * (double)config->n_vocab);
}
