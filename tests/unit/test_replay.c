#include "lib/fileio.h"
#include "sim/csv.h"
#include "sim/figures.h"
#include "sim/replay.h"
#include "sim/rng.h"
#include "tests/unit/test.h"

#define SECOND INT64_C(1000000)

/* One replay and what it came to. */
struct outcome_of {
    struct simconf conf;
    struct trace trace;
    struct tally tally;
    struct figures figures;
};

static void done(struct outcome_of *o) {
    simconf_free(&o->conf);
    trace_free(&o->trace);
    tally_free(&o->tally);
}

static void replay(struct outcome_of *o) {
    struct hai_err err = {0};

    CHECK_EQ(replay_run(&o->conf, &o->trace, NULL, NULL, NULL, &o->tally, &err), 0, "%s", err.text);
    figures_of(&o->tally, &o->trace, NULL, &o->figures);
}

static void replay_text(const char *conf, const char *trace, struct outcome_of *o) {
    struct hai_err err = {0};

    *o = (struct outcome_of){0};
    CHECK_EQ(simconf_parse(conf, strlen(conf), "s.yaml", &o->conf, NULL, &err), 0, "%s: %s",
             err.where, err.text);
    CHECK_EQ(trace_parse(trace, strlen(trace), "t.csv", &o->trace, &err), 0, "%s: %s", err.where,
             err.text);
    replay(o);
}

static int64_t value(const struct outcome_of *o, int figure) {
    return (int64_t)o->figures.values[figure];
}

#define TWO_NODES "cluster: {zones: 1, leaves: 1, leaf_nodes: 2, gpus: 8}\n"
#define COLUMNS "submit_s,gpus,duration_s,est_s,queue\n"

/* Two nodes. A has one of them until 100, so B, who needs both, waits and holds C and D up: B runs
 * from 100 to 150, then C until 180 and D until 160. */
TEST(a_trace_worked_out_by_hand)
{
    struct outcome_of o;
    const struct {
        int figure;
        int64_t value;
    } expected[] = {
        {FIGURE_jobs,                    4                           },
        {FIGURE_completed,               4                           },
        {FIGURE_makespan,                180 * SECOND                },
        {FIGURE_wait_mean,               85 * SECOND                 }, // 0, 90, 130, 120
        {FIGURE_wait_p50,                90 * SECOND                 },
        {FIGURE_wait_p90,                130 * SECOND                },
        {FIGURE_jct_mean,                SECOND * 265 / 2            }, // 100, 140, 160, 130
        {FIGURE_slowdown_mean,           FIXED_ONE                   }, // all shorter than 600 s
        {FIGURE_fairness,                FIXED_ONE                   },
        {FIGURE_delay_1gpu,              130 * SECOND                },
        {FIGURE_delay_8,                 60 * SECOND                 }, // A 0, D 120
        {FIGURE_delay_9to64,             90 * SECOND                 },
        {FIGURE_delay_big_p90,           90 * SECOND                 },
        {FIGURE_delay_prio_norm,         85 * SECOND                 },
        {FIGURE_util,                    FIXED_ONE / 2               }, // until 30: A alone
        {FIGURE_util_demand,             FIXED_ONE * 240 / 400       }, // 10 s of 8, 20 s of 16
        {FIGURE_idle_wait_frac,          (FIXED_ONE * 80 + 240) / 480}, // C from 20 on
        {FIGURE_idle_wait_feasible_frac, (FIXED_ONE * 80 + 240) / 480},
        {FIGURE_multinode_starts,        1                           },
        {FIGURE_leaf_ratio,              FIXED_ONE                   },
        {FIGURE_min_leaf_share,          FIXED_ONE                   },
        {FIGURE_cross_zone_share,        0                           },
        {FIGURE_ledger_productive,       1710 * SECOND               },
        {FIGURE_ledger_idle_demand,      640 * SECOND                },
        {FIGURE_ledger_idle,             530 * SECOND                },
        {FIGURE_ledger_capacity,         16 * 180 * SECOND           },
    };

    replay_text(TWO_NODES "policy: {time_sharing: false, backfill: 0}\n",
                COLUMNS "0,8,100,,x\n10,16,50,,x\n20,1,30,,y\n30,8,10,,y\n", &o);
    for (size_t i = 0; i < ARRAY_SIZE(expected); i++)
        CHECK_EQ(value(&o, expected[i].figure), expected[i].value, "figure %d", expected[i].figure);
    done(&o);
}

