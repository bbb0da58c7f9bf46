#include "sim/figures.h"
#include "lib/json.h"
#include "lib/timefmt.h"

#include <stdio.h>

#define SLOWDOWN_LEAST_US (INT64_C(600) * 1000000)
#define HOUR_US (INT64_C(3600) * 1000000)

enum { GPUS_BIG = 9 };

static const struct {
    const char *name;
    const char *words;
    enum figure_form form;
} list[] = {
#define FIGURE_ROW_(name, form, words) {#name, words, FIGURE_##form},
    FIGURES(FIGURE_ROW_)
#undef FIGURE_ROW_
};

static bool is_group(size_t i) {
    return !strncmp(list[i].name, "group_", strlen("group_"));
}

/* ---- quantities of jobs ---- */

static bool is_over(const struct tally_job *job) {
    return job->outcome == OUTCOME_COMPLETED || job->outcome == OUTCOME_STOPPED;
}

/* Run time without what interruptions added; of a job that was stopped, as far as it came. */
static int64_t useful_us(const struct tally_job *job, const struct trace_job *asked) {
    if (job->outcome == OUTCOME_COMPLETED)
        return asked->run_us;
    return MAX(job->kept_us - job->cost_us, 0);
}

static int64_t wait_us(const struct tally_job *job, const struct trace_job *asked) {
    return (job->start_us < 0 ? job->end_us : job->start_us) - asked->submit_us;
}

static int64_t jct_us(const struct tally_job *job, const struct trace_job *asked) {
    return job->end_us - asked->submit_us;
}

static int64_t delay_us(const struct tally_job *job, const struct trace_job *asked) {
    return jct_us(job, asked) - useful_us(job, asked);
}

static int64_t slowdown(const struct tally_job *job, const struct trace_job *asked) {
    int64_t run_us = MAX(useful_us(job, asked), SLOWDOWN_LEAST_US);

    return MAX(fixed_ratio(jct_us(job, asked), run_us), FIXED_ONE);
}

static bool is_big(const struct trace_job *asked) {
    return asked->gpus >= GPUS_BIG;
}

typedef int64_t quantity(const struct tally_job *, const struct trace_job *);
typedef bool choice(const struct trace_job *);

static int ascending(const void *pa, const void *pb) {
    const int64_t *a = pa, *b = pb;

    return *a < *b ? -1 : *a > *b;
}

/* The values of the jobs that ended and are chosen (NULL: all), ascending. */
static size_t collect(const struct tally *tally, const struct trace *trace, quantity *of,
                      choice *chosen, int64_t **ret) {
    int64_t *values = hai_new_array(int64_t, trace->n);
    size_t n = 0;

    for (size_t i = 0; i < trace->n; i++)
        if (is_over(&tally->jobs[i]) && (!chosen || chosen(&trace->jobs[i])))
            values[n++] = of(&tally->jobs[i], &trace->jobs[i]);
    qsort(values, n, sizeof *values, ascending);
    *ret = values;
    return n;
}

size_t figures_waits(const struct tally *tally, const struct trace *trace, int64_t **ret) {
    return collect(tally, trace, wait_us, NULL, ret);
}

static int64_t quantile(const int64_t *values, size_t n, size_t percent) {
    if (!n)
        return 0;
    size_t rank = (n * percent + 99) / 100;
    return values[MAX(rank, (size_t)1) - 1];
}

static int64_t mean(const int64_t *values, size_t n) {
    fixed_wide sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += values[i];
    return fixed_div(sum, (fixed_wide)n);
}

static void add_distributions(const struct tally *tally, const struct trace *trace,
                              fixed_wide *ret) {
    static const struct {
        quantity *of;
        choice *chosen;
        int mean, p50, p90, p99; // figures, -1: not wanted
    } wanted[] = {
        {wait_us,  NULL,   FIGURE_wait_mean,     FIGURE_wait_p50, FIGURE_wait_p90,      FIGURE_wait_p99    },
        {jct_us,   NULL,   FIGURE_jct_mean,      FIGURE_jct_p50,  FIGURE_jct_p90,       FIGURE_jct_p99     },
        {slowdown, NULL,   FIGURE_slowdown_mean, -1,              -1,                   FIGURE_slowdown_p99},
        {delay_us, is_big, -1,                   -1,              FIGURE_delay_big_p90, -1                 },
    };

    for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
        _cleanup_free_ int64_t *values = NULL;
        size_t n = collect(tally, trace, wanted[i].of, wanted[i].chosen, &values);
        if (wanted[i].mean >= 0)
            ret[wanted[i].mean] = mean(values, n);
        if (wanted[i].p50 >= 0)
            ret[wanted[i].p50] = quantile(values, n, 50);
        if (wanted[i].p90 >= 0)
            ret[wanted[i].p90] = quantile(values, n, 90);
        if (wanted[i].p99 >= 0)
            ret[wanted[i].p99] = quantile(values, n, 99);
    }
}

