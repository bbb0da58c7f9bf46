#include "cli/view.h"

#include "lib/pure/terms.h"
#include "lib/timefmt.h"
#include <stdio.h>
#include <unistd.h>

void view_time(const struct cli *cli, const char *iso, char ret[static VIEW_TEXT_BYTES]) {
    int64_t us;

    if (!iso)
        (void)snprintf(ret, VIEW_TEXT_BYTES, "-");
    else if (timefmt_iso_parse(iso, &us) < 0)
        (void)snprintf(ret, VIEW_TEXT_BYTES, "%s", iso);
    else
        timefmt_local(us, timefmt_now_us(), cli->utc, ret);
}

void view_sentence(const struct cli *cli, const char *text, struct buf *ret) {
    static const char shape[] = "0000-00-00T00:00:00.000Z";

    while (*text) {
        char iso[sizeof shape] = "", time[VIEW_TEXT_BYTES];
        int64_t us;
        (void)strncpy(iso, text, sizeof iso - 1);
        if (timefmt_iso_parse(iso, &us) == 0) {
            view_time(cli, iso, time);
            buf_add_str(ret, time);
            text += strlen(iso);
        } else {
            buf_add_u8(ret, (uint8_t)*text++);
        }
    }
}

void view_seconds(const struct json *object, const char *key, char ret[static VIEW_TEXT_BYTES]) {
    const struct json *value = json_get(object, key);

    if (!value || (json_kind(value) != JSON_KIND_INT && json_kind(value) != JSON_KIND_REAL))
        (void)snprintf(ret, VIEW_TEXT_BYTES, "-");
    else
        timefmt_duration((int64_t)(json_as_real(value) * 1e6), ret);
}

static bool number(const struct json *object, const char *key, double *ret) {
    const struct json *value = json_get(object, key);

    if (!value || (json_kind(value) != JSON_KIND_INT && json_kind(value) != JSON_KIND_REAL))
        return false;
    *ret = json_as_real(value);
    return true;
}

void view_progress(const struct json *progress, const char *between, bool rate, struct buf *ret) {
    const char *comma = "";
    double value;
    int64_t step = json_get_int(progress, "step", -1);
    int64_t steps = json_get_int(progress, "steps", -1);

    if (step >= 0) {
        buf_printf(ret, "step %lld", (long long)step);
        if (steps > 0)
            buf_printf(ret, "%s%lld", between, (long long)steps);
        comma = ", ";
    }
    if (number(progress, "loss", &value)) {
        buf_printf(ret, "%sloss %.3g", comma, value);
        comma = ", ";
    }
    if (rate && number(progress, "rate", &value)) {
        const char *unit = json_get_string(progress, "rate_unit", "steps");
        buf_printf(ret, value < 100 ? "%s%.3g %s/s" : "%s%.0f %s/s", comma, value, unit);
        comma = ", ";
    }
    if (number(progress, "left_s", &value)) {
        char left[TIMEFMT_ISO_BYTES];
        timefmt_duration((int64_t)(value * 1e6), left);
        // Nobody needs the seconds of a guess: 12m left, not 12m03s left.
        char *m = value >= 60 ? strchr(left, 'm') : NULL;
        if (m)
            m[1] = '\0';
        buf_printf(ret, "%s%s left", comma, left);
    }
}

bool view_ended(const char *state) {
    int value = schema_enum_parse(&job_state_enum, state);

    return value >= 0 && job_state_ended((enum job_state)value);
}

/* "starts about 14:32, after job 42"; of an array "8-99 wait, 8 run: the next starts about ..." */
static void add_start(const struct cli *cli, const struct json *job, struct buf *ret) {
    const struct json *elements = json_get(job, "elements");
    const char *which = json_get_string(elements, "waiting_indices", NULL);
    const char *after = json_get_string(job, "start_after_label", NULL);
    bool many = json_get_int(elements, "waiting", 0) > 1;
    char at[VIEW_TEXT_BYTES];

    view_time(cli, json_get_string(job, "start_at", NULL), at);
    if (which)
        buf_printf(ret, "%s wait%s, %lld run: %s", which, many ? "" : "s",
                   (long long)json_get_int(elements, "running", 0), many ? "the next " : "");
    buf_printf(ret, "starts about %s", at);
    if (after)
        buf_printf(ret, ", after job %s", after);
}

void view_note(const struct cli *cli, const struct json *job, struct buf *ret) {
    const char *state = json_get_string(job, "state", "");
    const char *message = json_get_string(job, "message", "");
    const struct json *progress = json_get(job, "progress");
    size_t before = ret->n_bytes;

    if (strcmp(state, "running") == 0)
        view_progress(progress, "/", false, ret);
    if (ret->n_bytes == before && json_get_string(job, "start_at", NULL) && !view_ended(state))
        add_start(cli, job, ret);
    if (ret->n_bytes == before && message[0])
        view_sentence(cli, message, ret);
    if (ret->n_bytes == before && view_ended(state) && json_get_int(job, "exit_code", -1) >= 0)
        buf_printf(ret, "exit %lld", (long long)json_get_int(job, "exit_code", 0));
}

