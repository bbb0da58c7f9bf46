#include "engine/model/model_impl.h"
#include "engine/nn/moe.h"

/* The token `ahead` places after row t of its sequence, from ids or labels; -1 past the end. */
static void shift(const struct model_batch *batch, const int32_t *tokens, int ahead, int32_t *ret) {
    for (int64_t s = 0; s < batch->n_seqs; s++)
        for (int64_t t = batch->seq_start[s]; t < batch->seq_start[s + 1]; t++)
            ret[t] = t + ahead < batch->seq_start[s + 1] ? tokens[t + ahead] : -1;
}

/* What rows are scored against, `ahead` places on. */
static void list_targets(const struct model_batch *batch, int ahead, int32_t *ret) {
    const int32_t *targets = ahead == 1 ? batch->targets : batch->mtp_targets;

    if (!batch->targets)
        shift(batch, batch->labels, ahead, ret);
    else if (targets)
        memcpy(ret, targets, (size_t)batch->n_tokens * sizeof *ret);
    else
        memset(ret, 0xff, (size_t)batch->n_tokens * sizeof *ret);
}

static int64_t count_not_negative(const int32_t *values, int64_t from, int64_t to) {
    int64_t n = 0;

    for (int64_t i = from; values && i < to; i++)
        n += values[i] >= 0;
    return n;
}

static int64_t count_labels(const struct model_batch *batch, int ahead) {
    int64_t n = 0;

    if (batch->targets)
        return count_not_negative(ahead == 1 ? batch->targets : batch->mtp_targets, 0,
                                  batch->n_tokens);
    for (int64_t s = 0; s < batch->n_seqs; s++)
        n +=
            count_not_negative(batch->labels, batch->seq_start[s] + ahead, batch->seq_start[s + 1]);
    return n;
}

void model_count(const struct model *m, const struct model_batch *batch, struct model_counts *ret) {
    *ret = (struct model_counts){
        .labels = count_labels(batch, 1),
        .mtp_labels = m->config.n_mtp ? count_labels(batch, 2) : 0,
        .seqs = batch->n_seqs,
    };
}

void model_gradients_clear(struct model *m) {
    assert(m->gradients);
    memset(m->gradients, 0, (size_t)m->params->n_trained * sizeof *m->gradients);
}

static struct k_tensor tensor(float *data, int64_t n) {
    return k_tensor_1d(data, K_F32, n);
}

/* The two halves of the joined vectors: norm of the embedding, norm of the hidden state. */
static struct k_tensor joined_half(const struct model *m, float *joined, int64_t n, int half) {
    struct k_tensor t = k_tensor_2d(joined, K_F32, n, 2 * m->config.n_dim);

    t.shape[1] = m->config.n_dim;
    t.data = joined ? joined + half * m->config.n_dim : NULL;
    return t;
}

static struct k_tensor as_group(struct k_tensor t) {
    return k_tensor_3d(t.data, t.dtype, 1, t.shape[0], t.shape[1]);
}

int model_mtp_join(struct model *m, int64_t n) {
    struct model_mtp *a = &m->mtp;
    float eps = (float)m->config.norm_eps;

    LAYER_TRY(
        k_rmsnorm(&m->ctx, &(struct k_rmsnorm){.y = joined_half(m, a->joined, n, 0),
                                               .x = model_rows(m, a->embedded, n),
                                               .weight = model_mtp_param(m, "enorm.weight", false),
                                               .scale = tensor(a->embedded_scale, n),
                                               .eps = eps}));
    LAYER_TRY(
        k_rmsnorm(&m->ctx, &(struct k_rmsnorm){.y = joined_half(m, a->joined, n, 1),
                                               .x = model_rows(m, m->normed, n),
                                               .weight = model_mtp_param(m, "hnorm.weight", false),
                                               .scale = tensor(a->hidden_scale, n),
                                               .eps = eps}));
    return k_linear(&m->ctx,
                    &(struct k_linear){.y = model_rows(m, a->stream[0], n),
                                       .x = k_tensor_2d(a->joined, K_F32, n, 2 * m->config.n_dim),
                                       .w = m->eh_proj});
}

