#include "engine/model/model_impl.h"
#include "engine/model/source.h"

#include <stdio.h>

/* Where the values of a parameter are: its own, or its owner's. A head that is the embedding may
 * have values of its own in quantised files. */
static int find_source(struct model *m, int i, struct source *ret, struct hai_err *err) {
    const struct param *p = &m->params->items[i];

    if (m->options.files) {
        if (p->tie != i && (p->in_file || !source_is_quantized(m->options.files, p)))
            p = &m->params->items[p->tie];
        return source_find(m->options.files, p, ret, err);
    }
    const struct model_working *w = &m->working[p->tie];
    if (w->data) {
        *ret = (struct source){.dtype = w->dtype, .data = w->data, .scale = w->scale};
        return 0;
    }
    struct k_tensor t = model_values(m, p->tie);
    *ret = (struct source){.dtype = t.dtype, .data = t.data};
    return 0;
}

/* Parts of one group from row i of the table on, until they have n_out rows. */
static int collect(struct model *m, int i, int64_t n_out, enum k_dtype *dtype,
                   struct k_weight_part *parts, int parts_max, struct hai_err *err) {
    int n = 0;

    for (int64_t rows = 0; rows < n_out; i++) {
        const struct param *p = &m->params->items[i];
        struct source s;
        assert(n < parts_max);
        int r = find_source(m, i, &s, err);
        if (r < 0)
            return r;
        if (*dtype == K_DTYPE_COUNT)
            *dtype = s.dtype;
        if (*dtype != s.dtype)
            return hai_fail(err, -ENOTSUP, "%s is %s, others of its product are %s", p->name,
                            k_dtype_name(s.dtype), k_dtype_name(*dtype));
        parts[n++] = (struct k_weight_part){.data = s.data, .scale = s.scale, .n_out = p->shape[0]};
        rows += p->shape[0];
    }
    return n;
}

/* Heads' shares of one matrix. */
static void cut_heads(const struct layer_param *p, enum k_dtype dtype,
                      struct k_weight_part *parts) {
    struct k_weight_part whole = parts[0];

    for (int64_t g = 0; g < p->n_groups; g++) {
        int64_t row = g * p->group_rows + p->first_row;
        parts[g] = (struct k_weight_part){
            .data = (const char *)whole.data + k_dtype_n_bytes(dtype, row * p->n_in),
            .scale = whole.scale,
            .n_out = p->n_out,
            .first_row = row,
        };
    }
}

/* The same of a matrix whose halves are apart in quantised files: keys' or values', whichever the
 * parameter is. Returns whether it is one of them. */
static bool cut_halves(const struct layer_param *p, const struct source *s,
                       struct k_weight_part *parts) {
    if (!p->group_rows || p->turned != (p->first_row == 0))
        return false;
    for (int64_t g = 0; g < p->n_groups; g++)
        parts[g] = p->turned ? source_keys(s, g) : source_values(s, g);
    return true;
}

enum { PARTS_MAX = 3 };

/* Parameters of a tensor that is cut in heads: whole, by heads, and turned. *ret stays NULL if the
 * files have it in the other form. */
static int bind_heads(struct model *m, const struct layer_param *p, int i, struct k_weight **ret,
                      struct hai_err *err) {
    _cleanup_free_ struct k_weight_part *parts =
        hai_new_array(struct k_weight_part, (size_t)p->n_groups);
    struct source s;

    int r = find_source(m, i, &s, err);
    if (r < 0)
        return r;
    if (s.keys ? !cut_halves(p, &s, parts) : p->turned) {
        m->cache_only |= s.keys != NULL;
        return 0;
    }
    if (!s.keys) {
        parts[0] = (struct k_weight_part){.data = s.data, .scale = s.scale, .n_out = p->n_out};
        if (p->group_rows)
            cut_heads(p, s.dtype, parts);
    }
    return k_weight_new(&m->ctx, s.dtype, p->n_groups, p->n_out, p->n_in, parts, 1, ret, err);
}

/* The weights of a product whose first tensor is row i of the table. */
static int bind_weight(struct model *m, const struct layer_param *p, int i, struct k_weight **ret,
                       struct hai_err *err) {
    enum k_dtype dtype = K_DTYPE_COUNT;
    _cleanup_free_ struct k_weight_part *parts =
        hai_new_array(struct k_weight_part, (size_t)(p->n_groups * PARTS_MAX));
    int n = 0, n_all = 0;

    if (m->params->items[i].n_heads)
        return bind_heads(m, p, i, ret, err);
    for (int64_t g = 0; g < p->n_groups; g++) {
        if (g > 0)
            i = params_next_expert(m->params, i);
        assert(i >= 0);
        n = collect(m, i, p->n_out, &dtype, parts + n_all, PARTS_MAX, err);
        if (n < 0)
            return n;
        n_all += n;
    }
    return k_weight_new(&m->ctx, dtype, p->n_groups, p->n_out, p->n_in, parts, n, ret, err);
}

static int find_in_layer(const struct model *m, int number, const char *name) {
    char full[PARAM_NAME_BYTES];

    (void)snprintf(full, sizeof full, "model.layers.%d.%s", number, name);
    int i = params_find(m->params, full);
    assert(i >= 0);
    return i;
}

static int bind_layer(struct model *m, struct layer *l, struct hai_err *err) {
    for (int k = 0; k < l->n_params; k++) {
        struct layer_param *p = &l->params[k];
        int i = find_in_layer(m, l->number, p->name);
        const struct param *first = &m->params->items[i];
        float *gradient = m->gradients && first->trained ? m->gradients + first->offset : NULL;
        if (!p->n_groups) {
            p->vector = k_tensor_1d(model_values(m, i).data, K_F32, p->n_out);
            p->dw = k_tensor_1d(gradient, K_F32, p->n_out);
            continue;
        }
        p->dw = k_tensor_3d(gradient, K_F32, p->n_groups, p->n_out, p->n_in);
        int r = bind_weight(m, p, i, &p->w, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int bind_one(struct model *m, const char *name, struct k_weight **ret, struct hai_err *err) {
    int i = params_find(m->params, name);

    assert(i >= 0);
    const struct layer_param p = {
        .n_groups = 1, .n_out = m->params->items[i].shape[0], .n_in = m->params->items[i].shape[1]};
    return bind_weight(m, &p, i, ret, err);
}

int model_bind(struct model *m, struct hai_err *err) {
    char name[PARAM_NAME_BYTES];
    int r = bind_one(m, "model.embed_tokens.weight", &m->embedding, err);

    if (r == 0)
        r = bind_one(m, "lm_head.weight", &m->head, err);
    (void)snprintf(name, sizeof name, "model.layers.%d.eh_proj.weight", (int)m->config.n_layers);
    if (r == 0 && m->config.n_mtp)
        r = bind_one(m, name, &m->eh_proj, err);
    for (int i = 0; i < m->n_layers_all && r == 0; i++)
        r = bind_layer(m, &m->layers[i], err);
    return r;
}