static int size_class(int64_t gpus) {
    return gpus <= 1    ? FIGURE_delay_1gpu
           : gpus <= 7  ? FIGURE_delay_2to7
           : gpus <= 8  ? FIGURE_delay_8
           : gpus <= 64 ? FIGURE_delay_9to64
                        : FIGURE_delay_gt64;
}

static void add_delays(const struct tally *tally, const struct trace *trace, fixed_wide *ret) {
    fixed_wide sums[FIGURE_COUNT] = {0};
    int64_t n[FIGURE_COUNT] = {0};

    for (size_t i = 0; i < trace->n; i++) {
        const struct trace_job *asked = &trace->jobs[i];
        int classes[] = {size_class(asked->gpus), FIGURE_delay_prio_low - asked->priority};
        for (size_t k = 0; k < ARRAY_SIZE(classes) && is_over(&tally->jobs[i]); k++) {
            sums[classes[k]] += delay_us(&tally->jobs[i], asked);
            n[classes[k]]++;
        }
    }
    for (int i = FIGURE_delay_1gpu; i <= FIGURE_delay_prio_low; i++)
        if (n[i])
            ret[i] = fixed_div(sums[i], n[i]);
}

static int64_t fairness(const struct tally *tally, const struct trace *trace) {
    _cleanup_free_ fixed_wide *sums = hai_new_array(fixed_wide, trace->n_users);
    _cleanup_free_ int64_t *n = hai_new_array(int64_t, trace->n_users);
    fixed_wide sum = 0, squares = 0, n_users = 0;

    for (size_t i = 0; i < trace->n; i++)
        if (is_over(&tally->jobs[i])) {
            sums[trace->jobs[i].user] += slowdown(&tally->jobs[i], &trace->jobs[i]);
            n[trace->jobs[i].user]++;
        }
    for (size_t u = 0; u < trace->n_users; u++)
        if (n[u]) {
            fixed_wide x = fixed_div(sums[u], n[u]) / 1000; // thousandths: the squares have room
            sum += x;
            squares += x * x;
            n_users++;
        }
    return fixed_ratio(sum * sum, n_users * squares);
}

/* ---- quantities of the cluster ---- */

static void add_ledger(const struct tally *tally, const struct trace *trace, fixed_wide *ret) {
    const struct tally_span *span = &tally->whole;
    fixed_wide lost = 0, cost = 0, paused = 0;

    for (size_t i = 0; i < trace->n; i++) {
        const struct tally_job *job = &tally->jobs[i];
        int64_t gpus = trace_gpus(&trace->jobs[i], tally->gpus_per_node);
        lost += (fixed_wide)job->lost_us * gpus;
        cost += (fixed_wide)MIN(job->cost_us, job->kept_us) * gpus;
        paused += (fixed_wide)job->idle_us * gpus;
    }
    ret[FIGURE_ledger_recomputed] = lost;
    ret[FIGURE_ledger_overhead] = cost;
    ret[FIGURE_ledger_startup] = paused;
    ret[FIGURE_ledger_productive] = span->busy - lost - cost - paused;
    ret[FIGURE_ledger_idle_demand] = span->idle_wanted;
    ret[FIGURE_ledger_idle] = span->idle - span->idle_wanted;
    ret[FIGURE_ledger_unhealthy] = span->down;
    ret[FIGURE_ledger_capacity] = span->busy + span->idle + span->down;
}

static void add_use(const struct tally *tally, const struct trace *trace, fixed_wide *ret) {
    const struct tally_span *span = &tally->submitting;
    fixed_wide capacity = (fixed_wide)span->length_us * tally->n_gpus;
    fixed_wide asked = 0, lost = 0;

    ret[FIGURE_load] = trace_load(trace, tally->gpus_per_node, tally->n_gpus);
    ret[FIGURE_makespan] = tally->now_us;
    ret[FIGURE_util] = fixed_ratio(span->busy, capacity);
    ret[FIGURE_util_demand] = fixed_ratio(span->busy, span->demand);
    ret[FIGURE_idle_wait_frac] = fixed_ratio(span->idle_wanted, capacity);
    ret[FIGURE_idle_wait_feasible_frac] = fixed_ratio(span->idle_wanted_fitting, capacity);
    ret[FIGURE_fragmentation_frac] =
        fixed_ratio(span->idle_wanted - span->idle_wanted_fitting, capacity);
    for (size_t i = 0; i < trace->n; i++) {
        const struct tally_job *job = &tally->jobs[i];
        int64_t gpus = trace_gpus(&trace->jobs[i], tally->gpus_per_node);
        asked += (fixed_wide)trace->jobs[i].run_us * gpus;
        lost += ((fixed_wide)job->lost_us + job->cost_us) * gpus;
    }
    ret[FIGURE_lost_work_frac] = fixed_ratio(lost, asked);
}