/* The node fails 500 s into the run: of that, 20 s are after the last minute's checkpoint. The rest
 * runs on the other node, with a minute for the restart. */
TEST(a_failure_costs_the_work_since_the_last_checkpoint)
{
    struct outcome_of o;

    replay_text(TWO_NODES "costs: {checkpoint: 1m, restart: 1m}\n"
                          "lose: [{what: a1, at: 500s, for: 1000s}]\n",
                COLUMNS "0,8,1000,,x\n", &o);
    CHECK_EQ(value(&o, FIGURE_node_failures), 1);
    CHECK_EQ(value(&o, FIGURE_job_kills), 1);
    CHECK_EQ(value(&o, FIGURE_makespan), 1080 * SECOND);
    CHECK_EQ(value(&o, FIGURE_lost_work_frac), FIXED_ONE * 80 / 1000);
    CHECK_EQ(value(&o, FIGURE_ledger_productive), 8000 * SECOND);
    CHECK_EQ(value(&o, FIGURE_ledger_recomputed), 160 * SECOND);
    CHECK_EQ(value(&o, FIGURE_ledger_overhead), 480 * SECOND);
    CHECK_EQ(value(&o, FIGURE_ledger_unhealthy), 8 * 580 * SECOND);
    done(&o);
}

TEST(a_job_waits_for_lost_nodes_and_gives_up_where_they_stay_lost)
{
    struct outcome_of o;

    replay_text(TWO_NODES "lose: [{what: a, at: 0s, for: 100s}]\n", COLUMNS "1,16,10,,x\n", &o);
    CHECK_EQ(value(&o, FIGURE_wait_mean), 99 * SECOND);
    CHECK_EQ(value(&o, FIGURE_completed), 1);
    done(&o);
    replay_text(TWO_NODES "lose: [{what: a-leaf1, at: 0s}]\n", COLUMNS "1,16,10,,x\n", &o);
    CHECK_EQ(value(&o, FIGURE_unfinished), 1);
    done(&o);
    replay_text(TWO_NODES "failures: {per_1000_node_days: 1}\nlose: [{what: a1, at: 0s}]\n",
                COLUMNS "1,16,10,,x\n", &o);
    CHECK_EQ(value(&o, FIGURE_unfinished), 1);
    done(&o);
}

/* Maintenance costs a suspension, not the work; what does not fit beside it waits for its end. */
TEST(a_job_leaves_for_maintenance_and_goes_on)
{
    struct outcome_of o;

    replay_text(TWO_NODES "costs: {suspension: 1m}\nreserve: [{what: a1, at: 2000s, for: 1h}]\n",
                COLUMNS "0,8,3000,,x\n", &o);
    CHECK_EQ(value(&o, FIGURE_node_failures), 0);
    CHECK_EQ(value(&o, FIGURE_job_kills), 0);
    CHECK_EQ(value(&o, FIGURE_suspensions), 1);
    CHECK_EQ(value(&o, FIGURE_makespan), 3060 * SECOND);
    CHECK_EQ(value(&o, FIGURE_ledger_recomputed), 0);
    done(&o);
    /* Too near to begin there: the other node has it in peace. */
    replay_text(TWO_NODES "costs: {suspension: 1m}\nreserve: [{what: a1, at: 500s, for: 1000s}]\n",
                COLUMNS "0,8,1000,,x\n", &o);
    CHECK_EQ(value(&o, FIGURE_suspensions), 0);
    CHECK_EQ(value(&o, FIGURE_makespan), 1000 * SECOND);
    done(&o);
    replay_text(TWO_NODES "reserve: [{what: a, at: 0s, for: 100s}]\n", COLUMNS "1,16,10,,x\n", &o);
    CHECK_EQ(value(&o, FIGURE_wait_mean), 99 * SECOND);
    CHECK_EQ(value(&o, FIGURE_completed), 1);
    done(&o);
    replay_text(TWO_NODES "reserve: [{what: a-leaf1, at: 0s}]\n", COLUMNS "1,16,10,,x\n", &o);
    CHECK_EQ(value(&o, FIGURE_unfinished), 1);
    done(&o);
}

