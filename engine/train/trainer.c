#include "engine/data/sampler.h"
#include "engine/train/trainer_impl.h"
#include "lib/fileio.h"
#include "storage/safetensors.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

int64_t trainer_step_number(const struct trainer *t) {
    return t->step;
}

int64_t trainer_tokens_per_step(const struct trainer *t) {
    return t->batch * t->conf->seq;
}

void trainer_size(const struct trainer *t, struct trainer_size *ret) {
    *ret = (struct trainer_size){
        .parameters = model_params(t->model)->n_counted,
        .tokens = feed_size(t->feed).n_tokens,
        .documents = feed_size(t->feed).n_documents,
        .kernel_path = model_ctx(t->model)->path,
        .recipe = t->recipe,
    };
}

const struct expertload *trainer_load(const struct trainer *t) {
    return t->load;
}

/* One line: step, its first sample that is this rank's, how many there are. Before the step is
 * made: a rank that has added to a step has said so. */
static int record(const struct trainer *t, const struct sampler_share *share, struct hai_err *err) {
    char line[80];
    int n = snprintf(line, sizeof line, "%" PRId64 " %" PRId64 " %" PRId64 "\n", t->step + 1,
                     t->next_sample + share->first, share->n);

    return t->record < 0 ? 0 : fileio_write_full(t->record, line, (size_t)n, FILEIO_HERE, err);
}

/* Read this rank's share of the step's batch; the next step's may be fetched meanwhile. */
static int read_share(struct trainer *t, struct hai_err *err) {
    int rank = coll_rank(t->place.coll), world = coll_world(t->place.coll);
    struct sampler_share now = sampler_share(t->batch, rank, world);
    int r = share_read(t->share, t->feed, t->next_sample + now.first, now.n, err);
    if (r == 0)
        r = record(t, &now, err);
    int64_t after = t->next_sample + t->batch;
    struct sampler_share next = sampler_share(schedule_batch(&t->schedule, after), rank, world);

    for (int64_t i = 0; r == 0 && i < next.n; i++)
        feed_expect(t->feed, after + next.first + i);
    return r;
}

/* Fill this rank's share of the step's batch; what the whole batch counts, and whether any rank
 * wants to stop, which all must learn in the same step. */
static int gather_batch(struct trainer *t, struct model_counts *ret, bool *stop,
                        struct hai_err *err) {
    t->batch = schedule_batch(&t->schedule, t->next_sample);
    int64_t sums[4] = {0, 0, 0, *stop};
    int r = read_share(t, err);

    if (r < 0)
        return r;
    for (int64_t i = 0; i < share_n_batches(t->share); i++) {
        struct model_batch batch = share_batch(t->share, i);
        struct model_counts counts;
        model_count(t->model, &batch, &counts);
        sums[0] += counts.labels;
        sums[1] += counts.mtp_labels;
        sums[2] += counts.seqs;
    }
    r = coll_sum_i64(t->place.coll, sums, ARRAY_SIZE(sums), err);
    *ret = (struct model_counts){sums[0], sums[1], sums[2]};
    *stop = sums[3] > 0;
    return r;
}

static double now_s(void) {
    return (double)peerlink_now_us() * 1e-6;
}

/* Gradients, losses and expert counts of all ranks. */
static int reduce(struct trainer *t, struct model_losses *losses, struct hai_err *err) {
    double *parts = losses->balance_parts;
    double sums[] = {losses->total, losses->ce, losses->mtp, parts[0], parts[1], parts[2]};
    int64_t n_counts, *counts = model_expert_counts(t->model, &n_counts);
    int r = coll_sum_f32(t->place.coll, model_gradients(t->model),
                         (size_t)model_params(t->model)->n_trained, err);

    if (r == 0)
        r = coll_sum_f64(t->place.coll, sums, ARRAY_SIZE(sums), err);
    if (r == 0 && n_counts)
        r = coll_sum_i64(t->place.coll, counts, (size_t)n_counts, err);
    *losses = (struct model_losses){
        sums[0], sums[1], sums[2], sums[3] + sums[4] + sums[5], {sums[3], sums[4], sums[5]}
    };
    return r;
}

static void add_losses(struct model_losses *sum, const struct model_losses *more) {
    sum->total += more->total;
    sum->ce += more->ce;
    sum->mtp += more->mtp;
    for (int i = 0; i < K_BALANCE_COUNT; i++)
        sum->balance_parts[i] += more->balance_parts[i];
}

/* Forward and backward over the share, then the sums over all ranks. */
static int add_up(struct trainer *t, const struct model_counts *total,
                  struct trainer_report *report, struct hai_err *err) {
    struct model_losses *sum = &report->losses;
    int r = 0;

    model_gradients_clear(t->model);
    model_expert_counts_clear(t->model);
    for (int64_t i = 0; r == 0 && i < share_n_batches(t->share); i++) {
        struct model_batch batch = share_batch(t->share, i);
        struct model_losses losses;
        r = model_train(t->model, &batch, total, &t->rules, &losses, err);
        if (r == 0)
            add_losses(sum, &losses);
    }
    double from_s = now_s();
    if (r == 0)
        r = reduce(t, sum, err);
    report->comm_s += now_s() - from_s;
    return r;
}

