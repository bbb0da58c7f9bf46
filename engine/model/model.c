#include "engine/model/model.h"

#include "engine/model/model_impl.h"
#include "engine/model/plan.h"
#include "engine/nn/moe.h"
#include "kernels/philox.h"
#include "kernels/pool.h"
#include "kernels/rope.h"

#include <stdio.h>
#include <sys/sysinfo.h>

enum { MEMORY_ALIGN = 64 };

struct k_tensor model_rows(const struct model *m, float *data, int64_t n) {
    return k_tensor_2d(data, K_F32, n, m->config.n_dim);
}

/* Where the values of a parameter lie, and as what. */
static void *values_at(struct model *m, const struct param *p, enum k_dtype *ret_dtype) {
    bool narrow = p->offset < m->first_weight;

    *ret_dtype = narrow ? K_BF16 : K_F32;
    return narrow ? (void *)(m->matrices + p->offset)
                  : (void *)(m->weights + (p->offset - m->first_weight));
}

static void *gradient_at(struct model *m, const struct param *p) {
    return m->gradients && p->trained ? m->gradients + p->offset : NULL;
}

static struct k_tensor shaped(const struct param *p, void *data, enum k_dtype dtype) {
    return p->n_dims == 1 ? k_tensor_1d(data, dtype, p->shape[0])
                          : k_tensor_2d(data, dtype, p->shape[0], p->shape[1]);
}

struct k_tensor model_values(struct model *m, int i) {
    enum k_dtype dtype;

    assert(i >= 0);
    assert(i < m->params->n);
    void *data = values_at(m, &m->params->items[i], &dtype);
    return shaped(&m->params->items[i], data, dtype);
}

struct k_tensor model_param(struct model *m, const char *name, bool gradient) {
    int i = params_find(m->params, name);

    assert(i >= 0);
    const struct param *p = &m->params->items[i];
    return gradient ? shaped(p, gradient_at(m, p), K_F32) : model_values(m, i);
}

struct k_tensor model_mtp_param(struct model *m, const char *name, bool gradient) {
    char full[PARAM_NAME_BYTES];

    (void)snprintf(full, sizeof full, "model.layers.%d.%s", (int)m->config.n_layers, name);
    return model_param(m, full, gradient);
}

/* One declared parameter of a layer: the published tensor and what lies behind it. */
static void bind_param(struct model *m, struct layer *l, struct layer_param *p) {
    char name[PARAM_NAME_BYTES];

    (void)snprintf(name, sizeof name, "model.layers.%d.%s", l->number, p->name);
    int i = params_find(m->params, name);
    assert(i >= 0);
    const struct param *param = &m->params->items[i];
    enum k_dtype dtype;
    void *values = values_at(m, param, &dtype), *gradient = gradient_at(m, param);
    if (p->n_groups) {
        p->w = k_tensor_3d(values, dtype, p->n_groups, p->n_out, p->n_in);
        p->dw = k_tensor_3d(gradient, K_F32, p->n_groups, p->n_out, p->n_in);
    } else {
        p->w = k_tensor_1d(values, dtype, p->n_out);
        p->dw = k_tensor_1d(gradient, K_F32, p->n_out);
    }
}

static void make_layers(struct model *m) {
    const struct model_config *c = &m->config;
    const struct model_options *o = &m->options;
    struct layer_limits limits = {o->n_tokens_max, o->n_seqs_max,
                                  o->n_cache_slots * o->n_cache_tokens};

    m->n_layers = (int)(2 * c->n_layers);
    m->n_layers_all = m->n_layers + (int)(2 * c->n_mtp);
    m->layers = hai_new_array(struct layer, (size_t)m->n_layers_all);
    for (int i = 0; i < m->n_layers_all; i++) {
        struct layer *l = &m->layers[i];
        bool experts = config_layer_has_experts(c, i / 2);
        l->config = &m->config;
        l->shared = &m->shared;
        l->number = i / 2;
        if (i % 2 == 0)
            l->type = c->kind == MODEL_LLAMA ? &attn_layer : &mla_layer;
        else
            l->type = experts ? &moe_layer : &mlp_layer;
        l->type->declare(l, &limits);
        m->n_expert_layers += i < m->n_layers && l->type == &moe_layer;
    }
    m->stream = hai_new_array(float *, (size_t)m->n_layers + 1);
    m->cache_length = hai_new_array(int64_t, (size_t)MAX(o->n_cache_slots, 1));
    m->expert_counts = hai_new_array(int64_t, (size_t)(m->n_expert_layers * c->n_experts + 1));
}

