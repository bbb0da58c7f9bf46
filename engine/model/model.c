#include "engine/model/model.h"

#include "engine/model/model_impl.h"
#include "engine/model/plan.h"
#include "engine/nn/moe.h"
#include "kernels/formats.h"
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
    if (narrow && !m->matrices)
        return NULL; /* in a file */
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

static void make_layers(struct model *m) {
    const struct model_config *c = &m->config;
    const struct model_options *o = &m->options;
    struct layer_limits limits = {o->n_tokens_max, o->n_seqs_max, o->n_cache_pages * o->page_tokens,
                                  o->cache_dtype};

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
            l->type = c->latent_attention ? &mla_layer : &attn_layer;
        else
            l->type = experts ? &moe_layer : &mlp_layer;
        l->type->declare(l, &limits);
        m->n_expert_layers += i < m->n_layers && l->type == &moe_layer;
    }
    m->stream = hai_new_array(float *, (size_t)m->n_layers + 1);
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

static int64_t logits_max(const struct model_options *o) {
    return o->n_logits_max ? o->n_logits_max : o->n_tokens_max;
}

/* One walk of the plan: every buffer of the model. */
static void place(struct model *m, struct plan *plan) {
    const struct model_options *o = &m->options;
    const struct model_config *c = &m->config;
    int64_t t = o->n_tokens_max, d = c->n_dim,
            half = (c->latent_attention ? c->d_rope : c->d_head) / 2;
    int64_t n_positions = MIN(c->n_position, MAX(t, o->n_seq_pages * o->page_tokens));
    int64_t n_logits = logits_max(o);

    if (!o->files)
        m->matrices = plan_take(plan, (size_t)m->first_weight * sizeof *m->matrices);
    m->weights = plan_floats(plan, m->params->n_elements - m->first_weight);
    m->shared.rope_cos =
        k_tensor_2d(plan_floats(plan, n_positions * half), K_F32, n_positions, half);
    m->shared.rope_sin =
        k_tensor_2d(plan_floats(plan, n_positions * half), K_F32, n_positions, half);
    m->normed = plan_floats(plan, t * d);
    m->normed_scale = plan_floats(plan, t);
    m->logits = plan_floats(plan, n_logits * c->n_vocab);
    m->wanted = plan_floats(plan, n_logits * d);
    m->logit_rows = plan_ints(plan, n_logits);
    m->seq_start = plan_ints(plan, o->n_seqs_max + 1);
    m->position = plan_ints(plan, t);
    m->kv_length = plan_ints(plan, o->n_seqs_max);
    m->pages = plan_ints(plan, o->n_seqs_max * o->n_seq_pages);
    m->cache_row = plan_ints(plan, t);
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
        .kv_length = k_tensor_1d(m->kv_length, K_I32, o->n_seqs_max),
        .cache_row = k_tensor_1d(m->cache_row, K_I32, o->n_tokens_max),
        .page_tokens = o->page_tokens,
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
        for (int cached = m->cache_only; cached <= (o->n_cache_pages > 0) && r >= 0; cached++) {
            lb.pages = k_tensor_2d(cached ? m->pages : NULL, K_I32, o->n_seqs_max, o->n_seq_pages);
            r = l->type->forward(&m->ctx, l, &lb, &x, &y);
        }
        if (o->training && r >= 0)
            r = l->type->backward_input(&m->ctx, l, &lb, &x, &x, &y);
        if (o->training && r >= 0)
            r = l->type->backward_weight(&m->ctx, l, &lb, &x, &x);
        l->balance_scale = 0;
    }
    if (r >= 0)
        r = model_head(m, m->normed, logits_max(o));
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
    r = model_bind(m, err);
    if (r == 0 && m->cache_only && !m->options.n_cache_pages)
        r = hai_fail(err, -ENOTSUP, "quantised latent attention needs a key-value cache");
    if (r == 0)
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
    m->shared.fast_prefill = options->fast_prefill;
    int r = params_new(config, &m->params, err);
    if (r < 0)
        return r;
    if (options->dtype != K_F32 && (options->dtype != K_BF16 || options->training))
        return hai_fail(err, -ENOTSUP, "weights as %s%s: expected F32, or BF16 without training",
                        k_dtype_name(options->dtype), options->training ? " for training" : "");
    if (options->files && options->training)
        return hai_fail(err, -ENOTSUP, "a model that is trained keeps its weights in memory");
    if (options->n_cache_pages && (options->page_tokens < 1 || options->n_seq_pages < 1))
        return hai_fail(err, -EINVAL, "a cache of pages needs page_tokens and n_seq_pages");
    m->first_weight = options->dtype == K_BF16 || options->files ? m->params->n_decayed : 0;
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
    k_weight_free(m->embedding);
    k_weight_free(m->head);
    k_weight_free(m->eh_proj);
    for (int i = 0; i < m->n_layers_all; i++)
        for (int k = 0; k < m->layers[i].n_params; k++)
            k_weight_free(m->layers[i].params[k].w);
    free(m->layers);
    free(m->stream);
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

