#include "engine/model/dummy.h"
#include "engine/model/params.h"
#include "kernels/formats.h"
#include "kernels/philox.h"
#include "kernels/pool.h"
#include "lib/fileio.h"
#include "storage/safetensors.h"

#include <math.h>

DEFINE_ENUM(dummy_dtype, DUMMY, DUMMY_DTYPES);

enum {
    PIECE_VALUES = 1 << 16,   // of one thread at a time
    BUFFER_VALUES = 16 << 20, // written at once
    BLOCK = 128,              // of scales
    DRAWS = 1 << 16,          // different values of a matrix
};

/* Ids 256 and 257 begin and end a text of bytes (engine/data/tokenizer.h). */
#define COMMON                                                                                     \
    "\"hidden_act\": \"silu\", \"rms_norm_eps\": 1e-6, \"initializer_range\": 0.02,\n"             \
    " \"bos_token_id\": 256, \"eos_token_id\": 257, \"torch_dtype\": \"bfloat16\""

static const struct shape {
    const char *name;
    const char *fields;
} shapes[] = {
    {"tiny",
     "\"model_type\": \"deepseek_v3\", \"hidden_size\": 128, \"intermediate_size\": 320,\n"
     " \"moe_intermediate_size\": 96, \"num_hidden_layers\": 3, \"num_attention_heads\": 4,\n"
     " \"num_key_value_heads\": 4, \"n_routed_experts\": 8, \"n_shared_experts\": 1,\n"
     " \"num_experts_per_tok\": 2, \"first_k_dense_replace\": 1, \"norm_topk_prob\": true,\n"
     " \"scoring_func\": \"sigmoid\", \"topk_method\": \"noaux_tc\", \"n_group\": 4,\n"
     " \"topk_group\": 2, \"routed_scaling_factor\": 2.5, \"q_lora_rank\": 64,\n"
     " \"kv_lora_rank\": 64, \"qk_nope_head_dim\": 32, \"qk_rope_head_dim\": 16,\n"
     " \"v_head_dim\": 32, \"vocab_size\": 512, \"max_position_embeddings\": 8192,\n"
     " \"rope_theta\": 10000, \"num_nextn_predict_layers\": 1, \"tie_word_embeddings\": false"   },
    {"coder-1.3b",
     "\"model_type\": \"llama\", \"hidden_size\": 2048, \"intermediate_size\": 5504,\n"
     " \"num_hidden_layers\": 24, \"num_attention_heads\": 16, \"num_key_value_heads\": 16,\n"
     " \"vocab_size\": 32256, \"max_position_embeddings\": 16384, \"rope_theta\": 100000,\n"
     " \"rope_scaling\": {\"type\": \"linear\", \"factor\": 4.0}, \"tie_word_embeddings\": false"},
    {"qwen2-1.5b",
     "\"model_type\": \"qwen2\", \"hidden_size\": 1536, \"intermediate_size\": 8960,\n"
     " \"num_hidden_layers\": 28, \"num_attention_heads\": 12, \"num_key_value_heads\": 2,\n"
     " \"vocab_size\": 151936, \"max_position_embeddings\": 32768, \"rope_theta\": 1000000,\n"
     " \"tie_word_embeddings\": true"                                                            },
    {"moe-16b-5",
     "\"model_type\": \"deepseek\", \"hidden_size\": 2048, \"intermediate_size\": 10944,\n"
     " \"moe_intermediate_size\": 1408, \"num_hidden_layers\": 5, \"num_attention_heads\": 16,\n"
     " \"num_key_value_heads\": 16, \"n_routed_experts\": 64, \"n_shared_experts\": 2,\n"
     " \"num_experts_per_tok\": 6, \"first_k_dense_replace\": 1, \"norm_topk_prob\": false,\n"
     " \"scoring_func\": \"softmax\", \"vocab_size\": 32256, \"max_position_embeddings\": 16384,\n"
     " \"rope_theta\": 10000, \"tie_word_embeddings\": false"                                    },
    {"v2-lite-16",
     "\"model_type\": \"deepseek_v2\", \"hidden_size\": 2048, \"intermediate_size\": 10944,\n"
     " \"moe_intermediate_size\": 1408, \"num_hidden_layers\": 27, \"num_attention_heads\": 16,\n"
     " \"num_key_value_heads\": 16, \"n_routed_experts\": 16, \"n_shared_experts\": 2,\n"
     " \"num_experts_per_tok\": 6, \"first_k_dense_replace\": 1, \"norm_topk_prob\": false,\n"
     " \"scoring_func\": \"softmax\", \"topk_method\": \"greedy\", \"n_group\": 1,\n"
     " \"topk_group\": 1, \"routed_scaling_factor\": 1.0, \"kv_lora_rank\": 512,\n"
     " \"qk_nope_head_dim\": 128, \"qk_rope_head_dim\": 64, \"v_head_dim\": 128,\n"
     " \"vocab_size\": 102400, \"max_position_embeddings\": 163840, \"rope_theta\": 10000,\n"
     " \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 40, \"beta_fast\": 32, \"beta_slow\": "
     "1,\n"
     "  \"mscale\": 0.707, \"mscale_all_dim\": 0.707,\n"
     "  \"original_max_position_embeddings\": 4096}, \"tie_word_embeddings\": false"             },
    {"v3-2b",
     "\"model_type\": \"deepseek_v3\", \"hidden_size\": 2048, \"intermediate_size\": 4352,\n"
     " \"moe_intermediate_size\": 1408, \"num_hidden_layers\": 12, \"num_attention_heads\": 16,\n"
     " \"num_key_value_heads\": 16, \"n_routed_experts\": 16, \"n_shared_experts\": 1,\n"
     " \"num_experts_per_tok\": 4, \"first_k_dense_replace\": 1, \"norm_topk_prob\": true,\n"
     " \"scoring_func\": \"sigmoid\", \"topk_method\": \"noaux_tc\", \"n_group\": 4,\n"
     " \"topk_group\": 2, \"routed_scaling_factor\": 2.5, \"q_lora_rank\": 768,\n"
     " \"kv_lora_rank\": 512, \"qk_nope_head_dim\": 128, \"qk_rope_head_dim\": 64,\n"
     " \"v_head_dim\": 128, \"vocab_size\": 32256, \"max_position_embeddings\": 163840,\n"
     " \"rope_theta\": 10000, \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 40,\n"
     "  \"beta_fast\": 32, \"beta_slow\": 1, \"mscale\": 1.0, \"mscale_all_dim\": 1.0,\n"
     "  \"original_max_position_embeddings\": 4096}, \"tie_word_embeddings\": false"             },
};

