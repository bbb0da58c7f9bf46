#include "engine/model/quantize.h"
#include "engine/model/blocks.h"
#include "engine/model/folder.h"
#include "engine/model/load.h"
#include "engine/model/source.h"
#include "engine/model/weightsfile.h"
#include "kernels/formats.h"
#include "kernels/quant.h"
#include "lib/fileio.h"
#include "lib/json.h"

#include <float.h>
#include <inttypes.h>
#include <stdio.h>

enum {
    ROWS = K_QUANT_PANEL,      // of one piece of work
    COPY_VALUES_MAX = 1 << 22, // of plain values converted at a time
    NAME_BYTES = PARAM_NAME_BYTES + 16,
    PARTS_MAX = 4, // tensors of one matrix
    KEPT_MAX = 256,
};

static const float value_max = 65504.0f * 7; // float16's largest times the smaller largest code

static const char *const type_names[QUANTIZE_TYPE_COUNT] = {
    [QUANTIZE_INT8] = "int8",
    [QUANTIZE_INT4] = "int4",
    [QUANTIZE_BF16] = "bf16",
    [QUANTIZE_FP8] = "fp8",
};

const char *quantize_type_name(enum quantize_type type) {
    assert(type < QUANTIZE_TYPE_COUNT);
    return type_names[type];
}

int quantize_type_parse(const char *text, enum quantize_type *ret) {
    for (int i = 0; i < QUANTIZE_TYPE_COUNT; i++)
        if (hai_streq(text, type_names[i])) {
            *ret = (enum quantize_type)i;
            return 0;
        }
    return -EINVAL;
}

enum form {
    FORM_WHOLE,  // quantised
    FORM_HALVES, // quantised, keys and values apart
    FORM_COPY,   // as it is
    FORM_BF16,
    FORM_SCALES, // of 8-bit floats, an item before that of the codes
    FORM_CODES,
};

/* A parameter of the output, and its tensors there. */
struct item {
    const struct param *p;
    struct source source;
    enum form form;
    enum k_dtype dtype; // of FORM_WHOLE and FORM_HALVES
    int n_tensors;
};

struct job {
    const struct quantize_options *options;
    struct model_config config;
    struct params *params;
    struct safetensors *files;
    struct item *items;
    int n_items;
    struct weightsfile *file; // tensors of the items in order
};

static void job_free(struct job *job) {
    weightsfile_free(job->file);
    free(job->items);
    safetensors_free(job->files);
    params_free(job->params);
}

static bool is_embedding(const struct param *p) {
    return hai_streq(p->name, "model.embed_tokens.weight");
}

/* Does OUT hold what other engines read, copies included? */
static bool is_published(const struct job *job) {
    return job->options->type == QUANTIZE_BF16 || job->options->type == QUANTIZE_FP8;
}

/* What becomes of a parameter. */
static void choose_form(const struct job *job, struct item *item) {
    const struct param *p = item->p;
    enum k_dtype from = item->source.dtype;
    bool plain = from == K_F32 || from == K_BF16 || from == K_F16;
    bool wanted = p->n_dims == 2 && !is_published(job) && !params_is_router(p) &&
                  (!is_embedding(p) || job->options->embedding);

    bool wide = is_embedding(p) || (job->options->head && hai_streq(p->name, "lm_head.weight"));
    item->dtype = job->options->type == QUANTIZE_INT4 && !wide ? K_Q4 : K_Q8;
    if (wanted && p->n_heads)
        item->form =
            p->shape[1] % K_QUANT_GROUP || p->n_key_rows % K_QUANT_GROUP ? FORM_COPY : FORM_HALVES;
    else
        item->form = wanted && p->shape[1] % K_QUANT_GROUP == 0 ? FORM_WHOLE : FORM_COPY;
    if (item->form == FORM_COPY &&
        (!plain || (p->n_dims == 2 && job->options->type == QUANTIZE_BF16 && from != K_BF16)))
        item->form = FORM_BF16;
    if (job->options->type == QUANTIZE_FP8 && params_is_fp8(&job->params->items[p->tie]))
        item->form = FORM_CODES;
}

