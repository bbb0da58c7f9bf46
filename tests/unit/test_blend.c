/* Sums of models: values beside hand-computed ones, models that agree stay as they are, shards,
 * what is refused. */
#include "engine/model/blend.h"
#include "engine/model/config.h"
#include "engine/model/params.h"
#include "engine/model/quantize.h"
#include "engine/model/source.h"
#include "engine/model/weightsfile.h"
#include "kernels/formats.h"
#include "lib/fileio.h"
#include "tests/unit/test.h"

#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>

#define MODELS "tests/fixtures/models/"

enum { PERIOD = 4 };

static char scratch[32];

static void scratch_make(void) {
    strcpy(scratch, "/tmp/hai-test-XXXXXX");
    assert(mkdtemp(scratch));
}

static void scratch_remove(void) {
    CHECK_EQ(fileio_remove_tree(scratch, NULL), 0);
}

static char *at(const char *name) {
    return hai_asprintf("%s/%s", scratch, name);
}

/* How a folder of a small model is made. */
struct made {
    const char *name;     // below the scratch folder
    float values[PERIOD]; // of every tensor, over and over
    enum k_dtype dtype;   // K_F32 by default
    int64_t n_dim;        // 8 by default
    bool tied;
    const char *more;     // of config.json
    const char *left_out; // a tensor
    int64_t shard_bytes;  // 0: one file
};

static void put_text(const char *dir, const char *name, const char *text) {
    _cleanup_free_ char *path = hai_asprintf("%s/%s", dir, name);

    CHECK_EQ(fileio_replace(path, text, strlen(text), 0644, NULL), 0);
}

/* Tensors of a parameter table, each filled with the values over and over. */
static void put_weights(const char *dir, const struct params *params, const struct made *m) {
    _cleanup_(weightsfile_freep) struct weightsfile *w =
        weightsfile_new((size_t)params->n, NULL, NULL);
    struct hai_err err = {0};

    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < params->n; i++) {
            const struct param *p = &params->items[i];
            if (!p->in_file || (m->left_out && hai_streq(p->name, m->left_out)))
                continue;
            if (pass == 0) {
                weightsfile_plan(w, p, m->dtype);
                continue;
            }
            _cleanup_free_ float *x = hai_new_array(float, (size_t)p->n_elements);
            uint16_t *halves = (uint16_t *)(void *)x;
            for (int64_t k = 0; k < p->n_elements; k++) {
                float v = m->values[k % PERIOD];
                if (m->dtype == K_F32)
                    x[k] = v;
                else
                    halves[k] = m->dtype == K_BF16 ? k_to_bf16(v) : k_to_f16(v);
            }
            CHECK_EQ(weightsfile_add(w, x, (size_t)p->n_elements * k_dtype_bytes(m->dtype), &err),
                     0, "%s", err.text);
        }
        if (pass == 0 && m->shard_bytes)
            weightsfile_split(w, m->shard_bytes);
        if (pass == 0)
            CHECK_EQ(weightsfile_begin(w, dir, NULL, &err), 0, "%s", err.text);
    }
    CHECK_EQ(weightsfile_finish(w, &err), 0, "%s", err.text);
}

/* Returns the folder's path. */
static char *make(const struct made *m) {
    _cleanup_(params_freep) struct params *params = NULL;
    struct model_config config;
    struct hai_err err = {0};
    char *dir = at(m->name);
    int64_t n_dim = m->n_dim ? m->n_dim : 8;
    _cleanup_free_ char *text = hai_asprintf(
        "{\"model_type\": \"llama\", \"hidden_act\": \"silu\", \"hidden_size\": %d,\n"
        " \"intermediate_size\": 12, \"num_hidden_layers\": 2, \"num_attention_heads\": 2,\n"
        " \"num_key_value_heads\": 1, \"vocab_size\": 20, \"max_position_embeddings\": 64,\n"
        " \"rms_norm_eps\": 1e-6, \"tie_word_embeddings\": %s%s}\n",
        (int)n_dim, m->tied ? "true" : "false", m->more ? m->more : "");

    CHECK_EQ(mkdir(dir, 0777), 0, "%s", dir);
    put_text(dir, "config.json", text);
    put_text(dir, "tokenizer.json", m->name);
    CHECK_EQ(config_read(dir, &config, &err), 0, "%s", err.text);
    CHECK_EQ(params_new(&config, &params, &err), 0, "%s", err.text);
    put_weights(dir, params, m);
    return dir;
}

