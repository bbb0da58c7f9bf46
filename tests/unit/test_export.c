/* Checkpoints as model folders: values, types, shards, averaged weights, what is refused. */
#include "engine/ckpt/export.h"
#include "engine/model/params.h"
#include "kernels/formats.h"
#include "lib/fileio.h"
#include "storage/safetensors.h"
#include "tests/unit/test.h"

#include <math.h>
#include <stdlib.h>

#define MODELS "tests/fixtures/models/"

static char scratch[32];

/* A value of a part: that of a state, tensor and place, with more digits than 16 bits hold. */
static float value(enum ckpt_state state, int tensor, int64_t i) {
    return (float)(1 + state) * (1 + (float)((i * 37 + tensor * 11) % 1000) * 0x1p-12f);
}

struct made {
    const char *model;         // below the fixtures
    enum ckpt_state states[4]; // after the weights
    int n_states;
    bool masters_alone; // no weights of what is trained
    int left_out;       // number of a parameter, or 0: none
    float first;        // instead of the very first value, unless 0
};

/* A checkpoint of step 7, epoch 2, in a new scratch folder. */
static void make(const struct made *m) {
    _cleanup_(params_freep) struct params *params = NULL;
    _cleanup_free_ char *dir = hai_asprintf(MODELS "%s", m->model), *path = NULL;
    const struct ckpt_meta meta = {.step = 7, .epoch = 2, .world = 1, .group_ranks = 1};
    struct model_config config;
    char digest[CKPT_DIGEST_BYTES];
    struct hai_err err = {0};
    size_t n = 0;

    strcpy(scratch, "/tmp/hai-test-XXXXXX");
    assert(mkdtemp(scratch));
    CHECK_EQ(config_read(dir, &config, &err), 0, "%s", err.text);
    CHECK_EQ(params_new(&config, &params, &err), 0, "%s", err.text);
    struct ckpt_part *parts = hai_new_array(struct ckpt_part, 5 * (size_t)params->n);
    for (int i = 0; i < params->n; i++) {
        const struct param *p = &params->items[i];
        for (int s = -1; p->tie == i && s < (p->trained ? m->n_states : 0); s++) {
            enum ckpt_state state = s < 0 ? CKPT_STATE_WEIGHT : m->states[s];
            if ((m->left_out && i == m->left_out) || (m->masters_alone && s < 0 && p->trained))
                continue;
            float *x = hai_new_array(float, (size_t)p->n_elements);
            for (int64_t k = 0; k < p->n_elements; k++)
                x[k] = value(state, i, k);
            if (i == 0 && m->first != 0)
                x[0] = m->first;
            parts[n++] = (struct ckpt_part){
                p->name, state, p->n_dims, {p->shape[0], p->shape[1]},
                   x
            };
        }
    }
    CHECK_EQ(ckpt_save(scratch, &meta, parts, n, &path, digest, &err), 0, "%s", err.text);
    for (size_t i = 0; i < n; i++)
        free(parts[i].data);
    free(parts);
}

static int export_to(const char *name, const struct export_options *options, struct hai_err *err) {
    _cleanup_free_ char *ckpt = hai_asprintf("%s/step-7.E2/", scratch);
    _cleanup_free_ char *out = hai_asprintf("%s/%s", scratch, name);
    struct export_result result;

    int r = export_ckpt(ckpt, out, options, &result, err);
    if (r == 0)
        CHECK_EQ(result.step, 7);
    return r;
}

/* Every tensor that belongs in files is there, of the state, rounded to the type. */
static void check_folder(const char *model, const char *name, enum ckpt_state state,
                         enum safetensors_dtype dtype) {
    _cleanup_free_ char *dir = hai_asprintf(MODELS "%s", model);
    _cleanup_free_ char *out = hai_asprintf("%s/%s", scratch, name);
    _cleanup_(params_freep) struct params *params = NULL;
    _cleanup_(safetensors_freep) struct safetensors *files = NULL;
    struct model_config config;
    struct hai_err err = {0};
    size_t n = 0;

    CHECK_EQ(config_read(out, &config, &err), 0, "%s", err.text);
    CHECK_EQ(params_new(&config, &params, &err), 0, "%s", err.text);
    CHECK_EQ(safetensors_open(out, &files, &err), 0, "%s", err.text);
    for (int i = 0; files && i < params->n; i++) {
        const struct param *p = &params->items[i];
        const struct safetensors_tensor *t = NULL;
        int n_wrong = 0;
        CHECK_EQ(safetensors_find(files, p->name) != NULL, p->in_file, "%s", p->name);
        if (!p->in_file || safetensors_get(files, p->name, p->n_dims, p->shape, &t, &err) < 0)
            continue;
        n++;
        enum safetensors_dtype wanted = p->trained ? dtype : SAFETENSORS_F32;
        CHECK_EQ(t->dtype, wanted, "%s", p->name);
        for (int64_t k = 0; k < p->n_elements && t->dtype == wanted; k++) {
            float x = value(p->trained ? state : CKPT_STATE_WEIGHT, p->tie, k);
            if (wanted == SAFETENSORS_F32)
                n_wrong += ((const float *)t->data)[k] != x;
            else
                n_wrong += ((const uint16_t *)t->data)[k] !=
                           (wanted == SAFETENSORS_BF16 ? k_to_bf16(x) : k_to_f16(x));
        }
        CHECK_EQ(n_wrong, 0, "%s: %s", name, p->name);
    }
    CHECK_EQ(n, files ? safetensors_count(files) : 0, "%s", name);
}

