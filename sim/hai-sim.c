/* hai-sim - what if: a job trace through the scheduler on a described cluster; and with --fuzz the
 * scheduler's core through seeded storms of faults. Reached as `hai sim`.
 *
 * Exit status: 0 done, 1 a seed failed or nothing could be written, 2 bad command line or file.
 */
#include "lib/timefmt.h"
#include "sim/chart.h"
#include "sim/figures.h"
#include "sim/history.h"
#include "sim/replay.h"
#include "sim/seeds.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

enum { RUNS_MAX = CHART_RUNS_MAX };

static const char usage[] =
    "usage: hai sim [options] TRACE\n"
    "       hai sim --history AGO [options]\n"
    "       hai sim --compare A.yaml B.yaml [options] TRACE\n"
    "       hai sim --fuzz [--seeds A..B] [--steps N]\n"
    "       hai sim --fuzz --seed S --minimise [--steps N]\n"
    "\n"
    "Replays a job trace (CSV, also gzip: submit_s, gpus, duration_s; user or queue, prio, est_s)\n"
    "through the scheduler on a described cluster, and prints waits, use and losses.\n"
    "\n"
    "  -c, --config FILE      the cluster, policy and failures (YAML); default: 2 zones x 8 "
    "leaves\n"
    "                         x 20 nodes x 8 GPUs\n"
    "      --history AGO      in place of a trace: what ended on the cluster that hai list sees, "
    "e.g. 30d\n"
    "      --compare          two descriptions side by side\n"
    "      --from T, --to T   only what was submitted in this part of the trace, e.g. 3d to 10d\n"
    "      --stretch X        multiply submission times\n"
    "      --load R           stretch them so that the trace asks for this part of all GPUs\n"
    "      --nodes N          what if there were N nodes\n"
    "      --lose WHAT@TIME[:DURATION]\n"
    "                         what if a node, leaf or zone were lost, e.g. b@3d:12h; repeatable;\n"
    "                         TIME counts from --from\n"
    "      --eta N            ask for every N-th job that waits when it will start, and tell how "
    "good\n"
    "                         the forecasts were\n"
    "      --svg DIR          write time.svg and waits.svg\n"
    "      --json             print JSON\n"
    "  -q, --quiet            no progress on the terminal\n"
    "      --fuzz             run the scheduler's core through seeded storms of faults and check "
    "its\n"
    "                         invariants; a failing seed is printed and repeats exactly\n"
    "      --seeds A..B       these seeds, default 1..100; --steps N: of this length, default "
    "1000\n"
    "      --minimise         leave out faults of a failing seed for as long as it fails, and "
    "print "
    "the rest\n";

struct options {
    const char *configs[RUNS_MAX];
    size_t n_configs;
    const char *trace;
    const char *history; // AGO
    const char *svg;
    const char **lose;
    size_t n_lose;
    int64_t from_us, to_us;
    int64_t stretch, load; // millionths, 0: not given
    int64_t nodes;         // 0: as described
    int64_t eta;           // every so many; 0: none
    bool json, quiet, compare, fuzz, minimise;
    uint64_t first, last;
    int n_steps;
};

static int complain(const struct hai_err *err) {
    fprintf(stderr, "hai: %s%s%s\n", err->where, err->where[0] ? ": " : "", hai_err_text(err));
    if (err->hint[0])
        fprintf(stderr, "%s\n", err->hint);
    return 2;
}

/* ---- the command line ---- */

static int bad_value(const char *option, const char *text, const char *expected) {
    fprintf(stderr, "hai: --%s is '%s'; expected %s\n", option, text, expected);
    return -EINVAL;
}

static int take_time(const char *option, const char *text, int64_t *ret) {
    struct hai_err err = {0};

    if (timefmt_duration_parse(text, ret, &err) == 0)
        return 0;
    fprintf(stderr, "hai: --%s: %s\n", option, err.text);
    return -EINVAL;
}

static int take_factor(const char *option, const char *text, int64_t *ret) {
    if (fixed_parse(text, strlen(text), ret) < 0 || *ret <= 0 || *ret > 1000 * FIXED_ONE)
        return bad_value(option, text, "a number above 0, up to 1000");
    return 0;
}