/* Is every value of a folder one of the four, in every tensor, in the type? */
static void check_values(const char *dir, const float *wanted, enum safetensors_dtype dtype,
                         size_t n_tensors, const char *label) {
    _cleanup_(safetensors_freep) struct safetensors *files = NULL;
    struct hai_err err = {0};
    int n_wrong = 0;

    CHECK_EQ(safetensors_open(dir, &files, &err), 0, "%s: %s", label, err.text);
    if (!files)
        return;
    CHECK_EQ(safetensors_count(files), n_tensors, "%s", label);
    for (size_t i = 0; i < safetensors_count(files); i++) {
        const struct safetensors_tensor *t = safetensors_at(files, i);
        size_t n = t->n_bytes / safetensors_dtype_bytes(t->dtype);
        CHECK_EQ(t->dtype, dtype, "%s: %s", label, t->name);
        for (size_t k = 0; k < n && t->dtype == dtype; k++) {
            uint16_t bits = dtype == SAFETENSORS_F32 ? 0 : ((const uint16_t *)t->data)[k];
            float x = dtype == SAFETENSORS_F32    ? ((const float *)t->data)[k]
                      : dtype == SAFETENSORS_BF16 ? k_from_bf16(bits)
                                                  : k_from_f16(bits);
            n_wrong += memcmp(&x, &wanted[k % PERIOD], sizeof x) != 0;
        }
    }
    CHECK_EQ(n_wrong, 0, "%s", label);
}

static int blend(const char *out, struct blend_model *models, int n, enum k_dtype dtype,
                 struct hai_err *err) {
    const struct blend_options options = {.dtype = dtype};
    struct blend_result result;

    return blend_folders(out, models, n, &options, &result, err);
}

static const struct {
    const char *label;
    bool add;
    int n;
    double weight[3];     // of a, b, c
    float wanted[PERIOD]; // by hand
} sums[] = {
    {"mean of two",       false, 2, {1, 1},       {2, 0, -2, 0.375f}         },
    {"one to three",      false, 2, {0.25, 0.75}, {2.5f, -1, -1, 0.3125f}    },
    {"only proportions",  false, 2, {20, 60},     {2.5f, -1, -1, 0.3125f}    },
    {"mean of three",     false, 3, {1, 1, 1},    {2, 2, -1, -0.25f / 3}     },
    {"two to one to one", false, 3, {2, 1, 1},    {1.75f, 2, -1.75f, 0.0625f}},
    {"half of a task",    true,  2, {0, 0.5},     {2, 0, -2, 0.375f}         },
    {"two tasks",         true,  3, {0, 0.5, 2},  {4, 8, 8, -2.625f}         },
    {"forget a task",     true,  2, {0, -1},      {-1, 6, -8, 0.75f}         },
    {"no task",           true,  3, {0, 0, 0},    {1, 2, -4, 0.5f}           },
};

TEST(values_by_hand)
{
    scratch_make();
    _cleanup_free_ char *dir_a = make(&(struct made){
        .name = "a", .values = {1, 2, -4, 0.5f}
    });
    _cleanup_free_ char *dir_b = make(&(struct made){
        .name = "b", .values = {3, -2, 0, 0.25f},
             .dtype = K_BF16
    });
    _cleanup_free_ char *dir_c = make(&(struct made){
        .name = "c", .values = {2, 6, 1, -1},
             .dtype = K_F16
    });
    for (size_t i = 0; i < ARRAY_SIZE(sums); i++) {
        struct blend_model models[] = {
            {dir_a, sums[i].weight[0]},
            {dir_b, sums[i].weight[1]},
            {dir_c, sums[i].weight[2]}
        };
        _cleanup_free_ char *out = hai_asprintf("%s/out.%zu", scratch, i);
        struct hai_err err = {0};
        if (sums[i].add)
            blend_add(models, sums[i].n);
        else
            blend_mean(models, sums[i].n);
        CHECK_EQ(blend(out, models, sums[i].n, K_DTYPE_COUNT, &err), 0, "%s", err.text);
        check_values(out, sums[i].wanted, SAFETENSORS_F32, 21, sums[i].label);
    }
    scratch_remove();
}

