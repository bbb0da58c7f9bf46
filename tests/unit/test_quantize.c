/* Quantised weights: the search for scales beside a plain one, folders written and read, files that
 * lie. */
#include "engine/model/load.h"
#include "engine/model/quantize.h"
#include "engine/model/source.h"
#include "kernels/formats.h"
#include "kernels/quantscale.h"
#include "lib/fileio.h"
#include "tests/unit/test.h"

#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>

enum { GROUP = K_QUANT_GROUP, PANEL = K_QUANT_PANEL };

static uint32_t state = 1;

static float uniform(void) {
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) * 0x1p-24f;
}

/* Numbers of every size, runs of zeros, ties. */
static float some(int round) {
    float x = uniform() + uniform() + uniform() - 1.5f;

    if (round % 5 == 1)
        return floorf(x * 8);
    if (round % 5 == 2 && uniform() < 0.5f)
        return 0;
    return round % 5 == 3 ? x * 1e-6f : round % 5 == 4 ? x * x * x * 300 : x;
}

/* One candidate, as quant.h says it: codes, and their error. */
static double try_scale(const float *w, const float *importance, float scale, int low, int high,
                        int8_t *codes) {
    float inverse = scale != 0 ? 1 / scale : 0;
    double error = 0;

    for (int k = 0; k < GROUP; k++) {
        float x = w[k] * inverse;
        x = x < (float)low ? (float)low : x > (float)high ? (float)high : x;
        codes[k] = (int8_t)rintf(x);
        double d = (double)w[k] - (double)codes[k] * (double)scale;
        error += d * d * (importance ? (double)importance[k] : 1);
    }
    return error;
}

static uint16_t plain_search(enum k_dtype dtype, const float *w, const float *importance,
                             int8_t *codes) {
    int low = dtype == K_Q8 ? -127 : -8, high = dtype == K_Q8 ? 127 : 7;
    float largest = 0;
    int8_t tried[GROUP];

    for (int k = 0; k < GROUP; k++)
        largest = fabsf(w[k]) > fabsf(largest) ? w[k] : largest;
    uint16_t best = k_to_f16(dtype == K_Q8 ? fabsf(largest) / 127 : largest / -8);
    double least = try_scale(w, importance, k_from_f16(best), low, high, codes);
    for (int t = -8; t <= 8 && dtype == K_Q4; t++) {
        uint16_t scale = k_to_f16(largest / (-8 + 0.15f * (float)t));
        double error = try_scale(w, importance, k_from_f16(scale), low, high, tried);
        if (error < least) {
            least = error;
            best = scale;
            memcpy(codes, tried, sizeof tried);
        }
    }
    return best;
}

TEST(every_path_finds_the_same_scales)
{
    static const char *const paths[] = {"plain", "avx2", "avx512"};

    for (int round = 0; round < 400; round++) {
        float w[GROUP][PANEL], importance[GROUP], row[GROUP];
        int8_t codes[GROUP][PANEL], expected[GROUP];
        uint16_t scale[PANEL];
        enum k_dtype dtype = round % 4 == 0 ? K_Q8 : K_Q4;
        const float *weights = round % 2 ? importance : NULL;
        for (int k = 0; k < GROUP; k++) {
            importance[k] = uniform() < 0.1f ? 0 : uniform();
            for (int o = 0; o < PANEL; o++)
                w[k][o] = some(round + o % 2);
        }
        for (size_t p = 0; p < ARRAY_SIZE(paths); p++) {
            if (!quantscale_group_on(paths[p], dtype, w, weights, codes, scale))
                continue;
            for (int o = 0; o < PANEL; o++) {
                int wrong = 0;
                for (int k = 0; k < GROUP; k++)
                    row[k] = w[k][o];
                CHECK_EQ(scale[o], plain_search(dtype, row, weights, expected), "%s round %d",
                         paths[p], round);
                for (int k = 0; k < GROUP; k++)
                    wrong += codes[k][o] != expected[k];
                CHECK_EQ(wrong, 0, "%s round %d", paths[p], round);
            }
        }
    }
}

static void scratch_make(char *ret) {
    strcpy(ret, "/tmp/hai-test-XXXXXX");
    assert(mkdtemp(ret));
}

static int quantize(const char *in, const char *out, enum quantize_type type, int n_threads,
                    bool embedding, struct hai_err *err) {
    struct k_pool *pool = NULL;
    struct quantize_options options = {.type = type, .embedding = embedding};
    struct quantize_result result;

    if (n_threads > 1)
        CHECK_EQ(pool_new(n_threads, &pool, err), 0);
    options.pool = pool;
    int r = quantize_folder(in, out, &options, &result, err);
    pool_free(pool);
    return r;
}