static void add_gangs(const struct tally *tally, fixed_wide *ret) {
    ret[FIGURE_multinode_starts] = tally->gangs;
    ret[FIGURE_leaf_ratio] = fixed_div(tally->leaf_ratio, tally->gangs);
    ret[FIGURE_min_leaf_share] = fixed_ratio(tally->gangs_fewest, tally->gangs);
    ret[FIGURE_cross_zone_share] = fixed_ratio(tally->gangs_across, tally->gangs);
    ret[FIGURE_cross_pair_frac] = fixed_div(tally->pairs_across, tally->gangs);
    ret[FIGURE_cross_zone_max] = tally->across_max;
}

/* Three figures each, in the order of enum eta_ahead. */
static void add_eta_error(const struct eta_error *error, fixed_wide ret[static 3]) {
    ret[0] = error->p50_us;
    ret[1] = error->p90_us;
    ret[2] = error->within;
}

static void add_eta(const struct tally *tally, const struct eta *eta, fixed_wide *ret) {
    struct eta_worth worth = eta_worth(eta, tally);

    ret[FIGURE_eta_waited] = eta->n_seen;
    ret[FIGURE_eta_jobs] = worth.n;
    add_eta_error(&worth.own, &ret[FIGURE_eta_error_p50]);
    ret[FIGURE_eta_by_p90] = worth.by_p90;
    for (int i = 0; i < ETA_AHEAD_COUNT; i++)
        add_eta_error(&worth.naive[i], &ret[FIGURE_eta_now_error_p50 + 3 * i]);
}

/* What was asked for from outside, and how long such jobs and all others waited beyond their run
 * times. */
static void add_external(const struct tally *tally, const struct trace *trace, fixed_wide *ret) {
    fixed_wide asked[2] = {0}, delays[2] = {0};
    int64_t n_over[2] = {0};

    for (size_t i = 0; i < trace->n; i++) {
        const struct trace_job *job = &trace->jobs[i];
        bool external = job->external;
        asked[external] += (fixed_wide)job->run_us * trace_gpus(job, tally->gpus_per_node);
        ret[FIGURE_external_jobs] += external;
        if (!is_over(&tally->jobs[i]))
            continue;
        delays[external] += delay_us(&tally->jobs[i], job);
        n_over[external]++;
    }
    ret[FIGURE_external_demand] = fixed_ratio(asked[true], asked[false] + asked[true]);
    ret[FIGURE_delay_external] = fixed_div(delays[true], n_over[true]);
    ret[FIGURE_delay_internal] = fixed_div(delays[false], n_over[false]);
}

void figures_of(const struct tally *tally, const struct trace *trace, const struct eta *eta,
                struct figures *ret) {
    static const int outcomes[] = {
        [OUTCOME_UNFINISHED] = FIGURE_unfinished,
        [OUTCOME_REFUSED] = FIGURE_refused,
        [OUTCOME_COMPLETED] = FIGURE_completed,
        [OUTCOME_STOPPED] = FIGURE_stopped,
    };
    fixed_wide *values = ret->values;

    *ret = (struct figures){.n_nodes = tally->n_nodes, .n_gpus = tally->n_gpus};
    values[FIGURE_jobs] = (fixed_wide)trace->n;
    for (size_t i = 0; i < trace->n; i++)
        values[outcomes[tally->jobs[i].outcome]]++;
    add_distributions(tally, trace, values);
    add_delays(tally, trace, values);
    values[FIGURE_fairness] = fairness(tally, trace);
    add_use(tally, trace, values);
    add_gangs(tally, values);
    values[FIGURE_suspensions] = tally->suspensions;
    values[FIGURE_node_failures] = tally->failures;
    values[FIGURE_job_kills] = tally->kills;
    add_ledger(tally, trace, values);
    ret->eta = eta && eta->every;
    if (ret->eta)
        add_eta(tally, eta, values);
    add_external(tally, trace, values);
    ret->external = values[FIGURE_external_jobs] > 0;
    values[FIGURE_entries] = tally->entries;
    values[FIGURE_proposals] = tally->decisions;
}

/* ---- output ---- */

enum { CELL_BYTES = 48 };

