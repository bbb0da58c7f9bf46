#include "engine/model/weightsfile.h"
#include "engine/model/source.h"
#include "kernels/quant.h"

#include <stdio.h>

struct weightsfile {
    struct safetensors_tensor *tensors; // names owned
    size_t n, n_max;
    struct safetensors_writer *writer;
    int64_t n_done, n_all;
    int (*on_progress)(void *userdata, int64_t n_done, int64_t n_all);
    void *userdata;
};

struct weightsfile *
weightsfile_new(size_t n_max, int (*on_progress)(void *userdata, int64_t n_done, int64_t n_all),
                void *userdata) {
    struct weightsfile *w = hai_new(struct weightsfile);

    w->tensors = hai_new_array(struct safetensors_tensor, n_max);
    w->n_max = n_max;
    w->on_progress = on_progress;
    w->userdata = userdata;
    return w;
}

void weightsfile_free(struct weightsfile *w) {
    if (!w)
        return;
    for (size_t i = 0; i < w->n; i++)
        free((char *)(uintptr_t)w->tensors[i].name);
    safetensors_writer_free(w->writer);
    free(w->tensors);
    free(w);
}

static void plan(struct weightsfile *w, const struct param *p, const char *part, const char *end,
                 enum safetensors_dtype dtype, int n_dims, int64_t n0, int64_t n1) {
    assert(w->n < w->n_max);
    struct safetensors_tensor *t = &w->tensors[w->n++];

    *t = (struct safetensors_tensor){
        .name = hai_asprintf("%s%s%s", p->name, part, end),
        .dtype = dtype,
        .n_dims = n_dims,
        .shape = {n0, n1},
        .n_bytes = safetensors_dtype_bytes(dtype) * (size_t)n0 * (size_t)(n_dims > 1 ? n1 : 1),
    };
    w->n_all += (int64_t)t->n_bytes;
}

void weightsfile_plan(struct weightsfile *w, const struct param *p, enum k_dtype dtype) {
    enum safetensors_dtype in_file = dtype == K_F32    ? SAFETENSORS_F32
                                     : dtype == K_F16  ? SAFETENSORS_F16
                                     : dtype == K_E4M3 ? SAFETENSORS_F8_E4M3
                                                       : SAFETENSORS_BF16;

    assert(dtype == K_F32 || dtype == K_F16 || dtype == K_BF16 || dtype == K_E4M3);
    plan(w, p, "", "", in_file, p->n_dims, p->shape[0], p->n_dims == 2 ? p->shape[1] : 0);
}

void weightsfile_plan_scales(struct weightsfile *w, const struct param *p) {
    assert(p->n_dims == 2);
    plan(w, p, "", "_scale_inv", SAFETENSORS_F32, 2, (p->shape[0] + K_BLOCK - 1) / K_BLOCK,
         (p->shape[1] + K_BLOCK - 1) / K_BLOCK);
}

void weightsfile_plan_quant(struct weightsfile *w, const struct param *p, const char *part,
                            enum k_dtype dtype, int64_t n_heads, int64_t n_out, int64_t n_in) {
    int64_t n_data = source_data_bytes(dtype, n_out, n_in);
    int64_t n_scale = source_scale_bytes(n_out, n_in) / (int64_t)sizeof(uint16_t);
    int n_dims = n_heads ? 2 : 1;

    plan(w, p, part, dtype == K_Q8 ? ".q8" : ".q4", SAFETENSORS_U8, n_dims,
         n_heads ? n_heads : n_data, n_data);
    plan(w, p, part, ".scale", SAFETENSORS_F16, n_dims, n_heads ? n_heads : n_scale, n_scale);
}

size_t weightsfile_bytes(const struct weightsfile *w, size_t i) {
    assert(i < w->n);
    return w->tensors[i].n_bytes;
}

int64_t weightsfile_all_bytes(const struct weightsfile *w) {
    return w->n_all;
}

size_t weightsfile_count(const struct weightsfile *w) {
    return w->n;
}

int weightsfile_begin(struct weightsfile *w, const char *dir, const char *form,
                      struct hai_err *err) {
    _cleanup_free_ char *path = hai_asprintf("%s/model.safetensors", dir);
    char layout[16], group[16];
    const char *metadata[] = {"format",
                              "pt",
                              form ? "hai_quant" : NULL,
                              form,
                              SOURCE_LAYOUT_KEY,
                              layout,
                              "hai_quant_group",
                              group,
                              NULL};

    (void)snprintf(layout, sizeof layout, "%d", K_QUANT_LAYOUT);
    (void)snprintf(group, sizeof group, "%d", K_QUANT_GROUP);
    return safetensors_writer_new(path, w->tensors, w->n, metadata, &w->writer, err);
}

int weightsfile_add(struct weightsfile *w, const void *data, size_t n_bytes, struct hai_err *err) {
    int r = safetensors_writer_add(w->writer, data, n_bytes, err);

    w->n_done += (int64_t)n_bytes;
    if (r < 0 || !w->on_progress)
        return r;
    r = w->on_progress(w->userdata, w->n_done, w->n_all);
    return r < 0 ? hai_fail(err, r, "stopped at %lld of %lld bytes", (long long)w->n_done,
                            (long long)w->n_all)
                 : 0;
}

int weightsfile_finish(struct weightsfile *w, struct hai_err *err) {
    return safetensors_writer_finish(w->writer, err);
}