static void plan_item(struct job *job, struct item *item) {
    const struct param *p = item->p;
    int64_t n_out = p->shape[0], n_in = p->shape[p->n_dims - 1];
    size_t n = weightsfile_count(job->file);

    if (item->form == FORM_WHOLE) {
        weightsfile_plan_quant(job->file, p, "", item->dtype, 0, n_out, n_in);
    } else if (item->form == FORM_HALVES) {
        weightsfile_plan_quant(job->file, p, ".keys", item->dtype, p->n_heads, n_in, p->n_key_rows);
        weightsfile_plan_quant(job->file, p, ".values", item->dtype, p->n_heads,
                               n_out / p->n_heads - p->n_key_rows, n_in);
    } else if (item->form == FORM_SCALES) {
        weightsfile_plan_scales(job->file, p);
    } else if (item->form == FORM_CODES) {
        weightsfile_plan(job->file, p, K_E4M3);
    } else {
        weightsfile_plan(job->file, p, item->form == FORM_BF16 ? K_BF16 : item->source.dtype);
    }
    item->n_tensors = (int)(weightsfile_count(job->file) - n);
}

/* In the order that weightsfile.h asks for. */
static int rank_of(const struct item *item) {
    if (item->form == FORM_WHOLE || item->form == FORM_HALVES)
        return 0;
    if (item->form == FORM_SCALES || (item->form == FORM_COPY && item->source.dtype == K_F32))
        return 1;
    return item->form == FORM_CODES ? 3 : 2;
}

static int plan_items(struct job *job, struct hai_err *err) {
    struct item *all = hai_new_array(struct item, 2 * (size_t)job->params->n);
    bool published = is_published(job);
    int n = 0, r = 0;

    job->items = hai_new_array(struct item, 2 * (size_t)job->params->n);
    job->file = weightsfile_new((size_t)job->params->n * PARTS_MAX, job->options->on_progress,
                                job->options->userdata);
    for (int i = 0; i < job->params->n && r == 0; i++) {
        const struct param *p = &job->params->items[i], *owner = &job->params->items[p->tie];
        bool own_head = !published && !p->in_file && !job->options->embedding;
        if (p->tie != i && !(published && p->in_file) && !own_head)
            continue;
        all[n].p = p;
        r = source_find(job->files, owner, &all[n].source, err);
        if (r < 0)
            break;
        choose_form(job, &all[n]);
        if (all[n].form == FORM_CODES) {
            all[n + 1] = all[n];
            all[n++].form = FORM_SCALES;
        }
        n += p->tie == i || p->in_file || all[n].form == FORM_WHOLE;
    }
    for (int rank = 0; rank < 4 && r == 0; rank++)
        for (int i = 0; i < n; i++)
            if (rank_of(&all[i]) == rank) {
                job->items[job->n_items] = all[i];
                plan_item(job, &job->items[job->n_items++]);
            }
    free(all);
    return r;
}

/* One tensor's work, shared by the pool's threads. */
struct work {
    const struct item *item;
    const float *importance, *key_importance;
    uint8_t *data[2], *scale[2]; // whole; or of keys, values
    float *rows;                 // [n_threads, n_row_values]
    int64_t n_row_values;
    bool *bad; // [n_threads]: a value cannot be quantised
};

static bool is_sound(const float *x, int64_t n) {
    bool sound = true;

    for (int64_t i = 0; i < n; i++)
        sound &= x[i] <= value_max && x[i] >= -value_max;
    return sound;
}

static void pack_rows(void *arg, int64_t piece, int thread) {
    const struct work *w = arg;
    const struct param *p = w->item->p;
    int64_t n_in = p->shape[1], first = piece * ROWS, n = MIN(p->shape[0] - first, (int64_t)ROWS);
    float *rows = w->rows + thread * w->n_row_values;

    source_read(&w->item->source, first * n_in, n * n_in, rows);
    w->bad[thread] |= !is_sound(rows, n * n_in);
    k_quant_pack(w->item->dtype, rows, n, n_in, w->importance,
                 w->data[0] + k_quant_bytes(w->item->dtype, first, n_in),
                 (uint16_t *)(void *)(w->scale[0] + k_quant_scale_bytes(first, n_in)));
}

/* One head: its keys transposed, its values as they are. */
static void pack_head(void *arg, int64_t head, int thread) {
    const struct work *w = arg;
    const struct item *item = w->item;
    int64_t n_in = item->p->shape[1], n_keys = item->p->n_key_rows,
            n_rows = item->p->shape[0] / item->p->n_heads, n_values = n_rows - n_keys;
    float *rows = w->rows + thread * w->n_row_values, *turned = rows + n_rows * n_in;

    source_read(&item->source, head * n_rows * n_in, n_rows * n_in, rows);
    w->bad[thread] |= !is_sound(rows, n_rows * n_in);
    for (int64_t k = 0; k < n_keys; k++)
        for (int64_t i = 0; i < n_in; i++)
            turned[i * n_keys + k] = rows[k * n_in + i];
    k_quant_pack(item->dtype, turned, n_in, n_keys,
                 w->key_importance ? w->key_importance + head * n_keys : NULL,
                 w->data[0] + head * source_data_bytes(item->dtype, n_in, n_keys),
                 (uint16_t *)(void *)(w->scale[0] + head * source_scale_bytes(n_in, n_keys)));
    k_quant_pack(item->dtype, rows + n_keys * n_in, n_values, n_in, w->importance,
                 w->data[1] + head * source_data_bytes(item->dtype, n_values, n_in),
                 (uint16_t *)(void *)(w->scale[1] + head * source_scale_bytes(n_values, n_in)));
}

