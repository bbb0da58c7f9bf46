#include "engine/train/initial.h"
#include "engine/ckpt/ckpt.h"
#include "engine/model/load.h"

#include <unistd.h>

static bool has(const char *dir, const char *name) {
    _cleanup_free_ char *path = hai_asprintf("%s/%s", dir, name);

    return access(path, F_OK) == 0;
}

bool initial_has_config(const char *path) {
    return has(path, "config.json");
}

bool initial_has_tokenizer(const char *path) {
    return has(path, "tokenizer.json") || has(path, "tokenizer_config.json");
}

/* A folder of weights may be made for other lengths: how positions are turned is the run's. */
static int check_config(const struct model *model, const char *path, struct hai_err *err) {
    const struct model_config *want = model_config_of(model);
    struct model_config have;
    int r = config_read(path, &have, err);

    if (r < 0)
        return r;
    bool adjacent = have.rope.adjacent;
    have.rope = want->rope;
    have.rope.adjacent = adjacent;
    return config_check_same(want, &have, "model", path, err);
}

static int load_folder(struct model *model, const char *path, struct hai_err *err) {
    int r = check_config(model, path, err);

    return r < 0 ? r : load_model(model, path, err);
}

static int load_ckpt(struct model *model, const struct ckpt *ckpt, struct hai_err *err) {
    enum ckpt_state state =
        ckpt_count(ckpt, CKPT_STATE_MASTER) ? CKPT_STATE_MASTER : CKPT_STATE_WEIGHT;
    const struct params *params = model_params(model);
    size_t n = 0;

    for (int i = 0; i < params->n; i++) {
        const struct param *p = &params->items[i];
        const float *values;
        if (p->tie != i)
            continue;
        int r = ckpt_values(ckpt, state, p->name, p->n_dims, p->shape, &values, err);
        // What is not trained (the routers' bias) has no master.
        if (r == -ENOENT && state == CKPT_STATE_MASTER)
            r = ckpt_values(ckpt, CKPT_STATE_WEIGHT, p->name, p->n_dims, p->shape, &values, err);
        if (r < 0)
            return r;
        memcpy(model_values(model, i).data, values, (size_t)p->n_elements * sizeof *values);
        n++;
    }
    size_t n_have = ckpt_count(ckpt, CKPT_STATE_WEIGHT);
    return state == CKPT_STATE_MASTER || n_have == n
               ? 0
               : hai_fail(err, -EINVAL, "%s: weights of %zu tensors; this model has %zu",
                          ckpt_path(ckpt), n_have, n);
}

int initial_load(struct model *model, const char *path, struct hai_err *err) {
    _cleanup_(ckpt_freep) struct ckpt *ckpt = NULL;

    if (initial_has_config(path))
        return load_folder(model, path, err);
    int r = has(path, "manifest.json") ? ckpt_open(path, &ckpt, err)
                                       : ckpt_newest(path, NULL, NULL, &ckpt, err);
    if (r == -ENOENT)
        return hai_fail(err, -ENOENT,
                        "init: %s: expected a model's folder with config.json, or checkpoints",
                        path);
    return r < 0 ? r : load_ckpt(model, ckpt, err);
}