static void place_mtp(struct model *m, struct plan *plan) {
    struct model_mtp *a = &m->mtp;
    int64_t t = m->options.n_tokens_max, d = m->config.n_dim;

    if (!m->config.n_mtp)
        return;
    a->embedded = plan_floats(plan, t * d);
    a->embedded_scale = plan_floats(plan, t);
    a->joined = plan_floats(plan, t * 2 * d);
    a->hidden_scale = plan_floats(plan, t);
    for (int i = 0; i < 3; i++)
        a->stream[i] = plan_floats(plan, t * d);
    a->normed = plan_floats(plan, t * d);
    a->normed_scale = plan_floats(plan, t);
    a->ids = plan_ints(plan, t);
    if (!m->options.training)
        return;
    a->joined_grad = plan_floats(plan, t * 2 * d);
    a->embedded_grad = plan_floats(plan, t * d);
    a->normed_grad = plan_floats(plan, t * d);
}

/* One walk of the plan: every buffer of the model. */
static void place(struct model *m, struct plan *plan) {
    const struct model_options *o = &m->options;
    const struct model_config *c = &m->config;
    int64_t t = o->n_tokens_max, d = c->n_dim,
            half = c->kind == MODEL_LLAMA ? c->d_head / 2 : c->d_rope / 2;
    int64_t n_positions = MIN(c->n_position, MAX(t, o->n_cache_tokens));

    m->matrices = plan_take(plan, (size_t)m->first_weight * sizeof *m->matrices);
    m->weights = plan_floats(plan, m->params->n_elements - m->first_weight);
    m->shared.rope_cos =
        k_tensor_2d(plan_floats(plan, n_positions * half), K_F32, n_positions, half);
    m->shared.rope_sin =
        k_tensor_2d(plan_floats(plan, n_positions * half), K_F32, n_positions, half);
    m->normed = plan_floats(plan, t * d);
    m->normed_scale = plan_floats(plan, t);
    m->logits = plan_floats(plan, t * c->n_vocab);
    m->seq_start = plan_ints(plan, o->n_seqs_max + 1);
    m->position = plan_ints(plan, t);
    m->kv_start = plan_ints(plan, o->n_seqs_max);
    m->kv_length = plan_ints(plan, o->n_seqs_max);
    m->targets = plan_ints(plan, t);
    for (int i = 0; i <= m->n_layers; i++)
        m->stream[i] = i < 2 || o->training ? plan_floats(plan, t * d) : m->stream[i - 2];
    if (o->training) {
        m->gradients = plan_floats(plan, m->params->n_trained);
        for (int i = 0; i < 2; i++)
            m->stream_grad[i] = plan_floats(plan, t * d);
        m->normed_grad = plan_floats(plan, t * d);
    }
    place_mtp(m, plan);
    plan_layers(plan, m->layers, m->n_layers_all, o->training);
}

static void make_rope(struct model *m) {
    const struct model_rope_config *r = &m->config.rope;
    static const enum rope_scaling scaling[] = {
        [MODEL_ROPE_PLAIN] = ROPE_PLAIN,
        [MODEL_ROPE_LINEAR] = ROPE_LINEAR,
        [MODEL_ROPE_LLAMA3] = ROPE_LLAMA3,
        [MODEL_ROPE_YARN] = ROPE_YARN,
    };
    struct rope_rule rule = {
        .scaling = scaling[r->kind],
        .theta = r->theta,
        .factor = r->factor,
        .original_position = (double)r->original_position,
        .low_freq_factor = r->low_freq_factor,
        .high_freq_factor = r->high_freq_factor,
        .beta_fast = r->beta_fast,
        .beta_slow = r->beta_slow,
        .attention_factor = config_rope_amplitude(&m->config),
    };

    rope_table(&rule, 2 * m->shared.rope_cos.shape[1], m->shared.rope_cos.shape[0],
               m->shared.rope_cos.data, m->shared.rope_sin.data);
}