/* n weights of errors; NULL stays where the file has none. */
static int find_importance(const struct job *job, const struct item *item, const char *end,
                           int64_t n, const float **ret, struct hai_err *err) {
    const struct safetensors *files = job->options->importance;
    const struct safetensors_tensor *t = NULL;
    char name[NAME_BYTES];

    (void)snprintf(name, sizeof name, "%s%s", item->p->name, end);
    if (!files || !safetensors_find(files, name))
        return 0;
    int r = safetensors_get(files, name, 1, &n, &t, err);
    if (r < 0)
        return r;
    const float *values = t->data;
    for (int64_t i = 0; i < n && t->dtype == SAFETENSORS_F32; i++)
        if (!(values[i] >= 0 && values[i] < 1e30f))
            return hai_fail(err, -EINVAL, "%s: %s holds what is no weight of an error",
                            safetensors_path(files, t), name);
    if (t->dtype != SAFETENSORS_F32)
        return hai_fail(err, -EINVAL, "%s: %s has type %s; expected F32",
                        safetensors_path(files, t), name, safetensors_dtype_name(t->dtype));
    *ret = values;
    return 0;
}

/* Quantise into memory, then write. first: number of the item's first tensor. */
static int write_quantized(struct job *job, const struct item *item, size_t first,
                           struct hai_err *err) {
    const struct param *p = item->p;
    bool halves = item->form == FORM_HALVES;
    int64_t n_in = p->shape[1];
    size_t n_threads = (size_t)pool_n_threads(job->options->pool), n_bytes = 0;
    struct work w = {.item = item};

    for (int i = 0; i < item->n_tensors; i++)
        n_bytes += weightsfile_bytes(job->file, first + (size_t)i);
    w.n_row_values = halves ? 2 * p->shape[0] / p->n_heads * n_in : ROWS * n_in;
    int r = find_importance(job, item, halves ? ".values" : "", n_in, &w.importance, err);
    if (r == 0 && halves)
        r = find_importance(job, item, ".keys", p->n_heads * p->n_key_rows, &w.key_importance, err);
    if (r < 0)
        return r;
    _cleanup_free_ uint8_t *bytes = hai_new_array(uint8_t, n_bytes);
    _cleanup_free_ float *rows = hai_new_array(float, n_threads *(size_t)w.n_row_values);
    _cleanup_free_ bool *bad = hai_new_array(bool, n_threads);
    w.rows = rows;
    w.bad = bad;
    w.data[0] = bytes;
    w.scale[0] = bytes + weightsfile_bytes(job->file, first);
    if (halves) {
        w.data[1] = w.scale[0] + weightsfile_bytes(job->file, first + 1);
        w.scale[1] = w.data[1] + weightsfile_bytes(job->file, first + 2);
    }
    pool_run(job->options->pool, halves ? p->n_heads : (p->shape[0] + ROWS - 1) / ROWS,
             halves ? pack_head : pack_rows, &w);
    for (size_t i = 0; i < n_threads; i++)
        if (bad[i])
            return hai_fail(err, -EINVAL, "%s holds a value that is not finite, or too large",
                            p->name);
    return weightsfile_add(job->file, bytes, n_bytes, err);
}

struct rounding {
    const struct source *source;
    int64_t first, n, n_piece;
    float *values; // [n_threads, n_piece]
    uint16_t *ret;
};

static void round_piece(void *arg, int64_t piece, int thread) {
    const struct rounding *a = arg;
    int64_t at = piece * a->n_piece, n = MIN(a->n - at, a->n_piece);
    float *values = a->values + thread * a->n_piece;

    source_read(a->source, a->first + at, n, values);
    for (int64_t i = 0; i < n; i++)
        a->ret[at + i] = k_to_bf16(values[i]);
}

