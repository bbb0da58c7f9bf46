#include "engine/model/weightsfile.h"
#include "engine/model/source.h"
#include "kernels/formats.h"
#include "kernels/quant.h"
#include "lib/fileio.h"
#include "lib/json.h"

#include <math.h>
#include <stdio.h>

#define WHOLE "model.safetensors"

struct weightsfile {
    struct safetensors_tensor *tensors; // names owned; file: number in files
    size_t n, n_max;
    char **files; // names in dir
    int n_files;
    char *dir;
    const char *form;
    struct safetensors_writer *writer; // of the file that is being written
    size_t n_begun;                    // tensors of it and of those before it
    int64_t n_left;                    // bytes of it still to come
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
    for (int i = 0; i < w->n_files; i++)
        free(w->files[i]);
    free(w->files);
    free(w->dir);
    safetensors_writer_free(w->writer);
    free(w->tensors);
    free(w);
}

void weightsfile_plan_file(struct weightsfile *w, const char *name) {
    w->files = hai_realloc_array(w->files, (size_t)w->n_files + 1, sizeof *w->files);
    w->files[w->n_files++] = hai_strdup(name);
}

void weightsfile_plan_copy(struct weightsfile *w, const struct safetensors_tensor *tensor) {
    assert(w->n < w->n_max);
    struct safetensors_tensor *t = &w->tensors[w->n++];

    *t = *tensor;
    t->name = hai_strdup(tensor->name);
    t->file = MAX(w->n_files - 1, 0);
    w->n_all += (int64_t)t->n_bytes;
}

static void plan(struct weightsfile *w, const struct param *p, const char *part, const char *end,
                 enum safetensors_dtype dtype, int n_dims, int64_t n0, int64_t n1) {
    _cleanup_free_ char *name = hai_asprintf("%s%s%s", p->name, part, end);

    weightsfile_plan_copy(w, &(struct safetensors_tensor){
                                 .name = name,
                                 .dtype = dtype,
                                 .n_dims = n_dims,
                                 .shape = {n0, n1},
                                 .n_bytes = safetensors_dtype_bytes(dtype) * (size_t)n0 *
                                            (size_t)(n_dims > 1 ? n1 : 1),
    });
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

void weightsfile_split(struct weightsfile *w, int64_t n_bytes_max) {
    int64_t n_here = 0;
    int n = 1;

    assert(w->n_files == 0);
    for (size_t i = 0; i < w->n; i++) {
        int64_t n_bytes = (int64_t)w->tensors[i].n_bytes;
        if (n_here > 0 && n_here + n_bytes > n_bytes_max) {
            n_here = 0;
            n++;
        }
        n_here += n_bytes;
        w->tensors[i].file = n - 1;
    }
    for (int i = 0; i < n && n > 1; i++) {
        _cleanup_free_ char *name = hai_asprintf("model-%05d-of-%05d.safetensors", i + 1, n);
        weightsfile_plan_file(w, name);
    }
}

/* Begin the file of the first tensor that is in none yet. */
static int begin_next(struct weightsfile *w, struct hai_err *err) {
    const struct safetensors_tensor *first = &w->tensors[w->n_begun];
    size_t n = 0, n_left = w->n - w->n_begun;
    char layout[16], group[16];
    const char *metadata[] = {"format",
                              "pt",
                              w->form ? "hai_quant" : NULL,
                              w->form,
                              SOURCE_LAYOUT_KEY,
                              layout,
                              "hai_quant_group",
                              group,
                              NULL};

    (void)snprintf(layout, sizeof layout, "%d", K_QUANT_LAYOUT);
    (void)snprintf(group, sizeof group, "%d", K_QUANT_GROUP);
    for (w->n_left = 0; n < n_left && first[n].file == first->file; n++)
        w->n_left += (int64_t)first[n].n_bytes;
    _cleanup_free_ char *path =
        hai_asprintf("%s/%s", w->dir, w->n_files && n ? w->files[first->file] : WHOLE);
    w->n_begun += n;
    return safetensors_writer_new(path, first, n, metadata, &w->writer, err);
}

static int end_file(struct weightsfile *w, struct hai_err *err) {
    int r = safetensors_writer_finish(w->writer, err);

    safetensors_writer_free(TAKE_PTR(w->writer));
    return r;
}

int weightsfile_begin(struct weightsfile *w, const char *dir, const char *form,
                      struct hai_err *err) {
    assert(!w->dir);
    w->dir = hai_strdup(dir);
    w->form = form;
    return begin_next(w, err);
}

int weightsfile_add(struct weightsfile *w, const void *data, size_t n_bytes, struct hai_err *err) {
    int r = 0;

    if (w->n_left == 0 && w->n_begun < w->n) {
        r = end_file(w, err);
        if (r == 0)
            r = begin_next(w, err);
    }
    if (r == 0)
        r = safetensors_writer_add(w->writer, data, n_bytes, err);
    w->n_left -= (int64_t)n_bytes;
    w->n_done += (int64_t)n_bytes;
    if (r < 0 || !w->on_progress)
        return r;
    r = w->on_progress(w->userdata, w->n_done, w->n_all);
    return r < 0 ? hai_fail(err, r, "stopped at %lld of %lld bytes", (long long)w->n_done,
                            (long long)w->n_all)
                 : 0;
}

bool weightsfile_round(enum k_dtype dtype, const float *values, int64_t n, void *ret) {
    uint16_t *halves = ret;
    bool sound = true;

    for (int64_t i = 0; i < n; i++) {
        float x = values[i];
        if (dtype == K_F16)
            x = k_from_f16(halves[i] = k_to_f16(x));
        else if (dtype == K_BF16)
            x = k_from_bf16(halves[i] = k_to_bf16(x));
        else
            ((float *)ret)[i] = x;
        sound &= isfinite(x);
    }
    return sound;
}

/* What transformers and others look shards up in: tensor -> file, and the bytes of all. */
static int write_index(const struct weightsfile *w, struct hai_err *err) {
    _cleanup_free_ char *path = hai_asprintf("%s/" WHOLE ".index.json", w->dir);
    _cleanup_(json_freep) struct json *root = json_new_object();
    _cleanup_(buf_free) struct buf text = {0};

    struct json *metadata = json_add(root, "metadata", json_new_object());
    json_add_int(metadata, "total_size", w->n_all);
    struct json *map = json_add(root, "weight_map", json_new_object());
    for (size_t i = 0; i < w->n; i++)
        json_add_string(map, w->tensors[i].name, w->files[w->tensors[i].file]);
    json_dump(root, 2, &text);
    return fileio_replace(path, text.data, text.n_bytes, 0644, err);
}

int weightsfile_finish(struct weightsfile *w, struct hai_err *err) {
    bool indexed = w->n_files > 1 || (w->n_files == 1 && !hai_streq(w->files[0], WHOLE));

    assert(w->n_begun == w->n);
    int r = end_file(w, err);
    return r == 0 && indexed ? write_index(w, err) : r;
}
