#include "engine/data/sampler.h"
#include "engine/model/folder.h"
#include "engine/train/initial.h"
#include "engine/train/joining.h"
#include "engine/train/trainer_impl.h"
#include "lib/digest.h"
#include "lib/fileio.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

enum { LOAD_STEPS = 100 }; // that the load of experts is reported over

void trainer_free(struct trainer *t) {
    if (!t)
        return;
    saver_free(t->saver);
    ema_free(t->ema);
    spikes_free(t->spikes);
    model_free(t->model);
    tokenizer_free(t->tokenizer);
    feed_close(t->feed);
    buf_free(&t->config_text);
    free(t->exp_avg);
    free(t->exp_avg_sq);
    free(t->parts);
    share_free(t->share);
    closep(&t->record);
    expertload_free(t->load);
    free(t);
}

static void note(const struct trainer *t, const char *format, ...) _printf_(2, 3);

static void note(const struct trainer *t, const char *format, ...) {
    char text[1024];
    va_list ap;

    if (!t->place.note || coll_rank(t->place.coll))
        return;
    va_start(ap, format);
    (void)vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    t->place.note(t->place.userdata, text);
}

/* Fields that older checkpoints do not know: said only where they are used, so that those have the
 * digest that they had. */
static void digest_later_fields(const struct trainconf *conf, struct buf *b) {
    const struct schedule *s = &conf->schedule;

    if (conf->device_alpha > 0 || conf->communication_alpha > 0 || conf->balance_micro_batch)
        buf_printf(b, "|balance %a %a %d %" PRId64, conf->device_alpha, conf->communication_alpha,
                   conf->balance_micro_batch, conf->max_groups);
    if (conf->drop_capacity > 0)
        buf_printf(b, "|dropping %a %a", conf->drop_capacity, conf->drop_whole);
    if (conf->balance_groups > 1)
        buf_printf(b, "|groups %" PRId64, conf->balance_groups);
    if (conf->bias_until < 1)
        buf_printf(b, "|bias_until %a", conf->bias_until);
    if (s->curve)
        buf_printf(b, "|curve %d", s->curve);
    for (int i = 0; i < s->tail_at.n; i++)
        buf_printf(b, "|tail %a %a", s->tail_at.values[i], s->tail.values[i]);
    if (s->ramp.from)
        buf_printf(b, "|ramp %" PRId64 " %" PRId64 " %" PRId64, s->ramp.from, s->ramp.tokens,
                   s->ramp.multiple);
    if (conf->spikes.loss > 0 || conf->spikes.norm > 0)
        buf_printf(b, "|spikes %a %a %" PRId64 " %" PRId64 " %" PRId64, conf->spikes.loss,
                   conf->spikes.norm, conf->spikes.window, conf->spikes.patience,
                   conf->spikes.backs);
}

/* Everything that decides the bits of a loss, apart from data and placement. */
static uint64_t digest_config(const struct trainer *t) {
    const struct trainconf *c = t->conf;
    _cleanup_(buf_free) struct buf b = {0};

    buf_add(&b, t->config_text.data, t->config_text.n_bytes);
    buf_printf(&b, "|%" PRId64 "|%" PRId64 "|%" PRId64 "|%" PRId64 "|%" PRId64, c->steps, c->batch,
               t->micro, c->seq, c->seed);
    buf_printf(&b, "|%d|%a|%" PRId64 "|%a|%a|%a", c->schedule.kind, c->schedule.rate,
               c->schedule.warmup, c->schedule.final, c->schedule.factor, c->schedule.decay);
    for (int i = 0; i < c->schedule.at.n; i++)
        buf_printf(&b, "|%a", c->schedule.at.values[i]);
    buf_printf(&b, "|%a|%a|%a|%a|%a|%a|%a|%a", c->beta1, c->beta2, c->eps, c->weight_decay, c->clip,
               t->rules.mtp_weight, t->rules.balance_alpha, c->bias_rate);
    digest_later_fields(c, &b);
    return digest_xxh3(b.data, b.n_bytes);
}

/* The model, and the config.json of what comes out of it: all values are kept and written as
 * float32, whatever the file says that it was made from. */
static int read_model_config(struct trainer *t, struct model_config *ret, struct hai_err *err) {
    static const char *const drop[] = {"torch_dtype", "dtype", "quantization_config", NULL};
    const char *from = trainconf_model(t->conf);
    _cleanup_free_ char *path = NULL;
    _cleanup_(buf_free) struct buf text = {0};
    int r = folder_read_config(from, &path, &text, err);

    if (r == 0)
        r = config_parse((const char *)text.data, text.n_bytes, path, ret, err);
    return r < 0 ? r : folder_config(from, drop, folder_dtype_field(K_F32), &t->config_text, err);
}

