#include "engine/model/params.h"

#include <stdarg.h>
#include <stdio.h>

enum {
    ALIGN = 16, // elements: 64 bytes
};

/* The flat buffers are addressed with int64 and allocated at once; this is far above what one CPU
 * process can hold and far below what could overflow. */
static const int64_t elements_max = (int64_t)1 << 40;

/* Rows are made in the order of publication; places are given afterwards, range by range. */
struct builder {
    struct params *params;
    int n_max;
    int layer, expert;
};

static struct param *add(struct builder *b, enum param_split split, int64_t rows, int64_t columns,
                         const char *format, ...) _printf_(5, 6);

/* A tensor: a vector if columns is 0. Defaults fit a matrix of a product. */
static struct param *add(struct builder *b, enum param_split split, int64_t rows, int64_t columns,
                         const char *format, ...) {
    struct params *params = b->params;
    va_list ap;

    if (params->n == b->n_max) {
        b->n_max = MAX(64, 2 * b->n_max);
        params->items = hai_realloc_array(params->items, (size_t)b->n_max, sizeof *params->items);
    }
    struct param *p = &params->items[params->n];
    *p = (struct param){
        .n_dims = columns ? 2 : 1,
        .shape = {rows, columns},
        .n_elements = rows * MAX(columns, 1),
        .split = split,
        .init = columns ? PARAM_INIT_NORMAL : PARAM_INIT_ONE,
        .tie = params->n,
        .in_file = true,
        .decay = columns > 0,
        .trained = true,
        .layer = b->layer,
        .expert = b->expert,
    };
    va_start(ap, format);
    int n = vsnprintf(p->name, sizeof p->name, format, ap);
    va_end(ap);
    assert(n > 0 && (size_t)n < sizeof p->name);
    params->n++;
    return p;
}

static void add_tied(struct builder *b, const char *name, const char *owner) {
    int tie = params_find(b->params, owner);

    assert(tie >= 0);
    const struct param source = b->params->items[tie];
    struct param *p = add(b, source.split, source.shape[0], source.shape[1], "%s", name);
    p->tie = tie;
}

static void add_bias(struct builder *b, int64_t n, const char *prefix, const char *which) {
    struct param *p = add(b, PARAM_SPLIT_ROWS, n, 0, "%s.self_attn.%s_proj.bias", prefix, which);

    p->init = PARAM_INIT_ZERO;
}

static void add_attention(struct builder *b, const struct model_config *c, const char *prefix) {
    int64_t d = c->n_dim, heads = c->n_heads;

    if (!c->latent_attention) {
        int64_t kv = c->n_kv_heads * c->d_head;
        add(b, PARAM_SPLIT_ROWS, heads * c->d_head, d, "%s.self_attn.q_proj.weight", prefix);
        add(b, PARAM_SPLIT_ROWS, kv, d, "%s.self_attn.k_proj.weight", prefix);
        add(b, PARAM_SPLIT_ROWS, kv, d, "%s.self_attn.v_proj.weight", prefix);
        add(b, PARAM_SPLIT_COLUMNS, d, heads * c->d_head, "%s.self_attn.o_proj.weight", prefix);
        if (c->attention_bias) {
            add_bias(b, heads * c->d_head, prefix, "q");
            add_bias(b, kv, prefix, "k");
            add_bias(b, kv, prefix, "v");
        }
        return;
    }
    int64_t key = heads * (c->d_nope + c->d_rope);
    if (c->q_lora) {
        add(b, PARAM_SPLIT_NONE, c->q_lora, d, "%s.self_attn.q_a_proj.weight", prefix);
        add(b, PARAM_SPLIT_NONE, c->q_lora, 0, "%s.self_attn.q_a_layernorm.weight", prefix);
        add(b, PARAM_SPLIT_ROWS, key, c->q_lora, "%s.self_attn.q_b_proj.weight", prefix);
    } else {
        add(b, PARAM_SPLIT_ROWS, key, d, "%s.self_attn.q_proj.weight", prefix);
    }
    add(b, PARAM_SPLIT_NONE, c->kv_lora + c->d_rope, d, "%s.self_attn.kv_a_proj_with_mqa.weight",
        prefix);
    add(b, PARAM_SPLIT_NONE, c->kv_lora, 0, "%s.self_attn.kv_a_layernorm.weight", prefix);
    struct param *kv_b = add(b, PARAM_SPLIT_ROWS, heads * (c->d_nope + c->d_value), c->kv_lora,
                             "%s.self_attn.kv_b_proj.weight", prefix);
    kv_b->n_heads = heads;
    kv_b->n_key_rows = c->d_nope;
    add(b, PARAM_SPLIT_COLUMNS, d, heads * c->d_value, "%s.self_attn.o_proj.weight", prefix);
}

