#include "engine/model/source.h"
#include "kernels/formats.h"
#include "kernels/quant.h"

#include <stdio.h>

static const char scale_end[] = "_scale_inv";

/* Ends of the names of quantised values, longest first where one ends another. */
static const char *const part_ends[] = {
    ".keys.q8",      ".keys.q4", ".keys.scale", ".values.q8", ".values.q4",
    ".values.scale", ".q8",      ".q4",         ".scale",     scale_end,
};

enum { NAME_BYTES = PARAM_NAME_BYTES + 16, FILE_ALIGN = 64 };

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

bool source_is_part(const char *name, size_t *ret_n) {
    size_t n = strlen(name);

    for (size_t i = 0; i < ARRAY_SIZE(part_ends); i++) {
        size_t n_end = strlen(part_ends[i]);
        if (n > n_end && strcmp(name + n - n_end, part_ends[i]) == 0) {
            *ret_n = n - n_end;
            return true;
        }
    }
    return false;
}

static int64_t aligned(size_t n_bytes) {
    return (int64_t)((n_bytes + FILE_ALIGN - 1) / FILE_ALIGN * FILE_ALIGN);
}

int64_t source_data_bytes(enum k_dtype dtype, int64_t n_out, int64_t n_in) {
    return aligned(k_quant_bytes(dtype, n_out, n_in));
}

int64_t source_scale_bytes(int64_t n_out, int64_t n_in) {
    return aligned(k_quant_scale_bytes(n_out, n_in));
}

static const struct safetensors_tensor *find_part(const struct safetensors *files,
                                                  const struct param *p, const char *end) {
    char name[NAME_BYTES];

    (void)snprintf(name, sizeof name, "%s%s", p->name, end);
    return safetensors_find(files, name);
}

static bool is_halved(const struct safetensors *files, const struct param *p) {
    return p->n_heads && (find_part(files, p, ".keys.q8") || find_part(files, p, ".keys.q4"));
}

bool source_is_quantized(const struct safetensors *files, const struct param *p) {
    return p->n_dims == 2 &&
           (find_part(files, p, ".q8") || find_part(files, p, ".q4") || is_halved(files, p));
}

/* A tensor of n_heads times n bytes, in elements of a type. */
static int get_part(const struct safetensors *files, const struct param *p, const char *end,
                    enum safetensors_dtype dtype, int64_t n_heads, int64_t n_bytes,
                    const void **ret, struct hai_err *err) {
    const int64_t n = n_bytes / (int64_t)safetensors_dtype_bytes(dtype), whole[2] = {n_heads, n};
    const struct safetensors_tensor *t = NULL;
    char name[NAME_BYTES];

    (void)snprintf(name, sizeof name, "%s%s", p->name, end);
    int r = safetensors_get(files, name, n_heads ? 2 : 1, n_heads ? whole : &n, &t, err);
    if (r < 0)
        return r;
    if (t->dtype != dtype)
        return hai_fail(err, -ENOTSUP, "%s: %s has type %s; expected %s",
                        safetensors_path(files, t), name, safetensors_dtype_name(t->dtype),
                        safetensors_dtype_name(dtype));
    *ret = t->data;
    return 0;
}

/* Values and scales of a quantised matrix [n_out, n_in], or of one for each head. part: "" or which
 * half. */
static int get_quantized(const struct safetensors *files, const struct param *p, const char *part,
                         int64_t n_heads, int64_t n_out, int64_t n_in, enum k_dtype *dtype,
                         const void **ret_data, const void **ret_scale, struct hai_err *err) {
    char end[16];

    if (n_in % K_QUANT_GROUP)
        return hai_fail(err, -EINVAL, "%s is quantised, but %lld numbers are no whole groups of %d",
                        p->name, (long long)n_in, K_QUANT_GROUP);
    (void)snprintf(end, sizeof end, "%s.q4", part);
    enum k_dtype found = find_part(files, p, end) ? K_Q4 : K_Q8;
    if (*dtype != K_DTYPE_COUNT && *dtype != found)
        return hai_fail(err, -EINVAL, "%s: its halves are of two types", p->name);
    *dtype = found;
    (void)snprintf(end, sizeof end, "%s.%s", part, found == K_Q8 ? "q8" : "q4");
    int r = get_part(files, p, end, SAFETENSORS_U8, n_heads, source_data_bytes(found, n_out, n_in),
                     ret_data, err);
    if (r < 0)
        return r;
    (void)snprintf(end, sizeof end, "%s.scale", part);
    return get_part(files, p, end, SAFETENSORS_F16, n_heads, source_scale_bytes(n_out, n_in),
                    ret_scale, err);
}

static int check_layout(const struct safetensors *files, const struct param *p,
                        struct hai_err *err) {
    const char *version = safetensors_metadata(files, SOURCE_LAYOUT_KEY);
    char expected[16];

    (void)snprintf(expected, sizeof expected, "%d", K_QUANT_LAYOUT);
    if (safetensors_find(files, p->name))
        return hai_fail(err, -EINVAL, "%s is there twice, quantised and not", p->name);
    if (version && hai_streq(version, expected))
        return 0;
    return hai_fail(err, -ENOTSUP,
                    "%s is quantised in layout %.20s; expected %s (make the files again with "
                    "hai-quantize)",
                    p->name, version ? version : "unknown", expected);
}

