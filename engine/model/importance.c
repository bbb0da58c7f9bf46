#include "engine/model/importance.h"
#include "engine/model/model_impl.h"
#include "storage/safetensors.h"

#include <stdio.h>

/* One weight that products read, and the squares of its inputs. */
struct met {
    const struct k_weight *w;
    int param;              // row of the table of its first tensor
    int64_t n_groups, n_in; // of the sums
    int64_t n_out;          // rows of a group: how many tensors it is made of
    const char *end;        // behind the names
    double *sums;           // [n_groups, n_in]
    int64_t *n_rows;        // [n_groups]
};

/* The table goes first: the context's points to it. */
struct importance {
    struct k_table table;
    const struct k_table *inner;
    struct model *model;
    struct met *met;
    int n_met;
};

static struct met *find(struct importance *x, const struct k_weight *w) {
    for (int i = 0; i < x->n_met; i++)
        if (x->met[i].w == w)
            return &x->met[i];
    return NULL;
}

static void add_row(struct met *m, int64_t group, const float *row, int64_t n) {
    double *sums = m->sums + group * m->n_in;

    for (int64_t i = 0; i < n; i++)
        sums[i] += (double)row[i] * (double)row[i];
    m->n_rows[group]++;
}

static int linear(struct k_ctx *ctx, const struct k_linear *a) {
    struct importance *x = (struct importance *)(uintptr_t)ctx->table;
    struct met *m = a->x.dtype == K_F32 ? find(x, a->w) : NULL;
    const int32_t *start = a->row_start.data;
    int64_t group = 0;

    for (int64_t row = 0; m && row < a->x.shape[0]; row++) {
        while (start && row >= start[group + 1])
            group++;
        add_row(m, group, (const float *)a->x.data + row * a->x.stride[0], m->n_in);
    }
    return x->inner->linear ? x->inner->linear(ctx, a) : -ENOTSUP;
}

/* Inputs of every head: side by side where the sums have room for all, else together. */
static void add_heads(struct importance *x, const struct k_weight *w, const struct k_tensor *t) {
    struct met *m = find(x, w);

    for (int64_t row = 0; m && row < t->shape[0]; row++)
        for (int64_t h = 0; h < t->shape[1]; h++)
            add_row(m, m->n_groups > 1 ? h : 0,
                    (const float *)t->data + row * t->stride[0] + h * t->stride[1], m->n_in);
}

static int linear_heads(struct k_ctx *ctx, const struct k_linear_heads *a) {
    struct importance *x = (struct importance *)(uintptr_t)ctx->table;

    add_heads(x, a->w, &a->x);
    return x->inner->linear_heads ? x->inner->linear_heads(ctx, a) : -ENOTSUP;
}

static int linear_heads_dx(struct k_ctx *ctx, const struct k_linear_heads_dx *a) {
    struct importance *x = (struct importance *)(uintptr_t)ctx->table;

    add_heads(x, a->w, &a->dy);
    return x->inner->linear_heads_dx ? x->inner->linear_heads_dx(ctx, a) : -ENOTSUP;
}

static void add(struct importance *x, const struct k_weight *w, int param, int64_t n_groups,
                int64_t n_out, int64_t n_in, const char *end) {
    struct met *m;

    if (!w)
        return;
    x->met = hai_realloc_array(x->met, (size_t)x->n_met + 1, sizeof *x->met);
    m = &x->met[x->n_met++];
    *m = (struct met){
        .w = w, .param = param, .n_groups = n_groups, .n_in = n_in, .n_out = n_out, .end = end};
    m->sums = hai_new_array(double, (size_t)(n_groups * n_in));
    m->n_rows = hai_new_array(int64_t, (size_t)n_groups);
}