/* Rounded once to float32, once to the type, ties to even. */
static const struct {
    enum k_dtype dtype;
    enum safetensors_dtype in_file;
    float wanted[PERIOD]; // of the mean of {1, 1 + 2^-7, 3, 0} and {1 + 2^-7, 1 + 2^-6, 3, -0}
} roundings[] = {
    {K_DTYPE_COUNT, SAFETENSORS_BF16, {1, 1 + 0x1p-6f, 3, 0}                    },
    {K_BF16,        SAFETENSORS_BF16, {1, 1 + 0x1p-6f, 3, 0}                    },
    {K_F16,         SAFETENSORS_F16,  {1 + 0x1p-8f, 1 + 0x1p-7f + 0x1p-8f, 3, 0}},
    {K_F32,         SAFETENSORS_F32,  {1 + 0x1p-8f, 1 + 0x1p-7f + 0x1p-8f, 3, 0}},
};

TEST(types)
{
    scratch_make();
    _cleanup_free_ char *one = make(&(struct made){
        .name = "one", .values = {1, 1 + 0x1p-7f, 3, 0},
             .dtype = K_BF16
    });
    _cleanup_free_ char *two = make(&(struct made){
        .name = "two", .values = {1 + 0x1p-7f, 1 + 0x1p-6f, 3, -0.0f}
    });
    for (size_t i = 0; i < ARRAY_SIZE(roundings); i++) {
        struct blend_model models[] = {
            {one, 1},
            {two, 1}
        };
        _cleanup_free_ char *out = hai_asprintf("%s/out.%zu", scratch, i);
        struct hai_err err = {0};
        blend_mean(models, 2);
        CHECK_EQ(blend(out, models, 2, roundings[i].dtype, &err), 0, "%s", err.text);
        check_values(out, roundings[i].wanted, roundings[i].in_file, 21, "type");
    }
    // The first gives the tokenizer; a type that was asked for stands in config.json.
    _cleanup_free_ char *path = at("out.2/config.json"), *words = at("out.2/tokenizer.json");
    _cleanup_(buf_free) struct buf config = {0}, tokenizer = {0};
    CHECK_EQ(fileio_read_file(path, 4096, &config, NULL), 0);
    CHECK(strstr(buf_cstr(&config), "\"torch_dtype\": \"float16\""), "%s", buf_cstr(&config));
    CHECK_EQ(fileio_read_file(words, 4096, &tokenizer, NULL), 0);
    CHECK_STR(buf_cstr(&tokenizer), "one");
    scratch_remove();
}

/* Do two folders hold the same tensors in the same files, bit for bit? */
static void check_same(const char *x, const char *y) {
    _cleanup_(safetensors_freep) struct safetensors *in = NULL, *out = NULL;
    struct hai_err err = {0};

    CHECK_EQ(safetensors_open(x, &in, &err), 0, "%s", err.text);
    CHECK_EQ(safetensors_open(y, &out, &err), 0, "%s", err.text);
    if (!in || !out)
        return;
    CHECK_EQ(safetensors_count(in), safetensors_count(out), "%s", x);
    for (size_t i = 0; i < safetensors_count(in) && i < safetensors_count(out); i++) {
        const struct safetensors_tensor *s = safetensors_at(in, i), *t = safetensors_at(out, i);
        CHECK_STR(s->name, t->name);
        CHECK_STR(strrchr(safetensors_path(in, s), '/'), strrchr(safetensors_path(out, t), '/'));
        CHECK(s->dtype == t->dtype && s->n_bytes == t->n_bytes &&
                  memcmp(s->data, t->data, s->n_bytes) == 0,
              "%s: %s", x, s->name);
    }
}