static void cell_text(enum figure_form form, fixed_wide value, char ret[static CELL_BYTES]) {
    char text[FIXED_TEXT_BYTES];

    switch (form) {
    case FIGURE_TIME: {
        char duration[TIMEFMT_ISO_BYTES];
        timefmt_duration((int64_t)value, duration);
        (void)snprintf(ret, CELL_BYTES, "%s", duration);
        break;
    }
    case FIGURE_SHARE:
        fixed_text((int64_t)value * 100, 2, text);
        (void)snprintf(ret, CELL_BYTES, "%s %%", text);
        break;
    case FIGURE_RATIO:
        fixed_text((int64_t)value, 3, text);
        (void)snprintf(ret, CELL_BYTES, "%s", text);
        break;
    case FIGURE_GPU_TIME:
        (void)snprintf(ret, CELL_BYTES, "%lld h", (long long)fixed_div(value, HOUR_US));
        break;
    default:
        (void)snprintf(ret, CELL_BYTES, "%lld", (long long)value);
    }
}

static void head(const struct figures *run, struct buf *ret) {
    buf_printf(ret, "%s: %lld nodes, %lld GPUs", run->trace, (long long)run->n_nodes,
               (long long)run->n_gpus);
    if (run->config)
        buf_printf(ret, ", %s", run->config);
    buf_add_str(ret, "\n");
}

static void ratio_text(fixed_wide a, fixed_wide b, char ret[static CELL_BYTES]) {
    char text[FIXED_TEXT_BYTES] = "-";

    if (a > 0 && b >= 0)
        fixed_text(fixed_ratio(b, a), 3, text);
    (void)snprintf(ret, CELL_BYTES, "%s", text);
}

/* Some groups are shown only where a run has them. */
static bool has(const struct figures *run, size_t figure) {
    if (figure >= FIGURE_group_external && figure < FIGURE_group_core)
        return run->external;
    return figure < FIGURE_group_eta || figure >= FIGURE_group_external || run->eta;
}

static bool any_has(const struct figures *runs, size_t n, size_t figure) {
    for (size_t k = 0; k < n; k++)
        if (has(&runs[k], figure))
            return true;
    return false;
}

void figures_table(const struct figures *runs, size_t n, struct buf *ret) {
    char cell[CELL_BYTES];

    for (size_t k = 0; k < n; k++)
        head(&runs[k], ret);
    for (size_t i = 0; i < FIGURE_COUNT; i++) {
        if (!any_has(runs, n, i))
            continue;
        if (is_group(i)) {
            buf_printf(ret, "\n%s\n", list[i].words);
            continue;
        }
        buf_printf(ret, "  %-57s", list[i].words);
        for (size_t k = 0; k < n; k++) {
            cell_text(list[i].form, runs[k].values[i], cell);
            buf_printf(ret, " %14s", cell);
        }
        if (n == 2) {
            ratio_text(runs[0].values[i], runs[1].values[i], cell);
            buf_printf(ret, " %10s", cell);
        }
        buf_add_str(ret, "\n");
    }
}

/* Exact: millionths as they are. */
static void json_millionths(fixed_wide value, struct buf *ret) {
    bool minus = value < 0;

    value = minus ? -value : value;
    buf_printf(ret, "%s%lld.%06d", minus ? "-" : "", (long long)(value / FIXED_ONE),
               (int)(value % FIXED_ONE));
}

static void json_text(const char *key, const char *text, struct buf *ret) {
    buf_printf(ret, "\"%s\": ", key);
    if (text)
        json_dump_string(text, strlen(text), ret);
    else
        buf_add_str(ret, "null");
    buf_add_str(ret, ", ");
}

static void json_one(const struct figures *run, struct buf *ret) {
    buf_add_str(ret, "{");
    json_text("trace", run->trace, ret);
    json_text("config", run->config, ret);
    buf_printf(ret, "\"nodes\": %lld, \"gpus\": %lld", (long long)run->n_nodes,
               (long long)run->n_gpus);
    for (size_t i = 0; i < FIGURE_COUNT; i++) {
        if (is_group(i) || !has(run, i))
            continue;
        bool timed = list[i].form == FIGURE_TIME || list[i].form == FIGURE_GPU_TIME;
        buf_printf(ret, ",\n  \"%s%s\": ", list[i].name,
                   list[i].form == FIGURE_GPU_TIME ? "_gpu_s"
                   : timed                         ? "_s"
                                                   : "");
        if (list[i].form == FIGURE_COUNT_OF)
            buf_printf(ret, "%lld", (long long)run->values[i]);
        else
            json_millionths(run->values[i], ret);
    }
    buf_add_str(ret, "}");
}

void figures_json(const struct figures *runs, size_t n, struct buf *ret) {
    if (n != 1)
        buf_add_str(ret, "[");
    for (size_t k = 0; k < n; k++) {
        buf_add_str(ret, k ? ",\n" : "");
        json_one(&runs[k], ret);
    }
    buf_add_str(ret, n != 1 ? "]\n" : "\n");
}
