#include "tests/unit/layer_errors.h"

#include "engine/model/model_impl.h"
#include "kernels/philox.h"

#include <math.h>

enum { SEED = 3 };

/* One of the two models, and what a layer made of its input there. */
struct side {
    struct model *m;
    struct layer_batch lb;
    float *y, *dx;
};

struct pair {
    struct side exact, rounded;
    int32_t *ids, *seq_start;
    float *dy;
    int64_t n; // numbers of a residual stream
};

static void side_free(struct side *s) {
    model_free(s->m);
    free(s->y);
    free(s->dx);
}

static void pair_free(struct pair *p) {
    side_free(&p->exact);
    side_free(&p->rounded);
    free(p->ids);
    free(p->seq_start);
    free(p->dy);
}

static void draw(struct pair *p, const struct model_config *config,
                 const struct model_options *options) {
    int64_t n_tokens = options->n_tokens_max, n_seqs = options->n_seqs_max;

    p->n = n_tokens * config->n_dim;
    p->ids = hai_new_array(int32_t, (size_t)n_tokens);
    p->seq_start = hai_new_array(int32_t, (size_t)n_seqs + 1);
    p->dy = hai_new_array(float, (size_t)p->n);
    for (int64_t i = 0; i < p->n; i++) {
        struct philox_counter at = philox_at(PHILOX_SHUFFLE, 1, 0, (uint32_t)i);
        uint32_t words[4];
        philox_words(SEED, &at, words);
        p->dy[i] = (float)(1e-3 * philox_normal(words[0], words[1]));
        if (i < n_tokens)
            p->ids[i] = (int32_t)(words[2] % config->n_vocab);
    }
    for (int64_t s = 0; s <= n_seqs; s++)
        p->seq_start[s] = (int32_t)(s * n_tokens / n_seqs);
}

static int begin(struct side *s, const struct pair *p, const struct model_config *config,
                 const struct model_options *options, struct hai_err *err) {
    const struct model_batch batch = {.n_tokens = options->n_tokens_max,
                                      .n_seqs = options->n_seqs_max,
                                      .ids = p->ids,
                                      .seq_start = p->seq_start};
    int r = model_new(config, options, &s->m, err);

    if (r < 0)
        return r;
    model_init(s->m, SEED);
    s->y = hai_new_array(float, (size_t)p->n);
    s->dx = hai_new_array(float, (size_t)p->n);
    r = model_batch_begin(s->m, &batch, &s->lb, err);
    return r < 0 ? r : model_run(s->m, &batch, &s->lb, NULL);
}

static int run_layer(struct side *s, int i, const float *x, const float *dy) {
    struct layer *l = &s->m->layers[i];
    int64_t n = s->lb.n_tokens;
    struct k_tensor in = model_rows(s->m, (float *)(uintptr_t)x, n);
    struct k_tensor out = model_rows(s->m, s->y, n), back = model_rows(s->m, s->dx, n);
    struct k_tensor grad = model_rows(s->m, (float *)(uintptr_t)dy, n);

    model_gradients_clear(s->m);
    LAYER_TRY(l->type->forward(&s->m->ctx, l, &s->lb, &in, &out));
    LAYER_TRY(l->type->backward_input(&s->m->ctx, l, &s->lb, &in, &grad, &back));
    return l->type->backward_weight(&s->m->ctx, l, &s->lb, &in, &grad);
}

struct sums {
    double difference, norm;
};

/* less: what both have in common, or NULL. */
static void compare(struct sums *s, const float *got, const float *want, const float *less,
                    int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        double w = (double)want[i] - (less ? (double)less[i] : 0);
        double d = (double)got[i] - (double)want[i];
        s->difference += d * d;
        s->norm += w * w;
    }
}

static double ratio(const struct sums *s) {
    return sqrt(s->difference / s->norm);
}

static struct layer_error errors_of(const struct pair *p, int i, const float *x) {
    const struct layer *exact = &p->exact.m->layers[i], *rounded = &p->rounded.m->layers[i];
    struct sums y = {0}, dx = {0}, dw = {0};

    compare(&y, p->rounded.y, p->exact.y, x, p->n);
    compare(&dx, p->rounded.dx, p->exact.dx, p->dy, p->n);
    for (int k = 0; k < exact->n_params; k++) {
        const struct k_tensor *w = &exact->params[k].dw;
        if (exact->params[k].n_groups && !exact->params[k].group_rows)
            compare(&dw, rounded->params[k].dw.data, w->data, NULL, k_tensor_n_elements(w));
    }
    return (struct layer_error){exact->type->name, ratio(&y), ratio(&dx), ratio(&dw)};
}

int layer_errors(const struct model_config *config, const struct model_options *options,
                 const struct precision *precision, struct layer_error *ret, struct hai_err *err) {
    _cleanup_(pair_free) struct pair p = {0};
    struct model_options with = *options;

    draw(&p, config, options);
    with.training = true;
    with.precision = (struct precision){0};
    int r = begin(&p.exact, &p, config, &with, err);
    with.precision = *precision;
    if (r == 0)
        r = begin(&p.rounded, &p, config, &with, err);
    for (int i = 0; r == 0 && i < p.exact.m->n_layers; i++) {
        const float *x = p.exact.m->stream[i];
        r = run_layer(&p.exact, i, x, p.dy);
        if (r == 0)
            r = run_layer(&p.rounded, i, x, p.dy);
        if (r == 0)
            ret[i] = errors_of(&p, i, x);
    }
    return r;
}
