#include "engine/net/fit.h"

#include "engine/train/joining.h"
#include "engine/train/saver.h"
#include "lib/digest.h"
#include "lib/fileio.h"
#include "lib/timefmt.h"

#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/signalfd.h>

enum {
    LOAD_S = 600,      // before the first step
    SAVE_S = 1800,     // for a checkpoint
    PEER_LOST_S = 900, // to be ended by the agent once another rank is gone
    LINE_MS = 100,     // between progress lines
};

/* Weights, moments and gradients are float32 throughout. */
#define RECIPE "f32"

struct run {
    const struct fit *fit;
    struct net *net;
    struct rank *rank; // NULL by hand
    struct coll *coll;
    struct saver *saver;  // rank 0 with a folder for checkpoints; else NULL
    const char *ckpt_dir; // or NULL
    int signals, log;     // signalfd; -1: none
    bool asked;           // to end
    int signal;           // by which
    int64_t step;
    double loss, norm;
    double step_s; // smoothed time of a step; 0: not known yet
    int64_t line_us;
};

static bool is_first(const struct run *run) {
    return coll_rank(run->coll) == 0;
}

static int catch_signals(struct run *run, struct hai_err *err) {
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0 ||
        (run->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK)) < 0)
        return hai_fail(err, -errno, "signalfd: %m");
    return 0;
}

/* What signals and the agent said since the last look. */
static void listen_outside(struct run *run) {
    struct signalfd_siginfo signal;
    struct rank_event event;

    while (read(run->signals, &signal, sizeof signal) == sizeof signal) {
        run->asked = true;
        run->signal = (int)signal.ssi_signo;
    }
    while (rank_next(run->rank, &event) > 0)
        if (event.kind == RANK_EVENT_TERMINATE || event.kind == RANK_EVENT_SUSPEND)
            run->asked = true;
        else if (event.kind == RANK_EVENT_REFUSED)
            fprintf(stderr, "%s: checkpoint of step %" PRId64 " was not recorded: %s\n",
                    run->fit->program, event.step, event.text);
}

/* What decides the bits of a loss besides the data's digest. */
static uint64_t digest_run(const struct run *run) {
    const struct adamw_rule *a = &run->fit->rule;
    _cleanup_(buf_free) struct buf b = {0};
    int n;
    const struct net_param *params = net_params(run->net, &n);

    buf_printf(&b, "%" PRId64 "|%a|%a|%a|%a|%a|%a", run->fit->batch, a->lr, a->beta1, a->beta2,
               a->eps, a->decay, a->clip_norm);
    for (int i = 0; i < n; i++)
        buf_printf(&b, "|%s %" PRId64, params[i].name, params[i].n_elements);
    return digest_xxh3(b.data, b.n_bytes);
}

static struct ckpt_meta meta_of(const struct run *run) {
    struct ckpt_meta m = {.step = run->step,
                          .epoch = run->rank ? rank_epoch(run->rank) : 0,
                          .seed = run->fit->seed,
                          .next_sample = run->step * run->fit->batch,
                          .data_digest = run->fit->digest,
                          .config_digest = digest_run(run),
                          .world = coll_world(run->coll),
                          .group_ranks = coll_group_ranks(run->coll)};

    snprintf(m.kernel_path, sizeof m.kernel_path, "%s", net_kernel_path(run->net));
    snprintf(m.recipe, sizeof m.recipe, "%s", RECIPE);
    snprintf(m.version, sizeof m.version, "%s", HAI_VERSION);
    return m;
}

static void skipped(void *userdata, const char *path, const char *reason) {
    fprintf(stderr, "%s: passed over %s: %s\n", (const char *)userdata, path, reason);
}