/* Run everything once on the largest batch with the operators only measuring. */
static int measure(struct model *m, struct hai_err *err) {
    const struct model_options *o = &m->options;
    struct layer_batch lb = {
        .seq_start = k_tensor_1d(m->seq_start, K_I32, o->n_seqs_max + 1),
        .position = k_tensor_1d(m->position, K_I32, o->n_tokens_max),
        .kv_start = k_tensor_1d(m->kv_start, K_I32, o->n_seqs_max),
        .kv_length = k_tensor_1d(m->kv_length, K_I32, o->n_seqs_max),
        .n_tokens = o->n_tokens_max,
        .n_seqs = o->n_seqs_max,
    };
    int r = 0;

    m->ctx.measuring = true;
    for (int i = 0; i < m->n_layers_all && r >= 0; i++) {
        struct layer *l = &m->layers[i];
        struct k_tensor x = model_rows(m, m->stream[0], o->n_tokens_max);
        struct k_tensor y = model_rows(m, m->stream[1], o->n_tokens_max);
        l->balance_loss = &m->loss_sums[MODEL_SUM_BALANCE];
        l->balance_scale = 1;
        for (int cached = 0; cached <= (o->n_cache_slots > 0) && r >= 0; cached++) {
            lb.cached = cached;
            r = l->type->forward(&m->ctx, l, &lb, &x, &y);
        }
        if (o->training && r >= 0)
            r = l->type->backward_input(&m->ctx, l, &lb, &x, &x, &y);
        if (o->training && r >= 0)
            r = l->type->backward_weight(&m->ctx, l, &lb, &x, &x);
        l->balance_scale = 0;
    }
    if (r >= 0)
        r = model_head(m, m->normed, o->n_tokens_max);
    if (o->training && r >= 0)
        r = model_head_backward(m, m->normed, m->normed_grad, o->n_tokens_max);
    m->ctx.measuring = false;
    if (r < 0)
        return hai_fail(err, r, "the model's shapes do not fit the %s kernels", m->ctx.path);
    return 0;
}

/* Zeros, or an error: the size comes from a file. More than the machine has would be granted, and
 * the process killed when it writes there. */
static int take_memory(size_t n_bytes, void **ret, struct hai_err *err) {
    struct sysinfo machine = {0};

    (void)sysinfo(&machine);
    double has = ((double)machine.totalram + (double)machine.totalswap) * machine.mem_unit;
    *ret = (double)n_bytes <= has ? calloc(1, n_bytes) : NULL;
    return *ret ? 0
                : hai_fail(err, -ENOMEM,
                           "the model needs %.3g GB of memory; this machine has %.3g GB",
                           (double)n_bytes * 1e-9, has * 1e-9);
}

static int allocate(struct model *m, struct hai_err *err) {
    struct plan plan = {0};

    place(m, &plan);
    int r = take_memory(plan.n_bytes + MEMORY_ALIGN, &m->memory, err);
    if (r < 0)
        return r;
    plan = (struct plan){.base = (char *)(((uintptr_t)m->memory + MEMORY_ALIGN - 1) &
                                          ~(uintptr_t)(MEMORY_ALIGN - 1))};
    place(m, &plan);
    for (int i = 0; i < m->n_layers_all; i++)
        for (int k = 0; k < m->layers[i].n_params; k++)
            bind_param(m, &m->layers[i], &m->layers[i].params[k]);
    r = measure(m, err);
    if (r == 0)
        r = take_memory(m->ctx.measured_bytes + MEMORY_ALIGN, &m->workspace_memory, err);
    if (r < 0)
        return r;
    m->ctx.workspace_bytes = m->ctx.measured_bytes;
    m->ctx.workspace = (void *)(((uintptr_t)m->workspace_memory + MEMORY_ALIGN - 1) &
                                ~(uintptr_t)(MEMORY_ALIGN - 1));
    return 0;
}

