#include "cli/follow.h"

#include "cli/loglines.h"
#include "cli/terminal.h"
#include "cli/view.h"
#include "lib/timefmt.h"
#include <poll.h>
#include <stdio.h>

enum {
    AWAY_S = 120,      // a scheduler away for longer is given up
    AWAY_TRY_MS = 200, // between tries
    HOLD_S = 20,       // the scheduler holds a request at most this long
    SETTLE_MS = 200,   // an event waits this long for output that came before it
    ALL_RANKS_MS = 300,
    AGAIN_MS = 500,   // output that is said to be complete while the job goes on is asked for again
    STAMP_BYTES = 24, // 2026-11-23T13:11:40.102Z, before every line
    LAST_TRIES = 10,  // for output after the end, 100 ms each
};

/* The output of one rank, as far as it was fetched. */
struct source {
    int64_t rank;
    int64_t attempt; // the one being read
    int64_t offset;
    struct buf text; // lines not yet shown
    bool complete;   // this attempt's output has ended
    bool asked;      // a request is on its way
};

struct follow {
    struct cli *cli;
    const struct follow_options *options;
    char *job; // id
    struct json *view;
    struct loglines *lines;
    struct http_sync *log;
    struct source *sources;
    int n_sources;
};

int follow_ask(struct cli *cli, const char *target, struct json **ret, struct hai_err *err) {
    int64_t until_us = timefmt_monotonic_us() + AWAY_S * INT64_C(1000000);
    bool told = false;

    for (;;) {
        bool was_connected = cli->http && http_sync_fd(cli->http) >= 0;
        int r = cli_ask(cli, "GET", target, NULL, NULL, ret, err);
        if (r != -EHOSTDOWN || timefmt_monotonic_us() > until_us)
            return r;
        if (!told && !was_connected)
            cli_note(cli, "hai: the scheduler is away; waiting for it");
        told |= !was_connected;
        (void)poll(NULL, 0, AWAY_TRY_MS);
    }
}

int follow_wait(struct cli *cli, const char *job, struct json **ret, struct hai_err *err) {
    _cleanup_(json_freep) struct json *view = NULL;
    _cleanup_(buf_free) struct buf target = {0};

    cli_job_target(job, "", &target);
    int r = cli_ask(cli, "GET", buf_cstr(&target), NULL, NULL, &view, err);
    while (r == 0 && !view_ended(json_get_string(view, "state", ""))) {
        buf_clear(&target);
        buf_printf(&target, "/api/v1/jobs/%lld?since=%lld&wait=%d",
                   (long long)json_get_int(view, "id", 0),
                   (long long)json_get_int(view, "index", 0), HOLD_S);
        json_free(TAKE_PTR(view));
        r = follow_ask(cli, buf_cstr(&target), &view, err);
    }
    if (r == 0)
        *ret = TAKE_PTR(view);
    return r;
}

static bool job_ended(const struct follow *f) {
    return view_ended(json_get_string(f->view, "state", ""));
}

static int64_t newest_attempt(const struct follow *f) {
    return json_get_int(f->view, "attempt", 0);
}

/* Output */

static int send_log_request(struct follow *f, struct source *s, int wait_s, struct hai_err *err) {
    char target[256];

    (void)snprintf(target, sizeof target,
                   "/api/v1/jobs/%s/logs?rank=%lld&attempt=%lld&offset=%lld&wait=%d", f->job,
                   (long long)s->rank, (long long)s->attempt, (long long)s->offset, wait_s);
    int r = http_sync_send(f->log, "GET", target, NULL, NULL, 0, err);
    s->asked = r == 0;
    return r;
}

/* Take the answer to a log request into the source. Returns the bytes that came, -EHOSTDOWN when
 * the connection broke (ask again), -ETIMEDOUT, or another error. */
static int take_log_reply(struct follow *f, struct source *s, int timeout_ms, struct hai_err *err) {
    _cleanup_(http_sync_reply_free) struct http_sync_reply reply = {0};
    char value[32];

    int r = http_sync_receive(f->log, timeout_ms, &reply, err);
    if (r == -ETIMEDOUT)
        return r;
    s->asked = false;
    if (r < 0)
        return cli_no_answer(f->cli, r, err);
    r = cli_reply_error(&reply, err);
    if (r == -ENOENT) { // nothing of this attempt is left anywhere
        s->complete = true;
        return 0;
    }
    if (r < 0)
        return r;
    buf_add(&s->text, reply.body.data, reply.body.n_bytes);
    s->offset += (int64_t)reply.body.n_bytes;
    if (http_sync_header(&reply, "Hai-Next-Offset", sizeof value, value))
        s->offset = strtoll(value, NULL, 10);
    if (http_sync_header(&reply, "Hai-End", sizeof value, value) && value[0] == '1')
        s->complete = true;
    return (int)reply.body.n_bytes;
}