static int resume(struct run *run, struct hai_err *err) {
    _cleanup_(ckpt_freep) struct ckpt *ckpt = NULL;
    size_t n_parts;
    const struct ckpt_part *parts = net_parts(run->net, &n_parts);

    if (!run->ckpt_dir)
        return 0;
    int r = joining_checkpoint(run->coll, run->ckpt_dir, skipped,
                               (void *)(uintptr_t)run->fit->program, &ckpt, err);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    const struct ckpt_meta *m = ckpt_meta_of(ckpt), now = meta_of(run);
    if (m->data_digest != now.data_digest || m->config_digest != now.config_digest ||
        m->seed != now.seed)
        return hai_fail(err, -ESTALE,
                        "%s: of other data, another network or rule; expected an empty folder",
                        ckpt_path(ckpt));
    r = ckpt_load(ckpt, parts, n_parts, err);
    if (r < 0)
        return r;
    bool same = m->world == now.world && hai_streq(m->kernel_path, now.kernel_path) &&
                hai_streq(m->version, now.version);
    if (m->world == now.world && m->group_ranks >= 1 && m->group_ranks <= m->world)
        coll_set_group_ranks(run->coll, (int)m->group_ranks);
    run->step = m->step;
    if (is_first(run))
        fprintf(stderr, "%s: resumed from %s%s\n", run->fit->program, ckpt_path(ckpt),
                same ? "" : "; losses may differ: saved with other ranks, kernels or version");
    return 0;
}

/* This rank's share of a step, in pieces that the network has room for. */
static int add_up(struct run *run, int64_t n_items_max, struct hai_err *err) {
    const struct fit *fit = run->fit;
    int64_t share = fit->batch / coll_world(run->coll), mine = coll_rank(run->coll) * share;

    run->loss = 0;
    net_gradients_clear(run->net);
    for (int64_t i = 0; i < share; i += n_items_max) {
        struct net_batch batch = {.n_items = MIN(n_items_max, share - i),
                                  .n_items_all = fit->batch,
                                  .first_item = mine + i,
                                  .step = run->step + 1};
        double loss;
        fit->fill(fit->userdata, run->step * fit->batch + batch.first_item, batch.n_items, &batch);
        int r = net_train(run->net, &batch, &loss);
        if (r < 0)
            return hai_fail(err, r, "an operator failed");
        run->loss += loss;
    }
    int r = coll_sum_f32(run->coll, net_gradients(run->net), (size_t)net_n_elements(run->net), err);
    return r < 0 ? r : coll_sum_f64(run->coll, &run->loss, 1, err);
}

/* All learn in the same step that one was asked to end. */
static int agree_to_end(struct run *run, struct hai_err *err) {
    int64_t asked = run->asked;
    int r = coll_sum_i64(run->coll, &asked, 1, err);

    run->asked = asked > 0;
    return r;
}

static int log_step(const struct run *run, struct hai_err *err) {
    char line[128];
    int n = snprintf(line, sizeof line, "%" PRId64 " %a %a\n", run->step, run->loss, run->norm);

    return run->log < 0 ? 0 : fileio_write_full(run->log, line, (size_t)n, FILEIO_HERE, err);
}

static void tell(struct run *run, int64_t from_us) {
    const struct fit *fit = run->fit;
    int64_t now_us = timefmt_monotonic_us();
    double s = (double)MAX(now_us - from_us, INT64_C(1)) * 1e-6;
    char left[TIMEFMT_ISO_BYTES];

    run->step_s = run->step_s > 0 ? 0.9 * run->step_s + 0.1 * s : s;
    double rate = (double)fit->batch / run->step_s;
    int64_t left_us = (int64_t)((double)(fit->steps - run->step) * run->step_s * 1e6);
    rank_progress(run->rank, &(struct rank_progress){run->step, fit->steps, run->loss, rate,
                                                     fit->unit, left_us});
    bool last = run->step == fit->steps || run->asked;
    if (!is_first(run) || (!last && now_us - run->line_us < LINE_MS * 1000))
        return;
    run->line_us = now_us;
    timefmt_duration(left_us, left);
    printf("step %" PRId64 "/%" PRId64 " loss %.4f %.0f %s/s %s left\n", run->step, fit->steps,
           run->loss, rate, fit->unit, left);
    fflush(stdout);
}

static int step(struct run *run, int64_t n_items_max, struct hai_err *err) {
    int64_t from_us = timefmt_monotonic_us();

    listen_outside(run);
    int r = agree_to_end(run, err);
    if (r == 0)
        r = add_up(run, n_items_max, err);
    if (r < 0)
        return r;
    r = net_step(run->net, &run->fit->rule, run->step + 1, &run->norm);
    if (r < 0)
        return hai_fail(err, r, "optimizer step failed");
    run->step++;
    if (!isfinite(run->loss) || !isfinite(run->norm))
        return hai_fail(err, -EDOM,
                        "step %" PRId64 ": loss is %g, gradient norm %g; expected "
                        "numbers (try a lower rate)",
                        run->step, run->loss, run->norm);
    r = log_step(run, err);
    tell(run, from_us);
    return r;
}

