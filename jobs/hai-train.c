/* hai-train - train a model from a YAML file, alone, on ranks started by hand, or as a job of hai.
 *
 * What the run is stands in engine/train; here are the command line, signals, the node's agent, the
 * progress line and the log of losses.
 */
#include "engine/train/joining.h"
#include "engine/train/stepmetrics.h"
#include "jobs/jobexit.h"
#include "lib/fileio.h"
#include "lib/timefmt.h"
#include "rank/rank.h"

#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define NAME "hai-train"

enum {
    EXIT_TERMINATED = 128 + SIGTERM,
    EXIT_INTERRUPTED = 128 + SIGINT,
    LOAD_S = 3600,     // before the first step: data is made, weights are read
    SAVE_S = 1800,     // for a checkpoint
    PEER_LOST_S = 900, // to be ended by the agent once another rank is gone
    LINE_MS = 100,     // between progress lines
};

static const char usage[] =
    "usage: " NAME " CONFIG.yaml [--model PATH] [--data PATH]... [--out DIR] [--every N]\n"
    "                 [--keep N]\n"
    "Train a model; the file's keys are described in etc/examples/train.yaml.\n"
    "  --model PATH  config.json or its folder, instead of 'model'\n"
    "  --data PATH   text, instead of the file's data; may be repeated\n"
    "  --out DIR     where the trained model goes, instead of 'out'\n"
    "  --every N     steps between checkpoints, instead of 'checkpoint.every'\n"
    "  --keep N      complete checkpoints kept, instead of 'checkpoint.keep'\n"
    "Ranks: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, NODE_RANK as for PyTorch.\n"
    "Checkpoints: $HAI_CKPT_DIR, else 'checkpoint.dir', else DIR/ckpt; the newest is resumed.\n"
    "SIGTERM saves a checkpoint and ends with status 143; Ctrl-C does the same with 130.\n";

struct run {
    struct trainconf conf;
    struct rank *rank; // NULL by hand
    struct coll *coll;
    struct trainer *trainer;
    char *ckpt_dir;   // used by a save under way until trainer_free
    int signals;      // signalfd
    int log;          // per-step losses; -1: none
    int metrics;      // a line of JSON a step; -1: none
    double peak;      // operations a second of all ranks; 0: not known
    bool stop;        // told to end
    bool interrupted; // ... by Ctrl-C
    double step_s;    // smoothed time of a step; 0: not known yet
    int64_t line_us;  // when the last progress line was printed
};

static bool is_first(const struct run *run) {
    return coll_rank(run->coll) == 0;
}

static void say(void *userdata, const char *text) {
    fprintf(stderr, NAME ": %s\n", text);
}

/* SIGTERM and SIGINT come as something to read, between steps: a step is never cut. */
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

/* What the agent and the signals said since the last look. */
static void listen_outside(struct run *run) {
    struct signalfd_siginfo signal;
    struct rank_event event;

    while (read(run->signals, &signal, sizeof signal) == sizeof signal) {
        run->stop = true;
        run->interrupted |= signal.ssi_signo == SIGINT;
    }
    while (rank_next(run->rank, &event) > 0)
        switch (event.kind) {
        case RANK_EVENT_TERMINATE:
        case RANK_EVENT_SUSPEND:
            run->stop = true;
            break;
        case RANK_EVENT_REFUSED:
            fprintf(stderr, NAME ": checkpoint of step %" PRId64 " was not recorded: %s\n",
                    event.step, event.text);
            break;
        default:
            break;
        }
}

/* One line of the log: step, loss and gradient norm with all their bits. Appended, never rewritten:
 * a step that is computed again after a restart is there again, to be compared. */
static int log_step(const struct run *run, const struct trainer_report *report,
                    struct hai_err *err) {
    char line[128];
    int n = snprintf(line, sizeof line, "%" PRId64 " %a %a\n", report->step, report->losses.total,
                     report->norm);

    return run->log < 0 || report->verdict
               ? 0
               : fileio_write_full(run->log, line, (size_t)n, FILEIO_HERE, err);
}