static bool has(const char *name) {
    _cleanup_free_ char *path = hai_asprintf("%s/%s", scratch, name);

    return access(path, F_OK) == 0;
}

static void check_text(const char *name, const char *wanted, const char *unwanted) {
    _cleanup_free_ char *path = hai_asprintf("%s/%s", scratch, name);
    _cleanup_(buf_free) struct buf text = {0};

    CHECK_EQ(fileio_read_file(path, 1 << 20, &text, NULL), 0, "%s", name);
    CHECK(strstr(buf_cstr(&text), wanted), "%s: %s", name, buf_cstr(&text));
    CHECK(!unwanted || !strstr(buf_cstr(&text), unwanted), "%s: %s", name, buf_cstr(&text));
}

TEST(types_and_shards)
{
    static const char *const models[] = {"qwen2_tied", "dsv3", "dsv3_fp8"};
    static const struct {
        enum k_dtype dtype;
        enum safetensors_dtype in_file;
        const char *name, *text;
    } types[] = {
        {K_F32,  SAFETENSORS_F32,  "f32",  "\"torch_dtype\": \"float32\"" },
        {K_BF16, SAFETENSORS_BF16, "bf16", "\"torch_dtype\": \"bfloat16\""},
        {K_F16,  SAFETENSORS_F16,  "f16",  "\"torch_dtype\": \"float16\"" },
    };

    for (size_t m = 0; m < ARRAY_SIZE(models); m++) {
        _cleanup_free_ char *model = hai_asprintf(MODELS "%s", models[m]);
        make(&(struct made){.model = models[m], .states = {CKPT_STATE_EXP_AVG}, .n_states = 1});
        for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
            struct export_options options = {
                .model = model, .dtype = types[i].dtype, .shard_bytes = 1 << 30};
            struct hai_err err = {0};
            _cleanup_free_ char *config = hai_asprintf("%s/config.json", types[i].name);
            _cleanup_free_ char *one = hai_asprintf("%s/model.safetensors", types[i].name);
            _cleanup_free_ char *words = hai_asprintf("%s/tokenizer.json", types[i].name);
            CHECK_EQ(export_to(types[i].name, &options, &err), 0, "%s", err.text);
            check_folder(models[m], types[i].name, CKPT_STATE_WEIGHT, types[i].in_file);
            check_text(config, types[i].text, "quantization_config");
            CHECK(has(one) && has(words));
            CHECK_EQ(export_to(types[i].name, &options, &err), -EEXIST);
        }
        struct export_options cut = {
            .model = model, .dtype = K_BF16, .shard_bytes = 100000, .tokenizer = "bytes"};
        struct hai_err err = {0};
        CHECK_EQ(export_to("cut", &cut, &err), 0, "%s", err.text);
        check_folder(models[m], "cut", CKPT_STATE_WEIGHT, SAFETENSORS_BF16);
        check_text("cut/model.safetensors.index.json", "model-00002-of-00", NULL);
        check_text("cut/tokenizer_config.json", "\"bytes\"", NULL);
        CHECK(!has("cut/model.safetensors"));
        CHECK_EQ(fileio_remove_tree(scratch, NULL), 0);
    }
}