int model_run_mtp(struct model *m, const struct model_batch *batch, const struct layer_batch *lb) {
    struct model_mtp *a = &m->mtp;
    int64_t n = batch->n_tokens;
    float eps = (float)m->config.norm_eps;

    if (batch->next_ids)
        memcpy(a->ids, batch->next_ids, (size_t)n * sizeof *a->ids);
    else
        shift(batch, batch->ids, 1, a->ids);
    LAYER_TRY(k_embed(&m->ctx, &(struct k_embed){.y = model_rows(m, a->embedded, n),
                                                 .ids = k_tensor_1d(a->ids, K_I32, n),
                                                 .w = m->embedding}));
    LAYER_TRY(model_mtp_join(m, n));
    for (int i = 0; i < 2; i++) {
        struct layer *l = &m->layers[m->n_layers + i];
        struct k_tensor x = model_rows(m, a->stream[i], n);
        struct k_tensor y = model_rows(m, a->stream[i + 1], n);
        l->routing.balance_scale = 0;
        LAYER_TRY(l->type->forward(&m->ctx, l, lb, &x, &y));
    }
    return k_rmsnorm(
        &m->ctx, &(struct k_rmsnorm){.y = model_rows(m, a->normed, n),
                                     .x = model_rows(m, a->stream[2], n),
                                     .weight = model_mtp_param(m, "shared_head.norm.weight", false),
                                     .scale = tensor(a->normed_scale, n),
                                     .eps = eps});
}

/* Backward of one norm: dx = residual + ..., dw added. */
static int norm_backward(struct model *m, struct k_tensor weight, struct k_tensor dweight,
                         struct k_tensor dy, struct k_tensor x, float *scale,
                         struct k_tensor residual, struct k_tensor dx) {
    struct k_tensor s = tensor(scale, x.shape[0]);

    LAYER_TRY(
        k_rmsnorm_dw(&m->ctx, &(struct k_rmsnorm_dw){.dw = dweight, .dy = dy, .x = x, .scale = s}));
    return k_rmsnorm_dx(
        &m->ctx,
        &(struct k_rmsnorm_dx){
            .dx = dx, .dy = dy, .x = x, .weight = weight, .scale = s, .residual = residual});
}

/* Backward of layers [first, first + n) given the gradient in stream_grad[0]; the gradient before
 * them ends in stream_grad[0] again. stream[i] is what layer first + i read. */
static int layers_backward(struct model *m, const struct layer_batch *lb, int first, int n,
                           float *const *stream) {
    for (int i = n - 1; i >= 0; i--) {
        struct layer *l = &m->layers[first + i];
        struct k_tensor x = model_rows(m, stream[i], lb->n_tokens);
        struct k_tensor dy = model_rows(m, m->stream_grad[0], lb->n_tokens);
        struct k_tensor dx = model_rows(m, m->stream_grad[1], lb->n_tokens);
        LAYER_TRY(l->type->backward_input(&m->ctx, l, lb, &x, &dy, &dx));
        LAYER_TRY(l->type->backward_weight(&m->ctx, l, lb, &x, &dy));
        float *swap = m->stream_grad[0];
        m->stream_grad[0] = m->stream_grad[1];
        m->stream_grad[1] = swap;
    }
    return 0;
}

/* From mtp.normed_grad down to the embedding; adds the hidden state's gradient to normed_grad. */
static int mtp_backward(struct model *m, const struct layer_batch *lb) {
    struct model_mtp *a = &m->mtp;
    int64_t n = lb->n_tokens;
    struct k_tensor joined_grad = k_tensor_2d(a->joined_grad, K_F32, n, 2 * m->config.n_dim);
    struct k_tensor hidden_grad = model_rows(m, m->normed_grad, n), none = {0};

    LAYER_TRY(norm_backward(m, model_mtp_param(m, "shared_head.norm.weight", false),
                            model_mtp_param(m, "shared_head.norm.weight", true),
                            model_rows(m, a->normed_grad, n), model_rows(m, a->stream[2], n),
                            a->normed_scale, none, model_rows(m, m->stream_grad[0], n)));
    LAYER_TRY(layers_backward(m, lb, m->n_layers, 2, a->stream));
    struct k_tensor dy = model_rows(m, m->stream_grad[0], n);
    LAYER_TRY(
        k_linear_dx(&m->ctx, &(struct k_linear_dx){.dx = joined_grad, .dy = dy, .w = m->eh_proj}));
    LAYER_TRY(k_linear_dw(
        &m->ctx,
        &(struct k_linear_dw){.dw = as_group(model_mtp_param(m, "eh_proj.weight", true)),
                              .dy = dy,
                              .x = k_tensor_2d(a->joined, K_F32, n, 2 * m->config.n_dim)}));
    LAYER_TRY(norm_backward(m, model_mtp_param(m, "hnorm.weight", false),
                            model_mtp_param(m, "hnorm.weight", true),
                            joined_half(m, a->joined_grad, n, 1), model_rows(m, m->normed, n),
                            a->hidden_scale, hidden_grad, hidden_grad));
    LAYER_TRY(norm_backward(m, model_mtp_param(m, "enorm.weight", false),
                            model_mtp_param(m, "enorm.weight", true),
                            joined_half(m, a->joined_grad, n, 0), model_rows(m, a->embedded, n),
                            a->embedded_scale, none, model_rows(m, a->embedded_grad, n)));
    return k_embed_dw(&m->ctx,
                      &(struct k_embed_dw){.dw = model_param(m, "model.embed_tokens.weight", true),
                                           .ids = k_tensor_1d(a->ids, K_I32, n),
                                           .dy = model_rows(m, a->embedded_grad, n)});
}