/* Relative RMS difference of a parameter's values in two folders, or -1. */
static double difference(const struct safetensors *a, const struct safetensors *b,
                         const struct param *p) {
    struct source from[2];
    struct hai_err err = {0};
    _cleanup_free_ float *x = hai_new_array(float, (size_t)p->n_elements);
    _cleanup_free_ float *y = hai_new_array(float, (size_t)p->n_elements);
    double sum = 0, all = 1e-30;

    if (source_find(a, p, &from[0], &err) < 0 || source_find(b, p, &from[1], &err) < 0) {
        CHECK(false, "%s: %s", p->name, err.text);
        return -1;
    }
    source_read(&from[0], 0, p->n_elements, x);
    source_read(&from[1], 0, p->n_elements, y);
    for (int64_t i = 0; i < p->n_elements; i++) {
        sum += pow((double)x[i] - (double)y[i], 2);
        all += pow((double)x[i], 2);
    }
    return sqrt(sum / all);
}

static void compare_folders(const char *in, const char *out, double bound, int n_quantized) {
    _cleanup_(safetensors_freep) struct safetensors *a = NULL, *b = NULL;
    _cleanup_(params_freep) struct params *params = NULL;
    struct model_config config;
    struct hai_err err = {0};
    int n = 0;

    CHECK_EQ(safetensors_open(in, &a, &err), 0, "%s", err.text);
    CHECK_EQ(safetensors_open(out, &b, &err), 0, "%s", err.text);
    CHECK_EQ(config_read(out, &config, &err), 0, "%s", err.text);
    if (!a || !b || params_new(&config, &params, &err) < 0)
        return;
    for (int i = 0; i < params->n; i++) {
        const struct param *p = &params->items[i];
        bool quantized = source_is_quantized(b, p);
        if (p->tie != i)
            continue;
        double d = difference(a, b, p);
        CHECK(d >= 0 && d < (quantized ? bound : 2.5e-3), "%s %s: %g", out, p->name, d);
        n += quantized;
    }
    CHECK_EQ(n, n_quantized, "%s", out);
    for (size_t i = 0; i < safetensors_count(b); i++) {
        const struct safetensors_tensor *t = safetensors_at(b, i);
        size_t n_name;
        CHECK(!source_is_part(t->name, &n_name) || (uintptr_t)t->data % 64 == 0, "%s", t->name);
    }
}

static bool same_file(const char *a, const char *b, const char *name) {
    _cleanup_free_ char *path_a = hai_asprintf("%s/%s", a, name);
    _cleanup_free_ char *path_b = hai_asprintf("%s/%s", b, name);
    _cleanup_(buf_free) struct buf x = {0}, y = {0};
    struct hai_err err = {0};

    CHECK_EQ(fileio_read_file(path_a, 1 << 26, &x, &err), 0, "%s", err.text);
    CHECK_EQ(fileio_read_file(path_b, 1 << 26, &y, &err), 0, "%s", err.text);
    return x.n_bytes == y.n_bytes && memcmp(x.data, y.data, x.n_bytes) == 0;
}

/* A folder's bytes do not depend on threads, values are near, and back again. */
TEST(folders)
{
    static const struct {
        const char *model;
        int n_quantized; // matrices
        bool embedding;
    } cases[] = {
        {"llama_gqa",    29, false}, // three shards, an index, unused tensors
        {"deepseek_moe", 84, false},
        {"dsv3_fp8_act", 49, false}, // kv_b_proj in halves
        {"dsv3_fp8",     71, false}, // 8-bit floats stay or become bf16
        {"qwen2_tied",   22, true },
    };
    static const double bounds[] = {[QUANTIZE_INT8] = 0.009, [QUANTIZE_INT4] = 0.11};
    char dir[32];
    struct hai_err err = {0};

    scratch_make(dir);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        for (int type = QUANTIZE_INT8; type <= QUANTIZE_INT4; type++) {
            _cleanup_free_ char *in = hai_asprintf("tests/fixtures/models/%s", cases[i].model);
            _cleanup_free_ char *one = hai_asprintf("%s/one", dir);
            _cleanup_free_ char *three = hai_asprintf("%s/three", dir);
            _cleanup_free_ char *back = hai_asprintf("%s/back", dir);
            CHECK_EQ(quantize(in, one, type, 1, cases[i].embedding, &err), 0, "%s", err.text);
            CHECK_EQ(quantize(in, three, type, 3, cases[i].embedding, &err), 0, "%s", err.text);
            CHECK(same_file(one, three, "model.safetensors"), "%s", in);
            CHECK(same_file(in, one, "tokenizer.json"), "%s", in);
            compare_folders(in, one, bounds[type], cases[i].n_quantized);
            CHECK_EQ(quantize(one, back, QUANTIZE_BF16, 2, false, &err), 0, "%s", err.text);
            compare_folders(one, back, 2e-3, 0);
            CHECK_EQ(quantize(in, one, type, 1, false, &err), -EEXIST);
            fileio_remove_tree(one, NULL);
            fileio_remove_tree(three, NULL);
            fileio_remove_tree(back, NULL);
        }
    CHECK_EQ(rmdir(dir), 0);
}

