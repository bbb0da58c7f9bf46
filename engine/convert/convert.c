#include "engine/convert/convert.h"
#include "engine/convert/ggufconfig.h"
#include "engine/convert/ggufmodel.h"
#include "engine/convert/ggufwords.h"
#include "engine/model/folder.h"
#include "engine/model/weightsfile.h"
#include "kernels/formats.h"
#include "kernels/quant.h"
#include "lib/fileio.h"

#include <stdio.h>

enum { PARTS_MAX = 4, WRITE_BYTES = 1 << 20, GROUP = K_QUANT_GROUP };

/* What is written of a parameter. */
struct item {
    const struct param *p;
    struct ggufmodel_place place;
    enum k_dtype dtype; // Q8, Q4, or a float type
    int n_tensors;
};

struct job {
    const struct convert_options *options;
    struct gguf *gguf;
    struct model_config config;
    struct params *params;
    struct item *items;
    int n_items;
    struct weightsfile *file; // tensors of the items in order
    float *row;
};

static void job_free(struct job *job) {
    weightsfile_free(job->file);
    free(job->items);
    free(job->row);
    params_free(job->params);
    gguf_free(job->gguf);
}

static bool is_quantized(const struct item *item) {
    return item->dtype == K_Q8 || item->dtype == K_Q4;
}

/* The type that keeps a tensor's values; K_DTYPE_COUNT: it is not read. */
static enum k_dtype kept_type(enum gguf_type type) {
    switch (type) {
    case GGUF_F32:
    case GGUF_F64:
        return K_F32;
    case GGUF_F16:
        return K_F16;
    case GGUF_BF16:
        return K_BF16;
    case GGUF_Q8_0:
        return K_Q8;
    case GGUF_Q4_0:
        return K_Q4;
    default:
        return K_DTYPE_COUNT;
    }
}

static int choose_type(const struct job *job, struct item *item, struct hai_err *err) {
    const struct gguf_tensor *tensors[] = {item->place.tensor, item->place.keys};

    for (int i = 0; i < 2 && tensors[i]; i++)
        if (kept_type(tensors[i]->type) == K_DTYPE_COUNT)
            return hai_fail(
                err, -ENOTSUP, "%s: %s has type %s; expected F32, F16, BF16, Q8_0 or Q4_0",
                gguf_path(job->gguf), tensors[i]->name, gguf_type_name(tensors[i]->type));
    item->dtype = kept_type(tensors[0]->type);
    // Products of heads read quantised values in halves only, keys transposed: codes along the rows
    // of a whole matrix are of other groups.
    bool whole_heads = item->p->n_heads && !tensors[1] && is_quantized(item);
    if (item->p->n_dims == 1 || params_is_router(item->p) || whole_heads ||
        (tensors[1] && tensors[1]->type != tensors[0]->type))
        item->dtype = K_F32;
    return 0;
}

/* Are two parameters read by one product? Of one layer q, k and v are, gate and up of a kind, and
 * of all experts gate and up, or down. */
static bool same_product(const struct param *a, const struct param *b) {
    static const char *const sets[][3] = {
        {"self_attn.q_proj.weight",             "self_attn.k_proj.weight",           "self_attn.v_proj.weight"},
        {"mlp.gate_proj.weight",                "mlp.up_proj.weight",                NULL                     },
        {"mlp.shared_experts.gate_proj.weight", "mlp.shared_experts.up_proj.weight", NULL                     },
    };

    if (a->layer < 0 || a->layer != b->layer || a->n_dims != 2 || b->n_dims != 2)
        return false;
    if (a->expert >= 0 && b->expert >= 0) // "gate" and "up" against "down"
        return (strstr(a->name, ".down_") != NULL) == (strstr(b->name, ".down_") != NULL);
    if (a->expert >= 0 || b->expert >= 0)
        return false;
    for (size_t s = 0; s < ARRAY_SIZE(sets); s++) {
        int found = 0;
        for (int k = 0; k < 3 && sets[s][k]; k++) {
            size_t n = strlen(sets[s][k]), n_a = strlen(a->name), n_b = strlen(b->name);
            found += n_a > n && hai_streq(a->name + n_a - n, sets[s][k]);
            found += n_b > n && hai_streq(b->name + n_b - n, sets[s][k]);
        }
        if (found == 2)
            return true;
    }
    return false;
}