/* Weights of every tensor that owns its values, moments and averages of those that are trained; the
 * state of the spikes. Where products read rounded copies of the weights, what is trained is their
 * master. */
static void list_parts(struct trainer *t) {
    const struct params *params = model_params(t->model);
    bool master = t->conf->precision.kind != PRECISION_F32;
    const struct {
        enum ckpt_state state;
        float *base;
        bool optional;
    } states[] = {
        {CKPT_STATE_WEIGHT,     model_weights(t->model),            false},
        {CKPT_STATE_EXP_AVG,    t->exp_avg,                         false},
        {CKPT_STATE_EXP_AVG_SQ, t->exp_avg_sq,                      false},
        {CKPT_STATE_EMA,        t->ema ? ema_values(t->ema) : NULL, true },
    };
    size_t n_states = ARRAY_SIZE(states) - (t->conf->ema_decay <= 0), n;

    t->parts = hai_new_array(struct ckpt_part, n_states * (size_t)params->n + 1);
    for (int i = 0; i < params->n; i++) {
        const struct param *p = &params->items[i];
        for (size_t s = 0; p->tie == i && s < (p->trained ? n_states : 1); s++)
            t->parts[t->n_parts++] = (struct ckpt_part){
                .name = p->name,
                .state = s == 0 && master && p->trained ? CKPT_STATE_MASTER : states[s].state,
                .n_dims = p->n_dims,
                .shape = {p->shape[0], p->shape[1]},
                .data = states[s].base ? states[s].base + p->offset : NULL,
                .optional = states[s].optional,
            };
    }
    if (t->spikes) {
        float *state = spikes_state(t->spikes, &n);
        t->parts[t->n_parts++] = (struct ckpt_part){.name = "spikes",
                                                    .state = CKPT_STATE_RUN,
                                                    .n_dims = 1,
                                                    .shape = {(int64_t)n},
                                                    .data = state,
                                                    .optional = true};
    }
}

/* What a run has beside the model and its moments, if it wants it. */
static int make_extras(struct trainer *t, struct hai_err *err) {
    const struct trainconf *c = t->conf;

    if (c->spikes.loss > 0 || c->spikes.norm > 0)
        t->spikes = spikes_new(&c->spikes);
    if (c->ema_decay > 0 && coll_rank(t->place.coll) == 0) {
        t->ema = ema_new(model_weights(t->model), (size_t)model_params(t->model)->n_trained,
                         c->ema_decay);
        if (!t->ema)
            return hai_fail(err, -EAGAIN, "no thread could be started for averaged weights");
    }
    return 0;
}

static int make_rules(struct trainer *t, const struct model_config *config, struct hai_err *err) {
    const struct trainconf *c = t->conf;

    t->rules = (struct model_rules){
        .mtp_weight = c->mtp_weight,
        .balance_alpha = c->balance_alpha >= 0 ? c->balance_alpha : config->balance_alpha,
        .device_alpha = c->device_alpha,
        .communication_alpha = c->communication_alpha,
        .balance_groups = (int)c->balance_groups,
        .max_groups = (int)c->max_groups,
        .balance_micro_batch = c->balance_micro_batch,
        .capacity = c->drop_capacity,
    };
    return model_rules_check(config, &t->rules, err);
}

/* What must hold between the model and the training file. */
static int check_model_config(const struct trainer *t, const struct model_config *config,
                              struct hai_err *err) {
    const struct trainconf *c = t->conf;

    if (tokenizer_n_vocab(t->tokenizer) > config->n_vocab)
        return hai_fail(err, -EINVAL,
                        "%s: vocab_size is %" PRId64 "; the tokenizer '%s' has %d tokens",
                        trainconf_model(c), config->n_vocab, trainconf_tokenizer(c),
                        tokenizer_n_vocab(t->tokenizer));
    if (c->seq > config->n_position)
        return hai_fail(err, -EINVAL,
                        "seq is %" PRId64 "; expected at most max_position_embeddings, %" PRId64,
                        c->seq, config->n_position);
    return 0;
}

static int make_model(struct trainer *t, const struct model_config *config, struct hai_err *err) {
    const struct trainconf *c = t->conf;
    const struct model_options options = {.backend = c->backend,
                                          .n_threads = (int)c->threads,
                                          .n_tokens_max = t->micro * c->seq,
                                          .n_seqs_max = share_n_seqs_max(t->feed, t->micro),
                                          .training = true,
                                          .precision = c->precision};
    int r = make_rules(t, config, err);
    if (r == 0)
        r = model_new(config, &options, &t->model, err);
    if (r < 0)
        return r;
    if (config->n_experts)
        t->load = expertload_new((int)(config->n_layers - config->n_dense_layers),
                                 (int)config->n_dense_layers, (int)config->n_experts, LOAD_STEPS);
    precision_name(&c->precision, t->recipe);
    t->exp_avg = hai_new_array(float, (size_t)model_params(t->model)->n_trained);
    t->exp_avg_sq = hai_new_array(float, (size_t)model_params(t->model)->n_trained);
    t->config_digest = digest_config(t);
    return 0;
}