/* Head and cross-entropy over rows of a last norm; gradients of both if training. */
static int score(struct model *m, const struct model_batch *batch, int ahead, float *normed,
                 float *normed_grad, double weight, int64_t n_labels, double *loss_sum) {
    int64_t n = batch->n_tokens;

    LAYER_TRY(model_head(m, normed, n));
    list_targets(batch, ahead, m->targets);
    struct k_cross_entropy a = {
        .loss = k_tensor_1d(loss_sum, K_F64, 1),
        .logits = k_tensor_2d(m->logits, K_F32, n, m->config.n_vocab),
        .labels = k_tensor_1d(m->targets, K_I32, n),
        .loss_scale = 1,
        .grad_scale = n_labels ? (float)(weight / (double)n_labels) : 0,
        .backward = normed_grad != NULL,
    };
    LAYER_TRY(k_cross_entropy(&m->ctx, &a));
    return normed_grad ? model_head_backward(m, normed, normed_grad, n) : 0;
}

/* Forward and losses, and with `backward` everything from the heads down to the embedding. */
static int step(struct model *m, const struct model_batch *batch, const struct layer_batch *lb,
                const struct model_counts *total, const struct model_rules *rules, bool backward) {
    bool mtp = m->config.n_mtp && rules->mtp_weight != 0;
    int64_t n = batch->n_tokens;
    struct k_tensor none = {0};

    LAYER_TRY(model_run(m, batch, lb, NULL));
    LAYER_TRY(score(m, batch, 1, m->normed, backward ? m->normed_grad : NULL, 1, total->labels,
                    &m->loss_sums[MODEL_SUM_CE]));
    if (mtp) {
        LAYER_TRY(model_run_mtp(m, batch, lb));
        LAYER_TRY(score(m, batch, 2, m->mtp.normed, backward ? m->mtp.normed_grad : NULL,
                        rules->mtp_weight, total->mtp_labels, &m->loss_sums[MODEL_SUM_MTP]));
        if (backward)
            LAYER_TRY(mtp_backward(m, lb));
    }
    if (!backward)
        return 0;
    LAYER_TRY(norm_backward(
        m, model_param(m, "model.norm.weight", false), model_param(m, "model.norm.weight", true),
        model_rows(m, m->normed_grad, n), model_rows(m, m->stream[m->n_layers], n), m->normed_scale,
        none, model_rows(m, m->stream_grad[0], n)));
    LAYER_TRY(layers_backward(m, lb, 0, m->n_layers, m->stream));
    return k_embed_dw(
        &m->ctx, &(struct k_embed_dw){.dw = model_param(m, "model.embed_tokens.weight", true),
                                      .ids = k_tensor_1d((void *)(uintptr_t)batch->ids, K_I32, n),
                                      .dy = model_rows(m, m->stream_grad[0], n)});
}

static void expert_counts_add(struct model *m, int64_t n_tokens) {
    int64_t n = m->config.n_experts, *picks = m->expert_counts;
    int64_t *dropped = picks + m->n_expert_layers * n;

    for (int i = 0; i < m->n_layers; i++)
        if (m->layers[i].type == &moe_layer) {
            moe_counts_add(&m->layers[i], n_tokens, picks, dropped++);
            picks += n;
        }
}

int model_rules_check(const struct model_config *config, const struct model_rules *rules,
                      struct hai_err *err) {
    int groups = MAX(rules->balance_groups, 1);

    if (config->n_experts % groups)
        return hai_fail(err, -EINVAL,
                        "balance_groups is %d; expected a divisor of the model's %lld experts",
                        groups, (long long)config->n_experts);
    if (rules->max_groups > groups)
        return hai_fail(err, -EINVAL, "max_groups is %d; expected at most balance_groups, %d",
                        rules->max_groups, groups);
    return 0;
}

