/* ggufconfig.c - the configuration half of ggufmodel.h: metadata to config.json. */
#include "engine/convert/ggufconfig.h"
#include "engine/convert/ggufmodel.h"
#include "kernels/kmath.h"

#include <stdio.h>
#include <stdlib.h>

enum { LLAMA = 1, QWEN2 = 2, MOE = 4, LATENT = 8, ANY = 15, EXPERTS = MOE | LATENT };

enum { KEY_BYTES = 128 };

static const struct {
    const char *name, *model_type;
    int kind;
} architectures[] = {
    {"llama",     "llama",    LLAMA },
    {"qwen2",     "qwen2",    QWEN2 },
    {"deepseek",  "deepseek", MOE   },
    {"deepseek2", NULL,       LATENT}, // V2 or V3, by the gate
};

enum use {
    USE_INT,     // taken over
    USE_REAL,    //
    USE_BOOL,    //
    USE_SPECIAL, // read by a function below, or checked there
    USE_NOTHING, // says nothing about the computation
};

/* Keys behind "ARCHITECTURE.", and the field of config.json. */
static const struct key {
    const char *key, *field;
    enum use use;
    int kinds, required;
} keys[] = {
    {"embedding_length",                     "hidden_size",             USE_INT,     ANY,           ANY    },
    {"block_count",                          "num_hidden_layers",       USE_INT,     ANY,           ANY    },
    {"context_length",                       "max_position_embeddings", USE_INT,     ANY,           ANY    },
    {"feed_forward_length",                  "intermediate_size",       USE_INT,     ANY,           ANY    },
    {"attention.head_count",                 "num_attention_heads",     USE_INT,     ANY,           ANY    },
    {"attention.head_count_kv",              "num_key_value_heads",     USE_INT,     ANY & ~LATENT, 0      },
    {"attention.head_count_kv",              NULL,                      USE_NOTHING, LATENT,        0      },
    {"attention.layer_norm_rms_epsilon",     "rms_norm_eps",            USE_REAL,    ANY,           ANY    },
    {"rope.freq_base",                       "rope_theta",              USE_REAL,    ANY,           0      },
    {"attention.key_length",                 "head_dim",                USE_INT,     ANY & ~LATENT, 0      },
    {"attention.key_length",                 NULL,                      USE_SPECIAL, LATENT,        0      },
    {"attention.value_length",               NULL,                      USE_SPECIAL, ANY,           0      },
    {"attention.key_length_mla",             NULL,                      USE_SPECIAL, LATENT,        0      },
    {"attention.value_length_mla",           NULL,                      USE_SPECIAL, LATENT,        0      },
    {"attention.q_lora_rank",                "q_lora_rank",             USE_INT,     LATENT,        0      },
    {"attention.kv_lora_rank",               "kv_lora_rank",            USE_INT,     LATENT,        LATENT },
    {"rope.dimension_count",                 NULL,                      USE_SPECIAL, ANY,           LATENT },
    {"rope.scaling.type",                    NULL,                      USE_SPECIAL, ANY,           0      },
    {"rope.scaling.factor",                  NULL,                      USE_SPECIAL, ANY,           0      },
    {"rope.scaling.original_context_length", NULL,                      USE_SPECIAL, ANY,           0      },
    {"rope.scaling.yarn_log_multiplier",     NULL,                      USE_SPECIAL, LATENT,        0      },
    {"rope.scaling.yarn_beta_fast",          NULL,                      USE_SPECIAL, LATENT,        0      },
    {"rope.scaling.yarn_beta_slow",          NULL,                      USE_SPECIAL, LATENT,        0      },
    {"rope.scaling.finetuned",               NULL,                      USE_NOTHING, ANY,           0      },
    {"vocab_size",                           NULL,                      USE_SPECIAL, ANY,           0      },
    {"expert_count",                         "n_routed_experts",        USE_INT,     EXPERTS,       EXPERTS},
    {"expert_used_count",                    "num_experts_per_tok",     USE_INT,     EXPERTS,       EXPERTS},
    {"expert_shared_count",                  "n_shared_experts",        USE_INT,     EXPERTS,       EXPERTS},
    {"expert_feed_forward_length",           "moe_intermediate_size",   USE_INT,     EXPERTS,       EXPERTS},
    {"leading_dense_block_count",            "first_k_dense_replace",   USE_INT,     EXPERTS,       EXPERTS},
    {"expert_weights_scale",                 "routed_scaling_factor",   USE_REAL,    EXPERTS,       0      },
    {"expert_weights_norm",                  "norm_topk_prob",          USE_BOOL,    EXPERTS,       0      },
    {"expert_gating_func",                   NULL,                      USE_SPECIAL, EXPERTS,       0      },
    {"expert_group_count",                   "n_group",                 USE_INT,     LATENT,        0      },
    {"expert_group_used_count",              "topk_group",              USE_INT,     LATENT,        0      },
};