TEST(what_the_cluster_can_never_run_is_refused)
{
    struct outcome_of o;

    replay_text(TWO_NODES, COLUMNS "0,17,10,,x\n0,100000,10,,x\n5,1,10,,x\n", &o);
    CHECK_EQ(value(&o, FIGURE_refused), 2);
    CHECK_EQ(value(&o, FIGURE_completed), 1);
    CHECK_EQ(value(&o, FIGURE_wait_mean), 0);
    done(&o);
}

TEST(starting_and_stopping_take_their_time)
{
    struct outcome_of o;

    replay_text(TWO_NODES "agents: {start: 10s, stop: 5s}\njobs: {time_limit: estimate}\n",
                COLUMNS "0,8,100,,x\n0,8,100,60,x\n", &o);
    CHECK_EQ(value(&o, FIGURE_completed), 1);
    CHECK_EQ(value(&o, FIGURE_stopped), 1);
    CHECK_EQ(value(&o, FIGURE_wait_mean), 10 * SECOND);
    /* The limit counts from the placement, the stop from the limit; entries are 1 us apart. */
    CHECK_EQ(o.tally.jobs[0].end_us, 110 * SECOND);
    CHECK_EQ(o.tally.jobs[1].end_us / 1000, 65 * 1000);
    CHECK_EQ(o.tally.jobs[1].kept_us / 1000, 50 * 1000);
    CHECK_EQ(value(&o, FIGURE_ledger_startup) / 1000, 8 * 25 * 1000);
    done(&o);
}

TEST(a_loss_must_name_something)
{
    struct outcome_of o = {0};
    struct hai_err err = {0};
    const char *trace = COLUMNS "0,1,1,,x\n";

    simconf_init(&o.conf);
    CHECK_EQ(simconf_lose(&o.conf, "nowhere@1h", &err), 0);
    CHECK_EQ(trace_parse(trace, strlen(trace), "t.csv", &o.trace, &err), 0);
    CHECK_EQ(replay_run(&o.conf, &o.trace, NULL, NULL, NULL, &o.tally, &err), -EINVAL);
    CHECK(strstr(err.text, "nowhere"), "%s", err.text);
    done(&o);
}

TEST(maintenance_must_name_something_and_not_overlap)
{
    static const struct {
        const char *text;
        int r;
        const char *error;
    } cases[] = {
        {"reserve: [{what: q, at: 1h}]\n",                     -EINVAL, "there is no node, leaf or zone q to reserve"},
        {"reserve: [{what: a, at: 1h}, {what: a1, at: 2h}]\n", -EEXIST,
         "reserve: a1 is reserved by maintenance-1 from"                                                             },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct outcome_of o = {0};
        struct hai_err err = {0};
        const char *trace = COLUMNS "0,1,1,,x\n";
        CHECK_EQ(simconf_parse(cases[i].text, strlen(cases[i].text), "c.yaml", &o.conf, NULL, &err),
                 0, "%s", err.text);
        CHECK_EQ(trace_parse(trace, strlen(trace), "t.csv", &o.trace, &err), 0);
        CHECK_EQ(replay_run(&o.conf, &o.trace, NULL, NULL, NULL, &o.tally, &err), cases[i].r);
        CHECK(strstr(err.text, cases[i].error), "%s", err.text);
        done(&o);
    }
}

/* ---- whatever happens, the sums hold ---- */

static void random_trace(struct rng *rng, struct buf *ret) {
    buf_add_str(ret, "submit_s,gpus,duration_s,prio,est_s,user\n");
    for (int i = 0; i < 300; i++)
        buf_printf(ret, "%lld,%lld,%lld,%lld,%lld,u%lld\n", (long long)rng_below(rng, 20000),
                   (long long)(1 + rng_below(rng, rng_once_in(rng, 4) ? 40 : 4)),
                   (long long)rng_below(rng, 4000), (long long)rng_below(rng, 3),
                   (long long)(1 + rng_below(rng, 8000)), (long long)rng_below(rng, 5));
}

