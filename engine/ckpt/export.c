#include "engine/ckpt/export.h"
#include "engine/data/tokenizer.h"
#include "engine/model/folder.h"
#include "engine/model/params.h"
#include "engine/model/weightsfile.h"
#include "lib/fileio.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

enum { BLOCK_MAX = 1 << 20 }; // values converted at a time

struct item {
    const struct param *p;
    const float *values;
    enum k_dtype dtype;
};

struct job {
    const struct export_options *options;
    struct ckpt *ckpt;
    struct model_config config;
    struct params *params;
    struct tokenizer *tokenizer;
    struct item *items;
    int n_items;
    struct weightsfile *file;
};

static void job_free(struct job *job) {
    weightsfile_free(job->file);
    free(job->items);
    tokenizer_free(job->tokenizer);
    params_free(job->params);
    ckpt_free(job->ckpt);
}

static bool is_checkpoint(const char *path) {
    _cleanup_free_ char *manifest = hai_asprintf("%s/manifest.json", path);

    return access(manifest, F_OK) == 0;
}

static int open_ckpt(const char *path, struct ckpt **ret, struct hai_err *err) {
    size_t n = strlen(path);

    while (n > 1 && path[n - 1] == '/') // the last part of the name is read
        n--;
    _cleanup_free_ char *plain = hai_strndup(path, n);
    return is_checkpoint(plain) ? ckpt_open(plain, ret, err)
                                : ckpt_newest(plain, NULL, NULL, ret, err);
}

static int open_model(struct job *job, struct hai_err *err) {
    _cleanup_(buf_free) struct buf text = {0};
    _cleanup_free_ char *path = NULL;
    int r = folder_read_config(job->options->model, &path, &text, err);

    if (r == 0)
        r = config_parse(buf_cstr(&text), text.n_bytes, path, &job->config, err);
    if (r == 0)
        r = params_new(&job->config, &job->params, err);
    if (r < 0 || !job->options->tokenizer)
        return r;
    r = tokenizer_read(job->options->tokenizer, &job->tokenizer, err);
    if (r == 0 && tokenizer_n_vocab(job->tokenizer) > job->config.n_vocab)
        r = hai_fail(
            err, -EINVAL, "%s: vocab_size is %" PRId64 "; the tokenizer '%s' has %d tokens", path,
            job->config.n_vocab, job->options->tokenizer, tokenizer_n_vocab(job->tokenizer));
    return r;
}

/* The state that the values of a parameter are taken from. */
static enum ckpt_state state_of(const struct job *job, const struct param *p) {
    if (!p->trained)
        return CKPT_STATE_WEIGHT;
    return job->options->ema                          ? CKPT_STATE_EMA
           : ckpt_count(job->ckpt, CKPT_STATE_MASTER) ? CKPT_STATE_MASTER
                                                      : CKPT_STATE_WEIGHT;
}

static int find_values(const struct job *job, const struct param *p, const float **ret,
                       struct hai_err *err) {
    struct hai_err none = {0};
    enum ckpt_state state = state_of(job, p);

    // A rule's state may have been averaged like the rest.
    if (!p->trained && job->options->ema &&
        ckpt_values(job->ckpt, CKPT_STATE_EMA, p->name, p->n_dims, p->shape, ret, &none) == 0)
        return 0;
    int r = ckpt_values(job->ckpt, state, p->name, p->n_dims, p->shape, ret, err);
    return r == -ENOENT ? -EINVAL : r;
}

/* Is the checkpoint one of this model, no tensor more and none less? */
static int check_ckpt(const struct job *job, struct hai_err *err) {
    size_t n = 0, n_weights = ckpt_count(job->ckpt, CKPT_STATE_WEIGHT);
    size_t n_masters = ckpt_count(job->ckpt, CKPT_STATE_MASTER);

    if (job->options->ema && !ckpt_count(job->ckpt, CKPT_STATE_EMA))
        return hai_fail(err, -ENODATA, "%s: has no averaged weights (ema)", ckpt_path(job->ckpt));
    for (int i = 0; i < job->params->n; i++) {
        const struct param *p = &job->params->items[i];
        const float *values;
        if (p->tie != i)
            continue;
        int r = find_values(job, p, &values, err);
        if (r < 0)
            return r;
        n++;
    }
    /* Beside masters there may be the weights made of them, or only what has no master. */
    return n == n_weights || n == n_weights + n_masters
               ? 0
               : hai_fail(err, -EINVAL, "%s: has weights of %zu tensors; the model of %s has %zu",
                          ckpt_path(job->ckpt), n_weights, job->options->model, n);
}