/* The first whole line of a source, or what is left after the end of its output. */
static const char *next_line(const struct source *s, size_t *ret_bytes, size_t *ret_taken) {
    const char *text = (const char *)s->text.data;
    const char *lf = s->text.n_bytes ? memchr(text, '\n', s->text.n_bytes) : NULL;

    if (!lf && !(s->complete && s->text.n_bytes))
        return NULL;
    *ret_bytes = lf ? (size_t)(lf - text) : s->text.n_bytes;
    *ret_taken = lf ? *ret_bytes + 1 : *ret_bytes;
    return text;
}

/* Show all whole lines, of several ranks in the order of their times. */
static void show_lines(struct follow *f) {
    // Positions instead of dropping line by line, which would move the rest each time.
    if (f->n_sources == 1) {
        struct source *s = &f->sources[0];
        struct source view = *s;
        size_t n_bytes, n_taken;
        const char *line;
        while ((line = next_line(&view, &n_bytes, &n_taken))) {
            loglines_show(f->lines, s->rank, s->attempt, line, n_bytes);
            view.text.data += n_taken;
            view.text.n_bytes -= n_taken;
        }
        buf_drop(&s->text, s->text.n_bytes - view.text.n_bytes);
        return;
    }
    for (;;) {
        struct source *first = NULL;
        const char *first_line = NULL;
        size_t first_bytes = 0, first_taken = 0;
        for (int i = 0; i < f->n_sources; i++) {
            size_t n_bytes, n_taken;
            const char *line = next_line(&f->sources[i], &n_bytes, &n_taken);
            size_t n_stamp = MIN(n_bytes, first_bytes);
            n_stamp = MIN(n_stamp, (size_t)STAMP_BYTES);
            // ISO times compare as texts.
            if (line && (!first_line || memcmp(line, first_line, n_stamp) < 0)) {
                first = &f->sources[i];
                first_line = line;
                first_bytes = n_bytes;
                first_taken = n_taken;
            }
        }
        if (!first)
            return;
        loglines_show(f->lines, first->rank, first->attempt, first_line, first_bytes);
        buf_drop(&first->text, first_taken);
    }
}

/* Read all that is there of every source's present attempt. */
static int fetch_all(struct follow *f, struct hai_err *err) {
    for (int i = 0; i < f->n_sources; i++) {
        struct source *s = &f->sources[i];
        int r = 1;
        while (r > 0 && !s->complete) {
            r = send_log_request(f, s, 0, err);
            if (r == 0)
                r = take_log_reply(f, s, HOLD_S * 1000, err);
            else
                r = cli_no_answer(f->cli, r, err);
            if (r > 0 && f->n_sources == 1)
                show_lines(f);
        }
        if (r < 0)
            return r;
    }
    show_lines(f);
    return 0;
}

static void start_attempt(struct follow *f, int64_t attempt) {
    for (int i = 0; i < f->n_sources; i++) {
        struct source *s = &f->sources[i];
        s->attempt = attempt;
        s->offset = 0;
        s->complete = false;
        buf_clear(&s->text);
    }
}

/* What there is now, attempt after attempt. */
static int show_now(struct follow *f, struct hai_err *err) {
    int64_t last = f->options->attempt ? f->options->attempt : newest_attempt(f);
    int64_t first = f->options->attempt ? f->options->attempt : 1;

    for (int64_t a = first; a <= last; a++) {
        start_attempt(f, a);
        int r = fetch_all(f, err);
        if (r < 0)
            return r;
        for (int i = 0; i < f->n_sources; i++)
            f->sources[i].complete = true; // a line without its end is shown as it is
        show_lines(f);
    }
    return 0;
}

/* Watching */

static int fetch_events(struct follow *f, struct hai_err *err) {
    _cleanup_(json_freep) struct json *events = NULL;
    char target[128];

    if (f->cli->quiet || f->cli->json)
        return 0;
    (void)snprintf(target, sizeof target, "/api/v1/jobs/%s/events?since=%lld", f->job,
                   (long long)loglines_last_event(f->lines));
    int r = follow_ask(f->cli, target, &events, err);
    for (const struct json *e = json_first(events); e; e = json_next(e))
        loglines_event(f->lines, e);
    return r;
}

static int send_watch(struct follow *f, struct hai_err *err) {
    char target[128];

    (void)snprintf(target, sizeof target, "/api/v1/jobs/%s?since=%lld&wait=%d", f->job,
                   (long long)json_get_int(f->view, "index", 0), HOLD_S);
    return http_sync_send(f->cli->http, "GET", target, NULL, NULL, 0, err);
}

