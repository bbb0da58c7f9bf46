/* hai status: one job now, with its ranks. */
#include "cli/story.h"
#include "cli/table.h"
#include "cli/verbs.h"
#include "cli/view.h"
#include "lib/timefmt.h"
#include <stdio.h>

enum { RANKS_SHOWN_MAX = 256 };

static void add_row(struct table *table, const struct json *rank) {
    _cleanup_(buf_free) struct buf text = {0};
    const struct json *gpus = json_get(rank, "gpus");
    const char *state = json_get_string(rank, "state", NULL);
    int64_t code = json_get_int(rank, "exit_code", -1);
    int64_t signal = json_get_int(rank, "signal", -1);

    table_add(table, "%lld", (long long)json_get_int(rank, "rank", 0));
    table_add_text(table, json_get_string(rank, "node", NULL));
    for (const struct json *g = json_first(gpus); g; g = json_next(g))
        buf_printf(&text, "%s%lld", text.n_bytes ? "," : "", (long long)json_as_int(g));
    table_add_text(table, buf_cstr(&text));
    buf_clear(&text);
    buf_add_str(&text, state ? state : "-");
    if (signal > 0)
        buf_printf(&text, " (signal %lld)", (long long)signal);
    else if (code >= 0)
        buf_printf(&text, " (exit %lld)", (long long)code);
    table_add_text(table, buf_cstr(&text));
    table_add(table, "%lld", (long long)json_get_int(rank, "restarts", 0));
    if (json_get_int(rank, "step", -1) >= 0)
        table_add(table, "%lld", (long long)json_get_int(rank, "step", 0));
    else
        table_add_text(table, NULL);
}

static void print_ranks(const struct json *ranks, struct buf *out) {
    static const char *const headings[] = {"RANK", "NODE", "GPU", "STATE", ">RESTARTS", ">STEP"};
    _cleanup_(table_freep) struct table *table = table_new(headings, ARRAY_SIZE(headings));
    size_t shown = 0;

    if (json_count(ranks) == 0)
        return;
    for (const struct json *rank = json_first(ranks); rank && shown < RANKS_SHOWN_MAX;
         rank = json_next(rank), shown++)
        add_row(table, rank);
    table_print(table, view_color(), out);
    if (json_count(ranks) > shown)
        buf_printf(out, "and %zu more ranks: --json shows all\n", json_count(ranks) - shown);
}

/* "gpt-small (42) running for 18m02s, attempt 1, alice, team nlp, priority 30, group default" */
static void print_head(struct cli *cli, const struct json *job, struct buf *out) {
    const char *state = json_get_string(job, "state", "?");
    const char *team = json_get_string(job, "team", NULL);
    const char *reason = json_get_string(job, "reason", NULL);
    char text[VIEW_TEXT_BYTES];

    buf_printf(out, "%s (%s) %s", json_get_string(job, "name", "job"), view_id(job, text), state);
    if (json_get_string(job, "started_at", NULL)) {
        view_seconds(job, "ran_s", text);
        if (strcmp(text, "-") != 0)
            buf_printf(out, "%s%s", strcmp(state, "running") == 0 ? " for " : " after ", text);
    } else {
        view_time(cli, json_get_string(job, "submitted_at", NULL), text);
        buf_printf(out, ", submitted %s", text);
    }
    if (view_ended(state) && reason && strcmp(reason, state) != 0)
        buf_printf(out, " (%s)", reason);
    if (json_get_int(job, "attempt", 0) > 0)
        buf_printf(out, ", attempt %lld", (long long)json_get_int(job, "attempt", 0));
    buf_printf(out, ", %s", json_get_string(job, "user", "?"));
    if (team)
        buf_printf(out, ", team %s", team);
    buf_printf(out, ", priority %lld%s%s, group %s\n", (long long)json_get_int(job, "priority", 0),
               json_get_bool(job, "auto_priority", false) ? " (auto)" : "",
               json_get_bool(job, "over_quota", false) ? " over quota" : "",
               json_get_string(job, "group", "default"));
}