static int find_quantized(const struct safetensors *files, const struct param *p,
                          struct source *ret, struct hai_err *err) {
    struct source s = {.dtype = K_DTYPE_COUNT, .n_in = p->shape[1]};

    int r = check_layout(files, p, err);
    if (r < 0)
        return r;
    if (!is_halved(files, p)) {
        r = get_quantized(files, p, "", 0, p->shape[0], p->shape[1], &s.dtype, &s.data, &s.scale,
                          err);
    } else {
        s.n_heads = p->n_heads;
        s.n_key_rows = p->n_key_rows;
        s.n_value_rows = p->shape[0] / p->n_heads - p->n_key_rows;
        r = get_quantized(files, p, ".keys", s.n_heads, s.n_in, s.n_key_rows, &s.dtype, &s.keys,
                          &s.keys_scale, err);
        if (r == 0)
            r = get_quantized(files, p, ".values", s.n_heads, s.n_value_rows, s.n_in, &s.dtype,
                              &s.data, &s.scale, err);
    }
    if (r == 0)
        *ret = s;
    return r;
}

static int find_scale(const struct safetensors *files, const struct param *p, struct source *source,
                      struct hai_err *err) {
    const struct safetensors_tensor *t = NULL;
    const int64_t shape[2] = {(p->shape[0] + K_BLOCK - 1) / K_BLOCK,
                              (p->shape[1] + K_BLOCK - 1) / K_BLOCK};
    char name[NAME_BYTES];
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
    struct source source = {.n_in = p->shape[p->n_dims - 1]};
    size_t i = 0;

    if (source_is_quantized(files, p))
        return find_quantized(files, p, ret, err);
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

struct k_weight_part source_keys(const struct source *s, int64_t head) {
    return (struct k_weight_part){
        .data = (const char *)s->keys + head * source_data_bytes(s->dtype, s->n_in, s->n_key_rows),
        .scale = (const char *)s->keys_scale + head * source_scale_bytes(s->n_in, s->n_key_rows),
        .n_out = s->n_in,
    };
}

struct k_weight_part source_values(const struct source *s, int64_t head) {
    return (struct k_weight_part){
        .data =
            (const char *)s->data + head * source_data_bytes(s->dtype, s->n_value_rows, s->n_in),
        .scale = (const char *)s->scale + head * source_scale_bytes(s->n_value_rows, s->n_in),
        .n_out = s->n_value_rows,
    };
}

/* Part of a row of whole numbers. */
static void read_quantized(const struct source *s, int64_t row, int64_t first, int64_t n,
                           float *ret) {
    struct k_weight_part part = {.data = s->data, .scale = s->scale};

    if (s->keys) {
        int64_t rows = s->n_key_rows + s->n_value_rows, head = row / rows;
        row %= rows;
        if (row < s->n_key_rows) {
            part = source_keys(s, head);
            for (int64_t i = 0; i < n; i++)
                ret[i] = (float)k_quant_value(s->dtype, part.data, part.scale, s->n_key_rows,
                                              first + i, row);
            return;
        }
        part = source_values(s, head);
        row -= s->n_key_rows;
    }
    for (int64_t i = 0; i < n; i++)
        ret[i] = (float)k_quant_value(s->dtype, part.data, part.scale, s->n_in, row, first + i);
}

/* Numbers as the file has them, without scales. */
static void read_plain(const struct source *s, int64_t first, int64_t n, float *ret) {
    const uint16_t *halves = (const uint16_t *)s->data + first;
    const uint8_t *bytes = (const uint8_t *)s->data + first;

    switch (s->dtype) {
    case K_BF16:
        for (int64_t i = 0; i < n; i++)
            ret[i] = k_from_bf16(halves[i]);
        break;
    case K_F16:
        for (int64_t i = 0; i < n; i++)
            ret[i] = k_from_f16(halves[i]);
        break;
    case K_E4M3:
        for (int64_t i = 0; i < n; i++)
            ret[i] = k_from_e4m3(bytes[i]);
        break;
    case K_E5M2:
        for (int64_t i = 0; i < n; i++)
            ret[i] = k_from_e5m2(bytes[i]);
        break;
    default:
        memcpy(ret, (const float *)s->data + first, (size_t)n * sizeof *ret);
        break;
    }
}

void source_read(const struct source *s, int64_t first, int64_t n, float *ret) {
    int64_t n_blocks = (s->n_in + K_BLOCK - 1) / K_BLOCK;
    bool quantized = s->dtype == K_Q8 || s->dtype == K_Q4;

    if (!quantized)
        read_plain(s, first, n, ret);
    if (!quantized && !s->scale)
        return;
    while (n > 0) {
        int64_t row = first / s->n_in, column = first % s->n_in;
        int64_t n_here = MIN(n, s->n_in - column);
        if (quantized)
            read_quantized(s, row, column, n_here, ret);
        for (int64_t i = 0; !quantized && i < n_here; i++)
            ret[i] *= ((const float *)s->scale)[row / K_BLOCK * n_blocks + (column + i) / K_BLOCK];
        first += n_here;
        ret += n_here;
        n -= n_here;
    }
}