static const char quantization[] =
    ",\n \"quantization_config\": {\"quant_method\": \"fp8\", \"fmt\": \"e4m3\",\n"
    "  \"activation_scheme\": \"dynamic\", \"weight_block_size\": [128, 128]}";

const char *dummy_shapes(void) {
    return "tiny, coder-1.3b, qwen2-1.5b, moe-16b-5, v2-lite-16 or v3-2b";
}

/* One tensor of the file and where its values come from. */
struct drawn {
    enum { MATRIX, ONES, ZEROS, SCALES } kind;
    uint32_t number; // of the parameter: which draws
};

struct maker {
    struct params *params;
    struct k_pool *pool;
    enum dummy_dtype dtype;
    uint64_t seed;
    float amax;                         // of a matrix
    struct safetensors_tensor *tensors; // [n]
    struct drawn *drawn;                // [n]
    char (*names)[PARAM_NAME_BYTES + 16];
    size_t n;
    // The tensor that is being made
    const struct safetensors_tensor *tensor;
    const struct drawn *how;
    int64_t first, n_values; // of the buffer
    uint8_t *buffer;
    uint8_t *table; // [DRAWS] of its type
};

static void maker_free(struct maker *m) {
    params_free(m->params);
    pool_free(m->pool);
    free(m->tensors);
    free(m->drawn);
    free(m->names);
    free(m->buffer);
    free(m->table);
}