static void skipped(void *userdata, const char *path, const char *reason) {
    note(userdata, "passed over %s: %s", path, reason);
}

/* Does the checkpoint's numeric identity hold here? Differences are written into why. */
static bool same_identity(const struct trainer *t, const struct ckpt_meta *m, struct buf *why) {
    const char *path = model_ctx(t->model)->path;

    if (m->world != coll_world(t->place.coll))
        buf_printf(why, ", %" PRId64 " ranks (now %d)", m->world, coll_world(t->place.coll));
    if (!hai_streq(m->kernel_path, path))
        buf_printf(why, ", kernels %s (now %s)", m->kernel_path, path);
    if (!hai_streq(m->recipe, t->recipe))
        buf_printf(why, ", precision %s (now %s)", m->recipe, t->recipe);
    if (!hai_streq(m->version, HAI_VERSION))
        buf_printf(why, ", version %s (now %s)", m->version, HAI_VERSION);
    if (m->config_digest != t->config_digest)
        buf_printf(why, ", another configuration");
    return !why->n_bytes;
}

static int resume(struct trainer *t, const struct ckpt *ckpt, struct hai_err *err) {
    const struct ckpt_meta *m = ckpt_meta_of(ckpt);
    _cleanup_(buf_free) struct buf why = {0};

    uint64_t data = feed_digest(t->feed, m->next_sample);
    if (m->data_digest != data)
        return hai_fail(err, -ESTALE,
                        "%s: trained on other data (tokens %016" PRIx64 ", here %016" PRIx64
                        "); expected the same files and tokenizer, or an empty checkpoint folder",
                        ckpt_path(ckpt), m->data_digest, data);
    if (!same_identity(t, m, &why) && t->conf->exact)
        return hai_fail(err, -ESTALE, "%s: saved with %s; 'exact: required' refuses to go on",
                        ckpt_path(ckpt), buf_cstr(&why) + 2);
    int r = ckpt_load(ckpt, t->parts, t->n_parts, err);
    if (r < 0)
        return r;
    if (t->ema && !ckpt_count(ckpt, CKPT_STATE_EMA))
        ema_restart(t->ema);
    r = model_weights_changed(t->model);
    if (r < 0)
        return hai_fail(err, r, "%s: weights cannot be rounded", ckpt_path(ckpt));
    if (m->world == coll_world(t->place.coll) && m->group_ranks >= 1 && m->group_ranks <= m->world)
        coll_set_group_ranks(t->place.coll, (int)m->group_ranks);
    t->step = m->step;
    t->next_sample = m->next_sample;
    note(t, "resumed from %s%s%s", ckpt_path(ckpt),
         why.n_bytes ? "; losses may differ: saved with " : "",
         why.n_bytes ? buf_cstr(&why) + 2 : "");
    return 0;
}

/* Rank 0 looks, all load the same. */
static int find_checkpoint(struct trainer *t, struct hai_err *err) {
    _cleanup_(ckpt_freep) struct ckpt *ckpt = NULL;

    if (!t->place.ckpt_dir)
        return 0;
    int r = joining_checkpoint(t->place.coll, t->place.ckpt_dir, skipped, t, &ckpt, err);
    return r == -ENOENT ? 0 : r < 0 ? r : resume(t, ckpt, err);
}

/* All ranks must have the same tokens; a file that one node lacks would train them apart. */
static int agree_on_data(struct trainer *t, struct hai_err *err) {
    const uint64_t own = feed_digest(t->feed, INT64_MAX);
    uint64_t digest = own;
    int r = coll_broadcast(t->place.coll, &digest, sizeof digest, 0, err);

    if (r == 0 && digest != own)
        r = hai_fail(err, -ESTALE,
                     "data differs from rank 0's (tokens %016" PRIx64 ", there %016" PRIx64 ")",
                     own, digest);
    return r;
}

/* Samples of text that is tokenised here, or of shards that are read from disk as they are needed:
 * n_ahead tokens behind the inputs are labels, n_share samples are a rank's of a step. */