static int write_bf16(struct job *job, const struct item *item, struct hai_err *err) {
    enum { PIECE = 1 << 14 };
    int64_t n_all = item->p->n_elements, n_max = MIN(n_all, (int64_t)COPY_VALUES_MAX);
    size_t n_threads = (size_t)pool_n_threads(job->options->pool);
    _cleanup_free_ float *values = hai_new_array(float, n_threads *PIECE);
    _cleanup_free_ uint16_t *rounded = hai_new_array(uint16_t, (size_t)n_max);
    struct rounding a = {
        .source = &item->source, .n_piece = PIECE, .values = values, .ret = rounded};
    int r = 0;

    for (; a.first < n_all && r == 0; a.first += a.n) {
        a.n = MIN(n_all - a.first, n_max);
        pool_run(job->options->pool, (a.n + PIECE - 1) / PIECE, round_piece, &a);
        r = weightsfile_add(job->file, rounded, (size_t)a.n * sizeof *rounded, err);
    }
    return r;
}

/* Scales or codes of a matrix in 8-bit floats, a band of 128 rows a piece. */
struct banding {
    const struct source *source;
    int64_t n_out, n_in, n_blocks;
    float *rows, *scales; // [n_threads, 128, n_in]; [ceil(n_out / 128), n_blocks]
    uint8_t *codes;       // [n_out, n_in], or NULL
    bool *bad;            // [n_threads]
};

static void write_band(void *arg, int64_t band, int thread) {
    const struct banding *a = arg;
    int64_t first = band * K_BLOCK, n = MIN(a->n_out - first, (int64_t)K_BLOCK);
    float *rows = a->rows + thread * K_BLOCK * a->n_in, *scales = a->scales + band * a->n_blocks;

    source_read(a->source, first * a->n_in, n * a->n_in, rows);
    for (int64_t i = 0; i < n * a->n_in; i++)
        a->bad[thread] |= !(rows[i] <= FLT_MAX && rows[i] >= -FLT_MAX);
    blocks_scales(rows, n, a->n_in, scales);
    if (a->codes)
        blocks_codes(rows, n, a->n_in, scales, a->codes + first * a->n_in);
}

static int write_bands(struct job *job, const struct item *item, struct hai_err *err) {
    struct banding a = {
        .source = &item->source,
        .n_out = item->p->shape[0],
        .n_in = item->p->shape[1],
        .n_blocks = (item->p->shape[1] + K_BLOCK - 1) / K_BLOCK,
    };
    int64_t n_bands = (a.n_out + K_BLOCK - 1) / K_BLOCK;
    size_t n_threads = (size_t)pool_n_threads(job->options->pool);
    size_t n_codes = item->form == FORM_CODES ? (size_t)item->p->n_elements : 0;
    size_t n_scales = (size_t)(n_bands * a.n_blocks);
    _cleanup_free_ float *rows = hai_new_array(float, n_threads *K_BLOCK *(size_t)a.n_in);
    _cleanup_free_ float *scales = hai_new_array(float, n_scales);
    _cleanup_free_ uint8_t *codes = n_codes ? hai_new_array(uint8_t, n_codes) : NULL;
    _cleanup_free_ bool *bad = hai_new_array(bool, n_threads);

    a.rows = rows;
    a.scales = scales;
    a.codes = codes;
    a.bad = bad;
    pool_run(job->options->pool, n_bands, write_band, &a);
    for (size_t i = 0; i < n_threads; i++)
        if (bad[i])
            return hai_fail(err, -EINVAL, "%s holds a value that is not finite", item->p->name);
    return codes ? weightsfile_add(job->file, codes, n_codes, err)
                 : weightsfile_add(job->file, scales, n_scales * sizeof *scales, err);
}

static int write_tensors(struct job *job, struct hai_err *err) {
    size_t first = 0;
    int r = 0;

    for (int i = 0; i < job->n_items && r == 0; first += (size_t)job->items[i++].n_tensors) {
        const struct item *item = &job->items[i];
        if (item->form == FORM_COPY)
            r = weightsfile_add(job->file, item->source.data, weightsfile_bytes(job->file, first),
                                err);
        else if (item->form == FORM_BF16)
            r = write_bf16(job, item, err);
        else if (item->form == FORM_SCALES || item->form == FORM_CODES)
            r = write_bands(job, item, err);
        else
            r = write_quantized(job, item, first, err);
    }
    return r < 0 ? r : weightsfile_finish(job->file, err);
}