static int log_metrics(const struct run *run, const struct trainer_report *report, double step_s,
                       struct hai_err *err) {
    int64_t tokens = trainer_tokens_per_step(run->trainer);
    double operations = (double)tokens * trainer_token_flops(run->trainer) / step_s;
    _cleanup_(buf_free) struct buf line = {0};

    if (run->metrics < 0)
        return 0;
    stepmetrics_line(
        &(struct stepmetrics){.report = report,
                              .load = trainer_load(run->trainer),
                              .step_s = step_s,
                              .tokens = tokens,
                              .utilisation = run->peak > 0 ? operations / run->peak : 0},
        &line);
    return fileio_write_full(run->metrics, line.data, line.n_bytes, FILEIO_HERE, err);
}

static void tell(struct run *run, const struct trainer_report *report, double s) {
    int64_t now_us = peerlink_now_us();
    char left[TIMEFMT_ISO_BYTES];

    run->step_s = run->step_s > 0 ? 0.9 * run->step_s + 0.1 * s : s;
    double rate = (double)trainer_tokens_per_step(run->trainer) / run->step_s;
    int64_t left_us = (int64_t)((double)(run->conf.steps - report->step) * run->step_s * 1e6);
    rank_progress(run->rank,
                  &(struct rank_progress){report->step, run->conf.steps, report->losses.total, rate,
                                          "tokens", left_us});
    bool last = report->step == run->conf.steps || report->stop;
    if (!is_first(run) || (!last && now_us - run->line_us < LINE_MS * 1000))
        return;
    run->line_us = now_us;
    timefmt_duration(left_us, left);
    printf("step %" PRId64 "/%" PRId64 " loss %.3f %.0f tokens/s %s left\n", report->step,
           run->conf.steps, report->losses.total, rate, left);
    fflush(stdout);
}

/* A batch was passed over. */
static void tell_spike(const struct run *run, const struct trainer_report *report) {
    if (is_first(run))
        fprintf(stderr, NAME ": batch passed over at step %" PRId64 ": %s%s\n", report->step,
                report->spike,
                report->verdict == SPIKES_BACK ? "; going back to the newest checkpoint" : "");
}

/* Ask for the record of a save. That it cannot be recorded now (the scheduler is away for long) is
 * no failure: what counts for going on lies on disk. */
static void commit(struct run *run, const struct saver_done *done) {
    struct hai_err err = {0};

    if (done->pruning.r < 0)
        fprintf(stderr, NAME ": older checkpoints stay: %s\n", hai_err_text(&done->pruning));
    if (rank_commit(run->rank, done->step, done->path, done->digest, &err) < 0)
        fprintf(stderr, NAME ": checkpoint of step %" PRId64 " is saved, but not recorded: %s\n",
                done->step, hai_err_text(&err));
}

/* Have a finished save recorded. A save that failed (a full disk) must not end the training that it
 * is there to protect: the next one may succeed. */
static void record(struct run *run, bool wait) {
    struct saver_done done = {0};
    struct hai_err err = {0};
    int r = trainer_saved(run->trainer, wait, &done, &err);

    if (r > 0)
        commit(run, &done);
    else if (r < 0)
        fprintf(stderr, NAME ": checkpoint failed, training goes on: %s\n", hai_err_text(&err));
    free(done.path);
}

/* What the data was made of so far, where it has several sources. */
static void tell_shares(const struct run *run) {
    _cleanup_(buf_free) struct buf shares = {0};

    trainer_tell_shares(run->trainer, &shares);
    if (shares.n_bytes && is_first(run))
        fprintf(stderr, NAME ": samples up to step %" PRId64 ": %s\n",
                trainer_step_number(run->trainer), buf_cstr(&shares));
}

/* All ranks say that they may stand still: they wait for rank 0 in the next sum. */
static int save(struct run *run, struct hai_err *err) {
    rank_phase(run->rank, "save", SAVE_S);
    tell_shares(run);
    record(run, true);
    int r = trainer_save(run->trainer, err);
    rank_phase(run->rank, "train", 0);
    return r;
}

/* The last save of the process: waited for, and its failure is the run's. */
static int save_last(struct run *run, struct hai_err *err) {
    struct saver_done done = {0};
    int r = save(run, err);

    rank_phase(run->rank, "save", SAVE_S);
    if (r == 0)
        r = trainer_saved(run->trainer, true, &done, err);
    if (r > 0)
        commit(run, &done);
    free(done.path);
    return MIN(r, 0);
}