/* `0.24 s`, `9 s`, `18m02s` */
static void add_span(int64_t us, struct buf *out) {
    char text[TIMEFMT_ISO_BYTES];

    if (us > 0 && us < 10 * TIMEFMT_US_PER_S) {
        buf_printf(out, "%.2f s", (double)us / TIMEFMT_US_PER_S);
    } else if (us < 60 * TIMEFMT_US_PER_S) {
        buf_printf(out, "%lld s", (long long)us / TIMEFMT_US_PER_S);
    } else {
        timefmt_duration(us, text);
        buf_add_str(out, text);
    }
}

/* As the ledger has it; a scheduler that keeps none leaves it to the job's story. */
static void print_used(const struct json *job, const struct story *story, struct buf *out) {
    const struct json *ran = json_get(job, "ran_s"), *used = json_get(job, "used_s");
    int64_t gpus = json_get_int(job, "nodes", 1) * json_get_int(job, "gpus_per_node", 0);

    if (gpus > 0 && used && json_kind(used) != JSON_KIND_NULL) {
        const struct json *again = json_get(job, "recomputed_s");
        bool any = again && json_kind(again) != JSON_KIND_NULL;
        buf_printf(out, "used        %.2f GPU-hours; ", json_as_real(used) / 3600);
        add_span(any ? (int64_t)(json_as_real(again) * 1e6) / gpus : 0, out);
        buf_add_str(out, " recomputed\n");
        return;
    }
    if (gpus == 0 || !ran || json_kind(ran) == JSON_KIND_NULL ||
        !json_get_string(job, "started_at", NULL))
        return;
    buf_printf(out, "used        %.2f GPU-hours; ", json_as_real(ran) * (double)gpus / 3600);
    if (story->recomputed_us && !story->has_checkpoints)
        buf_add_str(out, "up to ");
    add_span(story->recomputed_us, out);
    buf_add_str(out, " recomputed\n");
}

static void print_faults(struct cli *cli, const struct story *story, bool ended, struct buf *out) {
    char clock[TIMEFMT_ISO_BYTES];

    // The only fault, and the job's end: that line is there already.
    if (!story->n_faults || (ended && story->n_faults == 1 && !story->again_us))
        return;
    timefmt_clock(story->fault_us, timefmt_now_us(), cli->utc, clock);
    if (!cli->utc)
        *strrchr(clock, '.') = '\0'; // milliseconds help nobody here
    buf_printf(out, "faults      %lld: %s %s", (long long)story->n_faults, clock, story->fault);
    if (story->again_us) {
        buf_add_str(out, ", running again after ");
        add_span(story->again_us - story->fault_us, out);
    }
    buf_add_str(out, "\n");
}

static void print_checkpoint(const struct json *ckpt, struct buf *out) {
    char age[TIMEFMT_ISO_BYTES];
    int64_t at_us;

    if (json_get_int(ckpt, "step", -1) < 0)
        return;
    buf_printf(out, "checkpoint  step %lld", (long long)json_get_int(ckpt, "step", 0));
    if (timefmt_iso_parse(json_get_string(ckpt, "at", ""), &at_us) == 0) {
        timefmt_duration(timefmt_now_us() - at_us, age);
        buf_printf(out, ", %s ago", age);
    }
    if (json_get_string(ckpt, "dir", NULL))
        buf_printf(out, ": disk %s", json_get_string(ckpt, "dir", NULL));
    buf_add_str(out, "\n");
}

/* Why a job waits, and when it starts, is worked out when somebody asks: the view need not have it.
 * NULL: it does not wait. */
static struct json *why_it_waits(struct cli *cli, const struct json *job) {
    const char *state = json_get_string(job, "state", "");
    bool waits = !strcmp(state, "queued") || json_get_string(job, "start_at", NULL);
    struct json *why = NULL;
    struct hai_err err = {0};
    char target[64];

    (void)snprintf(target, sizeof target, "/api/v1/jobs/%lld/why",
                   (long long)json_get_int(job, "id", 0));
    if (!waits || view_ended(state) || cli_ask(cli, "GET", target, NULL, NULL, &why, &err) < 0)
        return NULL;
    return why;
}

