/* config.json: what is taken over, what is refused and with which words; the table of parameters.
 */
#include "engine/model/config.h"
#include "engine/model/params.h"
#include "tests/unit/test.h"

#define LLAMA                                                                                      \
    "\"model_type\": \"llama\", \"vocab_size\": 512, \"hidden_size\": 64, "                        \
    "\"intermediate_size\": 96, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "            \
    "\"max_position_embeddings\": 128, \"rms_norm_eps\": 1e-6"
#define V3                                                                                         \
    "\"model_type\": \"deepseek_v3\", \"vocab_size\": 512, \"hidden_size\": 64, "                  \
    "\"intermediate_size\": 96, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "            \
    "\"max_position_embeddings\": 128, \"rms_norm_eps\": 1e-6, \"kv_lora_rank\": 16, "             \
    "\"qk_nope_head_dim\": 8, \"qk_rope_head_dim\": 4, \"v_head_dim\": 8, "                        \
    "\"n_routed_experts\": 8, \"n_shared_experts\": 1, \"num_experts_per_tok\": 2, "               \
    "\"moe_intermediate_size\": 16, \"first_k_dense_replace\": 1, \"n_group\": 4, "                \
    "\"topk_group\": 2, \"routed_scaling_factor\": 2.5"

#define QWEN2                                                                                      \
    "\"model_type\": \"qwen2\", \"vocab_size\": 512, \"hidden_size\": 64, "                        \
    "\"intermediate_size\": 96, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "            \
    "\"max_position_embeddings\": 128, \"rms_norm_eps\": 1e-6"
#define SOME_EXPERTS                                                                               \
    ", \"vocab_size\": 512, \"hidden_size\": 64, "                                                 \
    "\"intermediate_size\": 96, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "            \
    "\"max_position_embeddings\": 128, \"rms_norm_eps\": 1e-6, "                                   \
    "\"n_routed_experts\": 8, \"n_shared_experts\": 1, \"num_experts_per_tok\": 2, "               \
    "\"moe_intermediate_size\": 16, \"first_k_dense_replace\": 1"
#define MOE "\"model_type\": \"deepseek\"" SOME_EXPERTS
#define V2                                                                                         \
    "\"model_type\": \"deepseek_v2\"" SOME_EXPERTS                                                 \
    ", \"kv_lora_rank\": 16, \"qk_nope_head_dim\": 8, \"qk_rope_head_dim\": 4, \"v_head_dim\": 8"
#define FP8                                                                                        \
    "\"quantization_config\": {\"quant_method\": \"fp8\", \"fmt\": \"e4m3\", "                     \
    "\"weight_block_size\": [128, 128], \"activation_scheme\": \"dynamic\""

#define LLAMA3                                                                                     \
    LLAMA ", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, "                        \
          "\"original_max_position_embeddings\": 64, \"high_freq_factor\": 4, "                    \
          "\"low_freq_factor\": "