/* Is the step like those before it? Else what to do, the same on all ranks. */
static int judge(struct trainer *t, struct trainer_report *report, struct hai_err *err) {
    if (!t->spikes) {
        if (isfinite(report->losses.total) && isfinite(report->norm))
            return 0;
        return hai_fail(err, -EDOM,
                        "step %" PRId64 ": loss is %g, gradient norm %g; expected numbers (try a "
                        "lower optimizer.lr, or 'spikes' to pass such batches over)",
                        report->step, report->losses.total, report->norm);
    }
    report->verdict = spikes_judge(t->spikes, report->losses.total, report->norm);
    report->spike = report->verdict ? spikes_text(t->spikes) : NULL;
    if (report->verdict != SPIKES_STOP)
        return 0;
    return hai_fail(err, -EDOM,
                    "step %" PRId64 ": %s, and the run has gone back %" PRId64
                    " times already; expected a loss like those before (try a lower optimizer.lr, "
                    "or other data)",
                    report->step, report->spike, t->conf->spikes.backs);
}

static void add_load(struct trainer *t) {
    int64_t n;
    const int64_t *counts = model_expert_counts(t->model, &n);

    if (t->load)
        expertload_add(t->load, counts, (size_t)n);
}

/* The weights change. */
static int optimize(struct trainer *t, const struct trainer_report *report, struct hai_err *err) {
    if (t->ema)
        ema_wait(t->ema);
    int r = adamw_step(t->model, &t->adamw, report->step, report->norm, t->exp_avg, t->exp_avg_sq);
    if (r < 0)
        return hai_fail(err, r, "optimizer step failed");
    if (t->ema)
        ema_update(t->ema);
    if (!schedule_past(&t->schedule, report->step, t->next_sample, t->conf->bias_until))
        model_bias_update(t->model, t->conf->bias_rate);
    add_load(t);
    t->step = report->step;
    return 0;
}

int trainer_step(struct trainer *t, bool stop_wanted, struct trainer_report *ret,
                 struct hai_err *err) {
    struct trainer_report report = {.step = t->step + 1, .stop = stop_wanted};
    struct model_counts total;
    double from_s = now_s();
    int r = gather_batch(t, &total, &report.stop, err);

    report.comm_s = now_s() - from_s;
    if (r == 0)
        r = add_up(t, &total, &report, err);
    if (r < 0)
        return r;
    r = adamw_norm(t->model, &report.norm);
    if (r < 0)
        return hai_fail(err, r, "gradient norm failed");
    t->adamw.lr = report.rate = schedule_rate(&t->schedule, report.step, t->next_sample);
    report.has_mtp = total.mtp_labels && t->rules.mtp_weight != 0;
    report.has_experts = model_config_of(t->model)->n_experts > 0;
    r = judge(t, &report, err);
    if (r == 0 && report.verdict == SPIKES_FINE)
        r = optimize(t, &report, err);
    if (r < 0)
        return r;
    t->next_sample += t->batch;
    report.samples = t->next_sample;
    *ret = report;
    return 0;
}

double trainer_token_flops(const struct trainer *t) {
    const struct model_config *c = model_config_of(t->model);
    double scores = 2.0 * (double)(c->n_layers * c->n_heads) *
                    (double)(config_d_key(c) + config_d_value(c)) * (double)t->conf->seq / 2;

    return 3 * (config_flops_per_token(c) + scores);
}

void trainer_tell_shares(const struct trainer *t, struct buf *ret) {
    feed_tell_shares(t->feed, 0, t->next_sample, ret);
}

int trainer_save(struct trainer *t, struct hai_err *err) {
    struct ckpt_meta meta = {.step = t->step,
                             .epoch = t->place.epoch,
                             .seed = (uint64_t)t->conf->seed,
                             .next_sample = t->next_sample,
                             .data_digest = feed_digest(t->feed, t->next_sample),
                             .config_digest = t->config_digest,
                             .world = coll_world(t->place.coll),
                             .group_ranks = coll_group_ranks(t->place.coll)};

    if (!t->saver)
        return 0;
    snprintf(meta.kernel_path, sizeof meta.kernel_path, "%s", model_ctx(t->model)->path);
    snprintf(meta.recipe, sizeof meta.recipe, "%s", t->recipe);
    snprintf(meta.version, sizeof meta.version, "%s", HAI_VERSION);
    if (t->ema)
        ema_wait(t->ema);
    return saver_start(t->saver, &meta, err);
}

int trainer_saved(struct trainer *t, bool wait, struct saver_done *ret, struct hai_err *err) {
    return t->saver ? saver_look(t->saver, wait, ret, err) : 0;
}

static int export_weights(struct trainer *t, const char *path, struct hai_err *err) {
    const struct params *params = model_params(t->model);
    _cleanup_free_ struct safetensors_tensor *tensors =
        hai_new_array(struct safetensors_tensor, (size_t)params->n);
    size_t n = 0;

    for (int i = 0; i < params->n; i++) {
        const struct param *p = &params->items[i];
        if (!p->in_file)
            continue;
        tensors[n++] = (struct safetensors_tensor){
            .name = p->name,
            .dtype = SAFETENSORS_F32,
            .n_dims = p->n_dims,
            .shape = {p->shape[0], p->shape[1]},
            .data = model_weights(t->model) + p->offset,
            .n_bytes = (size_t)p->n_elements * 4
        };
    }
    return safetensors_write(path, tensors, n, (const char *const[]){"format", "pt", NULL}, err);
}

int trainer_export(struct trainer *t, const char *dir, struct hai_err *err) {
    _cleanup_free_ char *weights = hai_asprintf("%s/model.safetensors", dir);
    _cleanup_free_ char *config = hai_asprintf("%s/config.json", dir);

    if (coll_rank(t->place.coll))
        return 0;
    int r = fileio_mkdir_durable(dir, 0777, err);
    if (r == 0)
        r = fileio_replace(config, t->config_text.data, t->config_text.n_bytes, 0644, err);
    if (r == 0)
        r = tokenizer_export(t->tokenizer, dir, err);
    if (r == 0)
        r = export_weights(t, weights, err);
    return r < 0 ? r : fileio_sync_dir(dir, err);
}