/* Bits of the nearest E4M3 number, looked for among all of them; ties to the even code. */
static uint8_t nearest_e4m3(double x) {
    uint8_t best = 0;

    for (int code = 0; code < 255; code++) {
        double d = fabs((double)k_from_e4m3((uint8_t)code) - x);
        double least = fabs((double)k_from_e4m3(best) - x);
        if ((code & 0x7f) != 0x7f && (d < least || (d == least && code % 2 == 0 && best % 2)))
            best = (uint8_t)code;
    }
    return x < 0 && best == 0 ? 0x80 : best;
}

/* A value of a plain parameter as it should be in FP8, in double but for the stated divisions. */
static void check_fp8(const struct param *p, const struct source *from, const struct source *to) {
    int64_t n_out = p->shape[0], n_in = p->shape[1], n_blocks = (n_in + 127) / 128, n_wrong = 0;
    _cleanup_free_ float *x = hai_new_array(float, (size_t)p->n_elements);
    _cleanup_free_ float *amax = hai_new_array(float, (size_t)((n_out + 127) / 128 * n_blocks));
    const uint8_t *codes = to->data;

    CHECK_EQ(to->dtype, K_E4M3, "%s", p->name);
    if (to->dtype != K_E4M3)
        return;
    source_read(from, 0, p->n_elements, x);
    for (int64_t i = 0; i < p->n_elements; i++) {
        int64_t block = i / n_in / 128 * n_blocks + i % n_in / 128;
        amax[block] = fmaxf(amax[block], fabsf(x[i]));
    }
    for (int64_t i = 0; i < p->n_elements; i++) {
        int64_t block = i / n_in / 128 * n_blocks + i % n_in / 128;
        float scale = amax[block] > 0 ? amax[block] / 448 : 1;
        n_wrong += ((const float *)to->scale)[block] != scale;
        n_wrong += codes[i] != nearest_e4m3((double)(x[i] / scale)) && (codes[i] & 0x7f) != 0;
        n_wrong += (codes[i] & 0x7f) == 0 && (double)fabsf(x[i] / scale) > 0x1p-10;
    }
    CHECK_EQ(n_wrong, 0, "%s", p->name);
}

/* 8-bit floats are those of a plain reference, in the matrices of layers; the folder says so, its
 * bytes do not depend on threads; it is not made twice. */
TEST(fp8_folders)
{
    static const struct {
        const char *model;
        int n_fp8;
    } cases[] = {
        {"llama_gqa",    28 },
        {"deepseek_moe", 117},
        {"qwen2_tied",   21 },
        {"dsv3",         184},
    };
    char dir[32];

    scratch_make(dir);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_free_ char *in = hai_asprintf("tests/fixtures/models/%s", cases[i].model);
        _cleanup_free_ char *one = hai_asprintf("%s/one", dir);
        _cleanup_free_ char *three = hai_asprintf("%s/three", dir);
        _cleanup_(safetensors_freep) struct safetensors *a = NULL, *b = NULL;
        _cleanup_(params_freep) struct params *params = NULL;
        struct model_config config;
        struct hai_err err = {0};
        int n = 0;
        CHECK_EQ(quantize(in, one, QUANTIZE_FP8, 1, false, &err), 0, "%s", err.text);
        CHECK_EQ(quantize(in, three, QUANTIZE_FP8, 3, false, &err), 0, "%s", err.text);
        CHECK(same_file(one, three, "model.safetensors"), "%s", in);
        fileio_remove_tree(three, NULL);
        CHECK_EQ(quantize(one, three, QUANTIZE_FP8, 1, false, &err), -EINVAL);
        CHECK(strstr(err.text, "in fp8 already"), "%s", err.text);
        CHECK_EQ(safetensors_open(in, &a, &err), 0, "%s", err.text);
        CHECK_EQ(safetensors_open(one, &b, &err), 0, "%s", err.text);
        CHECK_EQ(config_read(one, &config, &err), 0, "%s", err.text);
        CHECK(config.fp8 && !config.fp8_power_of_two, "%s", one);
        CHECK_EQ(params_new(&config, &params, &err), 0, "%s", err.text);
        for (int k = 0; k < params->n; k++) {
            const struct param *p = &params->items[k];
            struct source from, to;
            if (!p->in_file)
                continue;
            CHECK_EQ(source_find(a, p, &from, &err), 0, "%s", err.text);
            CHECK_EQ(source_find(b, p, &to, &err), 0, "%s", err.text);
            n += to.dtype == K_E4M3;
            if (params_is_fp8(&params->items[p->tie]))
                check_fp8(p, &from, &to);
            else
                CHECK(to.dtype == from.dtype &&
                          memcmp(to.data, from.data,
                                 (size_t)p->n_elements * k_dtype_bytes(to.dtype)) == 0,
                      "%s", p->name);
        }
        CHECK_EQ(n, cases[i].n_fp8, "%s", in);
        fileio_remove_tree(one, NULL);
    }
    CHECK_EQ(rmdir(dir), 0);
}

