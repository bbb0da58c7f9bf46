#include "engine/model/source.h"
#include "kernels/formats.h"

#include <stdio.h>

static const char scale_end[] = "_scale_inv";

static const struct {
    enum safetensors_dtype in_file;
    enum k_dtype dtype;
} types[] = {
    {SAFETENSORS_F32,     K_F32 },
    {SAFETENSORS_BF16,    K_BF16},
    {SAFETENSORS_F16,     K_F16 },
    {SAFETENSORS_F8_E4M3, K_E4M3},
    {SAFETENSORS_F8_E5M2, K_E5M2},
};

bool source_is_scale(const char *name, size_t *ret_n) {
    size_t n = strlen(name), n_end = sizeof scale_end - 1;

    if (n <= n_end || strcmp(name + n - n_end, scale_end) != 0)
        return false;
    *ret_n = n - n_end;
    return true;
}

static int find_scale(const struct safetensors *files, const struct param *p, struct source *source,
                      struct hai_err *err) {
    const struct safetensors_tensor *t = NULL;
    const int64_t shape[2] = {(p->shape[0] + K_BLOCK - 1) / K_BLOCK,
                              (p->shape[1] + K_BLOCK - 1) / K_BLOCK};
    char name[PARAM_NAME_BYTES + sizeof scale_end];
    bool narrow = source->dtype == K_E4M3 || source->dtype == K_E5M2;

    (void)snprintf(name, sizeof name, "%s%s", p->name, scale_end);
    if (!narrow) {
        t = safetensors_find(files, name);
        return t ? hai_fail(err, -EINVAL, "%s: %s is there, but %s is not in 8-bit floats",
                            safetensors_path(files, t), name, p->name)
                 : 0;
    }
    int r = safetensors_get(files, name, 2, shape, &t, err);
    if (r < 0)
        return r;
    if (t->dtype != SAFETENSORS_F32)
        return hai_fail(err, -ENOTSUP, "%s: %s has type %s; expected F32",
                        safetensors_path(files, t), name, safetensors_dtype_name(t->dtype));
    source->scale = t->data;
    return 0;
}

int source_find(const struct safetensors *files, const struct param *p, struct source *ret,
                struct hai_err *err) {
    const struct safetensors_tensor *t = NULL;
    struct source source = {0};
    size_t i = 0;

    int r = safetensors_get(files, p->name, p->n_dims, p->shape, &t, err);
    if (r < 0)
        return r;
    while (i < ARRAY_SIZE(types) && types[i].in_file != t->dtype)
        i++;
    if (i == ARRAY_SIZE(types) || (p->n_dims < 2 && k_dtype_bytes(types[i].dtype) < 2))
        return hai_fail(err, -ENOTSUP, "%s: %s has type %s; expected F32, BF16 or F16%s",
                        safetensors_path(files, t), t->name, safetensors_dtype_name(t->dtype),
                        p->n_dims < 2 ? "" : ", F8_E4M3 or F8_E5M2");
    source.dtype = types[i].dtype;
    source.data = t->data;
    if (p->n_dims == 2) {
        r = find_scale(files, p, &source, err);
        if (r < 0)
            return r;
    }
    *ret = source;
    return 0;
}

static float element(const struct source *s, int64_t i) {
    switch (s->dtype) {
    case K_BF16:
        return k_from_bf16(((const uint16_t *)s->data)[i]);
    case K_F16:
        return k_from_f16(((const uint16_t *)s->data)[i]);
    case K_E4M3:
        return k_from_e4m3(((const uint8_t *)s->data)[i]);
    case K_E5M2:
        return k_from_e5m2(((const uint8_t *)s->data)[i]);
    default:
        return ((const float *)s->data)[i];
    }
}

void source_read(const struct source *s, int64_t n_in, int64_t first, int64_t n, float *ret) {
    int64_t n_blocks = (n_in + K_BLOCK - 1) / K_BLOCK;

    for (int64_t i = first; i < first + n; i++) {
        float by = 1;
        if (s->scale)
            by = ((const float *)s->scale)[i / n_in / K_BLOCK * n_blocks + i % n_in / K_BLOCK];
        ret[i - first] = element(s, i) * by;
    }
}