static void add(struct maker *m, enum safetensors_dtype dtype, const struct param *p, int kind,
                const char *ending, int64_t unit) {
    struct safetensors_tensor *t = &m->tensors[m->n];

    strcpy(stpcpy(m->names[m->n], p->name), ending);
    t->name = m->names[m->n];
    t->dtype = dtype;
    t->n_dims = p->n_dims;
    t->n_bytes = safetensors_dtype_bytes(dtype);
    for (int i = 0; i < p->n_dims; i++) {
        t->shape[i] = (p->shape[i] + unit - 1) / unit;
        t->n_bytes *= (size_t)t->shape[i];
    }
    m->drawn[m->n].kind = kind;
    m->drawn[m->n++].number = (uint32_t)p->tie; // a copy has its owner's values
}

static void list_tensors(struct maker *m) {
    size_t n_max = 2 * (size_t)m->params->n;
    enum safetensors_dtype plain = m->dtype == DUMMY_F32 ? SAFETENSORS_F32 : SAFETENSORS_BF16;

    m->tensors = hai_new_array(struct safetensors_tensor, n_max);
    m->drawn = hai_new_array(struct drawn, n_max);
    m->names = hai_alloc_array(n_max, sizeof *m->names);
    for (int i = 0; i < m->params->n; i++) {
        const struct param *p = &m->params->items[i];
        if (!p->in_file)
            continue;
        if (p->init == PARAM_INIT_ONE)
            add(m, plain, p, ONES, "", 1);
        else if (p->init == PARAM_INIT_ZERO)
            add(m, p->trained ? plain : SAFETENSORS_F32, p, ZEROS, "", 1);
        else if (m->dtype != DUMMY_FP8 || !params_is_fp8(&m->params->items[p->tie]))
            add(m, plain, p, MATRIX, "", 1);
        else {
            add(m, SAFETENSORS_F8_E4M3, p, MATRIX, "", 1);
            add(m, SAFETENSORS_F32, p, SCALES, "_scale_inv", BLOCK);
        }
    }
}

static void write_value(enum safetensors_dtype dtype, float x, uint8_t *ret) {
    uint16_t half = k_to_bf16(x);

    if (dtype == SAFETENSORS_F8_E4M3)
        *ret = k_to_e4m3(x);
    else if (dtype == SAFETENSORS_BF16)
        memcpy(ret, &half, sizeof half);
    else
        memcpy(ret, &x, sizeof x);
}

/* Every 16 random bits choose one of the table's values. */
static void fill_piece(void *arg, int64_t piece, int thread) {
    const struct maker *m = arg;
    size_t size = safetensors_dtype_bytes(m->tensor->dtype);
    int64_t from = piece * PIECE_VALUES, to = MIN(from + PIECE_VALUES, m->n_values);
    uint8_t *p = m->buffer + (size_t)from * size;
    uint32_t words[4];

    for (int64_t i = from; i < to; i += 8) {
        uint64_t at = (uint64_t)(m->first + i) / 8;
        struct philox_counter c =
            philox_at(PHILOX_INIT, (uint32_t)(at >> 32), m->how->number, (uint32_t)at);
        philox_words(m->seed, &c, words);
        for (int k = 0; k < 8 && i + k < to; k++, p += size) {
            uint32_t draw = words[k / 2] >> 16 * (k % 2) & 0xffff;
            memcpy(p, m->table + (size_t)draw * size, size);
        }
    }
}

static void make_table(struct maker *m) {
    enum safetensors_dtype dtype = m->tensor->dtype;
    size_t size = safetensors_dtype_bytes(dtype);
    float largest = dtype == SAFETENSORS_F8_E4M3 ? 448 : m->amax;

    for (int i = 0; i < DRAWS; i++) {
        float x = ((float)i - 32767.5F) / 32768.0F * largest;
        if (m->how->kind != MATRIX)
            x = m->how->kind == ONES ? 1 : m->how->kind == SCALES ? m->amax / 448 : 0;
        write_value(dtype, x, m->table + (size_t)i * size);
    }
}