/* A save that has ended: have it recorded. Its failure (a full disk) is no end of training. */
static void record(struct run *run, bool wait) {
    struct saver_done done = {0};
    struct hai_err err = {0};
    const char *program = run->fit->program;

    if (!run->saver)
        return;
    int r = saver_look(run->saver, wait, &done, &err);
    if (r > 0 && done.pruning.r < 0)
        fprintf(stderr, "%s: older checkpoints stay: %s\n", program, hai_err_text(&done.pruning));
    if (r > 0)
        r = rank_commit(run->rank, done.step, done.path, done.digest, &err);
    if (r < 0)
        fprintf(stderr, "%s: a checkpoint is not saved or not recorded, training goes on: %s\n",
                program, hai_err_text(&err));
    free(done.path);
}

/* last: waited for. */
static int save(struct run *run, bool last, struct hai_err *err) {
    struct ckpt_meta meta = meta_of(run);

    rank_phase(run->rank, "save", SAVE_S);
    record(run, true);
    int r = run->saver ? saver_start(run->saver, &meta, err) : 0;
    if (last)
        record(run, true);
    else
        rank_phase(run->rank, "train", 0);
    return r;
}

static int train(struct run *run, int64_t n_items_max, struct hai_err *err) {
    const struct fit *fit = run->fit;

    while (run->step < fit->steps) {
        int r = step(run, n_items_max, err);
        bool last = r == 0 && (run->asked || run->step == fit->steps);
        record(run, false);
        if (r == 0 && (last || (fit->every && run->step % fit->every == 0)))
            r = save(run, last, err);
        if (r < 0)
            return r;
        if (run->asked)
            break;
    }
    return 0;
}

static int open_all(struct run *run, struct hai_err *err) {
    const struct fit *fit = run->fit;
    const char *env_dir = getenv("HAI_CKPT_DIR");
    int r = catch_signals(run, err);

    if (r == 0)
        r = joining_open(&run->rank, &run->coll, err);
    if (r < 0)
        return r;
    if (fit->batch < 1 || fit->batch % coll_world(run->coll))
        return hai_fail(err, -EINVAL, "batch is %" PRId64 "; expected a multiple of the ranks, %d",
                        fit->batch, coll_world(run->coll));
    run->ckpt_dir = fit->ckpt_dir ? fit->ckpt_dir : env_dir && env_dir[0] ? env_dir : NULL;
    rank_phase(run->rank, "load", LOAD_S);
    r = resume(run, err);
    if (r < 0 || !is_first(run))
        return r;
    size_t n_parts;
    const struct ckpt_part *parts = net_parts(run->net, &n_parts);
    if (run->ckpt_dir)
        run->saver = saver_new(run->ckpt_dir, parts, n_parts, MAX(fit->keep, 1));
    if (fit->log)
        run->log = open(fit->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    return fit->log && run->log < 0 ? hai_fail(err, -errno, "%s: %m", fit->log) : 0;
}

/* Another rank is gone, and under hai this one is about to be ended by the agent: an exit of its
 * own would look like a second failure. */
static void wait_for_end(struct run *run) {
    struct pollfd p = {run->signals, POLLIN, 0};

    coll_close(TAKE_PTR(run->coll));
    if (run->rank && !run->asked)
        poll(&p, 1, PEER_LOST_S * 1000);
}

int fit_run(struct net *net, const struct fit *fit, struct fit_end *ret, struct hai_err *err) {
    struct run run = {.fit = fit, .net = net, .signals = -1, .log = -1, .loss = NAN};
    int r = open_all(&run, err);

    if (r == 0) {
        rank_phase(run.rank, "train", 0);
        r = train(&run, net_n_items_max(net), err);
    }
    if (r == 0)
        *ret = (struct fit_end){run.step, run.loss,
                                run.step == fit->steps ? 0
                                : run.signal           ? run.signal
                                                       : SIGTERM,
                                is_first(&run)};
    saver_free(run.saver);
    if (r == -ECONNRESET)
        wait_for_end(&run);
    coll_close(run.coll);
    rank_close(run.rank);
    if (run.log >= 0)
        close(run.log);
    if (run.signals >= 0)
        close(run.signals);
    return r;
}