/* Matrices of one product get one type: float32 where the file has several. */
static void unify_types(struct item *items, int n) {
    for (int first = 0, end; first < n; first = end) {
        for (end = first; end < n && items[end].p->layer == items[first].p->layer;)
            end++;
        for (int i = first; i < end; i++)
            for (int k = first; k < end; k++)
                if (items[i].dtype != items[k].dtype && same_product(items[i].p, items[k].p))
                    items[i].dtype = items[k].dtype = K_F32;
    }
}

static void plan_item(struct job *job, struct item *item) {
    const struct param *p = item->p;
    size_t n = weightsfile_count(job->file);

    if (!is_quantized(item)) {
        weightsfile_plan(job->file, p, item->dtype);
    } else if (item->place.keys) {
        weightsfile_plan_quant(job->file, p, ".keys", item->dtype, p->n_heads, p->shape[1],
                               p->n_key_rows);
        weightsfile_plan_quant(job->file, p, ".values", item->dtype, p->n_heads,
                               p->shape[0] / p->n_heads - p->n_key_rows, p->shape[1]);
    } else {
        weightsfile_plan_quant(job->file, p, "", item->dtype, 0, p->shape[0], p->shape[1]);
    }
    item->n_tensors = (int)(weightsfile_count(job->file) - n);
}

/* In the order that weightsfile.h asks for. */
static int rank_of(const struct item *item) {
    return is_quantized(item) ? 0 : item->dtype == K_F32 ? 1 : 2;
}

static int plan_items(struct job *job, struct hai_err *err) {
    struct item *all = hai_new_array(struct item, (size_t)job->params->n);
    int64_t row_max = 1;
    int n = 0, r = 0;

    job->items = hai_new_array(struct item, (size_t)job->params->n);
    job->file = weightsfile_new((size_t)job->params->n * PARTS_MAX, job->options->on_progress,
                                job->options->userdata);
    for (int i = 0; i < job->params->n && r == 0; i++) {
        const struct param *p = &job->params->items[i];
        if (p->tie != i)
            continue;
        all[n].p = p;
        row_max = MAX(row_max, p->shape[p->n_dims - 1]);
        row_max = MAX(row_max, p->n_heads ? p->shape[0] / p->n_heads * p->shape[1] : 0);
        r = ggufmodel_find(job->gguf, &job->config, p, &all[n].place, err);
        if (r == 0)
            r = choose_type(job, &all[n++], err);
    }
    if (r == 0)
        unify_types(all, n);
    for (int rank = 0; rank < 3 && r == 0; rank++)
        for (int i = 0; i < n; i++)
            if (rank_of(&all[i]) == rank) {
                job->items[job->n_items] = all[i];
                plan_item(job, &job->items[job->n_items++]);
            }
    free(all);
    job->row = hai_new_array(float, 2 * (size_t)row_max);
    return r;
}

/* The codes of a row of Q8_0 or Q4_0, moved into panels. */
static void move_row(const struct gguf_tensor *t, int64_t from, enum k_dtype dtype, int64_t row,
                     uint8_t *data, uint8_t *scale) {
    size_t n_block = gguf_block_bytes(t->type);
    const uint8_t *block = t->data + (size_t)(from * (t->shape[0] / GROUP)) * n_block;
    int8_t codes[GROUP];

    for (int64_t g = 0; g < t->shape[0] / GROUP; g++, block += n_block) {
        for (int k = 0; k < GROUP; k++)
            codes[k] = dtype == K_Q8 ? (int8_t)block[2 + k]
                       : k < 16      ? (int8_t)((block[2 + k] & 15) - 8)
                                     : (int8_t)((block[2 + k - 16] >> 4) - 8);
        k_quant_store(dtype, t->shape[0], row, g, codes, (uint16_t)(block[0] | block[1] << 8), data,
                      (uint16_t *)(void *)scale);
    }
}

