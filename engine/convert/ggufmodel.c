#include "engine/convert/ggufmodel.h"

#include "kernels/formats.h"

#include <stdio.h>

/* Names of tensors: of a layer's behind "blk.N.", and of the parameter behind "model.layers.N.".
 * Experts: stacked along the third dimension. */
static const struct {
    const char *param, *tensor;
} names[] = {
    {"input_layernorm.weight",              "attn_norm.weight"     },
    {"post_attention_layernorm.weight",     "ffn_norm.weight"      },
    {"self_attn.q_proj.weight",             "attn_q.weight"        },
    {"self_attn.k_proj.weight",             "attn_k.weight"        },
    {"self_attn.v_proj.weight",             "attn_v.weight"        },
    {"self_attn.o_proj.weight",             "attn_output.weight"   },
    {"self_attn.q_proj.bias",               "attn_q.bias"          },
    {"self_attn.k_proj.bias",               "attn_k.bias"          },
    {"self_attn.v_proj.bias",               "attn_v.bias"          },
    {"self_attn.q_a_proj.weight",           "attn_q_a.weight"      },
    {"self_attn.q_a_layernorm.weight",      "attn_q_a_norm.weight" },
    {"self_attn.q_b_proj.weight",           "attn_q_b.weight"      },
    {"self_attn.kv_a_proj_with_mqa.weight", "attn_kv_a_mqa.weight" },
    {"self_attn.kv_a_layernorm.weight",     "attn_kv_a_norm.weight"},
    {"self_attn.kv_b_proj.weight",          "attn_kv_b.weight"     },
    {"mlp.gate_proj.weight",                "ffn_gate.weight"      },
    {"mlp.up_proj.weight",                  "ffn_up.weight"        },
    {"mlp.down_proj.weight",                "ffn_down.weight"      },
    {"mlp.gate.weight",                     "ffn_gate_inp.weight"  },
    {"mlp.gate.e_score_correction_bias",    "exp_probs_b.bias"     },
    {"mlp.shared_experts.gate_proj.weight", "ffn_gate_shexp.weight"},
    {"mlp.shared_experts.up_proj.weight",   "ffn_up_shexp.weight"  },
    {"mlp.shared_experts.down_proj.weight", "ffn_down_shexp.weight"},
    {"mlp.experts.*.gate_proj.weight",      "ffn_gate_exps.weight" },
    {"mlp.experts.*.up_proj.weight",        "ffn_up_exps.weight"   },
    {"mlp.experts.*.down_proj.weight",      "ffn_down_exps.weight" },
};

static const char *const outer[][2] = {
    {"model.embed_tokens.weight", "token_embd.weight" },
    {"model.norm.weight",         "output_norm.weight"},
    {"lm_head.weight",            "output.weight"     },
};

enum { NAME_BYTES = 96 };

/* The name of a parameter's tensor. */
static void tensor_name(const struct param *p, char ret[NAME_BYTES]) {
    char name[PARAM_NAME_BYTES];
    const char *end = p->name;

    ret[0] = 0;
    for (size_t i = 0; i < ARRAY_SIZE(outer); i++)
        if (hai_streq(p->name, outer[i][0]))
            (void)snprintf(ret, NAME_BYTES, "%s", outer[i][1]);
    if (p->layer < 0)
        return;
    for (int dots = 0; dots < 3; end++)
        dots += *end == '.';
    (void)snprintf(name, sizeof name, "%s", end);
    if (p->expert >= 0)
        (void)snprintf(name, sizeof name, "mlp.experts.*%s",
                       strchr(end + strlen("mlp.experts."), '.'));
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (hai_streq(name, names[i].param))
            (void)snprintf(ret, NAME_BYTES, "blk.%d.%s", p->layer, names[i].tensor);
}

static const struct gguf_tensor *find_half(const struct gguf *g, const struct param *p, char half) {
    char name[NAME_BYTES];

    (void)snprintf(name, sizeof name, "blk.%d.attn_%c_b.weight", p->layer, half);
    return gguf_tensor_find(g, name);
}

static int check_shape(const struct gguf *g, const struct gguf_tensor *t, int64_t n0, int64_t n1,
                       int64_t n2, struct hai_err *err) {
    if (t->shape[0] == n0 && t->shape[1] == n1 && t->shape[2] == n2 && t->shape[3] == 1)
        return 0;
    return hai_fail(err, -EINVAL,
                    "%s: %s has shape [%lld, %lld, %lld]; expected [%lld, %lld, %lld]",
                    gguf_path(g), t->name, (long long)t->shape[0], (long long)t->shape[1],
                    (long long)t->shape[2], (long long)n0, (long long)n1, (long long)n2);
}

static bool ends_with(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);

    return n >= m && hai_streq(name + n - m, end);
}