static int take_watch(struct follow *f, struct hai_err *err) {
    _cleanup_(http_sync_reply_free) struct http_sync_reply reply = {0};
    struct json *view = NULL;

    int r = http_sync_receive(f->cli->http, HOLD_S * 2000, &reply, err);
    if (r < 0)
        return cli_no_answer(f->cli, r, err);
    r = cli_reply_error(&reply, err);
    if (r == 0 && json_parse(reply.body.data, reply.body.n_bytes, NULL, &view, err) < 0)
        r = -EPROTO;
    if (r < 0)
        return r;
    bool changed = json_get_int(view, "index", 0) != json_get_int(f->view, "index", 0);
    json_free(f->view);
    f->view = view;
    return changed ? fetch_events(f, err) : 0;
}

/* The scheduler went away: wait for it, then go on where everything was. */
static int recover(struct follow *f, struct hai_err *err) {
    struct json *view = NULL;
    char target[64];

    for (int i = 0; i < f->n_sources; i++)
        f->sources[i].asked = false;
    http_sync_close(TAKE_PTR(f->log));
    (void)snprintf(target, sizeof target, "/api/v1/jobs/%s", f->job);
    int r = follow_ask(f->cli, target, &view, err);
    if (r == 0)
        r = cli_connect_more(f->cli, &f->log, err);
    if (r < 0) {
        json_free(view);
        return r;
    }
    json_free(f->view);
    f->view = view;
    return fetch_events(f, err);
}

/* Go to the next attempt where this one's output is complete. False: there is none yet. */
static bool advance(struct follow *f) {
    struct source *s = &f->sources[0];

    if (s->attempt == 0 ? newest_attempt(f) == 0
                        : !s->complete || newest_attempt(f) <= s->attempt || f->options->attempt)
        return s->attempt > 0 && !s->complete;
    start_attempt(f, f->options->attempt ? f->options->attempt : s->attempt + 1);
    return true;
}

/* After the end: what the ranks wrote last may still be on its way. */
static int show_last(struct follow *f, struct hai_err *err) {
    struct source *s = &f->sources[0];

    for (int k = 0; k < f->n_sources; k++)
        f->sources[k].complete &= f->sources[k].attempt < newest_attempt(f);
    for (int i = 0; i < LAST_TRIES && newest_attempt(f) > 0;) {
        (void)advance(f);
        if (s->attempt == 0)
            break;
        int r = fetch_all(f, err);
        if (r < 0)
            return r;
        bool done = true;
        for (int k = 0; k < f->n_sources; k++)
            done &= f->sources[k].complete;
        if (done && (newest_attempt(f) <= s->attempt || f->options->attempt))
            break;
        if (!done) {
            (void)poll(NULL, 0, 100);
            i++;
        }
    }
    for (int k = 0; k < f->n_sources; k++)
        f->sources[k].complete = true;
    show_lines(f);
    return 0;
}

/* One round of waiting for output or news of the job. */
static int round_of_one(struct follow *f, bool *watching, struct hai_err *err) {
    struct source *s = &f->sources[0];
    int r = 0;

    if (!*watching) {
        r = send_watch(f, err);
        if (r < 0)
            return cli_no_answer(f->cli, r, err);
        *watching = true;
    }
    if (advance(f) && !s->asked && f->n_sources == 1) {
        r = send_log_request(f, s, HOLD_S, err);
        if (r < 0)
            return cli_no_answer(f->cli, r, err);
    }
    struct pollfd fds[2] = {
        {.fd = http_sync_fd(f->cli->http),           .events = POLLIN},
        {.fd = s->asked ? http_sync_fd(f->log) : -1, .events = POLLIN},
    };
    // "Complete" may mean that the node is away for the moment, so it is not taken for the end.
    bool again = s->complete && f->n_sources == 1;
    int timeout_ms = f->n_sources > 1                ? ALL_RANKS_MS
                     : loglines_has_events(f->lines) ? SETTLE_MS
                     : again                         ? AGAIN_MS
                                                     : -1;
    fflush(stdout);
    int n = poll(fds, 2, timeout_ms);
    if (fds[1].revents) {
        r = take_log_reply(f, s, HOLD_S * 2000, err);
        if (r < 0)
            return r;
        show_lines(f);
    }
    if (fds[0].revents) {
        *watching = false;
        r = take_watch(f, err);
    }
    if (n == 0)
        loglines_flush(f->lines);
    if (n == 0 && again)
        s->complete = false;
    if (r >= 0 && f->n_sources > 1 && s->attempt > 0)
        r = fetch_all(f, err);
    return MIN(r, 0);
}