/* A file's metadata while config.json is written. */
struct reading {
    const struct gguf *g;
    const char *architecture;
    int kind;
    struct buf *ret;
    struct hai_err *err;
};

static const struct gguf_value *find(const struct reading *x, const char *key) {
    char full[KEY_BYTES];

    (void)snprintf(full, sizeof full, "%s.%s", x->architecture, key);
    return gguf_find(x->g, full);
}

static bool is_text(const struct gguf_value *v, const char *text) {
    return v && v->kind == GGUF_STRING && v->n_bytes == strlen(text) &&
           memcmp(v->text, text, v->n_bytes) == 0;
}

/* A number of any kind; fallback if it is absent or none. */
static double number(const struct gguf_value *v, double fallback) {
    if (!v || v->kind == GGUF_STRING || v->kind == GGUF_ARRAY)
        return fallback;
    return v->kind == GGUF_FLOAT ? v->real
           : v->kind == GGUF_INT ? (double)(int64_t)v->number
                                 : (double)v->number;
}

static double number_of(const struct reading *x, const char *key, double fallback) {
    return number(find(x, key), fallback);
}

/* The shortest decimal that is this float32 again: 1e-06, not its neighbour in double. */
static void shortest(double x, char *ret, size_t n_bytes) {
    int digits = 6;

    do
        (void)snprintf(ret, n_bytes, "%.*g", digits++, x);
    while (digits <= 17 && strtof(ret, NULL) != (float)x);
}

static void add_real(struct buf *ret, double x) {
    char text[40];

    shortest(x, text, sizeof text);
    buf_add_str(ret, text);
}

static double decimal_of(double x) {
    char text[40];

    shortest(x, text, sizeof text);
    return strtod(text, NULL);
}

static void add_field(struct reading *x, const char *name) {
    buf_printf(x->ret, "%s  \"%s\": ", x->ret->n_bytes ? ",\n" : "{\n", name);
}

static void add_int(struct reading *x, const char *name, int64_t value) {
    add_field(x, name);
    buf_printf(x->ret, "%lld", (long long)value);
}

static int wrong(const struct reading *x, const char *key, const char *what) {
    return hai_fail(x->err, -EINVAL, "%s: %s.%s: expected %s", gguf_path(x->g), x->architecture,
                    key, what);
}

static int take_over(struct reading *x, const struct key *key, const struct gguf_value *v) {
    bool whole = v->kind == GGUF_UINT || (v->kind == GGUF_INT && (int64_t)v->number >= 0);

    switch (key->use) {
    case USE_INT:
        if (!whole || v->number > INT32_MAX)
            return wrong(x, key->key, "a whole number");
        add_int(x, key->field, (int64_t)v->number);
        return 0;
    case USE_REAL:
        if (v->kind != GGUF_FLOAT || !(v->real > -1e30 && v->real < 1e30))
            return wrong(x, key->key, "a finite number");
        add_field(x, key->field);
        add_real(x->ret, v->real);
        return 0;
    case USE_BOOL:
        if (v->kind != GGUF_BOOL)
            return wrong(x, key->key, "true or false");
        add_field(x, key->field);
        buf_add_str(x->ret, v->number ? "true" : "false");
        return 0;
    default:
        return 0;
    }
}

static const struct key *find_key(int kind, const char *name) {
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        if (keys[i].kinds & kind && hai_streq(keys[i].key, name))
            return &keys[i];
    return NULL;
}

/* Every key of the architecture is taken over, read elsewhere, or refused. */
static int read_keys(struct reading *x) {
    size_t n = strlen(x->architecture);

    for (size_t i = 0; i < gguf_n_values(x->g); i++) {
        const struct gguf_value *v = gguf_value_at(x->g, i);
        if (strncmp(v->key, x->architecture, n) != 0 || v->key[n] != '.')
            continue;
        const struct key *key = find_key(x->kind, v->key + n + 1);
        if (!key)
            return hai_fail(x->err, -EINVAL, "%s: key %.100s is not known", gguf_path(x->g),
                            v->key);
        int r = take_over(x, key, v);
        if (r < 0)
            return r;
    }
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        if (keys[i].required & x->kind && !find(x, keys[i].key))
            return wrong(x, keys[i].key, "it to be there");
    return 0;
}