int model_new(const struct model_config *config, const struct model_options *options,
              struct model **ret, struct hai_err *err) {
    _cleanup_(model_freep) struct model *m = hai_new(struct model);

    assert(config);
    assert(options->n_tokens_max > 0);
    assert(options->n_seqs_max > 0);
    m->config = *config;
    m->options = *options;
    int r = params_new(config, &m->params, err);
    if (r < 0)
        return r;
    if (options->dtype != K_F32 && (options->dtype != K_BF16 || options->training))
        return hai_fail(err, -ENOTSUP, "weights as %s%s: expected F32, or BF16 without training",
                        k_dtype_name(options->dtype), options->training ? " for training" : "");
    m->first_weight = options->dtype == K_BF16 ? m->params->n_decayed : 0;
    r = k_ctx_init(&m->ctx, options->backend, options->path, err);
    if (r < 0)
        return r;
    if (options->n_threads > MODEL_THREADS_MAX)
        return hai_fail(err, -EINVAL, "%d threads; at most %d", options->n_threads,
                        MODEL_THREADS_MAX);
    if (options->n_threads > 1) {
        r = pool_new(options->n_threads, &m->ctx.pool, err);
        if (r < 0)
            return r;
    }
    make_layers(m);
    r = allocate(m, err);
    if (r < 0)
        return r;
    make_rope(m);
    *ret = TAKE_PTR(m);
    return 0;
}

void model_free(struct model *m) {
    if (!m)
        return;
    pool_free(m->ctx.pool);
    params_free(m->params);
    free(m->layers);
    free(m->stream);
    free(m->cache_length);
    free(m->expert_counts);
    free(m->memory);
    free(m->workspace_memory);
    free(m);
}

const struct model_config *model_config_of(const struct model *m) {
    return &m->config;
}

const struct params *model_params(const struct model *m) {
    return m->params;
}

struct k_ctx *model_ctx(struct model *m) {
    return &m->ctx;
}

float *model_weights(struct model *m) {
    return m->first_weight ? NULL : m->weights;
}

float *model_gradients(struct model *m) {
    return m->gradients;
}

static float draw(const struct model *m, const struct param *p, int row, uint64_t seed, int64_t k) {
    uint32_t words[4];

    if (p->init != PARAM_INIT_NORMAL)
        return p->init == PARAM_INIT_ONE;
    struct philox_counter at =
        philox_at(PHILOX_INIT, (uint32_t)((uint64_t)k >> 32), (uint32_t)row, (uint32_t)k);
    philox_words(seed, &at, words);
    return (float)(m->config.init_std * philox_normal(words[0], words[1]));
}

void model_init(struct model *m, uint64_t seed) {
    for (int i = 0; i < m->params->n; i++) {
        const struct param *p = &m->params->items[i];
        struct k_tensor t = model_values(m, i);
        for (int64_t k = 0; p->tie == i && k < p->n_elements; k++) {
            float x = draw(m, p, i, seed, k);
            if (t.dtype == K_BF16)
                ((uint16_t *)t.data)[k] = k_bf16(x);
            else
                ((float *)t.data)[k] = x;
        }
    }
}

/* Where a sequence goes on, checked against the model's and the cache's length. */
static int seq_begin(struct model *m, const struct model_batch *batch, int64_t s,
                     struct hai_err *err) {
    int64_t n = batch->seq_start[s + 1] - batch->seq_start[s], first = 0;

    if (n < 0)
        return hai_fail(err, -EINVAL, "sequence %lld ends before it starts", (long long)s);
    m->kv_start[s] = batch->seq_start[s];
    if (batch->slots) {
        int32_t slot = batch->slots[s];
        if (slot < 0 || slot >= m->options.n_cache_slots)
            return hai_fail(err, -EINVAL, "cache slot %d; there are %lld", slot,
                            (long long)m->options.n_cache_slots);
        first = m->cache_length[slot];
        if (first + n > m->options.n_cache_tokens)
            return hai_fail(err, -ENOSPC, "cache slot %d holds %lld tokens; %lld are needed", slot,
                            (long long)m->options.n_cache_tokens, (long long)(first + n));
        m->kv_start[s] = (int32_t)(slot * m->options.n_cache_tokens);
    }
    if (first + n > m->shared.rope_cos.shape[0])
        return hai_fail(err, -EINVAL, "a sequence of %lld tokens; at most %lld",
                        (long long)(first + n), (long long)m->shared.rope_cos.shape[0]);
    m->kv_length[s] = (int32_t)(first + n);
    for (int64_t i = 0; i < n; i++)
        m->position[batch->seq_start[s] + i] = (int32_t)(first + i);
    return 0;
}