/* One step and what is written and said of it. */
static int step(struct run *run, struct trainer_report *ret, struct hai_err *err) {
    int64_t from_us = peerlink_now_us();

    listen_outside(run);
    int r = trainer_step(run->trainer, run->stop, ret, err);
    double s = (double)MAX(peerlink_now_us() - from_us, INT64_C(1)) * 1e-6;
    if (r == 0)
        r = log_step(run, ret, err);
    if (r == 0)
        r = log_metrics(run, ret, s, err);
    if (r < 0)
        return r;
    if (ret->verdict)
        tell_spike(run, ret);
    else
        tell(run, ret, s);
    record(run, ret->verdict == SPIKES_BACK);
    return ret->verdict == SPIKES_BACK ? trainer_back(run->trainer, err) : 0;
}

/* Returns 1 if the run was told to stop, 0 at its end. */
static int train(struct run *run, struct hai_err *err) {
    int64_t every = run->conf.ckpt_every;

    while (trainer_step_number(run->trainer) < run->conf.steps) {
        struct trainer_report report;
        int r = step(run, &report, err);
        if (r < 0)
            return r;
        if (report.stop || (report.step == run->conf.steps && !report.verdict))
            r = save_last(run, err);
        else if (every && report.step % every == 0 && !report.verdict)
            r = save(run, err);
        if (r < 0)
            return r;
        if (report.stop && trainer_step_number(run->trainer) < run->conf.steps) {
            listen_outside(run); // another rank may have been told first
            return 1;
        }
    }
    return 0;
}