/* "elements    4 wait (6-9), 2 run, 3 succeeded, 1 failed; at most 2 at once" */
static void print_elements(const struct json *elements, struct buf *out) {
    static const struct {
        const char *key, *word;
    } parts[] = {
        {"waiting",   "wait"     },
        {"running",   "run"      },
        {"succeeded", "succeeded"},
        {"failed",    "failed"   },
        {"timed_out", "timed out"},
        {"stopped",   "stopped"  },
    };
    const char *sep = "";

    if (json_get_int(elements, "n", 0) == 0)
        return;
    buf_add_str(out, "elements    ");
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        int64_t n = json_get_int(elements, parts[i].key, 0);
        const char *which = i ? NULL : json_get_string(elements, "waiting_indices", NULL);
        if (!n)
            continue;
        buf_printf(out, "%s%lld %s", sep, (long long)n, parts[i].word);
        if (which)
            buf_printf(out, " (%s)", which);
        sep = ", ";
    }
    if (json_get_int(elements, "cap", 0))
        buf_printf(out, "; at most %lld at once", (long long)json_get_int(elements, "cap", 0));
    buf_add_str(out, "\n");
}

static void print_sentence(struct cli *cli, const char *what, const char *text, struct buf *out) {
    buf_printf(out, "%-11s ", what);
    view_sentence(cli, text, out);
    buf_add_str(out, "\n");
}

/* "starts      about 14:32 when job 42 (alice, priority 30) ends"; of an array: "17_3 about ..." */
static void print_start(struct cli *cli, const struct json *why, struct buf *out) {
    const char *starts = json_get_string(why, "starts", NULL);
    const char *first = json_get_string(why, "first_waiting", NULL);

    if (!starts)
        return;
    starts += strncmp(starts, "starts ", 7) == 0 ? 7 : 0;
    _cleanup_free_ char *text =
        hai_asprintf("%s%s%s", first ? first : "", first ? " " : "", starts);
    print_sentence(cli, "starts", text, out);
}

static void print_job(struct cli *cli, const struct json *job) {
    _cleanup_(buf_free) struct buf out = {0}, progress = {0};
    const char *state = json_get_string(job, "state", "");
    const char *message = json_get_string(job, "message", NULL);
    _cleanup_(json_freep) struct json *why = why_it_waits(cli, job);
    _cleanup_(story_free) struct story story = {0};
    struct hai_err err = {0};

    // What cannot be read for the moment is not shown. Most jobs have no faults: nothing is asked.
    if (json_get_int(job, "attempt", 0) > 1 || json_get_string(job, "last_fault", NULL))
        (void)story_read(cli, json_get_int(job, "id", 0), &story, &err);
    if (!message && strcmp(state, "queued") == 0)
        message = json_get_string(why, "message", NULL);
    print_head(cli, job, &out);
    if (message && message[0] && strcmp(state, "running") != 0)
        print_sentence(cli, view_ended(state) ? "end" : "waits", message, &out);
    print_start(cli, why, &out);
    view_progress(json_get(job, "progress"), " of ", true, &progress);
    if (progress.n_bytes)
        buf_printf(&out, "progress    %s\n", buf_cstr(&progress));
    print_elements(json_get(job, "elements"), &out);
    print_checkpoint(json_get(job, "checkpoint"), &out);
    print_used(job, &story, &out);
    print_faults(cli, &story, view_ended(state), &out);
    print_ranks(json_get(job, "rank_list"), &out);
    view_print(&out);
}

static int run(struct cli *cli) {
    _cleanup_(buf_free) struct buf target = {0};
    _cleanup_(json_freep) struct json *job = NULL;
    struct hai_err err = {0};

    cli_job_target(cli->n_words ? cli->words[0] : NULL, "?ranks=1", &target);
    int r = cli_ask(cli, "GET", buf_cstr(&target), NULL, NULL, &job, &err);
    if (r < 0)
        return cli_fail(cli, r, &err);
    if (cli->json)
        cli_print_json(job);
    else if (cli->quiet)
        printf("%s\n", json_get_string(job, "state", "?"));
    else
        print_job(cli, job);
    return CLI_OK;
}

const struct verb verb_status = {
    .name = "status",
    .group = "watch",
    .args = "[JOB]",
    .help = "state of a job and its ranks now",
    .examples = "  hai status\n  hai status 42\n  hai status -q gpt-small      # one word\n",
    .words_max = 1,
    .run = run,
};