/* A name with its numbers replaced by "*". */
static void pattern_of(const char *name, char *ret, size_t n_bytes) {
    size_t n = 0;

    for (const char *p = name; *p && n + 1 < n_bytes;) {
        bool number = p > name && p[-1] == '.' && strspn(p, "0123456789") > 0;
        ret[n++] = number ? '*' : *p;
        p += number ? strspn(p, "0123456789") : 1;
    }
    ret[n] = 0;
}

/* The matrices that stay as they are, as a JSON array of patterns. */
static void list_kept(const struct job *job, struct buf *ret) {
    char patterns[KEPT_MAX][PARAM_NAME_BYTES];
    int n = 0;

    buf_add_u8(ret, '[');
    for (int i = 0; i < job->n_items; i++) {
        const struct item *item = &job->items[i];
        int k = 0;
        if (item->p->n_dims < 2 || rank_of(item) == 0 || n == KEPT_MAX)
            continue;
        pattern_of(item->p->name, patterns[n], sizeof patterns[n]);
        while (k < n && !hai_streq(patterns[k], patterns[n]))
            k++;
        if (k < n)
            continue;
        buf_add_str(ret, n ? ", " : "");
        json_dump_string(patterns[n], strlen(patterns[n]), ret);
        n++;
    }
    buf_add_u8(ret, ']');
}

static int write_config(const struct job *job, const char *in, const char *out,
                        struct hai_err *err) {
    _cleanup_free_ char *path = hai_asprintf("%s/config.json", out);
    _cleanup_(buf_free) struct buf field = {0}, text = {0};
    bool back = job->options->type == QUANTIZE_BF16;
    const char *const drop[] = {"quantization_config", back ? "torch_dtype" : NULL, "dtype", NULL};

    if (back) {
        buf_add_str(&field, folder_dtype_field(K_BF16));
    } else if (job->options->type == QUANTIZE_FP8) {
        buf_printf(&field,
                   "\"quantization_config\": {\"quant_method\": \"fp8\", \"fmt\": \"e4m3\", "
                   "\"activation_scheme\": \"dynamic\", \"weight_block_size\": [%d, %d]}",
                   K_BLOCK, K_BLOCK);
    } else {
        buf_printf(&field,
                   "\"quantization_config\": {\"quant_method\": \"hai\", \"format\": \"%s\", "
                   "\"layout\": %d, \"group\": %d, \"importance\": %s, \"kept\": ",
                   type_names[job->options->type], K_QUANT_LAYOUT, K_QUANT_GROUP,
                   job->options->importance ? "true" : "false");
        list_kept(job, &field);
        buf_add_u8(&field, '}');
    }
    int r = folder_config(in, drop, buf_cstr(&field), &text, err);
    return r < 0 ? r : fileio_replace(path, text.data, text.n_bytes, 0644, err);
}

static int write_weights(struct job *job, const char *out, struct hai_err *err) {
    enum quantize_type type = job->options->type;
    int r = weightsfile_begin(job->file, out, is_published(job) ? NULL : type_names[type], err);

    return r < 0 ? r : write_tensors(job, err);
}

static void count(const struct job *job, struct quantize_result *ret) {
    *ret = (struct quantize_result){.n_bytes = weightsfile_all_bytes(job->file)};
    for (int i = 0; i < job->n_items; i++) {
        enum form form = job->items[i].form;
        ret->n_matrices += job->items[i].p->n_dims == 2 && form != FORM_SCALES;
        ret->n_quantized += form == FORM_WHOLE || form == FORM_HALVES || form == FORM_CODES;
    }
}

int quantize_folder(const char *in, const char *out, const struct quantize_options *options,
                    struct quantize_result *ret, struct hai_err *err) {
    _cleanup_(job_free) struct job job = {.options = options};
    _cleanup_(folder_freep) struct folder *folder = NULL;

    int r = config_read(in, &job.config, err);
    if (r == 0 && options->type == QUANTIZE_FP8 && job.config.fp8)
        r = hai_fail(err, -EINVAL, "%s is in fp8 already", in);
    if (r == 0)
        r = params_new(&job.config, &job.params, err);
    if (r == 0)
        r = safetensors_open(in, &job.files, err);
    if (r == 0)
        r = load_check_names(job.params, job.files, err);
    if (r == 0)
        r = plan_items(&job, err);
    if (r == 0)
        r = folder_new(out, &folder, err);
    if (r == 0)
        r = folder_take_over(folder, in, err);
    if (r == 0)
        r = write_config(&job, in, folder_dir(folder), err);
    if (r == 0)
        r = write_weights(&job, folder_dir(folder), err);
    if (r == 0)
        r = folder_finish(folder, err);
    if (r == 0)
        count(&job, ret);
    return r;
}