static int take_whole(const char *option, const char *text, int64_t max, int64_t *ret) {
    int64_t value;

    if (fixed_parse(text, strlen(text), &value) < 0 || value % FIXED_ONE || value < FIXED_ONE ||
        value > max * FIXED_ONE) {
        _cleanup_free_ char *expected =
            hai_asprintf("a whole number from 1 to %lld", (long long)max);
        return bad_value(option, text, expected);
    }
    *ret = value / FIXED_ONE;
    return 0;
}

static int take_steps(const char *text, int *ret) {
    int64_t n;
    int r = take_whole("steps", text, 1000000, &n);

    if (r == 0)
        *ret = (int)n;
    return r;
}

static int take_option(int c, struct options *o) {
    switch (c) {
    case 'c':
        o->configs[0] = optarg;
        o->n_configs = 1;
        return 0;
    case 'f':
        return take_time("from", optarg, &o->from_us);
    case 't':
        return take_time("to", optarg, &o->to_us);
    case 'x':
        return take_factor("stretch", optarg, &o->stretch);
    case 'l':
        return take_factor("load", optarg, &o->load);
    case 'n':
        return take_whole("nodes", optarg, NODES_MAX, &o->nodes);
    case 'o':
        o->lose = hai_realloc_array(o->lose, o->n_lose + 1, sizeof *o->lose);
        o->lose[o->n_lose++] = optarg;
        return 0;
    case 'e':
        return take_whole("eta", optarg, 1000000, &o->eta);
    case 'h':
        o->history = optarg;
        return take_time("history", optarg, &(int64_t){0});
    case 'g':
        o->svg = optarg;
        return 0;
    case 's':
        if (seeds_parse(optarg, &o->first, &o->last) < 0)
            return bad_value("seeds", optarg, "A..B");
        return 0;
    case 'p':
        return take_steps(optarg, &o->n_steps);
    case 'q':
        o->quiet = true;
        return 0;
    default:
        return -EINVAL;
    }
}

/* ---- what does not go together ---- */