static void add_mlp(struct builder *b, int64_t d, int64_t width, bool expert, const char *prefix) {
    enum param_split in = expert ? PARAM_SPLIT_EXPERTS : PARAM_SPLIT_ROWS;
    enum param_split out = expert ? PARAM_SPLIT_EXPERTS : PARAM_SPLIT_COLUMNS;

    add(b, in, width, d, "%s.gate_proj.weight", prefix);
    add(b, in, width, d, "%s.up_proj.weight", prefix);
    add(b, out, d, width, "%s.down_proj.weight", prefix);
}

static void add_experts(struct builder *b, const struct model_config *c, const char *prefix) {
    char name[PARAM_NAME_BYTES - 32];

    for (int64_t e = 0; e < c->n_experts; e++) {
        b->expert = (int)e;
        (void)snprintf(name, sizeof name, "%s.mlp.experts.%d", prefix, b->expert);
        add_mlp(b, c->n_dim, c->n_dim_expert, true, name);
    }
    b->expert = -1;
    add(b, PARAM_SPLIT_NONE, c->n_experts, c->n_dim, "%s.mlp.gate.weight", prefix);
    if (c->router_bias) {
        struct param *bias = add(b, PARAM_SPLIT_NONE, c->n_experts, 0,
                                 "%s.mlp.gate.e_score_correction_bias", prefix);
        bias->init = PARAM_INIT_ZERO;
        bias->trained = false;
    }
    (void)snprintf(name, sizeof name, "%s.mlp.shared_experts", prefix);
    add_mlp(b, c->n_dim, c->n_shared_experts * c->n_dim_expert, false, name);
}

static void add_layer(struct builder *b, const struct model_config *c, int64_t layer) {
    char prefix[32], name[40];
    bool mtp = layer == c->n_layers;

    b->layer = (int)layer;
    (void)snprintf(prefix, sizeof prefix, "model.layers.%d", b->layer);
    if (mtp) {
        (void)snprintf(name, sizeof name, "%s.embed_tokens.weight", prefix);
        add_tied(b, name, "model.embed_tokens.weight");
        add(b, PARAM_SPLIT_NONE, c->n_dim, 0, "%s.enorm.weight", prefix);
        add(b, PARAM_SPLIT_NONE, c->n_dim, 0, "%s.hnorm.weight", prefix);
        add(b, PARAM_SPLIT_NONE, c->n_dim, 2 * c->n_dim, "%s.eh_proj.weight", prefix);
    }
    add_attention(b, c, prefix);
    if (config_layer_has_experts(c, layer)) {
        add_experts(b, c, prefix);
    } else {
        (void)snprintf(name, sizeof name, "%s.mlp", prefix);
        add_mlp(b, c->n_dim, c->n_dim_ffn, false, name);
    }
    add(b, PARAM_SPLIT_NONE, c->n_dim, 0, "%s.input_layernorm.weight", prefix);
    add(b, PARAM_SPLIT_NONE, c->n_dim, 0, "%s.post_attention_layernorm.weight", prefix);
    if (mtp) {
        add(b, PARAM_SPLIT_NONE, c->n_dim, 0, "%s.shared_head.norm.weight", prefix);
        (void)snprintf(name, sizeof name, "%s.shared_head.head.weight", prefix);
        add_tied(b, name, "lm_head.weight");
    }
}

static bool ends_with(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);

    return n >= m && strcmp(name + n - m, end) == 0;
}

/* Is this tensor read by the same product as the one before it in memory? */
static bool follows(const struct param *p) {
    static const char *const ends[] = {"k_proj.weight", "v_proj.weight", "up_proj.weight",
                                       "k_proj.bias", "v_proj.bias"};

    for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
        if (ends_with(p->name, ends[i]))
            return true;
    return p->expert > 0 && ends_with(p->name, "gate_proj.weight");
}