/* What all models agree on stays, whatever the weights; threads change nothing. */
TEST(agreement)
{
    static const char *const models[] = {"llama_gqa", "dsv2_full", "dsv3", "qwen2_tied"};
    static const double weights[][3] = {
        {1,   1,    1  },
        {0.1, 0.7,  0.3},
        {3,   1e-3, 17 }
    };
    struct k_pool *pool = NULL;

    scratch_make();
    CHECK_EQ(pool_new(3, &pool, NULL), 0);
    for (size_t i = 0; i < ARRAY_SIZE(models); i++)
        for (size_t k = 0; k <= ARRAY_SIZE(weights); k++) {
            _cleanup_free_ char *in = hai_asprintf(MODELS "%s", models[i]);
            _cleanup_free_ char *out = hai_asprintf("%s/%s.%zu", scratch, models[i], k);
            struct blend_model same[] = {
                {in, 1   },
                {in, 0.7 },
                {in, -0.3}
            };
            const struct blend_options options = {.dtype = K_DTYPE_COUNT,
                                                  .pool = k == 1 ? pool : NULL};
            struct blend_result result;
            struct hai_err err = {0};
            for (int m = 0; m < 3 && k < ARRAY_SIZE(weights); m++)
                same[m].share = weights[k][m];
            if (k < ARRAY_SIZE(weights))
                blend_mean(same, 3);
            else
                blend_add(same, 3);
            CHECK_EQ(blend_folders(out, same, 3, &options, &result, &err), 0, "%s", err.text);
            check_same(in, out);
        }
    pool_free(pool);
    scratch_remove();
}

/* Zeros keep their sign and the smallest numbers their bits where models agree. */
TEST(small_numbers)
{
    const struct made m = {
        .name = "a", .values = {-0.0f, 1e-45f, -1.1754942e-38f, 3.4028235e38f}
    };

    scratch_make();
    _cleanup_free_ char *dir = make(&m), *out = at("out"), *more = at("more");
    struct blend_model mean[] =
        {
            {dir, 1},
            {dir, 1},
            {dir, 1}
    },
                       add[] = {{dir, 0}, {dir, 0}};
    struct hai_err err = {0};
    blend_mean(mean, 3);
    blend_add(add, 2);
    CHECK_EQ(blend(out, mean, 3, K_DTYPE_COUNT, &err), 0, "%s", err.text);
    CHECK_EQ(blend(more, add, 2, K_DTYPE_COUNT, &err), 0, "%s", err.text);
    check_values(out, m.values, SAFETENSORS_F32, 21, "mean");
    check_values(more, m.values, SAFETENSORS_F32, 21, "add");
    scratch_remove();
}

static bool exists(const char *dir, const char *name) {
    _cleanup_free_ char *path = hai_asprintf("%s/%s", dir, name);

    return access(path, F_OK) == 0;
}

/* Shards and index are the first model's; what is tied is there once. */
TEST(shards_of_the_first)
{
    static const float wanted[PERIOD] = {2, 2, 2, 2};

    scratch_make();
    _cleanup_free_ char *cut = make(&(struct made){
        .name = "cut", .values = {1, 1, 1, 1},
             .tied = true, .shard_bytes = 1000
    });
    _cleanup_free_ char *whole = make(&(struct made){
        .name = "whole", .values = {3, 3, 3, 3},
             .tied = true
    });
    _cleanup_free_ char *out = at("out"), *other = at("other");
    struct blend_model models[] =
        {
            {cut,   0.5},
            {whole, 0.5}
    },
                       turned[] = {{whole, 0.5}, {cut, 0.5}};
    struct hai_err err = {0};
    CHECK_EQ(blend(out, models, 2, K_DTYPE_COUNT, &err), 0, "%s", err.text);
    CHECK_EQ(blend(other, turned, 2, K_DTYPE_COUNT, &err), 0, "%s", err.text);
    check_values(out, wanted, SAFETENSORS_F32, 20, "shards");
    check_values(other, wanted, SAFETENSORS_F32, 20, "one file");
    // Embedding 640, norm 32; a layer 256, 128, 128, 256, 384, 384, 384, 32, 32: cut after q, gate,
    // the layer, o, up.
    CHECK(exists(cut, "model-00006-of-00006.safetensors"));
    CHECK(exists(out, "model-00006-of-00006.safetensors"));
    CHECK(exists(out, "model.safetensors.index.json") && !exists(out, "model.safetensors"));
    CHECK(!exists(other, "model.safetensors.index.json") && exists(other, "model.safetensors"));
    scratch_remove();
}

