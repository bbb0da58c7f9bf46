#include "cli/story.h"

#include "lib/timefmt.h"
#include <stdio.h>

/* The reading so far, between one event and the next. */
struct reading {
    struct story *story;
    int64_t index;         // of the newest event
    int64_t unsaved_us;    // since when work is not saved; 0: no rank runs
    int64_t lost_us;       // by the end of the newest attempt
    int64_t fault_attempt; // whose fault was counted
};

void story_free(struct story *story) {
    free(story->fault);
    *story = (struct story){0};
}

static void end_attempt(struct reading *r, int64_t at_us) {
    if (r->unsaved_us)
        r->lost_us = MAX(at_us - r->unsaved_us, 0);
    r->unsaved_us = 0;
}

/* The first fault of an attempt ends it; others follow from it. */
static void take_fault(struct reading *r, const struct json *event, int64_t at_us) {
    int64_t attempt = json_get_int(event, "attempt", 0);

    end_attempt(r, at_us);
    if (attempt == r->fault_attempt)
        return;
    r->fault_attempt = attempt;
    r->story->n_faults++;
    r->story->fault_us = at_us;
    r->story->again_us = 0;
    hai_strset(&r->story->fault, json_get_string(event, "message", "a fault"));
}

static void take_running(struct reading *r, int64_t at_us) {
    r->story->recomputed_us += r->lost_us;
    r->lost_us = 0;
    r->unsaved_us = at_us;
    if (r->story->fault_us && !r->story->again_us)
        r->story->again_us = at_us;
}

static void take_event(struct reading *r, const struct json *event) {
    const char *kind = json_get_string(event, "kind", "");
    int64_t at_us;

    r->index = MAX(r->index, json_get_int(event, "index", 0));
    if (timefmt_iso_parse(json_get_string(event, "at", ""), &at_us) < 0)
        return;
    if (strcmp(kind, "running") == 0) {
        take_running(r, at_us);
    } else if (strcmp(kind, "fault") == 0) {
        take_fault(r, event, at_us);
    } else if (strcmp(kind, "suspend") == 0) {
        end_attempt(r, at_us);
    } else if (strcmp(kind, "checkpoint") == 0) {
        r->story->has_checkpoints = true;
        r->unsaved_us = r->unsaved_us ? at_us : 0;
    }
}

int story_read(struct cli *cli, int64_t job, struct story *ret, struct hai_err *err) {
    struct reading reading = {.story = ret, .fault_attempt = -1};

    *ret = (struct story){0};
    for (;;) { // the scheduler gives a bounded number at a time
        _cleanup_(json_freep) struct json *events = NULL;
        int64_t before = reading.index;
        char target[96];
        (void)snprintf(target, sizeof target, "/api/v1/jobs/%lld/events?since=%lld", (long long)job,
                       (long long)before);
        int r = cli_ask(cli, "GET", target, NULL, NULL, &events, err);
        if (r < 0)
            return r;
        for (const struct json *event = json_first(events); event; event = json_next(event))
            take_event(&reading, event);
        if (reading.index == before)
            return 0;
    }
}