static const struct {
    const char *text;
    int r;
    const char *says; // part of the error's text
} cases[] = {
    {"{" LLAMA "}",                                                                            0,        ""                                     },
    {"{" V3 "}",                                                                               0,        ""                                     },
    {"{" LLAMA ", \"use_cache\": true, \"eos_token_id\": [1, 2], \"sliding_window\": null}",   0,        ""                                     },
    {"{" LLAMA ", \"rms_norm_eps2\": 1}",                                                      -EINVAL,  "unknown field rms_norm_eps2"          },
    {"{" LLAMA ", \"kv_lora_rank\": 16}",                                                      -EINVAL,  "unknown field kv_lora_rank"           },
    {"{" LLAMA ", \"hidden_act\": \"gelu\"}",                                                  -ENOTSUP, "hidden_act is \"gelu\""               },
    {"{" LLAMA ", \"attention_bias\": true}",                                                  -ENOTSUP, "attention_bias is true"               },
    {"{" LLAMA ", \"head_dim\": 0}",                                                           -EINVAL,  "head_dim is 0; expected 1"            },
    {"{" LLAMA ", \"head_dim\": 15}",                                                          -EINVAL,  "head_dim 15 is odd"                   },
    {"{" LLAMA ", \"head_dim\": 16.5}",                                                        -EINVAL,  "head_dim is"                          },
    {"{" LLAMA ", \"num_key_value_heads\": 3}",                                                -EINVAL,  "not a multiple of num_key_value_heads"},
    {"{" LLAMA ", \"rope_theta\": NaN}",                                                       -EBADMSG, ""                                     },
    {"{" LLAMA ", \"rope_theta\": 1e999}",                                                     -EBADMSG, ""                                     },
    {"{" LLAMA ", \"rope_theta\": -1}",                                                        -EINVAL,  "rope_theta is -1"                     },
    {"{" V3 ", \"rope_theta\": 1}",                                                            -EINVAL,  "rope_theta is 1; expected 2"          },
    {"{" LLAMA ", \"rope_theta\": \"big\"}",                                                   -EINVAL,  "rope_theta is"                        },
    {"{" LLAMA ", \"bos_token_id\": 512}",                                                     -EINVAL,  "bos_token_id"                         },
    {"{" LLAMA ", \"tie_word_embeddings\": 1}",                                                -EINVAL,  "expected true or false"               },
    {"{" LLAMA ", \"quantization_config\": {\"quant_method\": \"awq\"}}",                      -ENOTSUP,
     "quant_method is \"awq\""                                                                                                                  },
    {"{" LLAMA ", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 4.0}}",                 0,        ""                                     },
    {"{" LLAMA ", \"rope_scaling\": {\"type\": \"linear\"}}",                                  -EINVAL,  "factor is missing"                    },
    {"{" LLAMA ", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 4, \"mscale\": 1}}",    -EINVAL,
     "unknown field mscale"                                                                                                                     },
    {"{" LLAMA ", \"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 4}}",                  -ENOTSUP, "dynamic"                              },
    {"{" LLAMA3 "1}}",                                                                         0,        ""                                     },
    {"{" LLAMA3 "4}}",                                                                         -EINVAL,  "low_freq_factor is 4; expected less"  },
    {"{" LLAMA ", \"rope_scaling\": 4}",                                                       -EINVAL,  "rope_scaling"                         },
    {"{" V3 ", \"scoring_func\": \"softmax\"}",                                                -ENOTSUP, "scoring_func is \"softmax\""          },
    {"{" V3 ", \"num_nextn_predict_layers\": 2}",                                              -EINVAL,  "num_nextn_predict_layers is 2"        },
    {"{" V3 ", \"num_key_value_heads\": 2}",                                                   -EINVAL,  "num_key_value_heads is 2"             },
    {"{\"model_type\": \"mixtral\"}",                                                          -ENOTSUP, "model_type is mixtral"                },
    {"{" QWEN2 "}",                                                                            0,        ""                                     },
    {"{" QWEN2 ", \"sliding_window\": 4096, \"use_sliding_window\": true}",                    -ENOTSUP,
     "use_sliding_window is true"                                                                                                               },
    {"{" QWEN2 ", \"n_routed_experts\": 4}",                                                   -EINVAL,  "unknown field n_routed_experts"       },
    {"{" MOE "}",                                                                              0,        ""                                     },
    {"{" MOE ", \"scoring_func\": \"sigmoid\"}",                                               -ENOTSUP, "scoring_func is \"sigmoid\""          },
    {"{" MOE ", \"kv_lora_rank\": 16}",                                                        -EINVAL,  "qk_nope_head_dim is missing"          },
    {"{" V2 ", \"topk_method\": \"greedy\"}",                                                  0,        ""                                     },
    {"{" V2 ", \"topk_method\": \"group_limited_greedy\", \"n_group\": 4, \"topk_group\": 2}", 0,
     ""                                                                                                                                         },
    {"{" V2 ", \"topk_method\": \"noaux_tc\"}",                                                -ENOTSUP, "topk_method is noaux_tc"              },
    {"{" V2 ", \"n_group\": 3, \"topk_method\": \"group_limited_greedy\"}",                    -EINVAL,  "do not fit"                           },
    {"{" V3 ", " FP8 "}}",                                                                     0,        ""                                     },
    {"{" V3 ", " FP8 ", \"scale_fmt\": \"ue8m0\"}}",                                           0,        ""                                     },
    {"{" V3 ", " FP8 ", \"scale_fmt\": \"log\"}}",                                             -ENOTSUP, "scale_fmt is \"log\""                 },
    {"{" V3 ", \"quantization_config\": {\"quant_method\": \"awq\"}}",                         -ENOTSUP,
     "quant_method is \"awq\""                                                                                                                  },
    {"{" V3 ", \"quantization_config\": {\"weight_block_size\": [64, 128]}}",                  -ENOTSUP,
     "expected [128,128]"                                                                                                                       },
    {"{\"model_type\": \"llama\"}",                                                            -EINVAL,  "vocab_size is missing"                },
    {"{}",                                                                                     -EINVAL,  "model_type"                           },
    {"[]",                                                                                     -EINVAL,  "model_type"                           },
    {"{",                                                                                      -EBADMSG, ""                                     },
    {"",                                                                                       -EBADMSG, ""                                     },
};