int ggufmodel_find(const struct gguf *g, const struct model_config *config, const struct param *p,
                   struct ggufmodel_place *ret, struct hai_err *err) {
    char name[NAME_BYTES];
    struct ggufmodel_place place = {0};
    bool permuted = (config->kind == MODEL_LLAMA || config->kind == MODEL_DEEPSEEK) &&
                    (ends_with(p->name, ".q_proj.weight") || ends_with(p->name, ".k_proj.weight"));
    int64_t n_in = p->shape[p->n_dims - 1], n_out = p->n_dims == 2 ? p->shape[0] : 1;

    tensor_name(p, name);
    place.tensor = gguf_tensor_find(g, name);
    if (!place.tensor && p->n_heads) {
        int64_t n_values = n_out / p->n_heads - p->n_key_rows;
        place.keys = find_half(g, p, 'k');
        place.tensor = find_half(g, p, 'v');
        if (place.keys && place.tensor) {
            int r = check_shape(g, place.keys, p->n_key_rows, n_in, p->n_heads, err);
            if (r == 0)
                r = check_shape(g, place.tensor, n_in, n_values, p->n_heads, err);
            if (r == 0)
                *ret = place;
            return r;
        }
        place.tensor = NULL;
    }
    if (!place.tensor)
        return hai_fail(err, -ENOENT, "%s: no tensor %s", gguf_path(g), name);
    place.first_row = p->expert >= 0 ? p->expert * n_out : 0;
    place.d_head = permuted ? config->d_head : 0;
    int r = check_shape(g, place.tensor, n_in, n_out, p->expert >= 0 ? config->n_experts : 1, err);
    if (r == 0)
        *ret = place;
    return r;
}

int ggufmodel_check_names(const struct gguf *g, const struct model_config *config,
                          const struct params *params, struct hai_err *err) {
    _cleanup_free_ bool *read = hai_new_array(bool, gguf_n_tensors(g));
    const struct gguf_tensor *first = gguf_n_tensors(g) ? gguf_tensor_at(g, 0) : NULL;

    for (int i = 0; i < params->n; i++) {
        struct ggufmodel_place place;
        if (params->items[i].tie != i)
            continue;
        int r = ggufmodel_find(g, config, &params->items[i], &place, err);
        if (r < 0)
            return r;
        read[place.tensor - first] = true;
        if (place.keys)
            read[place.keys - first] = true;
    }
    for (size_t i = 0; i < gguf_n_tensors(g); i++)
        if (!read[i] && !hai_streq(first[i].name, "rope_freqs.weight"))
            return hai_fail(err, -EINVAL, "%s: %s is no tensor of this model", gguf_path(g),
                            first[i].name);
    return 0;
}

int64_t ggufmodel_row(const struct ggufmodel_place *place, int64_t row) {
    int64_t d = place->d_head;

    // Of a head's pairs (i, i + d / 2) the file has both side by side.
    if (d) {
        int64_t in_head = row % d, half = d / 2;
        row += 2 * (in_head % half) + in_head / half - in_head;
    }
    return place->first_row + row;
}

/* Blocks of 32: a float16 scale, then codes. */
static void read_blocks(const struct gguf_tensor *t, const uint8_t *block, float *ret) {
    for (int64_t i = 0; i < t->shape[0]; i += 32, block += gguf_block_bytes(t->type)) {
        float scale = k_from_f16((uint16_t)(block[0] | block[1] << 8));
        for (int k = 0; k < 32; k++) {
            int code = t->type == GGUF_Q8_0 ? (int8_t)block[2 + k]
                       : k < 16             ? (block[2 + k] & 15) - 8
                                            : (block[2 + k - 16] >> 4) - 8;
            ret[i + k] = scale * (float)code;
        }
    }
}

bool ggufmodel_read_row(const struct gguf_tensor *t, int64_t row, float *ret) {
    int64_t n = t->shape[0];
    size_t row_bytes = (size_t)(n / gguf_block_elements(t->type)) * gguf_block_bytes(t->type);
    const uint8_t *from = t->data + (size_t)row * row_bytes;
    uint16_t half;
    double wide;

    switch (t->type) {
    case GGUF_F32:
        memcpy(ret, from, row_bytes);
        return true;
    case GGUF_F16:
    case GGUF_BF16:
        for (int64_t i = 0; i < n; i++) {
            memcpy(&half, from + 2 * i, sizeof half);
            ret[i] = t->type == GGUF_F16 ? k_from_f16(half) : k_from_bf16(half);
        }
        return true;
    case GGUF_F64:
        for (int64_t i = 0; i < n; i++) {
            memcpy(&wide, from + 8 * i, sizeof wide);
            ret[i] = (float)wide;
        }
        return true;
    case GGUF_Q8_0:
    case GGUF_Q4_0:
        read_blocks(t, from, ret);
        return true;
    default:
        return false;
    }
}