static void random_conf(struct rng *rng, struct buf *ret) {
    buf_printf(ret, "cluster: {zones: %lld, leaf_nodes: 3, nodes: %lld, gpus: 4}\n",
               (long long)(1 + rng_below(rng, 3)), (long long)(3 + rng_below(rng, 10)));
    buf_printf(ret, "agents: {start: %llds, stop: %llds}\n", (long long)rng_below(rng, 20),
               (long long)rng_below(rng, 20));
    buf_printf(ret,
               "failures: {per_1000_node_days: %lld, repair: 20m, detect: %llds, seed: %lld}\n",
               (long long)rng_below(rng, 8000), (long long)rng_below(rng, 30),
               (long long)rng_below(rng, 1000));
    buf_printf(ret, "jobs: {time_limit: %s}\n", rng_once_in(rng, 3) ? "estimate" : "none");
    buf_add_str(ret, "lose: [{what: a, at: 1h, for: 2h}, {what: a1, at: 90m, for: 4h}]\n");
    buf_add_str(ret, "reserve: [{what: a1, at: 30m, for: 1h}, {what: a, at: 4h, for: 30m}]\n");
}

static void check_sums(const struct outcome_of *o, uint64_t seed) {
    fixed_wide classes = 0, useful = 0, end = 0;

    for (int i = FIGURE_ledger_productive; i < FIGURE_ledger_capacity; i++) {
        CHECK(o->figures.values[i] >= 0, "seed %d, figure %d", (int)seed, i);
        classes += o->figures.values[i];
    }
    CHECK(classes == o->figures.values[FIGURE_ledger_capacity], "seed %d", (int)seed);
    CHECK(o->figures.values[FIGURE_ledger_capacity] ==
              (fixed_wide)o->tally.now_us * o->tally.n_gpus,
          "seed %d", (int)seed);
    CHECK_EQ(value(o, FIGURE_completed) + value(o, FIGURE_stopped) + value(o, FIGURE_refused),
             o->trace.n, "seed %d", (int)seed);
    for (size_t i = 0; i < o->trace.n; i++) {
        const struct tally_job *job = &o->tally.jobs[i];
        end = MAX(end, (fixed_wide)job->end_us);
        if (job->outcome == OUTCOME_COMPLETED)
            CHECK_EQ(job->kept_us, o->trace.jobs[i].run_us + job->cost_us, "seed %d", (int)seed);
        useful += (fixed_wide)(job->kept_us - MIN(job->cost_us, job->kept_us)) *
                  trace_gpus(&o->trace.jobs[i], 4);
    }
    CHECK(end == o->tally.now_us, "seed %d", (int)seed);
    /* GPUs of a silent node are out of service before its job has let go of them. */
    CHECK(o->figures.values[FIGURE_ledger_productive] <= useful, "seed %d", (int)seed);
    CHECK_EQ(o->tally.busy, 0, "seed %d", (int)seed);
    CHECK_EQ(o->tally.waiting_jobs, 0, "seed %d", (int)seed);
    CHECK_EQ(o->tally.waiting_gpus, 0, "seed %d", (int)seed);
}

static void random_replay(uint64_t seed, struct outcome_of *o) {
    _cleanup_(buf_free) struct buf conf = {0};
    _cleanup_(buf_free) struct buf trace = {0};
    struct rng rng = {seed};

    random_conf(&rng, &conf);
    random_trace(&rng, &trace);
    replay_text(buf_cstr(&conf), buf_cstr(&trace), o);
}

TEST(sums_hold_whatever_happens)
{
    int64_t kills = 0, stopped = 0;

    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct outcome_of o;
        random_replay(seed, &o);
        check_sums(&o, seed);
        kills += value(&o, FIGURE_job_kills);
        stopped += value(&o, FIGURE_stopped);
        done(&o);
    }
    CHECK(kills > 100);
    CHECK(stopped > 100);
}