/* first: number of the item's first tensor. */
static int write_quantized(struct job *job, const struct item *item, size_t first,
                           struct hai_err *err) {
    const struct gguf_tensor *from[2] = {item->place.tensor, NULL};
    size_t n_bytes = 0, at = 0;

    if (item->place.keys) {
        from[0] = item->place.keys;
        from[1] = item->place.tensor;
    }
    for (int i = 0; i < item->n_tensors; i++)
        n_bytes += weightsfile_bytes(job->file, first + (size_t)i);
    _cleanup_free_ uint8_t *bytes = hai_new_array(uint8_t, n_bytes);
    for (int i = 0; i < 2 && from[i]; i++, first += 2) {
        size_t n_data = weightsfile_bytes(job->file, first),
               n_scale = weightsfile_bytes(job->file, first + 1);
        int64_t n_heads = item->place.keys ? item->p->n_heads : 1,
                n_rows = item->place.keys ? from[i]->shape[1] : item->p->shape[0];
        for (int64_t h = 0; h < n_heads; h++)
            for (int64_t row = 0; row < n_rows; row++)
                move_row(from[i],
                         item->place.keys ? h * n_rows + row : ggufmodel_row(&item->place, row),
                         item->dtype, row, bytes + at + (size_t)h * (n_data / (size_t)n_heads),
                         bytes + at + n_data + (size_t)h * (n_scale / (size_t)n_heads));
        at += n_data + n_scale;
    }
    return weightsfile_add(job->file, bytes, n_bytes, err);
}

/* Values as a float type; exact, as only wider types are chosen for narrower values. */
static int write_values(struct job *job, const float *values, int64_t n, enum k_dtype dtype,
                        struct hai_err *err) {
    uint16_t *halves = (uint16_t *)(void *)(job->row + n);

    if (dtype == K_F32)
        return weightsfile_add(job->file, values, (size_t)n * sizeof *values, err);
    for (int64_t i = 0; i < n; i++)
        halves[i] = dtype == K_F16 ? k_to_f16(values[i]) : k_to_bf16(values[i]);
    return weightsfile_add(job->file, halves, (size_t)n * sizeof *halves, err);
}

/* kv_b_proj from its halves, head by head. */
static int write_joined(struct job *job, const struct item *item, struct hai_err *err) {
    const struct param *p = item->p;
    int64_t n_in = p->shape[1], rows = p->shape[0] / p->n_heads, n_keys = p->n_key_rows;
    _cleanup_free_ float *keys = hai_new_array(float, (size_t)n_keys);
    int r = 0;

    for (int64_t h = 0; h < p->n_heads && r == 0; h++) {
        for (int64_t i = 0; i < n_in; i++) {
            (void)ggufmodel_read_row(item->place.keys, h * n_in + i, keys);
            for (int64_t k = 0; k < n_keys; k++)
                job->row[k * n_in + i] = keys[k];
        }
        for (int64_t k = n_keys; k < rows; k++)
            (void)ggufmodel_read_row(item->place.tensor, h * (rows - n_keys) + k - n_keys,
                                     job->row + k * n_in);
        r = write_values(job, job->row, rows * n_in, item->dtype, err);
    }
    return r;
}

static int write_plain(struct job *job, const struct item *item, struct hai_err *err) {
    int64_t n_rows = item->p->n_dims == 2 ? item->p->shape[0] : 1;
    int r = 0;

    if (item->place.keys)
        return write_joined(job, item, err);
    for (int64_t row = 0; row < n_rows && r == 0; row++) {
        (void)ggufmodel_read_row(item->place.tensor, ggufmodel_row(&item->place, row), job->row);
        r = write_values(job, job->row, item->p->shape[item->p->n_dims - 1], item->dtype, err);
    }
    return r;
}