TEST(config_parse)
{
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct model_config config = {.n_vocab = -7};
        struct hai_err err = {0};
        CHECK_EQ(config_parse(cases[i].text, strlen(cases[i].text), "c.json", &config, &err),
                 cases[i].r, "%s: %s", cases[i].text, err.text);
        CHECK_EQ(config.n_vocab, cases[i].r < 0 ? -7 : 512, "%s", cases[i].text);
        CHECK(strstr(err.text, cases[i].says) != NULL, "%s: says %s", cases[i].text, err.text);
        CHECK(cases[i].r == 0 || strstr(err.text, "c.json") || strstr(err.where, "c.json"),
              "%s: %s", cases[i].text, err.text);
    }
}

/* Every single field of a good file replaced by each of these is refused or taken, never a crash.
 */
TEST(config_absurd_values)
{
    static const char *const keys[] = {"vocab_size",           "hidden_size",
                                       "intermediate_size",    "num_hidden_layers",
                                       "num_attention_heads",  "max_position_embeddings",
                                       "rms_norm_eps",         "kv_lora_rank",
                                       "qk_nope_head_dim",     "qk_rope_head_dim",
                                       "v_head_dim",           "n_routed_experts",
                                       "num_experts_per_tok",  "n_group",
                                       "topk_group",           "n_shared_experts",
                                       "moe_intermediate_size"};
    static const char *const values[] = {"0",     "-1", "1e300", "9223372036854775807",
                                         "\"x\"", "[]", "true"};

    for (size_t k = 0; k < ARRAY_SIZE(keys); k++)
        for (size_t v = 0; v < ARRAY_SIZE(values); v++) {
            struct model_config config;
            struct hai_err err = {0};
            char text[2048] = "{" V3 "}", key[64], changed[2048];
            (void)snprintf(key, sizeof key, "\"%s\": ", keys[k]);
            char *at = strstr(text, key);
            assert(at);
            at += strlen(key);
            (void)snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - text), text, values[v],
                           at + strcspn(at, ",}"));
            CHECK(config_parse(changed, strlen(changed), "c", &config, &err) < 0, "%s", changed);
            CHECK(strstr(err.text, keys[k]) != NULL, "%s: %s", changed, err.text);
        }
}

static struct params *params_of(const char *text) {
    struct model_config config;
    struct params *params = NULL;
    struct hai_err err = {0};