/* A file to append to: the path given, or the name in the folder of the trained model. */
static int open_lines(const struct run *run, const char *path, const char *name, int *ret,
                      struct hai_err *err) {
    const char *out = run->conf.out;
    _cleanup_free_ char *chosen = path  ? hai_strdup(path)
                                  : out ? hai_asprintf("%s/%s", out, name)
                                        : NULL;

    if (!is_first(run) || !chosen)
        return 0;
    int r = out && !path ? fileio_mkdir_p(out, 0777, err) : 0;
    if (r < 0)
        return r;
    *ret = open(chosen, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    return *ret < 0 ? hai_fail(err, -errno, "%s: %m", chosen) : 0;
}

static void introduce(const struct run *run) {
    struct trainer_size size;

    trainer_size(run->trainer, &size);
    if (is_first(run))
        fprintf(stderr,
                NAME ": %" PRId64 " parameters, %" PRId64 " tokens of %" PRId64
                     " documents, %d ranks on %d nodes, kernels %s, precision %s\n",
                size.parameters, size.tokens, size.documents, coll_world(run->coll),
                coll_nodes(run->coll), size.kernel_path, size.recipe);
    // A later attempt that begins anew has lost work: nobody should have to find that out.
    const char *attempts = getenv("HAI_RESUME");
    if (is_first(run) && attempts && atoll(attempts) > 0 && !trainer_step_number(run->trainer))
        fprintf(stderr, NAME ": %s earlier attempts left no complete checkpoint; from step 1\n",
                attempts);
}

/* From rendezvous to the exported model. */
static int run_all(struct run *run, const char *config, struct hai_err *err) {
    const char *env_dir = getenv("HAI_CKPT_DIR");
    int r = catch_signals(run, err);

    if (r == 0)
        r = joining_open(&run->rank, &run->coll, err);
    if (r == 0)
        r = trainconf_check(&run->conf, coll_world(run->coll), err);
    if (r == -EINVAL && !err->where[0])
        snprintf(err->where, sizeof err->where, "%s", config);
    if (r == 0)
        r = open_lines(run, run->conf.log, "steps.log", &run->log, err);
    if (r == 0)
        r = open_lines(run, run->conf.metrics, "metrics.jsonl", &run->metrics, err);
    if (r < 0)
        return r;
    run->ckpt_dir = env_dir && env_dir[0] ? hai_strdup(env_dir)
                    : run->conf.ckpt_dir  ? hai_strdup(run->conf.ckpt_dir)
                    : run->conf.out       ? hai_asprintf("%s/ckpt", run->conf.out)
                                          : NULL;
    const struct trainer_place place = {run->coll, run->ckpt_dir,
                                        run->rank ? rank_epoch(run->rank) : 0, say, NULL};
    rank_phase(run->rank, "load", LOAD_S);
    r = trainer_open(&run->conf, &place, &run->trainer, err);
    if (r < 0)
        return r;
    introduce(run);
    if (run->metrics >= 0)
        run->peak = stepmetrics_peak() * (double)run->conf.threads * coll_world(run->coll);
    rank_phase(run->rank, "train", 0);
    r = train(run, err);
    if (r == 0 && run->conf.out)
        r = trainer_export(run->trainer, run->conf.out, err);
    return r;
}

/* Another rank is gone. Under hai its end is the one that counts, and this rank is about to be
 * ended by the agent: an exit of its own would look like a second failure. By hand there is no one
 * to wait for. */
static void wait_for_end(struct run *run) {
    struct pollfd p = {run->signals, POLLIN, 0};

    if (run->rank && !run->stop)
        poll(&p, 1, PEER_LOST_S * 1000);
}

static int finish(struct run *run, int r, const struct hai_err *err) {
    int status = JOBEXIT_DONE;

    if (r < 0) {
        status = jobexit_report(NAME, err);
        // Only the sockets and locks: the others learn of it while this rank waits.
        if (r == -ECONNRESET) {
            coll_close(TAKE_PTR(run->coll));
            wait_for_end(run);
        }
    } else if (r > 0) {
        status = run->interrupted ? EXIT_INTERRUPTED : EXIT_TERMINATED;
    } else if (is_first(run) && run->conf.out) {
        fprintf(stderr,
                NAME ": done; try: hai-generate --model %s --prompt TEXT --max-tokens 100\n",
                run->conf.out);
    }
    trainer_free(run->trainer);
    free(run->ckpt_dir);
    coll_close(run->coll);
    rank_close(run->rank);
    trainconf_free(&run->conf);
    if (run->log >= 0)
        close(run->log);
    if (run->metrics >= 0)
        close(run->metrics);
    if (run->signals >= 0)
        close(run->signals);
    return status;
}

/* A whole number from min to a million. */
static int whole(const char *text, int64_t min, int64_t *ret) {
    char *end;

    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (errno || end == text || *end || v < min || v > 1000000)
        return -EINVAL;
    *ret = v;
    return 0;
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"model",            required_argument, NULL, 'm'},
        {"data",              required_argument, NULL, 'd'},
        {"out",                  required_argument, NULL, 'o'},
        {"every",required_argument, NULL, 'e'},
        {"keep",               required_argument, NULL, 'k'},
        {"help",              no_argument, NULL, 'h'},
        {0             },
    };
    struct run run = {.signals = -1, .log = -1, .metrics = -1};
    struct hai_err err = {0};
    const char *model = NULL, *out = NULL;
    int64_t every = -1, keep = -1;
    _cleanup_free_ const char **data = hai_new_array(const char *, (size_t)argc);
    size_t n_data = 0;
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
        switch (c) {
        case 'm':
            model = optarg;
            break;
        case 'd':
            data[n_data++] = optarg;
            break;
        case 'o':
            out = optarg;
            break;
        case 'e':
            if (whole(optarg, 0, &every) < 0)
                return jobexit_usage(NAME, "--every is no number of steps");
            break;
        case 'k':
            if (whole(optarg, 1, &keep) < 0)
                return jobexit_usage(NAME, "--keep is no number from 1");
            break;
        case 'h':
            fputs(usage, stdout);
            return JOBEXIT_DONE;
        default:
            fputs(usage, stderr);
            return JOBEXIT_USAGE;
        }
    if (optind != argc - 1)
        return jobexit_usage(NAME, "expected one configuration file");
    trainconf_init(&run.conf);
    int r = trainconf_read(argv[optind], &run.conf, &err);
    if (r < 0)
        return finish(&run, r, &err);
    trainconf_set(&run.conf, model, out, data, n_data);
    if (every >= 0)
        run.conf.ckpt_every = every;
    if (keep >= 0)
        run.conf.ckpt_keep = keep;
    r = run_all(&run, argv[optind], &err);
    return finish(&run, r, &err);
}