static int refuse(void *userdata, int64_t n_done, int64_t n_all) {
    return -EINTR;
}

/* Each by name; nothing is left. */
TEST(refusals)
{
    scratch_make();
    _cleanup_free_ char *base = make(&(struct made){
        .name = "base", .values = {1, 1, 1, 60000}
    });
    _cleanup_free_ char *wide = make(&(struct made){.name = "wide", .n_dim = 16});
    _cleanup_free_ char *rope =
        make(&(struct made){.name = "rope", .more = ", \"rope_theta\": 500"});
    _cleanup_free_ char *tied = make(&(struct made){.name = "tied", .tied = true});
    _cleanup_free_ char *less =
        make(&(struct made){.name = "less", .left_out = "model.layers.1.mlp.up_proj.weight"});
    _cleanup_free_ char *large = make(&(struct made){
        .name = "large", .values = {0, 0, 0, 9e4f}
    });
    _cleanup_free_ char *endless = make(&(struct made){
        .name = "endless", .values = {0, INFINITY, 0, 0}
    });
    _cleanup_free_ char *lying = make(&(struct made){.name = "lying"});
    _cleanup_free_ char *eight = at("eight"), *out = at("out");
    _cleanup_free_ char *from = hai_asprintf("%s/model.safetensors", wide),
                        *to = hai_asprintf("%s/model.safetensors", lying);
    struct quantize_result quantized;
    struct hai_err err = {0};
    CHECK_EQ(quantize_folder(MODELS "llama_mha", eight,
                             &(struct quantize_options){.type = QUANTIZE_INT8}, &quantized, &err),
             0, "%s", err.text);
    CHECK_EQ(rename(from, to), 0); // config.json of one, shapes of another
    const struct {
        const char *first, *second;
        int r;
        const char *text, *more;
    } cases[] = {
        {base,               wide,    -EINVAL,  "hidden_size is 16; ", "/base has 8"    },
        {base,               rope,    -EINVAL,  "rope_theta is 500; ", "/base has 10000"},
        {base,               tied,    -EINVAL,  "tie_word_embeddings", "/tied"          },
        {MODELS "qwen2",     base,    -EINVAL,  "model_type is llama", "qwen2 has qwen2"},
        {base,               less,    -ENOENT,  "/less/",              "1.mlp.up_proj"  },
        {less,               base,    -ENOENT,  "/less/",              "1.mlp.up_proj"  },
        {base,               lying,   -EINVAL,  "/lying/",             "has shape"      },
        {base,               endless, -EINVAL,  "no finite number",    "embed_tokens"   },
        {MODELS "llama_mha", eight,   -ENOTSUP, "/eight",              "is quantised"   },
        {MODELS "dsv3_fp8",  base,    -ENOTSUP, "dsv3_fp8",            "is quantised"   },
        {base,               "/none", -ENOENT,  "/none",               ""               },
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct blend_model models[] = {
            {cases[i].first,  0.5},
            {cases[i].second, 0.5}
        };
        err = (struct hai_err){0};
        CHECK_EQ(blend(out, models, 2, K_DTYPE_COUNT, &err), cases[i].r, "%zu: %s", i, err.text);
        CHECK(strstr(err.text, cases[i].text) && strstr(err.text, cases[i].more), "%zu: %s", i,
              err.text);
        CHECK(!exists(out, ""), "%zu", i);
    }
    struct blend_model models[] = {
        {base,  0.5},
        {large, 0.5}
    };
    struct blend_result result;
    CHECK_EQ(blend(out, models, 2, K_F16, &err), -EINVAL); // (60,000 + 90,000) / 2 in float16
    CHECK(strstr(err.text, "too large for F16"), "%s", err.text);
    const struct blend_options stopped = {.dtype = K_DTYPE_COUNT, .on_progress = refuse};
    CHECK_EQ(blend_folders(out, models, 2, &stopped, &result, &err), -EINTR);
    CHECK_EQ(blend(base, models, 2, K_DTYPE_COUNT, &err), -EEXIST);
    CHECK(!exists(out, ""));
    scratch_remove();
}
