#include "engine/model/load.h"

#include "engine/model/source.h"
#include "kernels/formats.h"

enum { PIECE = 4096 }; // values converted at a time

/* Values of a file into the type they are kept in. */
static void convert(const struct source *source, struct k_tensor to) {
    int64_t n = k_tensor_n_elements(&to);
    float piece[PIECE];

    for (int64_t i = 0; i < n; i += PIECE) {
        int64_t n_piece = MIN(n - i, (int64_t)PIECE);
        source_read(source, i, n_piece, piece);
        for (int64_t k = 0; k < n_piece; k++) {
            if (to.dtype == K_BF16)
                ((uint16_t *)to.data)[i + k] = k_to_bf16(piece[k]);
            else
                ((float *)to.data)[i + k] = piece[k];
        }
    }
}

static bool carries_nothing(const char *name) {
    static const char end[] = ".rotary_emb.inv_freq";
    size_t n = strlen(name);

    return n >= sizeof end && strcmp(name + n - (sizeof end - 1), end) == 0;
}

static bool is_param(const struct params *params, const char *name, size_t n) {
    for (int i = 0; i < params->n; i++)
        if (strncmp(params->items[i].name, name, n) == 0 && !params->items[i].name[n])
            return true;
    return false;
}

int load_check_names(const struct params *params, const struct safetensors *files,
                     struct hai_err *err) {
    for (size_t i = 0; i < safetensors_count(files); i++) {
        const struct safetensors_tensor *t = safetensors_at(files, i);
        size_t n = strlen(t->name);
        (void)source_is_part(t->name, &n);
        if (!is_param(params, t->name, n) && !carries_nothing(t->name))
            return hai_fail(err, -EINVAL, "%s: %s is no tensor of this model",
                            safetensors_path(files, t), t->name);
    }
    return 0;
}

int load_check_copy(const struct safetensors *files, const struct param *p,
                    const struct param *owner, struct hai_err *err) {
    const struct safetensors_tensor *copy = safetensors_find(files, p->name);
    const struct safetensors_tensor *t = safetensors_find(files, owner->name);

    if (!copy || !t ||
        (copy->dtype == t->dtype && copy->n_bytes == t->n_bytes &&
         memcmp(copy->data, t->data, t->n_bytes) == 0))
        return 0;
    return hai_fail(err, -EINVAL, "%s: %s is not the same as %s, which this model shares with it",
                    safetensors_path(files, copy), p->name, owner->name);
}

static int take_all(struct model *model, const struct safetensors *files, struct hai_err *err) {
    const struct params *params = model_params(model);

    int r = load_check_names(params, files, err);
    if (r < 0)
        return r;
    for (int i = 0; i < params->n; i++) {
        const struct param *p = &params->items[i];
        struct k_tensor to = model_values(model, i);
        struct source source;
        if (p->tie != i) {
            r = load_check_copy(files, p, &params->items[p->tie], err);
            if (r < 0)
                return r;
            continue;
        }
        if (!to.data)
            continue; /* stays in its file */
        r = source_find(files, p, &source, err);
        if (r < 0)
            return r;
        convert(&source, to);
    }
    return 0;
}

int load_model(struct model *model, const char *dir, struct hai_err *err) {
    _cleanup_(safetensors_freep) struct safetensors *files = NULL;

    int r = safetensors_open(dir, &files, err);
    if (r == 0)
        r = take_all(model, files, err);
    return r < 0 ? r : model_weights_changed(model);
}

int load_mapped(const struct model_config *config, const struct model_options *options,
                const char *dir, struct safetensors **ret_files, struct model **ret,
                struct hai_err *err) {
    _cleanup_(safetensors_freep) struct safetensors *files = NULL;
    _cleanup_(model_freep) struct model *model = NULL;
    struct model_options with = *options;

    int r = safetensors_open(dir, &files, err);
    if (r < 0)
        return r;
    safetensors_read_ahead(files);
    with.files = files;
    r = model_new(config, &with, &model, err);
    if (r == 0)
        r = take_all(model, files, err);
    if (r < 0)
        return r;
    *ret_files = TAKE_PTR(files);
    *ret = TAKE_PTR(model);
    return 0;
}