TEST(the_same_seed_gives_the_same_bytes)
{
    _cleanup_(buf_free) struct buf once = {0};
    _cleanup_(buf_free) struct buf twice = {0};
    struct outcome_of o;

    random_replay(5, &o);
    o.figures.trace = "random";
    figures_json(&o.figures, 1, &once);
    done(&o);
    random_replay(5, &o);
    o.figures.trace = "random";
    figures_json(&o.figures, 1, &twice);
    done(&o);
    CHECK_STR(buf_cstr(&once), buf_cstr(&twice));
}

/* ---- beside the independent simulator ---- */

/* A row of baselines.csv: those figures that have the same meaning. */
static const struct {
    const char *column;
    int figure;
} columns[] = {
    {"wait_mean",       FIGURE_wait_mean      },
    {"wait_p50",        FIGURE_wait_p50       },
    {"wait_p90",        FIGURE_wait_p90       },
    {"wait_p99",        FIGURE_wait_p99       },
    {"jct_mean",        FIGURE_jct_mean       },
    {"jct_p50",         FIGURE_jct_p50        },
    {"jct_p99",         FIGURE_jct_p99        },
    {"slowdown_mean",   FIGURE_slowdown_mean  },
    {"util",            FIGURE_util           },
    {"util_demand",     FIGURE_util_demand    },
    {"idle_wait_frac",  FIGURE_idle_wait_frac },
    {"makespan",        FIGURE_makespan       },
    {"delay_1gpu",      FIGURE_delay_1gpu     },
    {"delay_2to7",      FIGURE_delay_2to7     },
    {"delay_8",         FIGURE_delay_8        },
    {"delay_9to64",     FIGURE_delay_9to64    },
    {"delay_gt64",      FIGURE_delay_gt64     },
    {"delay_big_p90",   FIGURE_delay_big_p90  },
    {"delay_prio_high", FIGURE_delay_prio_high},
    {"delay_prio_norm", FIGURE_delay_prio_norm},
    {"delay_prio_low",  FIGURE_delay_prio_low },
};

static void compare(struct csv *csv, const struct outcome_of *o) {
    struct hai_err err = {0};

    for (size_t i = 0; i < ARRAY_SIZE(columns); i++) {
        int64_t theirs;
        CHECK_EQ(csv_decimal(csv, csv_column(csv, columns[i].column), 0, INT64_MAX, &theirs, &err),
                 0, "%s", err.text);
        int64_t ours = value(o, columns[i].figure);
        CHECK(ours <= theirs + theirs / 100 && ours >= theirs - theirs / 100 - FIXED_ONE / 1000,
              "line %d: %s is %lld, there %lld", csv->line, columns[i].column, (long long)ours,
              (long long)theirs);
    }
}

static bool has(const struct csv *csv, const char *column, const char *name) {
    const struct csv_field *field = &csv->fields[csv_column(csv, column)];

    return field->n_bytes == strlen(name) && !memcmp(field->text, name, field->n_bytes);
}

static void replay_row(struct csv *csv, struct outcome_of *o) {
    bool kalos = has(csv, "trace", "acme_kalos_like_a");
    _cleanup_free_ char *path = hai_asprintf("tests/fixtures/traces/%s.csv.gz",
                                             kalos ? "acme_kalos_like_a" : "philly_2017oct");
    /* First come, first served: all are equal. */
    const char *conf =
        "jobs: {priorities: [20, 20, 20]}\npolicy: {cross_zone_jobs: 1000, time_sharing: false,"
        " fair_share: 0s, aging: 0s, backfill: 0}\n";
    struct hai_err err = {0};
    int64_t nodes, load;

    *o = (struct outcome_of){0};
    CHECK_EQ(simconf_parse(conf, strlen(conf), NULL, &o->conf, NULL, &err), 0, "%s", err.text);
    CHECK_EQ(csv_int(csv, csv_column(csv, "nodes"), 1, NODES_MAX, &nodes, &err), 0);
    CHECK_EQ(csv_decimal(csv, csv_column(csv, "rho"), 0, INT64_MAX, &load, &err), 0);
    CHECK_EQ(simconf_nodes(&o->conf, nodes, &err), 0);
    CHECK_EQ(trace_read(path, &o->trace, &err), 0, "%s", err.text);
    if (kalos)
        CHECK_EQ(trace_stretch_to(&o->trace, 8, nodes * 8, load, &err), 0);
    replay(o);
}