/* What a file may say of the matrix w [16, 32], whose two heads have 2 rows of keys and 6 of
 * values; its halves cannot be quantised, so their names are. */
struct said {
    const char *name;
    enum safetensors_dtype dtype;
    int n_dims;
    int64_t shape[2];
};

static const struct {
    struct said tensors[3];
    const char *layout;
    int r;
    const char *says;
} lies[] = {
    {{{"w.q8", SAFETENSORS_U8, 1, {512}}, {"w.scale", SAFETENSORS_F16, 1, {32}}},         "1", 0,        NULL                 },
    {{{"w.q4", SAFETENSORS_U8, 1, {256}}, {"w.scale", SAFETENSORS_F16, 1, {32}}},         "1", 0,        NULL                 },
    {{{"w.q8", SAFETENSORS_U8, 1, {512}}, {"w.scale", SAFETENSORS_F16, 1, {32}}},
     "2",                                                                                      -ENOTSUP,
     "layout 2; expected 1"                                                                                                   },
    {{{"w.q8", SAFETENSORS_U8, 1, {512}}, {"w.scale", SAFETENSORS_F16, 1, {32}}},
     NULL,                                                                                     -ENOTSUP,
     "layout unknown"                                                                                                         },
    {{{"w.q8", SAFETENSORS_U8, 1, {512}}},                                                "1", -ENOENT,  "no tensor 'w.scale'"},
    {{{"w.q8", SAFETENSORS_U8, 1, {256}}, {"w.scale", SAFETENSORS_F16, 1, {32}}},
     "1",                                                                                      -EINVAL,
     "shape [256]; expected [512]"                                                                                            },
    {{{"w.q8", SAFETENSORS_U8, 1, {512}}, {"w.scale", SAFETENSORS_F16, 1, {16}}},
     "1",                                                                                      -EINVAL,
     "shape [16]; expected [32]"                                                                                              },
    {{{"w.q8", SAFETENSORS_U8, 2, {16, 32}}, {"w.scale", SAFETENSORS_F16, 1, {32}}},
     "1",                                                                                      -EINVAL,
     "expected [512]"                                                                                                         },
    {{{"w.q8", SAFETENSORS_I8, 1, {512}}, {"w.scale", SAFETENSORS_F16, 1, {32}}},
     "1",                                                                                      -ENOTSUP,
     "type I8; expected U8"                                                                                                   },
    {{{"w.q8", SAFETENSORS_U8, 1, {512}}, {"w.scale", SAFETENSORS_BF16, 1, {32}}},
     "1",                                                                                      -ENOTSUP,
     "type BF16; expected F16"                                                                                                },
    {{{"w.q8", SAFETENSORS_U8, 1, {512}},
      {"w.scale", SAFETENSORS_F16, 1, {32}},
      {"w", SAFETENSORS_BF16, 2, {16, 32}}},
     "1",                                                                                      -EINVAL,
     "twice"                                                                                                                  },
    {{{"w.keys.q8", SAFETENSORS_U8, 2, {2, 64}}},                                         "1", -EINVAL,  "no whole groups"    },
    {{{"w_scale_inv", SAFETENSORS_F32, 2, {1, 1}}, {"w", SAFETENSORS_BF16, 2, {16, 32}}},
     "1",                                                                                      -EINVAL,
     "not in 8-bit floats"                                                                                                    },
};