    CHECK_EQ(config_parse(text, strlen(text), "c", &config, &err), 0, "%s", err.text);
    CHECK_EQ(params_new(&config, &params, &err), 0, "%s", err.text);
    return params;
}

/* Owners lie in their range, aligned groups never overlap, every element has one owner. */
static void check_places(const struct params *params) {
    _cleanup_free_ char *taken = hai_alloc((size_t)params->n_elements);

    for (int i = 0; i < params->n; i++) {
        const struct param *p = &params->items[i];
        int64_t end = p->offset + p->n_elements;
        CHECK_EQ(params_find(params, p->name), i, "%s", p->name);
        if (p->tie != i) {
            CHECK_EQ(p->offset, params->items[p->tie].offset, "%s", p->name);
            continue;
        }
        CHECK_EQ(end <= params->n_decayed, p->decay, "%s", p->name);
        CHECK_EQ(end <= params->n_trained, p->trained, "%s", p->name);
        CHECK(end <= params->n_elements, "%s", p->name);
        for (int64_t k = p->offset; k < end && end <= params->n_elements; k++)
            CHECK(!taken[k]++, "%s overlaps", p->name);
    }
}

static const struct param *find(const struct params *params, const char *name) {
    int i = params_find(params, name);

    CHECK(i >= 0, "%s", name);
    return &params->items[MAX(i, 0)];
}

TEST(params_llama)
{
    _cleanup_(params_freep) struct params *p = params_of("{" LLAMA "}");

    check_places(p);
    CHECK_EQ(p->n, 3 + 2 * 9, "");
    CHECK_EQ(p->n_counted, 2 * 512 * 64 + 64 + 2 * (4 * 64 * 64 + 3 * 64 * 96 + 2 * 64), "");
    const struct param *q = find(p, "model.layers.1.self_attn.q_proj.weight");
    CHECK_EQ(find(p, "model.layers.1.self_attn.k_proj.weight")->offset, q->offset + 64 * 64, "");
    CHECK_EQ(q->split, PARAM_SPLIT_ROWS, "");
    CHECK_EQ(q->layer, 1, "");
    CHECK_EQ(find(p, "model.norm.weight")->decay, false, "");
}

TEST(params_tied)
{
    _cleanup_(params_freep) struct params *p =
        params_of("{" LLAMA ", \"tie_word_embeddings\": true}");

    check_places(p);
    CHECK_EQ(find(p, "lm_head.weight")->in_file, false, "");
    CHECK_EQ(find(p, "lm_head.weight")->tie, params_find(p, "model.embed_tokens.weight"), "");
}

TEST(params_v3)
{
    _cleanup_(params_freep) struct params *p =
        params_of("{" V3 ", \"num_nextn_predict_layers\": 1}");

    check_places(p);
    const struct param *bias = find(p, "model.layers.1.mlp.gate.e_score_correction_bias");
    CHECK_EQ(bias->trained, false, "");
    CHECK_EQ(bias->init, PARAM_INIT_ZERO, "");
    CHECK_EQ(find(p, "model.layers.1.mlp.experts.7.up_proj.weight")->offset,
             find(p, "model.layers.1.mlp.experts.0.gate_proj.weight")->offset + 15 * 16 * 64, "");
    CHECK_EQ(find(p, "model.layers.1.mlp.experts.7.up_proj.weight")->split, PARAM_SPLIT_EXPERTS,
             "");
    CHECK_EQ(find(p, "model.layers.2.shared_head.head.weight")->tie,
             params_find(p, "lm_head.weight"), "");
    CHECK_EQ(find(p, "model.layers.2.eh_proj.weight")->shape[1], 128, "");
    CHECK_EQ(params_find(p, "model.layers.2.mlp.gate_proj.weight"), -1, "");
    CHECK_EQ(params_find(p, "model.layers.0.mlp.gate.weight"), -1, "");
}
