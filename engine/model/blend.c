#include "engine/model/blend.h"
#include "engine/model/folder.h"
#include "engine/model/load.h"
#include "engine/model/source.h"
#include "engine/model/weightsfile.h"
#include "lib/fileio.h"

#include <stdio.h>

enum {
    PIECE = 1 << 12,     // values that a thread computes at a time
    BLOCK_MAX = 1 << 22, // values that are written at a time
    CONFIG_BYTES = 1 << 20,
};

struct input {
    struct model_config config;
    struct safetensors *files;
};

/* A tensor of the output. */
struct item {
    const struct safetensors_tensor *like; // of the first model
    const struct param *p;                 // NULL: copied from the first
    enum k_dtype dtype;
};

struct job {
    const struct blend_model *models;
    int n_models;
    const struct blend_options *options;
    struct input *inputs;
    struct params *params;
    struct item *items;
    int n_items;
    struct weightsfile *file;
};

static void job_free(struct job *job) {
    weightsfile_free(job->file);
    free(job->items);
    params_free(job->params);
    for (int i = 0; i < job->n_models && job->inputs; i++)
        safetensors_free(job->inputs[i].files);
    free(job->inputs);
}

void blend_mean(struct blend_model *models, int n_models) {
    double sum = 0;

    for (int i = 0; i < n_models; i++)
        sum += models[i].share;
    for (int i = 0; i < n_models; i++)
        models[i].share /= sum;
}

void blend_add(struct blend_model *models, int n_models) {
    models[0].share = 1;
    for (int i = 1; i < n_models; i++)
        models[0].share -= models[i].share;
}

static bool is_plain(enum k_dtype dtype) {
    return dtype == K_F32 || dtype == K_F16 || dtype == K_BF16;
}

static int refuse(const struct blend_model *model, const char *what, struct hai_err *err) {
    return hai_fail(err, -ENOTSUP,
                    "%s: %s is quantised; expected F32, F16 or BF16 (hai-quantize --type bf16 "
                    "makes a plain folder)",
                    model->dir, what);
}

/* Has a model all parameters as plain floats, and copies that are what they are copies of? */
static int check_params(const struct job *job, int model, struct hai_err *err) {
    const struct safetensors *files = job->inputs[model].files;

    for (int i = 0; i < job->params->n; i++) {
        const struct param *p = &job->params->items[i];
        struct source source;
        if (p->tie == i && source_is_quantized(files, p))
            return refuse(&job->models[model], p->name, err);
        int r = p->tie == i ? source_find(files, p, &source, err)
                            : load_check_copy(files, p, &job->params->items[p->tie], err);
        if (r < 0)
            return r;
        if (p->tie == i && !is_plain(source.dtype))
            return refuse(&job->models[model], p->name, err);
    }
    return 0;
}

static int open_inputs(struct job *job, struct hai_err *err) {
    int r = 0;

    job->inputs = hai_new_array(struct input, (size_t)job->n_models);
    for (int i = 0; i < job->n_models && r == 0; i++) {
        r = config_read(job->models[i].dir, &job->inputs[i].config, err);
        if (r == 0 && job->inputs[i].config.fp8)
            r = refuse(&job->models[i], "the model", err);
        if (r == 0 && i > 0)
            r = config_check_same(&job->inputs[i].config, &job->inputs[0].config,
                                  job->models[i].dir, job->models[0].dir, err);
    }
    if (r == 0)
        r = params_new(&job->inputs[0].config, &job->params, err);
    for (int i = 0; i < job->n_models && r == 0; i++) {
        struct input *in = &job->inputs[i];
        r = safetensors_open(job->models[i].dir, &in->files, err);
        if (r == 0)
            r = load_check_names(job->params, in->files, err);
        if (r == 0)
            r = check_params(job, i, err);
    }
    return r;
}

static size_t element_bytes(const struct item *item) {
    return item->p ? k_dtype_bytes(item->dtype) : safetensors_dtype_bytes(item->like->dtype);
}

/* File by file as in the first model, in each the wider types first so that all are aligned. */
static int in_order(const void *x, const void *y) {
    const struct item *a = x, *b = y;
    size_t n_a = element_bytes(a), n_b = element_bytes(b);

    if (a->like->file != b->like->file)
        return a->like->file - b->like->file;
    if (n_a != n_b)
        return n_a > n_b ? -1 : 1;
    const uint8_t *at_a = a->like->data, *at_b = b->like->data;
    return at_a < at_b ? -1 : at_a > at_b;
}

/* Where a parameter's values are in a model; of a copy, its owner's. */
static struct source find_values(const struct job *job, int model, const struct param *p) {
    struct source source;
    int r = source_find(job->inputs[model].files, &job->params->items[p->tie], &source, NULL);

    assert(r == 0); // check_params has looked
    return source;
}

static enum k_dtype dtype_of(const struct job *job, const struct param *p) {
    struct source source = find_values(job, 0, p);

    return job->options->dtype == K_DTYPE_COUNT || !p->trained ? source.dtype : job->options->dtype;
}