TEST(first_come_first_served_is_as_an_independent_simulator_has_it)
{
    const char *path = "tests/fixtures/traces/baselines.csv";
    _cleanup_(buf_free) struct buf text = {0};
    struct hai_err err = {0};
    struct csv csv;
    int n = 0;

    CHECK_EQ(fileio_read_file(path, 1 << 20, &text, &err), 0, "%s", err.text);
    CHECK_EQ(csv_open(&csv, text.data, text.n_bytes, path, &err), 0, "%s", err.text);
    while (csv_next(&csv, &err) > 0) {
        struct outcome_of o;
        /* Ties between nodes weigh more among the many small jobs of the third trace. */
        if (!has(&csv, "policy", "fifo") || !has(&csv, "place", "best") ||
            has(&csv, "trace", "acme_seren_like_a"))
            continue;
        n++;
        replay_row(&csv, &o);
        compare(&csv, &o);
        done(&o);
    }
    CHECK_EQ(n, 6);
}

/* What if u had a quota: in strict order his second job waits for his first, and v's passes it. */
TEST(quotas_of_users_are_heeded)
{
    static const char trace[] = "submit_s,gpus,duration_s,user,prio\n"
                                "0,4,100,u,1\n1,4,100,u,1\n2,4,100,v,1\n";
    struct outcome_of o;

    replay_text(
        "cluster: {zones: 1, leaves: 1, leaf_nodes: 2, gpus: 4}\npolicy: {time_sharing: false}\n",
        trace, &o);
    CHECK_EQ(o.tally.jobs[1].start_us / SECOND, 1);
    CHECK_EQ(o.tally.jobs[2].start_us / SECOND, 100);
    done(&o);
    replay_text(
        "cluster: {zones: 1, leaves: 1, leaf_nodes: 2, gpus: 4}\npolicy: {time_sharing: false}\n"
        "quotas: [{user: u, priority: 20, gpus: 4}]\n",
        trace, &o);
    CHECK_EQ(o.tally.jobs[1].start_us / SECOND, 100);
    CHECK_EQ(o.tally.jobs[2].start_us / SECOND, 2);
    done(&o);
}

/* What an external user asks for as most important is of priority auto, at 5 at most: it waits for
 * the others, of whatever priority. */
TEST(external_users_wait_for_the_others)
{
    struct outcome_of o = {0};
    struct hai_err err = {0};
    const char *conf = "cluster: {zones: 1, leaves: 1, leaf_nodes: 1, gpus: 8}\n"
                       "policy: {time_sharing: false, backfill: 0, fair_share: 0s, aging: 0s}\n";
    const char *trace = "submit_s,gpus,duration_s,user,prio\n"
                        "0,8,100,a,0\n"
                        "1,8,100,b,2\n"
                        "2,8,100,c,0\n"
                        "3,8,100,a,0\n";
    const struct {
        int figure;
        int64_t value;
    } expected[] = {
        {FIGURE_external_jobs,   1                          },
        {FIGURE_external_demand, 250000                     },
        {FIGURE_delay_external,  299 * SECOND               },
        {FIGURE_delay_internal,  (0 + 98 + 197) * SECOND / 3},
    };

    CHECK_EQ(simconf_parse(conf, strlen(conf), "s.yaml", &o.conf, NULL, &err), 0, "%s", err.text);
    CHECK_EQ(trace_parse(trace, strlen(trace), "t.csv", &o.trace, &err), 0, "%s", err.text);
    trace_choose_external(&o.trace, 8, 25);
    int n_external = 0;
    for (size_t i = 0; i < o.trace.n; i++) {
        n_external += o.trace.jobs[i].external;
        o.trace.jobs[i].external = i == 1; // which one it is here
    }
    CHECK_EQ(n_external, 1);
    o.conf.r.jobs.external_percent = 25;
    replay(&o);
    for (size_t i = 0; i < ARRAY_SIZE(expected); i++)
        CHECK_EQ(value(&o, expected[i].figure), expected[i].value, "figure %d", expected[i].figure);
    done(&o);
}