static int follow_to_end(struct follow *f, struct hai_err *err) {
    bool watching = false;
    int r = fetch_events(f, err);

    while (r == 0 && !job_ended(f)) {
        r = round_of_one(f, &watching, err);
        if (r == -EHOSTDOWN) {
            watching = false;
            r = recover(f, err);
        }
    }
    if (r < 0)
        return r;
    // A request held by the scheduler is of no use any more; a fresh connection asks without
    // waiting.
    http_sync_close(TAKE_PTR(f->log));
    r = cli_connect_more(f->cli, &f->log, err);
    return r < 0 ? r : show_last(f, err);
}

static int run_follow(struct follow *f, struct hai_err *err) {
    bool json = f->cli->json;
    enum loglines_form form = json                               ? LOGLINES_JSON
                              : f->options->form == FOLLOW_PLAIN ? LOGLINES_PLAIN
                                                                 : LOGLINES_PREFIX;
    int64_t n_ranks = json_get_int(f->view, "ranks", 1);
    bool all = f->options->rank == FOLLOW_ALL_RANKS;

    f->n_sources = all ? (int)n_ranks : 1;
    f->sources = hai_new_array(struct source, (size_t)f->n_sources);
    for (int i = 0; i < f->n_sources; i++)
        f->sources[i].rank = all ? i : f->options->rank;
    if (!all && f->options->rank >= n_ranks)
        return hai_fail(err, -ENOENT, "job %s has no rank %lld; it has %lld", f->job,
                        (long long)f->options->rank, (long long)n_ranks);
    int r =
        loglines_new(f->cli, form, json && !f->options->follow, f->options->grep, &f->lines, err);
    if (r == 0)
        r = cli_connect_more(f->cli, &f->log, err);
    if (r == 0)
        r = f->options->follow ? follow_to_end(f, err) : show_now(f, err);
    loglines_free(f->lines);
    return r;
}

/* An array has no output of its own: wait for its end, or say where to look. */
static int follow_array(struct cli *cli, const struct json *view, bool follow) {
    const char *id = json_get_string(view, "label", "ID");
    const char *indices = json_get_string(json_get(view, "elements"), "indices", "0");
    int first = (int)strcspn(indices, ",-:");
    _cleanup_(json_freep) struct json *last = NULL;
    struct hai_err err = {0};

    if (!follow) {
        hai_fail_at(&err, -EINVAL, "array", NULL, NULL,
                    "job %s is an array; expected an element, such as %s_%.*s", id, id, first,
                    indices);
        return cli_fail(cli, -EIO, &err);
    }
    cli_note(cli, "job %s is an array; its elements' output: hai logs %s_%.*s", id, id, first,
             indices);
    int r = follow_wait(cli, id, &last, &err);
    return r < 0 ? cli_fail_of_job(cli, r, &err) : view_exit_code(last);
}

int follow_output(struct cli *cli, const char *job, const struct follow_options *options) {
    _cleanup_(buf_free) struct buf target = {0};
    struct follow f = {.cli = cli, .options = options};
    struct hai_err err = {0};
    int status = CLI_OK;

    cli_job_target(job, "", &target);
    int r = cli_ask(cli, "GET", buf_cstr(&target), NULL, NULL, &f.view, &err);
    if (r == 0 && json_get_int(json_get(f.view, "elements"), "n", 0)) {
        status = follow_array(cli, f.view, options->follow);
        json_free(f.view);
        return status;
    }
    if (r == 0) {
        f.job = hai_asprintf("%lld", (long long)json_get_int(f.view, "id", 0));
        if (options->follow) {
            static char message[96]; // the handler of Ctrl-C reads it
            (void)snprintf(message, sizeof message,
                           "\nhai: left; job %s runs on (hai stop %s ends it)\n", f.job, f.job);
            terminal_catch_interrupt(message);
        } else if (newest_attempt(&f) == 0) {
            cli_note(cli, "job %s has no output yet: it is %s (hai why %s)", f.job,
                     json_get_string(f.view, "state", "?"), f.job);
        }
        r = run_follow(&f, &err);
    }
    if (r < 0)
        status = options->follow ? cli_fail_of_job(cli, r, &err) : cli_fail(cli, r, &err);
    else if (options->follow)
        status = view_exit_code(f.view);
    for (int i = 0; i < f.n_sources; i++)
        buf_free(&f.sources[i].text);
    free(f.sources);
    http_sync_close(f.log);
    json_free(f.view);
    free(f.job);
    return status;
}

int follow_job(struct cli *cli, int64_t job, enum follow_form form) {
    struct follow_options options = {.form = form, .follow = true};
    char id[32];

    (void)snprintf(id, sizeof id, "%lld", (long long)job);
    return follow_output(cli, id, &options);
}