static int write_tensors(struct maker *m, struct safetensors_writer *w,
                         int (*said)(void *userdata, int64_t done, int64_t all), void *userdata,
                         struct hai_err *err) {
    int64_t done = 0, all = 0;
    int r = 0;

    for (size_t i = 0; i < m->n; i++)
        all += (int64_t)m->tensors[i].n_bytes;
    for (size_t i = 0; i < m->n; i++) {
        m->tensor = &m->tensors[i];
        m->how = &m->drawn[i];
        int64_t size = (int64_t)safetensors_dtype_bytes(m->tensor->dtype);
        int64_t n = (int64_t)m->tensor->n_bytes / size;
        make_table(m);
        for (m->first = 0; r == 0 && m->first < n; m->first += m->n_values) {
            m->n_values = MIN(n - m->first, (int64_t)BUFFER_VALUES);
            pool_run(m->pool, (m->n_values + PIECE_VALUES - 1) / PIECE_VALUES, fill_piece, m);
            r = safetensors_writer_add(w, m->buffer, (size_t)(m->n_values * size), err);
            done += m->n_values * size;
            int stop = r == 0 && said ? said(userdata, done, all) : 0;
            if (stop < 0)
                r = hai_fail(err, stop, "stopped at %lld of %lld bytes", (long long)done,
                             (long long)all);
        }
    }
    return r < 0 ? r : safetensors_writer_finish(w, err);
}

static int make(struct maker *m, const char *dir, const struct buf *config_text, int n_threads,
                int (*said)(void *userdata, int64_t done, int64_t all), void *userdata,
                struct hai_err *err) {
    static const char *const metadata[] = {"format", "pt", NULL};
    _cleanup_(safetensors_writer_freep) struct safetensors_writer *w = NULL;
    _cleanup_free_ char *path = hai_asprintf("%s/model.safetensors", dir);
    struct model_config config;

    int r = config_parse((const char *)config_text->data, config_text->n_bytes, "config.json",
                         &config, err);
    if (r == 0)
        r = params_new(&config, &m->params, err);
    if (r == 0)
        r = pool_new(n_threads, &m->pool, err);
    if (r < 0)
        return r;
    m->amax = (float)(sqrt(3) * config.init_std);
    m->buffer = hai_alloc((size_t)BUFFER_VALUES * sizeof(float));
    m->table = hai_alloc((size_t)DRAWS * sizeof(float));
    list_tensors(m);
    r = safetensors_writer_new(path, m->tensors, m->n, metadata, &w, err);
    return r < 0 ? r : write_tensors(m, w, said, userdata, err);
}

int dummy_config(const char *shape, enum dummy_dtype dtype, struct buf *ret, struct hai_err *err) {
    for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
        const char *fields = shapes[i].fields;
        bool quantized = dtype == DUMMY_FP8 && strstr(fields, "deepseek_v3");
        if (!hai_streq(shapes[i].name, shape))
            continue;
        buf_printf(ret, "{%s,\n %s%s}\n", fields, COMMON, quantized ? quantization : "");
        return 0;
    }
    return hai_fail(err, -EINVAL, "'%s'; expected %s", shape, dummy_shapes());
}

int dummy_write(const struct folder *folder, const char *shape, enum dummy_dtype dtype,
                uint64_t seed, int n_threads,
                int (*said)(void *userdata, int64_t done, int64_t all), void *userdata,
                struct hai_err *err) {
    _cleanup_(maker_free) struct maker m = {.dtype = dtype, .seed = seed};
    _cleanup_(buf_free) struct buf config = {0};
    _cleanup_free_ char *path = hai_asprintf("%s/config.json", folder_dir(folder));
    int r = dummy_config(shape, dtype, &config, err);

    if (r == 0)
        r = make(&m, folder_dir(folder), &config, n_threads, said, userdata, err);
    return r < 0 ? r : fileio_replace(path, config.data, config.n_bytes, 0644, err);
}