/* Widths of heads: a latent model's halves, and lengths that this engine has one field for. */
static int read_heads(struct reading *x) {
    double heads = number_of(x, "attention.head_count", 1);
    double d_head =
        number_of(x, "attention.key_length", number_of(x, "embedding_length", 0) / MAX(heads, 1.0));
    double rope = number_of(x, "rope.dimension_count", d_head);

    if (x->kind != LATENT) {
        if (rope != d_head)
            return wrong(x, "rope.dimension_count", "the width of a head");
        if (number_of(x, "attention.value_length", d_head) != d_head)
            return wrong(x, "attention.value_length", "the same as key_length");
        return 0;
    }
    bool halves = find(x, "attention.key_length_mla") != NULL;
    double key = number_of(x, halves ? "attention.key_length_mla" : "attention.key_length", 0);
    double value =
        number_of(x, halves ? "attention.value_length_mla" : "attention.value_length", 0);
    if (!(key > rope && key < 1e6 && value >= 1 && value < 1e6 && rope >= 2))
        return wrong(x, "attention.key_length", "widths of keys and values");
    add_int(x, "qk_nope_head_dim", (int64_t)(key - rope));
    add_int(x, "qk_rope_head_dim", (int64_t)rope);
    add_int(x, "v_head_dim", (int64_t)value);
    return 0;
}

/* rope_freqs.weight: what Llama 3's scaling divides each frequency by. Its parameters are not in
 * the file; those of the published models (bands from 1 to 4 turns) are tried, and must fit. */
static int read_llama3(struct reading *x, const struct gguf_tensor *t) {
    double theta = number_of(x, "rope.freq_base", 10000), log_theta = kmath_log(theta);
    double original = 0, worst = 0;
    int64_t n = t->shape[0];
    float *factors = (float *)(uintptr_t)t->data, factor = factors[0];

    if (t->type != GGUF_F32 || t->n_dims != 1 || n > 4096 || x->kind != LLAMA)
        return hai_fail(x->err, -ENOTSUP, "%s: rope_freqs.weight is not float32 of a llama model",
                        gguf_path(x->g));
    if (!(theta >= 2 && theta <= 1e12))
        return wrong(x, "rope.freq_base", "a number from 2 to 1e12");
    for (int64_t i = 0; i < n; i++) {
        if (!(factors[i] >= 1 && factors[i] <= 1e6f))
            return hai_fail(x->err, -EINVAL, "%s: rope_freqs.weight holds no factors",
                            gguf_path(x->g));
        factor = MAX(factor, factors[i]);
    }
    for (int64_t i = 0; i < n && !original; i++) {
        double wave = 2 * 3.14159265358979323846 * kmath_exp(log_theta * (double)i / (double)n);
        if (factors[i] > 1 && factors[i] < factor) {
            double smooth =
                (1 / (double)factors[i] - 1 / (double)factor) / (1 - 1 / (double)factor);
            original = (double)(int64_t)(wave * (1 + 3 * smooth) + 0.5);
        }
    }
    for (int64_t i = 0; i < n; i++) {
        double turns =
            original / (2 * 3.14159265358979323846 * kmath_exp(log_theta * (double)i / (double)n));
        double band = MIN(1.0, (turns - 1) / 3), smooth = MAX(0.0, band);
        double wanted = 1 / ((1 - smooth) / (double)factor + smooth);
        double off = wanted - (double)factors[i];
        worst = MAX(worst, off < 0 ? -off : off);
    }
    if (!(original >= 1 && original < 1 << 24) || !(worst < 1e-4 * (double)factor))
        return hai_fail(x->err, -ENOTSUP,
                        "%s: rope_freqs.weight is not Llama 3's scaling with 1 and 4 turns",
                        gguf_path(x->g));
    add_field(x, "rope_scaling");
    buf_add_str(x->ret, "{\"rope_type\": \"llama3\", \"factor\": ");
    add_real(x->ret, (double)factor);
    buf_printf(x->ret,
               ", \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
               "\"original_max_position_embeddings\": %lld}",
               (long long)original);
    return 0;
}