void view_unexplained(const struct cli *cli, const struct json *jobs) {
    int64_t n_explained = 0, n_bare = 0;

    for (const struct json *job = json_first(jobs); job; job = json_next(job)) {
        const char *state = json_get_string(job, "state", "");
        bool told = json_get_string(job, "message", NULL);
        bool some_wait = told && json_get_int(json_get(job, "elements"), "waiting", 0) > 0;
        if (strcmp(state, "queued") != 0 && strcmp(state, "held") != 0 && !some_wait)
            continue;
        n_explained += told;
        n_bare += !told;
    }
    if (n_bare)
        cli_note(cli,
                 "why is worked out for the first %lld that wait; hai why JOB tells it of the "
                 "%lld others",
                 (long long)n_explained, (long long)n_bare);
}

static const char *plural(int64_t n) {
    return n == 1 ? "" : "s";
}

void view_shape(const struct json *submitted, struct buf *ret) {
    int64_t nodes = json_get_int(submitted, "nodes", 1);
    int64_t gpus = json_get_int(submitted, "gpus_per_node", 0);
    int64_t ranks = json_get_int(submitted, "ranks", 1);
    int64_t elements = json_get_int(submitted, "elements", 0);

    if (elements)
        buf_printf(ret, "array of %lld, each ", (long long)elements);
    buf_printf(ret, "%lld node%s", (long long)nodes, plural(nodes));
    if (gpus)
        buf_printf(ret, " x %lld GPU%s", (long long)gpus, plural(gpus));
    buf_printf(ret, ", %lld rank%s, priority %lld, group %s", (long long)ranks, plural(ranks),
               (long long)json_get_int(submitted, "priority", 30),
               json_get_string(submitted, "group", "default"));
}

int view_exit_code(const struct json *job) {
    const char *state = json_get_string(job, "state", "");
    int64_t code = json_get_int(job, "exit_code", -1);
    int64_t signal = json_get_int(job, "signal", 0);

    if (strcmp(state, "timed_out") == 0)
        return CLI_JOB_TIME_LIMIT;
    if (strcmp(state, "stopped") == 0)
        return CLI_JOB_STOPPED;
    if (strcmp(state, "succeeded") == 0)
        return CLI_OK;
    if (code > 0)
        return (int)(code & 0xff);
    return signal > 0 ? CLI_SIGNAL + (int)signal : CLI_JOB_LOST;
}

bool view_color(void) {
    const char *no = getenv("NO_COLOR");

    return isatty(STDOUT_FILENO) && !(no && no[0]);
}

void view_print(const struct buf *text) {
    fwrite(text->data, 1, text->n_bytes, stdout);
}

void view_add_shape(struct table *table, const struct json *job) {
    int64_t nodes = json_get_int(job, "nodes", 1);

    table_add(table, "%lld", (long long)json_get_int(job, "priority", 0));
    table_add(table, "%lld", (long long)nodes);
    table_add(table, "%lld", (long long)(nodes * json_get_int(job, "gpus_per_node", 0)));
}

const char *view_id(const struct json *job, char ret[static VIEW_TEXT_BYTES]) {
    (void)snprintf(ret, VIEW_TEXT_BYTES, "%lld", (long long)json_get_int(job, "id", 0));
    return json_get_string(job, "label", ret);
}

void view_print_ids(const struct json *jobs) {
    char id[VIEW_TEXT_BYTES];

    for (const struct json *job = json_first(jobs); job; job = json_next(job))
        printf("%s\n", view_id(job, id));
}

static void add_count_or_none(struct table *table, const struct json *quota, const char *key) {
    int64_t n = json_get_int(quota, key, -1);

    if (n < 0)
        table_add_text(table, NULL);
    else
        table_add(table, "%lld", (long long)n);
}

void view_quotas(const struct json *quotas, struct buf *out) {
    static const char *const headings[] = {"HOLDER", "GROUP",  ">PRIO",
                                           ">USED",  ">LIMIT", ">BORROWED"};
    _cleanup_(table_freep) struct table *table = table_new(headings, ARRAY_SIZE(headings));

    for (const struct json *q = json_first(quotas); q; q = json_next(q)) {
        const char *team = json_get_string(q, "team", NULL);
        if (team)
            table_add(table, "team:%s", team);
        else
            table_add_text(table, json_get_string(q, "user", NULL));
        table_add_text(table, json_get_string(q, "group", NULL));
        add_count_or_none(table, q, "priority");
        add_count_or_none(table, q, "used");
        add_count_or_none(table, q, "gpus");
        add_count_or_none(table, q, "borrowed");
    }
    table_print(table, false, out);
}