static _printf_(1, 2) int misused(const char *format, ...) {
    va_list args;

    fputs("hai: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputs("\nhai sim --help says how it is called\n", stderr);
    return -EINVAL;
}

static int check_options(const struct options *o) {
    if (o->minimise && !o->fuzz)
        return misused("--minimise without --fuzz");
    if (o->minimise && o->first != o->last)
        return misused("--minimise shortens one seed; expected --seed S");
    if (o->compare && o->n_configs)
        return misused("--compare and --config are both given; expected one of them");
    if (o->stretch && o->load)
        return misused("--stretch and --load are both given; expected one of them");
    if (o->from_us >= o->to_us)
        return misused("--to is not later than --from: no time is left");
    return 0;
}

/* What is left over: two descriptions with --compare, and the trace. */
static int take_words(int argc, char **argv, struct options *o) {
    int n = argc - optind, n_configs = o->compare ? RUNS_MAX : 0;
    int expected = o->fuzz ? 0 : n_configs + (o->history ? 0 : 1);

    if (n > expected)
        return misused("'%s' is one word too many%s", argv[optind + expected],
                       o->fuzz      ? ": --fuzz makes its own jobs"
                       : o->history ? ": the trace is the cluster's history"
                                    : "");
    if (n < n_configs)
        return misused("%d of 2 descriptions are given; expected --compare A.yaml B.yaml%s", n,
                       o->history ? "" : " TRACE");
    if (n < expected)
        return misused("no trace is given; expected %s", o->compare
                                                             ? "--compare A.yaml B.yaml TRACE"
                                                             : "a CSV file, '-', or --history AGO");
    for (; o->compare && o->n_configs < RUNS_MAX; o->n_configs++)
        o->configs[o->n_configs] = argv[optind++];
    if (!o->fuzz && !o->history)
        o->trace = argv[optind];
    return 0;
}

/* getopt has refused it: an option that is not there, or its value. */
static int unknown_option(char **argv, const struct option *options) {
    const char *word = argv[optind - 1], *nearest = NULL;
    int best = INT_MAX;

    if (strncmp(word, "--", 2) != 0)
        return misused("unknown option '-%c'", optopt);
    if (optopt) // a known one
        return misused("%s: a value is missing, or one too many", word);
    _cleanup_free_ char *name = hai_strndup(word + 2, strcspn(word + 2, "="));
    for (const struct option *o = options; o->name; o++)
        if (hai_nearer(name, o->name, &best))
            nearest = o->name;
    return misused("unknown option '--%s'%s%s%s", name, nearest ? "; did you mean '--" : "",
                   nearest ? nearest : "", nearest ? "'?" : "");
}

static int read_command(int argc, char **argv, struct options *o) {
    int json = 0, compare = 0, fuzz = 0, minimise = 0, help = 0, c;
    const struct option options[] = {
        {"config",   required_argument, NULL,      'c'},
        {"from",     required_argument, NULL,      'f'},
        {"to",       required_argument, NULL,      't'},
        {"stretch",  required_argument, NULL,      'x'},
        {"load",     required_argument, NULL,      'l'},
        {"nodes",    required_argument, NULL,      'n'},
        {"lose",     required_argument, NULL,      'o'},
        {"eta",      required_argument, NULL,      'e'},
        {"history",  required_argument, NULL,      'h'},
        {"svg",      required_argument, NULL,      'g'},
        {"seeds",    required_argument, NULL,      's'},
        {"seed",     required_argument, NULL,      's'},
        {"minimise", no_argument,       &minimise, 1  },
        {"steps",    required_argument, NULL,      'p'},
        {"quiet",    no_argument,       NULL,      'q'},
        {"json",     no_argument,       &json,     1  },
        {"compare",  no_argument,       &compare,  1  },
        {"fuzz",     no_argument,       &fuzz,     1  },
        {"help",     no_argument,       &help,     1  },
        {NULL,       0,                 NULL,      0  },
    };

    *o = (struct options){.to_us = INT64_MAX, .first = 1, .last = 100, .n_steps = 1000};
    opterr = 0;
    while ((c = getopt_long(argc, argv, "c:q", options, NULL)) >= 0)
        if (c == '?')
            return unknown_option(argv, options);
        else if (c && take_option(c, o) < 0)
            return -EINVAL;
    o->json = json;
    o->compare = compare;
    o->fuzz = fuzz;
    o->minimise = minimise;
    if (help) {
        fputs(usage, stdout);
        return 1;
    }
    int r = check_options(o);
    return r < 0 ? r : take_words(argc, argv, o);
}

/* ---- one replay ---- */

struct simulation {
    struct simconf conf;
    struct trace trace;
    struct tally tally;
    struct eta eta;
    struct figures figures;
};

static void simulation_free(struct simulation *s) {
    simconf_free(&s->conf);
    trace_free(&s->trace);
    tally_free(&s->tally);
    eta_free(&s->eta);
}

static int read_config(const char *path, struct simconf *ret) {
    struct json_schema_errors errors = {0};
    struct hai_err err = {0};

    if (!path) {
        simconf_init(ret);
        return 0;
    }
    int r = simconf_read(path, ret, &errors, &err);
    for (int i = 0; i < MIN(errors.n, (int)JSON_SCHEMA_ERRORS_MAX); i++)
        complain(&errors.items[i]);
    if (r < 0 && !errors.n)
        complain(&err);
    return r;
}

static int apply_options(const struct options *o, struct simconf *conf) {
    struct hai_err err = {0};
    int r = o->nodes ? simconf_nodes(conf, o->nodes, &err) : 0;

    for (size_t i = 0; i < o->n_lose && r == 0; i++)
        r = simconf_lose(conf, o->lose[i], &err);
    if (r < 0)
        complain(&err);
    return r;
}

static int read_history(const struct options *o, struct trace *ret, struct hai_err *err) {
    struct history left_out = {0};
    int r = history_read(o->history, ret, &left_out, err);

    if (r == 0 && !o->quiet)
        fprintf(stderr,
                "%zu jobs that ended in the last %s; left out: %zu without GPUs, %zu that run "
                "still or never ran\n",
                ret->n, o->history, left_out.n_without_gpus, left_out.n_unended);
    return r;
}

static int read_trace(const struct options *o, const struct simconf *conf, struct trace *ret) {
    int64_t per_node = conf->r.cluster.gpus;
    struct hai_err err = {0};

    int r = o->history ? read_history(o, ret, &err) : trace_read(o->trace, ret, &err);
    if (r == 0) {
        trace_window(ret, o->from_us, o->to_us);
        if (!ret->n)
            r = hai_fail_at(&err, -ENODATA, NULL, o->history ? "--history" : o->trace, NULL,
                            "holds no job to simulate");
    }
    if (r == 0 && o->stretch)
        trace_stretch(ret, o->stretch);
    if (r == 0 && o->load)
        r = trace_stretch_to(ret, per_node, per_node * simconf_n_nodes(conf), o->load, &err);
    if (r < 0)
        complain(&err);
    return r;
}

/* Only a warning: a loss may be meant to strike what still waits when the last job has come. */
static void look_at_losses(const struct simconf *conf, const struct trace *trace) {
    int64_t last_us = trace->jobs[trace->n - 1].submit_us;
    char at[TIMEFMT_ISO_BYTES], end[TIMEFMT_ISO_BYTES];

    for (size_t i = 0; i < conf->r.lose.n; i++) {
        const struct simconf_loss *loss = &conf->r.lose.items[i];
        if (loss->at_us <= last_us)
            continue;
        timefmt_duration(loss->at_us, at);
        timefmt_duration(last_us, end);
        fprintf(stderr, "hai: %s is lost at %s, the last job comes at %s\n", loss->what, at, end);
    }
}

static void show_progress(void *userdata, size_t n_ended) {
    const struct simulation *s = userdata;

    fprintf(stderr, "\r%s: %3zu %% of %zu jobs", s->trace.name, n_ended * 100 / s->trace.n,
            s->trace.n);
}

static int simulate(const struct options *o, const char *config, struct simulation *s) {
    bool shown = !o->quiet && isatty(STDERR_FILENO);
    struct hai_err err = {0};

    int r = read_config(config, &s->conf);
    if (r == 0)
        r = apply_options(o, &s->conf);
    if (r == 0)
        r = read_trace(o, &s->conf, &s->trace);
    if (r < 0)
        return r;
    trace_choose_external(&s->trace, s->conf.r.cluster.gpus, s->conf.r.jobs.external_percent);
    look_at_losses(&s->conf, &s->trace);
    s->eta.every = o->eta;
    r = replay_run(&s->conf, &s->trace, shown ? show_progress : NULL, s, &s->eta, &s->tally, &err);
    if (shown)
        fprintf(stderr, "\r\033[K");
    if (r < 0) {
        complain(&err);
        return r;
    }
    figures_of(&s->tally, &s->trace, &s->eta, &s->figures);
    s->figures.trace = s->trace.name;
    s->figures.config = config;
    return 0;
}

/* ---- output ---- */

static int write_charts(const struct options *o, const struct simulation *runs, size_t n) {
    struct chart_run charts[RUNS_MAX];
    struct hai_err err = {0};

    for (size_t i = 0; i < n; i++)
        charts[i] =
            (struct chart_run){runs[i].figures.config ? runs[i].figures.config : runs[i].trace.name,
                               &runs[i].tally, &runs[i].trace};
    if (chart_write(o->svg, charts, n, &err) == 0)
        return 0;
    complain(&err);
    return 1;
}

static int print(const struct options *o, const struct simulation *runs, size_t n) {
    _cleanup_(buf_free) struct buf text = {0};
    struct figures figures[RUNS_MAX];

    for (size_t i = 0; i < n; i++)
        figures[i] = runs[i].figures;
    if (o->json)
        figures_json(figures, n, &text);
    else
        figures_table(figures, n, &text);
    fwrite(text.data, 1, text.n_bytes, stdout);
    if (fflush(stdout) == 0)
        return 0;
    perror("hai: stdout");
    return 1;
}

static int run_replays(const struct options *o) {
    struct simulation runs[RUNS_MAX] = {0};
    size_t n = o->compare ? RUNS_MAX : 1;
    int status = 0;

    for (size_t i = 0; i < n && status == 0; i++)
        status = simulate(o, o->configs[i], &runs[i]) < 0 ? 2 : 0;
    if (status == 0)
        status = print(o, runs, n);
    if (status == 0 && o->svg)
        status = write_charts(o, runs, n);
    for (size_t i = 0; i < n; i++)
        simulation_free(&runs[i]);
    return status;
}

int main(int argc, char **argv) {
    struct options o;
    int status;

    int r = read_command(argc, argv, &o);
    if (r != 0)
        status = r < 0 ? 2 : 0;
    else if (o.minimise)
        status = seeds_minimise(o.first, o.n_steps) ? 1 : 0;
    else if (o.fuzz)
        status = seeds_run(o.first, o.last, o.n_steps) ? 1 : 0;
    else
        status = run_replays(&o);
    free(o.lose);
    return status;
}