/* Pairs that a group of experts takes of n_tokens: its even share times the factor, rounded up. */
static int64_t capacity_of(const struct model *m, const struct model_rules *rules, int groups,
                           int64_t n_tokens) {
    double room = rules->capacity * (double)(n_tokens * m->config.n_expert_slots) / groups;

    return (int64_t)room + ((double)(int64_t)room < room);
}

/* Tell the layers with experts how this batch is balanced and, in training, what is dropped. */
static void set_routing(struct model *m, const struct model_batch *batch,
                        const struct layer_batch *lb, const struct model_counts *total,
                        const struct model_rules *rules, bool backward) {
    double weight = total->seqs ? 1 / (double)total->seqs : 0;
    bool none =
        rules->balance_alpha == 0 && rules->device_alpha == 0 && rules->communication_alpha == 0;
    struct layer_routing r = {
        .balance_loss = &m->loss_sums[MODEL_SUM_BALANCE],
        .alpha = {[K_BALANCE_EXPERT] = (float)rules->balance_alpha,
                  [K_BALANCE_DEVICE] = (float)rules->device_alpha,
                  [K_BALANCE_COMMUNICATION] = (float)rules->communication_alpha},
        .balance_scale = none ? 0 : (float)weight,
        .span_start = lb->seq_start,
        .n_groups = MAX(rules->balance_groups, 1),
        .max_groups = MAX(rules->max_groups, 1),
    };

    if (rules->balance_micro_batch) {
        m->micro_batch[1] = (int32_t)lb->n_tokens;
        r.span_start = k_tensor_1d(m->micro_batch, K_I32, 2);
        r.balance_scale *= (float)lb->n_seqs;
    }
    if (backward && rules->capacity > 0) {
        r.capacity = capacity_of(m, rules, r.n_groups, lb->n_tokens);
        r.whole = k_tensor_1d((void *)(uintptr_t)batch->whole, K_I32, lb->n_seqs);
    }
    for (int i = 0; i < m->n_layers_all; i++)
        m->layers[i].routing = r;
}

static int check_labels(const struct model *m, const struct model_batch *batch,
                        const int32_t *labels, struct hai_err *err) {
    for (int64_t t = 0; labels && t < batch->n_tokens; t++)
        if (labels[t] >= m->config.n_vocab)
            return hai_fail(err, -EINVAL, "label %d; the vocabulary has %lld", labels[t],
                            (long long)m->config.n_vocab);
    return 0;
}

static int run_step(struct model *m, const struct model_batch *batch,
                    const struct model_counts *total, const struct model_rules *rules,
                    bool backward, struct model_losses *ret, struct hai_err *err) {
    struct layer_batch lb;

    if (!batch->labels == !batch->targets || batch->pages || batch->logit_rows)
        return hai_fail(err, -EINVAL,
                        "a batch to learn from has labels or targets, no cache, and all rows");
    int r = model_rules_check(&m->config, rules, err);
    if (r == 0)
        r = model_batch_begin(m, batch, &lb, err);
    if (r == 0)
        r = check_labels(m, batch, batch->labels, err);
    if (r == 0)
        r = check_labels(m, batch, batch->targets, err);
    if (r == 0)
        r = check_labels(m, batch, batch->mtp_targets, err);
    if (r < 0)
        return r;
    memset(m->loss_sums, 0, sizeof m->loss_sums);
    set_routing(m, batch, &lb, total, rules, backward);
    r = step(m, batch, &lb, total, rules, backward);
    if (r < 0)
        return hai_fail(err, r, "an operator of the %s kernels refused its arguments", m->ctx.path);
    if (backward)
        expert_counts_add(m, lb.n_tokens);
    *ret = (struct model_losses){
        .ce = total->labels ? m->loss_sums[MODEL_SUM_CE] / (double)total->labels : 0,
        .mtp = total->mtp_labels ? m->loss_sums[MODEL_SUM_MTP] / (double)total->mtp_labels : 0,
    };
    for (int i = 0; i < K_BALANCE_COUNT; i++)
        ret->balance += ret->balance_parts[i] = m->loss_sums[MODEL_SUM_BALANCE + i];
    ret->total = ret->ce + rules->mtp_weight * ret->mtp + ret->balance;
    return 0;
}

int model_train(struct model *m, const struct model_batch *batch, const struct model_counts *total,
                const struct model_rules *rules, struct model_losses *ret, struct hai_err *err) {
    assert(m->gradients);
    return run_step(m, batch, total, rules, true, ret, err);
}

int model_evaluate(struct model *m, const struct model_batch *batch,
                   const struct model_counts *total, const struct model_rules *rules,
                   struct model_losses *ret, struct hai_err *err) {
    return run_step(m, batch, total, rules, false, ret, err);
}