bool model_has_fast_prefill(const struct model_config *config) {
    return config->latent_attention;
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
                ((uint16_t *)t.data)[k] = k_to_bf16(x);
            else
                ((float *)t.data)[k] = x;
        }
    }
}

/* Pages of a sequence, its new tokens' positions and places in the cache. */
static int seq_begin(struct model *m, const struct model_batch *batch, int64_t s,
                     struct hai_err *err) {
    const struct model_options *o = &m->options;
    int64_t n = batch->seq_start[s + 1] - batch->seq_start[s];
    int64_t length = batch->pages ? batch->kv_length[s] : n;
    int32_t *pages = m->pages + s * batch->n_pages;

    if (n < 0 || length < n)
        return hai_fail(err, -EINVAL, "sequence %lld ends before it starts", (long long)s);
    if (batch->seq_start[s + 1] > batch->n_tokens)
        return hai_fail(err, -EINVAL, "sequence %lld ends behind the batch", (long long)s);
    if (length > m->shared.rope_cos.shape[0])
        return hai_fail(err, -EINVAL, "a sequence of %lld tokens; at most %lld", (long long)length,
                        (long long)m->shared.rope_cos.shape[0]);
    if (batch->pages && length > batch->n_pages * o->page_tokens)
        return hai_fail(err, -EINVAL, "a sequence of %lld tokens in %lld pages of %lld",
                        (long long)length, (long long)batch->n_pages, (long long)o->page_tokens);
    for (int64_t p = 0; batch->pages && p < batch->n_pages; p++) {
        pages[p] = batch->pages[s * batch->n_pages + p];
        if (p * o->page_tokens < length && (pages[p] < 0 || pages[p] >= o->n_cache_pages))
            return hai_fail(err, -EINVAL, "page %d; there are %lld", pages[p],
                            (long long)o->n_cache_pages);
    }
    m->kv_length[s] = (int32_t)length;
    for (int64_t i = 0; i < n; i++) {
        int64_t t = batch->seq_start[s] + i, position = length - n + i;
        m->position[t] = (int32_t)position;
        if (batch->pages)
            m->cache_row[t] = (int32_t)(pages[position / o->page_tokens] * o->page_tokens +
                                        position % o->page_tokens);
    }
    return 0;
}

/* Which rows' logits are wanted. */
static int rows_begin(struct model *m, const struct model_batch *batch, struct hai_err *err) {
    int64_t n = batch->logit_rows ? batch->n_logit_rows : batch->n_tokens;

    if (n < 0 || n > logits_max(&m->options))
        return hai_fail(err, -EINVAL, "logits of %lld rows; at most %lld", (long long)n,
                        (long long)logits_max(&m->options));
    for (int64_t i = 0; batch->logit_rows && i < n; i++) {
        if (batch->logit_rows[i] < 0 || batch->logit_rows[i] >= batch->n_tokens)
            return hai_fail(err, -EINVAL, "logits of row %d; there are %lld", batch->logit_rows[i],
                            (long long)batch->n_tokens);
        m->logit_rows[i] = batch->logit_rows[i];
    }
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
    if (batch->pages && (!m->options.n_cache_pages || batch->n_pages < 1 ||
                         batch->n_pages > m->options.n_seq_pages))
        return hai_fail(err, -EINVAL, "%lld pages a sequence; at most %lld",
                        (long long)batch->n_pages, (long long)m->options.n_seq_pages);
    if (m->cache_only && !batch->pages)
        return hai_fail(err, -ENOTSUP, "quantised latent attention needs pages of a cache");
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
    int r = rows_begin(m, batch, err);
    if (r < 0)
        return r;
    memcpy(m->seq_start, batch->seq_start, (size_t)(batch->n_seqs + 1) * sizeof(int32_t));
    *ret = (struct layer_batch){
        .seq_start = k_tensor_1d(m->seq_start, K_I32, batch->n_seqs + 1),
        .position = k_tensor_1d(m->position, K_I32, batch->n_tokens),
        .kv_length = k_tensor_1d(m->kv_length, K_I32, batch->n_seqs),
        .pages = k_tensor_2d(batch->pages ? m->pages : NULL, K_I32, batch->n_seqs, batch->n_pages),
        .cache_row = k_tensor_1d(m->cache_row, K_I32, batch->n_tokens),
        .page_tokens = m->options.page_tokens,
        .n_tokens = batch->n_tokens,
        .n_seqs = batch->n_seqs,
    };
    return 0;
}