static const char *quantized_form(const struct job *job) {
    bool found[2] = {false};

    for (int i = 0; i < job->n_items; i++)
        if (is_quantized(&job->items[i]))
            found[job->items[i].dtype == K_Q4] = true;
    return found[0] && found[1] ? "mixed" : found[0] ? "int8" : found[1] ? "int4" : NULL;
}

static int write_weights(struct job *job, const char *out, struct hai_err *err) {
    size_t first = 0;
    int r = weightsfile_begin(job->file, out, quantized_form(job), err);

    for (int i = 0; i < job->n_items && r == 0; first += (size_t)job->items[i++].n_tensors)
        r = is_quantized(&job->items[i]) ? write_quantized(job, &job->items[i], first, err)
                                         : write_plain(job, &job->items[i], err);
    return r < 0 ? r : weightsfile_finish(job->file, err);
}

static int write_text(const char *dir, const char *name, const struct buf *text,
                      struct hai_err *err) {
    _cleanup_free_ char *path = hai_asprintf("%s/%s", dir, name);

    return fileio_replace(path, text->data, text->n_bytes, 0644, err);
}

/* Read the file's configuration as this engine reads a folder's. text: without its end. */
static int open_model(struct job *job, const char *in, struct buf *text, struct hai_err *err) {
    int r = gguf_open(in, &job->gguf, err);

    if (r == 0)
        r = ggufconfig_model(job->gguf, text, err);
    if (r < 0)
        return r;
    _cleanup_free_ char *whole =
        hai_asprintf("%.*s\n}\n", (int)text->n_bytes, (const char *)text->data);
    r = config_parse(whole, strlen(whole), in, &job->config, err);
    if (r == 0)
        r = params_new(&job->config, &job->params, err);
    if (r == 0)
        r = ggufmodel_check_names(job->gguf, &job->config, job->params, err);
    return r < 0 ? r : plan_items(job, err);
}

static int write_words(const struct job *job, const char *dir, struct hai_err *err) {
    _cleanup_(buf_free) struct buf words = {0}, config = {0};

    int r = ggufwords_tokenizer(job->gguf, &words, err);
    if (r == 0)
        r = ggufwords_config(job->gguf, &config, err);
    if (r == 0)
        r = write_text(dir, "tokenizer.json", &words, err);
    return r < 0 ? r : write_text(dir, "tokenizer_config.json", &config, err);
}

int convert_gguf(const char *in, const char *out, const struct convert_options *options,
                 struct convert_result *ret, struct hai_err *err) {
    _cleanup_(job_free) struct job job = {.options = options};
    _cleanup_(folder_freep) struct folder *folder = NULL;
    _cleanup_(buf_free) struct buf config = {0};

    int r = open_model(&job, in, &config, err);
    if (r == 0)
        r = folder_new(out, &folder, err);
    if (r == 0 && !options->no_tokenizer)
        r = write_words(&job, folder_dir(folder), err);
    if (r < 0)
        return r;
    if (quantized_form(&job))
        buf_printf(&config,
                   ",\n  \"quantization_config\": {\"quant_method\": \"hai\", \"format\": \"%s\", "
                   "\"layout\": %d, \"group\": %d}",
                   quantized_form(&job), K_QUANT_LAYOUT, K_QUANT_GROUP);
    buf_add_str(&config, "\n}\n");
    r = write_text(folder_dir(folder), "config.json", &config, err);
    if (r == 0)
        r = write_weights(&job, folder_dir(folder), err);
    if (r == 0)
        r = folder_finish(folder, err);
    if (r < 0)
        return r;
    *ret = (struct convert_result){.n_bytes = weightsfile_all_bytes(job.file)};
    for (int i = 0; i < job.n_items; i++) {
        ret->n_matrices += job.items[i].p->n_dims == 2;
        ret->n_quantized += is_quantized(&job.items[i]);
    }
    return 0;
}
