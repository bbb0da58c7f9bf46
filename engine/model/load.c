#include "engine/model/load.h"

#include "storage/safetensors.h"

static float widen_bf16(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float f;

    memcpy(&f, &wide, sizeof f);
    return f;
}

static float widen_f16(uint16_t bits) {
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16, exponent = (bits >> 10) & 31;
    uint32_t fraction = bits & 0x3ff, wide;
    float f;

    if (exponent == 31) {
        wide = sign | 0x7f800000 | fraction << 13;
    } else if (exponent) {
        wide = sign | (exponent + 112) << 23 | fraction << 13;
    } else { /* zero or subnormal: fraction * 2^-24, exact in float32 */
        f = (float)fraction * 0x1p-24f;
        return sign ? -f : f;
    }
    memcpy(&f, &wide, sizeof f);
    return f;
}

/* Element i of a tensor of a floating type. */
static float element(const struct safetensors_tensor *t, int64_t i) {
    switch (t->dtype) {
    case SAFETENSORS_BF16:
        return widen_bf16(((const uint16_t *)t->data)[i]);
    case SAFETENSORS_F16:
        return widen_f16(((const uint16_t *)t->data)[i]);
    default:
        return ((const float *)t->data)[i];
    }
}

/* Values of a file into the type they are kept in. */
static int convert(const struct safetensors *files, const struct safetensors_tensor *t,
                   struct k_tensor to, struct hai_err *err) {
    int64_t n = k_tensor_n_elements(&to);
    float *wide = to.data;
    uint16_t *narrow = to.data;

    if (t->dtype != SAFETENSORS_F32 && t->dtype != SAFETENSORS_BF16 && t->dtype != SAFETENSORS_F16)
        return hai_fail(err, -ENOTSUP, "%s: %s has type %s; expected F32, BF16 or F16",
                        safetensors_path(files, t), t->name, safetensors_dtype_name(t->dtype));
    if (to.dtype == K_BF16)
        for (int64_t i = 0; i < n; i++)
            narrow[i] = k_bf16(element(t, i));
    else
        for (int64_t i = 0; i < n; i++)
            wide[i] = element(t, i);
    return 0;
}

static bool carries_nothing(const char *name) {
    static const char end[] = ".rotary_emb.inv_freq";
    size_t n = strlen(name);

    return n >= sizeof end && strcmp(name + n - (sizeof end - 1), end) == 0;
}

static int check_names(const struct model *model, const struct safetensors *files,
                       struct hai_err *err) {
    for (size_t i = 0; i < safetensors_count(files); i++) {
        const struct safetensors_tensor *t = safetensors_at(files, i);
        int k = params_find(model_params(model), t->name);
        if (k < 0 && !carries_nothing(t->name))
            return hai_fail(err, -EINVAL, "%s: %s is no tensor of this model",
                            safetensors_path(files, t), t->name);
    }
    return 0;
}

/* Files repeat shared tensors (the multi-token module's embedding and head). The model keeps one,
 * so a copy that says something else cannot be followed. */
static int check_copy(const struct safetensors *files, const struct param *p,
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

int load_model(struct model *model, const char *dir, struct hai_err *err) {
    _cleanup_(safetensors_freep) struct safetensors *files = NULL;
    const struct params *params = model_params(model);

    int r = safetensors_open(dir, &files, err);
    if (r < 0)
        return r;
    r = check_names(model, files, err);
    if (r < 0)
        return r;
    for (int i = 0; i < params->n; i++) {
        const struct param *p = &params->items[i];
        const struct safetensors_tensor *t = NULL;
        if (p->tie != i) {
            r = check_copy(files, p, &params->items[p->tie], err);
            if (r < 0)
                return r;
            continue;
        }
        r = safetensors_get(files, p->name, p->n_dims, p->shape, &t, err);
        if (r < 0)
            return r;
        r = convert(files, t, model_values(model, i), err);
        if (r < 0)
            return r;
    }
    return 0;
}