static void add_layer(struct importance *x, const struct layer *l) {
    char name[PARAM_NAME_BYTES];

    for (int k = 0; k < l->n_params; k++) {
        const struct layer_param *p = &l->params[k];
        (void)snprintf(name, sizeof name, "model.layers.%d.%s", l->number, p->name);
        int param = params_find(x->model->params, name);
        if (!p->n_groups)
            continue;
        if (!p->group_rows)
            add(x, p->w, param, p->n_groups, p->n_out, p->n_in, "");
        else if (p->first_row) // values: the same inputs for all heads
            add(x, p->w, param, 1, p->n_out, p->n_in, ".values");
        else // keys: a head's queries
            add(x, p->w, param, p->n_groups, 0, p->turned ? p->n_in : p->n_out, ".keys");
    }
}

struct importance *importance_begin(struct model *model) {
    struct importance *x = hai_new(struct importance);

    x->model = model;
    x->inner = model->ctx.table;
    x->table = *x->inner;
    x->table.linear = linear;
    x->table.linear_heads = linear_heads;
    x->table.linear_heads_dx = linear_heads_dx;
    for (int i = 0; i < model->n_layers; i++)
        add_layer(x, &model->layers[i]);
    add(x, model->head, params_find(model->params, "lm_head.weight"), 1, model->config.n_vocab,
        model->config.n_dim, "");
    model->ctx.table = &x->table;
    return x;
}

void importance_free(struct importance *x) {
    if (!x)
        return;
    x->model->ctx.table = x->inner;
    for (int i = 0; i < x->n_met; i++) {
        free(x->met[i].sums);
        free(x->met[i].n_rows);
    }
    free(x->met);
    free(x);
}

/* The means of `n` sums with a hundredth of their own mean added; false: no token came. */
static bool means_of(const double *sums, int64_t n, int64_t n_rows, float *ret) {
    double all = 0;

    for (int64_t i = 0; i < n; i++)
        all += sums[i];
    for (int64_t i = 0; i < n; i++)
        ret[i] = (float)((sums[i] + 0.01 * all / (double)n) / (double)MAX(n_rows, (int64_t)1));
    return n_rows > 0 && all > 0;
}

struct file {
    struct safetensors_tensor *tensors; // names and data owned
    size_t n, n_max;
};

static void file_free(struct file *f) {
    for (size_t i = 0; i < f->n; i++) {
        free((char *)(uintptr_t)f->tensors[i].name);
        free((void *)(uintptr_t)f->tensors[i].data);
    }
    free(f->tensors);
}

static void file_add(struct file *f, const char *name, const char *end, const double *sums,
                     int64_t n, int64_t n_rows) {
    float *means = hai_new_array(float, (size_t)n);

    if (!means_of(sums, n, n_rows, means)) {
        free(means);
        return;
    }
    if (f->n == f->n_max) {
        f->n_max = MAX((size_t)64, 2 * f->n_max);
        f->tensors = hai_realloc_array(f->tensors, f->n_max, sizeof *f->tensors);
    }
    f->tensors[f->n++] = (struct safetensors_tensor){.name = hai_asprintf("%s%s", name, end),
                                                     .dtype = SAFETENSORS_F32,
                                                     .n_dims = 1,
                                                     .shape = {n},
                                                     .data = means,
                                                     .n_bytes = (size_t)n * sizeof *means};
}

/* Every tensor of a weight. */
static void add_met(struct file *f, const struct params *params, const struct met *m) {
    int i = m->param;

    if (m->end[0]) {
        file_add(f, params->items[i].name, m->end, m->sums, m->n_groups * m->n_in, m->n_rows[0]);
        return;
    }
    for (int64_t g = 0; g < m->n_groups && i >= 0; g++) {
        int k = i;
        for (int64_t rows = 0; rows < m->n_out; rows += params->items[k++].shape[0])
            file_add(f, params->items[k].name, "", m->sums + g * m->n_in, m->n_in, m->n_rows[g]);
        i = params->items[i].expert >= 0 ? params_next_expert(params, i) : -1;
    }
}

int importance_write(const struct importance *x, const char *path, struct hai_err *err) {
    static const char *const metadata[] = {"format", "hai_importance", NULL};
    _cleanup_(file_free) struct file f = {0};

    for (int i = 0; i < x->n_met; i++)
        add_met(&f, x->model->params, &x->met[i]);
    return safetensors_write(path, f.tensors, f.n, metadata, err);
}