/* In the order that weightsfile.h asks for. */
static int plan_items(struct job *job, struct hai_err *err) {
    int n = job->params->n;

    job->items = hai_new_array(struct item, (size_t)n);
    job->file = weightsfile_new((size_t)n, job->options->on_progress, job->options->userdata);
    for (int wide = 1; wide >= 0; wide--)
        for (int i = 0; i < n; i++) {
            const struct param *p = &job->params->items[i];
            enum k_dtype dtype = p->trained ? job->options->dtype : K_F32;
            struct item *item = &job->items[job->n_items];
            if (!p->in_file || (dtype == K_F32) != wide)
                continue;
            *item = (struct item){.p = p, .dtype = dtype};
            int r = find_values(job, &job->params->items[p->tie], &item->values, err);
            if (r < 0)
                return r;
            weightsfile_plan(job->file, p, dtype);
            job->n_items++;
        }
    weightsfile_split(job->file, job->options->shard_bytes);
    return 0;
}

static int write_weights(struct job *job, const char *dir, struct hai_err *err) {
    _cleanup_free_ float *block = hai_new_array(float, BLOCK_MAX);
    int r = weightsfile_begin(job->file, dir, NULL, err);

    for (int i = 0; i < job->n_items && r == 0; i++) {
        const struct item *item = &job->items[i];
        for (int64_t at = 0, n; r == 0 && at < item->p->n_elements; at += n) {
            n = MIN(item->p->n_elements - at, (int64_t)BLOCK_MAX);
            if (!weightsfile_round(item->dtype, item->values + at, n, block))
                return hai_fail(err, -EINVAL,
                                "%s: %s holds what is no finite number, or too large for %s",
                                ckpt_path(job->ckpt), item->p->name, k_dtype_name(item->dtype));
            r = weightsfile_add(job->file, block, (size_t)n * k_dtype_bytes(item->dtype), err);
        }
    }
    return r < 0 ? r : weightsfile_finish(job->file, err);
}

static int write_texts(const struct job *job, struct folder *folder, struct hai_err *err) {
    static const char *const drop[] = {"torch_dtype", "dtype", "quantization_config", NULL};
    _cleanup_free_ char *path = hai_asprintf("%s/config.json", folder_dir(folder));
    _cleanup_(buf_free) struct buf text = {0};
    struct stat st;
    int r = 0;

    if (stat(job->options->model, &st) == 0 && S_ISDIR(st.st_mode))
        r = folder_take_over(folder, job->options->model, err);
    if (r == 0)
        r = folder_config(job->options->model, drop, folder_dtype_field(job->options->dtype), &text,
                          err);
    if (r == 0)
        r = fileio_replace(path, text.data, text.n_bytes, 0644, err);
    return r < 0 || !job->tokenizer ? r : tokenizer_export(job->tokenizer, folder_dir(folder), err);
}

int export_ckpt(const char *ckpt, const char *out, const struct export_options *options,
                struct export_result *ret, struct hai_err *err) {
    _cleanup_(job_free) struct job job = {.options = options};
    _cleanup_(folder_freep) struct folder *folder = NULL;

    int r = open_model(&job, err);
    if (r == 0)
        r = open_ckpt(ckpt, &job.ckpt, err);
    if (r == 0)
        r = check_ckpt(&job, err);
    if (r == 0)
        r = plan_items(&job, err);
    if (r == 0)
        r = folder_new(out, &folder, err);
    if (r == 0)
        r = write_texts(&job, folder, err);
    if (r == 0)
        r = write_weights(&job, folder_dir(folder), err);
    if (r == 0)
        r = folder_finish(folder, err);
    if (r == 0)
        *ret = (struct export_result){ckpt_meta_of(job.ckpt)->step, weightsfile_all_bytes(job.file),
                                      job.n_items};
    return r;
}