static void place(struct params *params, struct param *p) {
    if (!follows(p))
        params->n_elements = (params->n_elements + ALIGN - 1) / ALIGN * ALIGN;
    p->offset = params->n_elements;
    params->n_elements += p->n_elements;
}

/* Of the experts, all gate and up matrices come before all down matrices, so that each kind is one
 * tensor with a constant stride between experts. */
static void place_range(struct params *params, bool decay, bool trained) {
    for (int i = 0; i < params->n; i++) {
        struct param *p = &params->items[i];
        if (p->tie != i || p->decay != decay || p->trained != trained)
            continue;
        if (p->expert == 0 && ends_with(p->name, "gate_proj.weight"))
            for (int j = i; j < params->n && params->items[j].expert >= 0; j++)
                if (!ends_with(params->items[j].name, "down_proj.weight"))
                    place(params, &params->items[j]);
        if (p->expert >= 0 && !ends_with(p->name, "down_proj.weight"))
            continue;
        if (p->expert > 0) {
            p->offset = params->n_elements;
            params->n_elements += p->n_elements;
            continue;
        }
        place(params, p);
    }
    params->n_elements = (params->n_elements + ALIGN - 1) / ALIGN * ALIGN;
}

int params_new(const struct model_config *config, struct params **ret, struct hai_err *err) {
    _cleanup_(params_freep) struct params *params = hai_new(struct params);
    struct builder b = {.params = params, .layer = -1, .expert = -1};
    double n_elements = 0;

    add(&b, PARAM_SPLIT_VOCABULARY, config->n_vocab, config->n_dim, "model.embed_tokens.weight");
    add(&b, PARAM_SPLIT_NONE, config->n_dim, 0, "model.norm.weight");
    if (config->tied_embeddings) {
        add_tied(&b, "lm_head.weight", "model.embed_tokens.weight");
        params->items[params->n - 1].in_file = false;
    } else {
        add(&b, PARAM_SPLIT_VOCABULARY, config->n_vocab, config->n_dim, "lm_head.weight");
    }
    for (int64_t layer = 0; layer < config->n_layers + config->n_mtp; layer++)
        add_layer(&b, config, layer);
    for (int i = 0; i < params->n; i++)
        n_elements += (double)params->items[i].n_elements;
    if (n_elements > (double)elements_max)
        return hai_fail(err, -EINVAL, "the model has %.3g parameters; at most %.3g fit", n_elements,
                        (double)elements_max);
    place_range(params, true, true);
    params->n_decayed = params->n_elements;
    place_range(params, false, true);
    params->n_trained = params->n_elements;
    place_range(params, false, false);
    for (int i = 0; i < params->n; i++) {
        struct param *p = &params->items[i];
        if (p->tie != i)
            p->offset = params->items[p->tie].offset;
        else if (p->trained)
            params->n_counted += p->n_elements;
    }
    *ret = TAKE_PTR(params);
    return 0;
}

void params_free(struct params *params) {
    if (!params)
        return;
    free(params->items);
    free(params);
}

int params_find(const struct params *params, const char *name) {
    for (int i = 0; i < params->n; i++)
        if (strcmp(params->items[i].name, name) == 0)
            return i;
    return -1;
}

/* What follows the number in "....experts.NUMBER.gate_proj.weight". */
static const char *behind_expert(const struct param *p) {
    static const char experts[] = ".experts.";

    return strchr(strstr(p->name, experts) + strlen(experts), '.');
}

int params_next_expert(const struct params *params, int i) {
    const struct param *p = params->items;

    assert(p[i].expert >= 0);
    for (int k = i + 1; k < params->n && p[k].layer == p[i].layer; k++)
        if (p[k].expert >= 0 && hai_streq(behind_expert(&p[k]), behind_expert(&p[i])))
            return k;
    return -1;
}

bool params_is_router(const struct param *p) {
    return ends_with(p->name, ".mlp.gate.weight");
}

bool params_is_fp8(const struct param *p) {
    return p->n_dims == 2 && p->layer >= 0 && !params_is_router(p) &&
           !ends_with(p->name, ".eh_proj.weight");
}