int model_batch_begin(struct model *m, const struct model_batch *batch, struct layer_batch *ret,
                      struct hai_err *err) {
    if (batch->n_tokens < 1 || batch->n_tokens > m->options.n_tokens_max || batch->n_seqs < 1 ||
        batch->n_seqs > m->options.n_seqs_max)
        return hai_fail(err, -EINVAL,
                        "a batch of %lld tokens in %lld sequences; at most %lld in %lld",
                        (long long)batch->n_tokens, (long long)batch->n_seqs,
                        (long long)m->options.n_tokens_max, (long long)m->options.n_seqs_max);
    if (batch->seq_start[0] != 0 || batch->seq_start[batch->n_seqs] != batch->n_tokens)
        return hai_fail(err, -EINVAL, "the sequences do not cover the batch");
    for (int64_t t = 0; t < batch->n_tokens; t++)
        if (batch->ids[t] < 0 || batch->ids[t] >= m->config.n_vocab)
            return hai_fail(err, -EINVAL, "token id %d; the vocabulary has %lld", batch->ids[t],
                            (long long)m->config.n_vocab);
    for (int64_t s = 0; s < batch->n_seqs; s++) {
        int r = seq_begin(m, batch, s, err);
        if (r < 0)
            return r;
    }
    memcpy(m->seq_start, batch->seq_start, (size_t)(batch->n_seqs + 1) * sizeof(int32_t));
    *ret = (struct layer_batch){
        .seq_start = k_tensor_1d(m->seq_start, K_I32, batch->n_seqs + 1),
        .position = k_tensor_1d(m->position, K_I32, batch->n_tokens),
        .kv_start = k_tensor_1d(m->kv_start, K_I32, batch->n_seqs),
        .kv_length = k_tensor_1d(m->kv_length, K_I32, batch->n_seqs),
        .n_tokens = batch->n_tokens,
        .n_seqs = batch->n_seqs,
        .cached = batch->slots != NULL,
    };
    return 0;
}

int model_run(struct model *m, const struct model_batch *batch, const struct layer_batch *lb,
              float *hidden) {
    int64_t n = batch->n_tokens, d = m->config.n_dim;
    struct k_embed e = {
        .y = model_rows(m, m->stream[0], n),
        .ids = k_tensor_1d((void *)(uintptr_t)batch->ids, K_I32, n),
        .w = model_param(m, "model.embed_tokens.weight", false),
    };

    LAYER_TRY(k_embed(&m->ctx, &e));
    for (int i = 0; i < m->n_layers; i++) {
        struct k_tensor x = model_rows(m, m->stream[i], n);
        struct k_tensor y = model_rows(m, m->stream[i + 1], n);
        LAYER_TRY(m->layers[i].type->forward(&m->ctx, &m->layers[i], lb, &x, &y));
        if (hidden && i % 2)
            memcpy(hidden + (int64_t)(i / 2) * n * d, y.data, (size_t)(n * d) * sizeof(float));
    }
    return k_rmsnorm(&m->ctx,
                     &(struct k_rmsnorm){.y = model_rows(m, m->normed, n),
                                         .x = model_rows(m, m->stream[m->n_layers], n),
                                         .weight = model_param(m, "model.norm.weight", false),
                                         .scale = k_tensor_1d(m->normed_scale, K_F32, n),
                                         .eps = (float)m->config.norm_eps});
}

/* A matrix as one group. */
static struct k_tensor grouped(struct k_tensor t) {
    return k_tensor_3d(t.data, t.dtype, 1, t.shape[0], t.shape[1]);
}

int model_head(struct model *m, float *normed, int64_t n) {
    return k_linear(&m->ctx,
                    &(struct k_linear){.y = k_tensor_2d(m->logits, K_F32, n, m->config.n_vocab),
                                       .x = model_rows(m, normed, n),
                                       .w = grouped(model_param(m, "lm_head.weight", false))});
}