static int read_rope(struct reading *x) {
    const struct gguf_tensor *t = gguf_tensor_find(x->g, "rope_freqs.weight");
    const struct gguf_value *type = find(x, "rope.scaling.type");
    double factor = number_of(x, "rope.scaling.factor", 0);
    double original = number_of(x, "rope.scaling.original_context_length", 0);
    double all = 10 * decimal_of(number_of(x, "rope.scaling.yarn_log_multiplier", 0));

    if (t)
        return type ? wrong(x, "rope.scaling.type", "none beside rope_freqs.weight")
                    : read_llama3(x, t);
    if (!type || is_text(type, "none"))
        return 0;
    if (!(factor >= 1 && factor < 1e6))
        return wrong(x, "rope.scaling.factor", "a factor");
    add_field(x, "rope_scaling");
    if (is_text(type, "linear")) {
        buf_add_str(x->ret, "{\"type\": \"linear\", \"factor\": ");
        add_real(x->ret, factor);
        buf_add_str(x->ret, "}");
        return 0;
    }
    if (!is_text(type, "yarn") || !(original >= 1 && original < 1 << 24))
        return wrong(x, "rope.scaling.type", "linear, or yarn with original_context_length");
    buf_add_str(x->ret, "{\"type\": \"yarn\", \"factor\": ");
    add_real(x->ret, factor);
    buf_printf(x->ret, ", \"original_max_position_embeddings\": %lld, \"beta_fast\": ",
               (long long)original);
    add_real(x->ret, number_of(x, "rope.scaling.yarn_beta_fast", 32));
    buf_add_str(x->ret, ", \"beta_slow\": ");
    add_real(x->ret, number_of(x, "rope.scaling.yarn_beta_slow", 1));
    // Files keep one of the two; they are the same in all published models.
    buf_add_str(x->ret, ", \"mscale\": ");
    add_real(x->ret, all);
    buf_add_str(x->ret, ", \"mscale_all_dim\": ");
    add_real(x->ret, all);
    buf_add_str(x->ret, "}");
    return 0;
}

/* V2 and V3 share an architecture; the gate tells them apart. */
static int read_gate(struct reading *x, const char *model_type) {
    double gate = number_of(x, "expert_gating_func", 1),
           groups = number_of(x, "expert_group_count", 1);

    if (gate != 1 && !(gate == 2 && x->kind == LATENT))
        return wrong(x, "expert_gating_func", "softmax (1), or sigmoid (2) for deepseek2");
    if (x->kind == LATENT && gate == 2 && !find(x, "expert_group_count"))
        return wrong(x, "expert_group_count",
                     "it to be there: without groups it would be another model");
    add_field(x, "model_type");
    if (model_type)
        buf_printf(x->ret, "\"%s\"", model_type);
    else
        buf_add_str(x->ret, gate == 2 ? "\"deepseek_v3\"" : "\"deepseek_v2\"");
    if (x->kind == LATENT) {
        add_field(x, "topk_method");
        buf_add_str(x->ret, gate == 2    ? "\"noaux_tc\""
                            : groups > 1 ? "\"group_limited_greedy\""
                                         : "\"greedy\"");
    }
    return 0;
}

static void read_tokens(struct reading *x) {
    static const char *const fields[][2] = {
        {"tokenizer.ggml.bos_token_id", "bos_token_id"},
        {"tokenizer.ggml.eos_token_id", "eos_token_id"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
        const struct gguf_value *v = gguf_find(x->g, fields[i][0]);
        if (v && v->kind == GGUF_UINT && v->number < INT32_MAX)
            add_int(x, fields[i][1], (int64_t)v->number);
    }
}

int ggufconfig_model(const struct gguf *g, struct buf *ret, struct hai_err *err) {
    const struct gguf_value *v = gguf_find(g, "general.architecture");
    const struct gguf_tensor *embedding = gguf_tensor_find(g, "token_embd.weight");
    struct reading x = {.g = g, .ret = ret, .err = err};
    size_t i = 0;

    while (i < ARRAY_SIZE(architectures) && !is_text(v, architectures[i].name))
        i++;
    if (i == ARRAY_SIZE(architectures))
        return hai_fail(err, -ENOTSUP,
                        "%s: general.architecture is %.*s; expected llama, qwen2, deepseek or "
                        "deepseek2",
                        gguf_path(g),
                        v && v->kind == GGUF_STRING ? (int)MIN(v->n_bytes, (size_t)60) : 4,
                        v && v->kind == GGUF_STRING ? v->text : "none");
    if (!embedding)
        return hai_fail(err, -ENOENT, "%s: no tensor token_embd.weight", gguf_path(g));
    x.architecture = architectures[i].name;
    x.kind = architectures[i].kind;
    if (number_of(&x, "vocab_size", (double)embedding->shape[1]) != (double)embedding->shape[1])
        return wrong(&x, "vocab_size", "the rows of token_embd.weight");
    int r = read_gate(&x, architectures[i].model_type);
    if (r == 0)
        r = read_keys(&x);
    if (r == 0)
        r = read_heads(&x);
    if (r == 0)
        r = read_rope(&x);
    if (r < 0)
        return r;
    add_int(&x, "vocab_size", embedding->shape[1]);
    add_field(&x, "tie_word_embeddings");
    buf_add_str(ret, gguf_tensor_find(g, "output.weight") ? "false" : "true");
    read_tokens(&x);
    add_field(&x, "torch_dtype");
    buf_add_str(ret, "\"bfloat16\"");
    return 0;
}