static void plan_items(struct job *job) {
    const struct safetensors *first = job->inputs[0].files;
    size_t n = safetensors_count(first);
    _cleanup_free_ bool *known = hai_new_array(bool, n);
    int file = -1;

    job->items = hai_new_array(struct item, n);
    for (int i = 0; i < job->params->n; i++) {
        const struct param *p = &job->params->items[i];
        const struct safetensors_tensor *t = safetensors_find(first, p->name);
        if (!t)
            continue;
        known[t - safetensors_at(first, 0)] = true;
        if (!p->in_file) // a tied head that is written out nevertheless
            continue;
        job->items[job->n_items++] = (struct item){t, p, dtype_of(job, p)};
    }
    for (size_t i = 0; i < n; i++)
        if (!known[i]) // carries nothing
            job->items[job->n_items++] = (struct item){.like = safetensors_at(first, i)};
    qsort(job->items, (size_t)job->n_items, sizeof *job->items, in_order);
    job->file = weightsfile_new(n, job->options->on_progress, job->options->userdata);
    for (int i = 0; i < job->n_items; i++) {
        const struct item *item = &job->items[i];
        if (item->like->file != file) {
            const char *path = safetensors_path(first, item->like), *slash = strrchr(path, '/');
            weightsfile_plan_file(job->file, slash ? slash + 1 : path);
            file = item->like->file;
        }
        if (item->p)
            weightsfile_plan(job->file, item->p, item->dtype);
        else
            weightsfile_plan_copy(job->file, item->like);
    }
}

/* One block of a tensor, cut into pieces. */
struct block {
    const struct job *job;
    const struct item *item;
    const struct source *sources; // [n_models]
    int64_t first, n;             // values
    uint8_t *ret;
    bool *bad; // [n_threads]
};

static void blend_piece(void *arg, int64_t piece, int thread) {
    const struct block *b = arg;
    const struct job *job = b->job;
    int64_t at = piece * PIECE, n = MIN(b->n - at, (int64_t)PIECE);
    double sums[PIECE];
    float values[PIECE];
    bool begun = false;

    for (int m = 0; m < job->n_models; m++) {
        double share = job->models[m].share;
        if (share == 0) // so that a model that has no share has none in the sign of a zero either
            continue;
        source_read(&b->sources[m], b->first + at, n, values);
        for (int64_t i = 0; i < n; i++)
            sums[i] = begun ? sums[i] + share * (double)values[i] : share * (double)values[i];
        begun = true;
    }
    for (int64_t i = 0; i < n; i++)
        values[i] = begun ? (float)sums[i] : 0;
    b->bad[thread] |= !weightsfile_round(b->item->dtype, values, n,
                                         b->ret + (size_t)at * k_dtype_bytes(b->item->dtype));
}

static int write_item(struct job *job, const struct item *item, void *values,
                      struct source *sources, bool *bad, struct hai_err *err) {
    struct block b = {.job = job, .item = item, .sources = sources, .ret = values, .bad = bad};
    int n_threads = pool_n_threads(job->options->pool), r = 0;

    if (!item->p)
        return weightsfile_add(job->file, item->like->data, item->like->n_bytes, err);
    for (int m = 0; m < job->n_models; m++)
        sources[m] = find_values(job, m, item->p);
    for (; r == 0 && b.first < item->p->n_elements; b.first += b.n) {
        b.n = MIN(item->p->n_elements - b.first, (int64_t)BLOCK_MAX);
        pool_run(job->options->pool, (b.n + PIECE - 1) / PIECE, blend_piece, &b);
        for (int i = 0; i < n_threads; i++)
            if (bad[i])
                return hai_fail(err, -EINVAL,
                                "%s: the sum holds what is no finite number, or too large for %s",
                                item->p->name, k_dtype_name(item->dtype));
        r = weightsfile_add(job->file, values, (size_t)b.n * k_dtype_bytes(item->dtype), err);
    }
    return r;
}

static int write_weights(struct job *job, const char *dir, struct hai_err *err) {
    _cleanup_free_ float *values = hai_new_array(float, BLOCK_MAX);
    _cleanup_free_ struct source *sources = hai_new_array(struct source, (size_t)job->n_models);
    _cleanup_free_ bool *bad = hai_new_array(bool, (size_t)pool_n_threads(job->options->pool));
    int r = weightsfile_begin(job->file, dir, NULL, err);

    for (int i = 0; i < job->n_items && r == 0; i++)
        r = write_item(job, &job->items[i], values, sources, bad, err);
    return r < 0 ? r : weightsfile_finish(job->file, err);
}

/* The first model's, to the byte unless the type is another one. */
static int write_config(const struct job *job, const char *dir, struct hai_err *err) {
    static const char *const drop[] = {"torch_dtype", "dtype", NULL};
    _cleanup_free_ char *from = hai_asprintf("%s/config.json", job->models[0].dir);
    _cleanup_free_ char *to = hai_asprintf("%s/config.json", dir);
    _cleanup_(buf_free) struct buf text = {0};
    enum k_dtype dtype = job->options->dtype;

    int r = dtype == K_DTYPE_COUNT
                ? fileio_read_file(from, CONFIG_BYTES, &text, err)
                : folder_config(job->models[0].dir, drop, folder_dtype_field(dtype), &text, err);
    return r < 0 ? r : fileio_replace(to, text.data, text.n_bytes, 0644, err);
}

int blend_folders(const char *out, const struct blend_model *models, int n_models,
                  const struct blend_options *options, struct blend_result *ret,
                  struct hai_err *err) {
    _cleanup_(job_free) struct job job = {
        .models = models, .n_models = n_models, .options = options};
    _cleanup_(folder_freep) struct folder *folder = NULL;

    assert(n_models >= 1);
    assert(n_models <= BLEND_MODELS_MAX);
    assert(options->dtype == K_DTYPE_COUNT || is_plain(options->dtype));
    int r = open_inputs(&job, err);
    if (r < 0)
        return r;
    plan_items(&job);
    r = folder_new(out, &folder, err);
    if (r == 0)
        r = folder_take_over(folder, models[0].dir, err);
    if (r == 0)
        r = write_config(&job, folder_dir(folder), err);
    if (r == 0)
        r = write_weights(&job, folder_dir(folder), err);
    if (r == 0)
        r = folder_finish(folder, err);
    if (r == 0)
        *ret = (struct blend_result){weightsfile_all_bytes(job.file), job.n_items};
    return r;
}