/* Averages where asked for, masters before rounded weights; the newest of several. */
TEST(states)
{
    const struct made both = {
        .model = "dsv3", .states = {CKPT_STATE_MASTER, CKPT_STATE_EMA},
             .n_states = 2
    };
    struct export_options options = {
        .model = MODELS "dsv3/config.json", .dtype = K_F32, .shard_bytes = 1 << 30};
    struct export_result result;
    struct hai_err err = {0};

    make(&both);
    CHECK_EQ(export_to("master", &options, &err), 0, "%s", err.text);
    check_folder("dsv3", "master", CKPT_STATE_MASTER, SAFETENSORS_F32);
    CHECK(!has("master/tokenizer.json")); // a config.json alone brings none
    options.ema = true;
    CHECK_EQ(export_to("ema", &options, &err), 0, "%s", err.text);
    check_folder("dsv3", "ema", CKPT_STATE_EMA, SAFETENSORS_F32);
    _cleanup_free_ char *out = hai_asprintf("%s/newest", scratch);
    CHECK_EQ(export_ckpt(scratch, out, &options, &result, &err), 0, "%s", err.text);
    CHECK_EQ(result.step, 7);
    CHECK_EQ(fileio_remove_tree(scratch, NULL), 0);
}

/* As training in few bits saves them: what is trained as masters, the rest as weights. */
TEST(masters_without_rounded_weights)
{
    const struct made alone = {
        .model = "dsv3", .states = {CKPT_STATE_MASTER}, .n_states = 1, .masters_alone = true};
    const struct export_options options = {
        .model = MODELS "dsv3/config.json", .dtype = K_F32, .shard_bytes = 1 << 30};
    struct hai_err err = {0};

    make(&alone);
    CHECK_EQ(export_to("alone", &options, &err), 0, "%s", err.text);
    check_folder("dsv3", "alone", CKPT_STATE_MASTER, SAFETENSORS_F32);
    CHECK_EQ(fileio_remove_tree(scratch, NULL), 0);
}

static int stop(void *userdata, int64_t n_done, int64_t n_all) {
    return -EINTR;
}

TEST(refusals)
{
    static const struct {
        struct made made;
        struct export_options options;
        int r;
        const char *text;
    } cases[] = {
        {{.model = "qwen2"},
         {.model = MODELS "qwen2", .ema = true},
         -ENODATA,
         "no averaged weights"                                                                                       },
        {{.model = "qwen2"},                    {.model = MODELS "llama_mha"},                   -EINVAL, "has shape"},
        {{.model = "qwen2", .left_out = 5},
         {.model = MODELS "qwen2"},
         -EINVAL,
         "no tensor 'weight/"                                                                                        },
        {{.model = "qwen2"},                    {.model = MODELS "qwen2_tied"},                  -EINVAL, "has"      },
        {{.model = "qwen2"},                    {.model = MODELS "none"},                        -ENOENT, "none"     },
        {{.model = "qwen2"},                    {.model = MODELS "qwen2", .tokenizer = "/none"}, -ENOENT, "/none"    },
        {{.model = "qwen2", .first = INFINITY}, {.model = MODELS "qwen2"},                       -EINVAL, "no finite"},
        {{.model = "qwen2", .first = 7e4f},
         {.model = MODELS "qwen2", .dtype = K_F16},
         -EINVAL,
         "too large for F16"                                                                                         },
        {{.model = "qwen2"},                    {.model = MODELS "qwen2", .on_progress = stop},  -EINTR,  "stopped"  },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct export_options options = cases[i].options;
        struct hai_err err = {0};
        make(&cases[i].made);
        options.shard_bytes = 1 << 30;
        CHECK_EQ(export_to("out", &options, &err), cases[i].r, "%zu: %s", i, err.text);
        CHECK(strstr(err.text, cases[i].text), "%zu: %s", i, err.text);
        CHECK(!has("out"), "%zu", i);
        CHECK_EQ(fileio_remove_tree(scratch, NULL), 0);
    }
}

/* What is damaged is not taken. */
TEST(other_checkpoints)
{
    struct export_options options = {
        .model = MODELS "qwen2", .dtype = K_F32, .shard_bytes = 1 << 30};
    struct hai_err err = {0};

    make(&(struct made){.model = "qwen2"});
    _cleanup_free_ char *part = hai_asprintf("%s/step-7.E2/part-00000.safetensors", scratch);
    FILE *f = fopen(part, "r+");
    CHECK(f && fseek(f, -5, SEEK_END) == 0 && fputc(1, f) == 1 && fclose(f) == 0);
    CHECK_EQ(export_to("out", &options, &err), -EBADMSG);
    CHECK(strstr(err.text, "damaged"), "%s", err.text);
    CHECK_EQ(fileio_remove_tree(scratch, NULL), 0);
}