int model_head_backward(struct model *m, float *normed, float *normed_grad, int64_t n) {
    struct k_tensor dy = k_tensor_2d(m->logits, K_F32, n, m->config.n_vocab);

    LAYER_TRY(k_linear_dx(
        &m->ctx, &(struct k_linear_dx){.dx = model_rows(m, normed_grad, n),
                                       .dy = dy,
                                       .w = grouped(model_param(m, "lm_head.weight", false))}));
    return k_linear_dw(&m->ctx,
                       &(struct k_linear_dw){.dw = grouped(model_param(m, "lm_head.weight", true)),
                                             .dy = dy,
                                             .x = model_rows(m, normed, n)});
}

static int kernel_failed(const struct model *m, int r, struct hai_err *err) {
    return hai_fail(err, r, "an operator of the %s kernels refused its arguments", m->ctx.path);
}

int model_forward(struct model *m, const struct model_batch *batch, struct k_tensor *ret_logits,
                  float *hidden, struct hai_err *err) {
    struct layer_batch lb;

    int r = model_batch_begin(m, batch, &lb, err);
    if (r < 0)
        return r;
    r = model_run(m, batch, &lb, hidden);
    if (r >= 0)
        r = model_head(m, m->normed, batch->n_tokens);
    if (r < 0)
        return kernel_failed(m, r, err);
    for (int64_t s = 0; batch->slots && s < batch->n_seqs; s++)
        m->cache_length[batch->slots[s]] = m->kv_length[s];
    *ret_logits = k_tensor_2d(m->logits, K_F32, batch->n_tokens, m->config.n_vocab);
    return 0;
}

int model_forward_mtp(struct model *m, const struct model_batch *batch, struct k_tensor *ret_logits,
                      struct hai_err *err) {
    struct layer_batch lb;

    if (!m->config.n_mtp)
        return hai_fail(err, -ENOTSUP, "the model has no multi-token module");
    if (batch->slots)
        return hai_fail(err, -ENOTSUP, "the multi-token module has no cache");
    int r = model_batch_begin(m, batch, &lb, err);
    if (r < 0)
        return r;
    r = model_run_mtp(m, batch, &lb);
    if (r >= 0)
        r = model_head(m, m->mtp.normed, batch->n_tokens);
    if (r < 0)
        return kernel_failed(m, r, err);
    *ret_logits = k_tensor_2d(m->logits, K_F32, batch->n_tokens, m->config.n_vocab);
    return 0;
}

void model_cache_cut(struct model *m, int64_t slot, int64_t n_tokens) {
    assert(slot >= 0);
    assert(slot < m->options.n_cache_slots);
    assert(n_tokens >= 0);
    m->cache_length[slot] = MIN(m->cache_length[slot], n_tokens);
}

int64_t model_cache_length(const struct model *m, int64_t slot) {
    assert(slot >= 0);
    assert(slot < m->options.n_cache_slots);
    return m->cache_length[slot];
}

int64_t *model_expert_counts(struct model *m, int64_t *ret_n) {
    *ret_n = m->n_expert_layers * m->config.n_experts;
    return m->expert_counts;
}

void model_expert_counts_clear(struct model *m) {
    memset(m->expert_counts, 0,
           (size_t)(m->n_expert_layers * m->config.n_experts) * sizeof *m->expert_counts);
}

/* Expert layer number i of the main model. */
static struct layer *expert_layer(const struct model *m, int i) {
    for (int k = 0; k < m->n_layers; k++)
        if (m->layers[k].type == &moe_layer && i-- == 0)
            return &m->layers[k];
    return NULL;
}

int model_expert_choice(struct model *m, int i, const int32_t **ret_experts,
                        const float **ret_weights) {
    const struct layer *l = expert_layer(m, i);

    if (!l)
        return -ENOENT;
    moe_choice(l, ret_experts, ret_weights);
    return 0;
}

void model_bias_update(struct model *m, double gamma) {
    int64_t n = m->config.n_experts;

    for (int i = 0; i < m->n_expert_layers; i++) {
        const int64_t *counts = m->expert_counts + i * n;
        float *bias = moe_bias(expert_layer(m, i));
        int64_t sum = 0;
        for (int64_t e = 0; e < n; e++)
            sum += counts[e];
        for (int64_t e = 0; e < n; e++) {
            int64_t surplus = counts[e] * n - sum;
            bias[e] = (float)(bias[e] + (surplus > 0 ? -gamma : surplus < 0 ? gamma : 0));
        }
    }
}