TEST(lies)
{
    static const uint8_t zeros[4096];
    const struct param p = {
        .name = "w",
        .n_dims = 2,
        .shape = {16, 32},
        .n_elements = 512,
        .n_heads = 2,
        .n_key_rows = 2
    };
    char dir[32];

    scratch_make(dir);
    _cleanup_free_ char *path = hai_asprintf("%s/model.safetensors", dir);
    for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
        _cleanup_(safetensors_freep) struct safetensors *files = NULL;
        struct safetensors_tensor tensors[3];
        const char *metadata[] = {lies[i].layout ? SOURCE_LAYOUT_KEY : NULL, lies[i].layout, NULL};
        struct source source;
        struct hai_err err = {0};
        size_t n = 0;
        for (; n < 3 && lies[i].tensors[n].name; n++) {
            const struct said *s = &lies[i].tensors[n];
            tensors[n] = (struct safetensors_tensor){
                .name = s->name,
                .dtype = s->dtype,
                .n_dims = s->n_dims,
                .data = zeros,
                .shape = {s->shape[0], s->shape[1]},
                .n_bytes = safetensors_dtype_bytes(s->dtype) *
                           (size_t)(s->shape[0] * MAX(s->shape[1], (int64_t)1))
            };
        }
        CHECK_EQ(safetensors_write(path, tensors, n, metadata, &err), 0, "%s", err.text);
        CHECK_EQ(safetensors_open(path, &files, &err), 0, "%s", err.text);
        CHECK_EQ(source_find(files, &p, &source, &err), lies[i].r, "%zu: %s", i, err.text);
        if (lies[i].says)
            CHECK(strstr(err.text, lies[i].says), "%zu: %s", i, err.text);
    }
    unlink(path);
    CHECK_EQ(rmdir(dir), 0);
}

/* A matrix of numbers that no scale holds is refused, and nothing is left behind. */
TEST(refused_values)
{
    static const char in[] = "tests/fixtures/models/qwen2_tied";
    static const uint32_t bad[] = {0x7fc00000, 0x7f800000, 0x7f000000};
    char dir[32];

    scratch_make(dir);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        _cleanup_(buf_free) struct buf file = {0};
        _cleanup_(safetensors_freep) struct safetensors *files = NULL;
        _cleanup_free_ char *model = hai_asprintf("%s/model", dir);
        _cleanup_free_ char *weights = hai_asprintf("%s/model.safetensors", model);
        _cleanup_free_ char *config = hai_asprintf("%s/config.json", model);
        _cleanup_free_ char *out = hai_asprintf("%s/out", dir);
        struct hai_err err = {0};
        CHECK_EQ(fileio_read_file("tests/fixtures/models/qwen2_tied/model.safetensors", 1 << 26,
                                  &file, &err),
                 0);
        CHECK_EQ(safetensors_open(in, &files, &err), 0);
        const struct safetensors_tensor *t =
            safetensors_find(files, "model.layers.1.mlp.up_proj.weight");
        const struct safetensors_tensor *first = safetensors_at(files, 0);
        assert(t);
        for (size_t k = 0; k < safetensors_count(files); k++)
            if (safetensors_at(files, k)->data < first->data)
                first = safetensors_at(files, k);
        size_t n_header = file.data[0] + 256u * file.data[1];
        memcpy(file.data + 8 + n_header + ((const char *)t->data - (const char *)first->data) + 12,
               &bad[i], 4);
        CHECK_EQ(fileio_mkdir_p(model, 0777, &err), 0);
        CHECK_EQ(fileio_replace(weights, file.data, file.n_bytes, 0644, &err), 0);
        buf_free(&file);
        file = (struct buf){0};
        CHECK_EQ(
            fileio_read_file("tests/fixtures/models/qwen2_tied/config.json", 1 << 20, &file, &err),
            0);
        CHECK_EQ(fileio_replace(config, file.data, file.n_bytes, 0644, &err), 0);
        CHECK_EQ(quantize(model, out, QUANTIZE_INT8, 2, false, &err), -EINVAL);
        CHECK(strstr(err.text, "model.layers.1.mlp.up_proj.weight"), "%s", err.text);
        fileio_remove_tree(model, NULL);
        CHECK(rmdir(dir) == 0 && mkdir(dir, 0777) == 0, "something is left behind");
    }
    CHECK_EQ(rmdir(dir), 0);
}