int model_run(struct model *m, const struct model_batch *batch, const struct layer_batch *lb,
              float *hidden) {
    int64_t n = batch->n_tokens, d = m->config.n_dim;
    struct k_embed e = {
        .y = model_rows(m, m->stream[0], n),
        .ids = k_tensor_1d((void *)(uintptr_t)batch->ids, K_I32, n),
        .w = m->embedding,
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

int model_head(struct model *m, float *normed, int64_t n) {
    return k_linear(&m->ctx,
                    &(struct k_linear){.y = k_tensor_2d(m->logits, K_F32, n, m->config.n_vocab),
                                       .x = model_rows(m, normed, n),
                                       .w = m->head});
}

int model_head_backward(struct model *m, float *normed, float *normed_grad, int64_t n) {
    struct k_tensor dy = k_tensor_2d(m->logits, K_F32, n, m->config.n_vocab);

    LAYER_TRY(k_linear_dx(
        &m->ctx,
        &(struct k_linear_dx){.dx = model_rows(m, normed_grad, n), .dy = dy, .w = m->head}));
    struct k_tensor dw = model_param(m, "lm_head.weight", true);
    return k_linear_dw(&m->ctx, &(struct k_linear_dw){
                                    .dw = k_tensor_3d(dw.data, K_F32, 1, dw.shape[0], dw.shape[1]),
                                    .dy = dy,
                                    .x = model_rows(m, normed, n)});
}

static int kernel_failed(const struct model *m, int r, struct hai_err *err) {
    return hai_fail(err, r, "an operator of the %s kernels refused its arguments", m->ctx.path);
}

/* Logits of the wanted rows of a last norm. */
static int head_of_wanted(struct model *m, const struct model_batch *batch, float *normed,
                          struct k_tensor *ret) {
    int64_t n = batch->logit_rows ? batch->n_logit_rows : batch->n_tokens;

    if (batch->logit_rows) {
        LAYER_TRY(k_gather(&m->ctx,
                           &(struct k_gather){.y = model_rows(m, m->wanted, n),
                                              .x = model_rows(m, normed, batch->n_tokens),
                                              .row_token = k_tensor_1d(m->logit_rows, K_I32, n)}));
        normed = m->wanted;
    }
    *ret = k_tensor_2d(m->logits, K_F32, n, m->config.n_vocab);
    return n ? model_head(m, normed, n) : 0;
}

int model_forward(struct model *m, const struct model_batch *batch, struct k_tensor *ret_logits,
                  float *hidden, struct hai_err *err) {
    struct layer_batch lb;

    int r = model_batch_begin(m, batch, &lb, err);
    if (r < 0)
        return r;
    r = model_run(m, batch, &lb, hidden);
    if (r >= 0)
        r = head_of_wanted(m, batch, m->normed, ret_logits);
    return r < 0 ? kernel_failed(m, r, err) : 0;
}

int model_forward_mtp(struct model *m, const struct model_batch *batch, struct k_tensor *ret_logits,
                      struct hai_err *err) {
    struct layer_batch lb;

    if (!m->config.n_mtp)
        return hai_fail(err, -ENOTSUP, "the model has no multi-token module");
    int r = model_batch_begin(m, batch, &lb, err);
    if (r < 0)
        return r;
    r = model_run_mtp(m, batch, &lb);
    if (r >= 0)
        r = head_of_wanted(m, batch, m->mtp.normed, ret_logits);
    return r < 0 ? kernel_failed(m, r, err) : 0;
}

bool model_page(struct model *m, int32_t page, int i, void **ret, size_t *ret_n_bytes) {
    assert(page >= 0);
    assert(page < m->options.n_cache_pages);
    for (int k = 0; k < m->n_layers_all; k++)
        for (int b = 0; b < m->layers[k].n_buffers; b++) {
            const struct layer_buffer *buffer = &m->layers[k].buffers[b];
            if (buffer->life != LAYER_CACHE || i-- > 0)
                continue;
            *ret_n_bytes = k_dtype_n_bytes(buffer->dtype, m->options.page_tokens * buffer->columns);
            *ret = (char *)buffer->data + (size_t)page * *ret_n_bytes;
            return true;
        }
    return false;
}

double model_token_bytes(const struct model *m) {
    double n = (double)k_weight_bytes(m->head);

    for (int i = 0; i < m->n_layers; i++)
        for (int k = 0; k < m->layers[i].n_params; k++) {
            const struct layer_param *p = &m->layers[i].params[k];
            double share = 1;
            if (!p->w || (p->group_rows && !m->cache_only))
                continue; /* heads repeat a matrix that is there as a whole */
            if (p->n_groups > 1)
                share = (double)m->config.n_expert_slots / (double)p->n_groups;
            n += share * (double)k_weight_bytes(p->w);
        }
    return n;
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

    for (int i = 0; m->config.router_bias && i < m->n_expert_layers; i++) {
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