static int open_feed(struct trainer *t, int n_ahead, int64_t n_share, struct hai_err *err) {
    const struct trainconf *c = t->conf;
    const struct corpus_source source = {c->files, c->n_files, c->max_bytes};
    const struct feed_shards_spec spec = {.sources = c->sources,
                                          .within = c->within,
                                          .seq = c->seq,
                                          .n_ahead = n_ahead,
                                          .n_read_ahead = n_share,
                                          .seed = (uint64_t)c->seed};
    _cleanup_free_ char *dir =
        c->out ? hai_asprintf("%s/data", c->out) : hai_asprintf("%s/data", t->place.ckpt_dir);

    const struct feed_chat_spec chat = {source, trainconf_tokenizer(c), c->chat_form, c->seq,
                                        c->cut, (uint64_t)c->seed};

    if (c->sft)
        return feed_chat_open(&chat, t->tokenizer, &t->feed, err);
    if (c->sources.n)
        return feed_shards_open(&spec, t->tokenizer, &t->feed, err);
    return feed_corpus_open(&source, t->tokenizer, dir, c->seq, (uint64_t)c->seed, &t->feed, err);
}

static int open_record(struct trainer *t, struct hai_err *err) {
    if (!t->conf->record)
        return 0;
    _cleanup_free_ char *path = hai_asprintf("%s.%d", t->conf->record, coll_rank(t->place.coll));
    t->record = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    return t->record < 0 ? hai_fail(err, -errno, "%s: %m", path) : 0;
}

static int make_data(struct trainer *t, const struct model_config *config, struct hai_err *err) {
    int64_t n_share =
        sampler_share(t->conf->batch, coll_rank(t->place.coll), coll_world(t->place.coll)).n;

    t->micro = t->conf->micro_batch ? MIN(t->conf->micro_batch, n_share) : n_share;
    int r = open_feed(t, config->n_mtp ? 2 : 1, n_share, err);
    if (r == 0)
        r = agree_on_data(t, err);
    if (r == 0)
        t->share = share_new(t->feed, n_share, t->micro);
    if (r == 0)
        share_spare(t->share, (uint64_t)t->conf->seed, t->conf->drop_whole);
    return r < 0 ? r : open_record(t, err);
}

/* The weights of a run that has no checkpoint. */
static int begin(struct trainer *t, struct hai_err *err) {
    const char *init = t->conf->init;

    model_init(t->model, (uint64_t)t->conf->seed);
    int r = init ? initial_load(t->model, init, err) : 0;
    if (r < 0)
        return r;
    r = model_weights_changed(t->model);
    if (r < 0)
        return hai_fail(err, r, "%s: weights cannot be rounded", init ? init : "seed");
    if (init)
        note(t, "weights of %s", init);
    if (t->ema)
        ema_restart(t->ema);
    return 0;
}

int trainer_open(const struct trainconf *conf, const struct trainer_place *place,
                 struct trainer **ret, struct hai_err *err) {
    _cleanup_(trainer_freep) struct trainer *t = hai_new(struct trainer);
    struct model_config config;

    t->conf = conf;
    t->place = *place;
    t->record = -1;
    trainconf_schedule(conf, &t->schedule);
    schedule_prepare(&t->schedule);
    if (!conf->out && !place->ckpt_dir)
        return hai_fail(err, -EINVAL, "'out' is missing; expected a folder for the trained model");
    t->batch = conf->batch;
    int r = tokenizer_read(trainconf_tokenizer(conf), &t->tokenizer, err);
    if (r == 0)
        r = read_model_config(t, &config, err);
    if (r == 0)
        r = check_model_config(t, &config, err);
    if (r == 0)
        r = make_data(t, &config, err);
    if (r == 0)
        r = make_model(t, &config, err);
    if (r < 0)
        return r;
    t->adamw = (struct adamw_rule){.beta1 = conf->beta1,
                                   .beta2 = conf->beta2,
                                   .eps = conf->eps,
                                   .decay = conf->weight_decay,
                                   .clip_norm = conf->clip};
    r = make_extras(t, err);
    if (r < 0)
        return r;
    list_parts(t);
    r = find_checkpoint(t, err);
    if (r == 0 && !t->step)
        r = begin(t, err);
    if (r < 0)
        return r;
    if (place->ckpt_dir && coll_rank(place->coll) == 0)
        t->saver = saver_new(place->ckpt_dir, t->parts, t->n_parts, (int)conf->ckpt_keep);
    *ret = TAKE_PTR(t);
    return 0;
}

int trainer_back(struct trainer *t, struct hai_err *err) {
    int64_t consumed = t->next_sample, step = t->step, backs = spikes_backs(t->spikes);

    if (t->ema)
        ema_wait(t->ema);
    t->step = -1;
    int r = find_checkpoint(t, err);
    if (r == 0 && t->step < 0) {
        t->step = step;
        r = hai_fail(err, -ENOENT, "no checkpoint to go back to after spikes of the loss");
    }
    if (r < 0)
        return r;
    t->next_sample = consumed;
    spikes_set_backs(t->spikes, backs);
    return 0;
}
