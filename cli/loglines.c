#include "cli/loglines.h"

#include "lib/timefmt.h"
#include <regex.h>
#include <stdio.h>

enum { STAMP_BYTES = 24 }; // 2026-11-23T13:11:40.102Z

struct event {
    int64_t at_us;
    bool expected; // part of every job's life: no news for who waits in the foreground
    char *text;
};

struct loglines {
    const struct cli *cli;
    enum loglines_form form;
    bool list;
    bool has_grep;
    regex_t grep;
    struct event *events; // waiting, in order
    size_t n_events;
    int64_t last_index;
    int64_t n_shown;
};

int loglines_new(const struct cli *cli, enum loglines_form form, bool list, const char *grep,
                 struct loglines **ret, struct hai_err *err) {
    _cleanup_(loglines_freep) struct loglines *lines = hai_new(struct loglines);

    lines->cli = cli;
    lines->form = form;
    if (grep) {
        int r = regcomp(&lines->grep, grep, REG_EXTENDED | REG_NOSUB);
        if (r != 0) {
            char text[128];
            (void)regerror(r, &lines->grep, text, sizeof text);
            return hai_fail(err, -EINVAL, "--grep is '%s': %s", grep, text);
        }
        lines->has_grep = true;
    }
    lines->list = list;
    if (list)
        fputc('[', stdout);
    *ret = TAKE_PTR(lines);
    return 0;
}

void loglines_free(struct loglines *lines) {
    if (!lines)
        return;
    loglines_flush(lines);
    if (lines->list)
        fputs(lines->n_shown ? "\n]\n" : "]\n", stdout);
    fflush(stdout);
    if (lines->has_grep)
        regfree(&lines->grep);
    free(lines->events);
    free(lines);
}

static void show_event(const struct loglines *lines, const struct event *event) {
    char clock[TIMEFMT_ISO_BYTES];

    if (lines->form == LOGLINES_PREFIX) {
        timefmt_clock(event->at_us, timefmt_now_us(), lines->cli->utc, clock);
        printf("%s hai| %s\n", clock, event->text);
    } else if (lines->form == LOGLINES_PLAIN && !event->expected) {
        fflush(stdout);
        fprintf(stderr, "hai: %s\n", event->text);
    }
}

/* Show the events up to a time. */
static void show_events(struct loglines *lines, int64_t until_us) {
    size_t n = 0;

    while (n < lines->n_events && lines->events[n].at_us <= until_us) {
        show_event(lines, &lines->events[n]);
        free(lines->events[n++].text);
    }
    lines->n_events -= n;
    if (n)
        memmove(lines->events, lines->events + n, lines->n_events * sizeof *lines->events);
}

void loglines_flush(struct loglines *lines) {
    show_events(lines, INT64_MAX);
}

bool loglines_has_events(const struct loglines *lines) {
    return lines->n_events > 0;
}

int64_t loglines_last_event(const struct loglines *lines) {
    return lines->last_index;
}

static bool is_expected(const char *kind) {
    static const char *const kinds[] = {"submitted", "placed", "running", "ended"};

    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
        if (strcmp(kinds[i], kind) == 0)
            return true;
    return false;
}

void loglines_event(struct loglines *lines, const struct json *event) {
    int64_t index = json_get_int(event, "index", 0);
    int64_t at_us;
    const char *text = json_get_string(event, "message", NULL);

    // One entry of the log may cause several events, a fault and its restart: they share its index.
    if (index < lines->last_index)
        return;
    lines->last_index = index;
    if (lines->cli->quiet || lines->form == LOGLINES_JSON)
        return;
    if (timefmt_iso_parse(json_get_string(event, "at", ""), &at_us) < 0)
        return;
    if (!text || !text[0])
        text = json_get_string(event, "kind", "");
    lines->events = hai_realloc_array(lines->events, lines->n_events + 1, sizeof *lines->events);
    lines->events[lines->n_events++] =
        (struct event){at_us, is_expected(json_get_string(event, "kind", "")), hai_strdup(text)};
}

/* Take the time off a line; a line without one keeps time 0. */
static int64_t take_stamp(const char **line, size_t *n_bytes) {
    char stamp[STAMP_BYTES + 1] = "";
    int64_t at_us = 0;

    if (*n_bytes < STAMP_BYTES || (*line)[STAMP_BYTES - 1] != 'Z')
        return 0;
    memcpy(stamp, *line, STAMP_BYTES);
    if (timefmt_iso_parse(stamp, &at_us) < 0)
        return 0;
    size_t n = MIN(*n_bytes, (size_t)STAMP_BYTES + 1);
    *line += n;
    *n_bytes -= n;
    return at_us;
}

static void show_json(struct loglines *lines, int64_t at_us, int64_t rank, int64_t attempt,
                      const char *text, size_t n_bytes) {
    _cleanup_(buf_free) struct buf out = {0};
    char iso[TIMEFMT_ISO_BYTES];

    buf_add_str(&out, !lines->list ? "" : lines->n_shown ? ",\n" : "\n");
    timefmt_iso(at_us, iso);
    if (at_us)
        buf_printf(&out, "{\"at\":\"%s\"", iso);
    else
        buf_add_str(&out, "{\"at\":null");
    buf_printf(&out, ",\"attempt\":%lld,\"rank\":%lld,\"text\":", (long long)attempt,
               (long long)rank);
    json_dump_string(text, n_bytes, &out);
    buf_add_str(&out, lines->list ? "}" : "}\n");
    fwrite(out.data, 1, out.n_bytes, stdout);
}

void loglines_show(struct loglines *lines, int64_t rank, int64_t attempt, const char *line,
                   size_t n_bytes) {
    int64_t at_us = take_stamp(&line, &n_bytes);
    char clock[TIMEFMT_ISO_BYTES] = "";

    if (at_us)
        show_events(lines, at_us);
    if (lines->has_grep) {
        _cleanup_free_ char *text = hai_strndup(line, n_bytes);
        if (regexec(&lines->grep, text, 0, NULL, 0) != 0)
            return;
    }
    if (lines->form == LOGLINES_JSON) {
        show_json(lines, at_us, rank, attempt, line, n_bytes);
    } else {
        if (lines->form == LOGLINES_PREFIX) {
            if (at_us)
                timefmt_clock(at_us, timefmt_now_us(), lines->cli->utc, clock);
            printf("%s %lld| ", at_us ? clock : "-", (long long)rank);
        }
        fwrite(line, 1, n_bytes, stdout);
        fputc('\n', stdout);
    }
    lines->n_shown++;
}
