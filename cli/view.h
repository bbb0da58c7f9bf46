/* view.h - how jobs and their times look to people: the texts that several verbs share.
 *
 * Reads the JSON answers of the scheduler (wire/messages.def: job_view, ...) without decoding them
 * into structs, so that a newer scheduler's fields do no harm.
 */
#pragma once
#include "cli/cli.h"
#include "cli/table.h"

/* Local time of an ISO text, or as it is with --utc; "-" for NULL. */
enum { VIEW_TEXT_BYTES = 64 };
void view_time(const struct cli *cli, const char *iso, char ret[static VIEW_TEXT_BYTES]);

/* Append a sentence of the scheduler's; times in it are shown as by view_time. */
void view_sentence(const struct cli *cli, const char *text, struct buf *ret);

/* Seconds of a member as `18m02s`; "-" if absent. */
void view_seconds(const struct json *object, const char *key, char ret[static VIEW_TEXT_BYTES]);

/* The NOTE of `hai list`. */
void view_note(const struct cli *cli, const struct json *job, struct buf *ret);

/* After a list, on stderr: how many of its jobs wait with no reason given, if there are any. */
void view_unexplained(const struct cli *cli, const struct json *jobs);

/* "step 1210 of 2000, loss 3.21, 8940 tokens/s, 12m left"; nothing if there is no progress.
 * between: " of " or "/". */
void view_progress(const struct json *progress, const char *between, bool rate, struct buf *ret);

/* "2 nodes x 2 GPUs, 4 ranks, priority 30, group default" of a job_submitted. */
void view_shape(const struct json *submitted, struct buf *ret);

/* How a shell sees the end of a job: its own code, 128+signal, 124, 143, or 125. */
int view_exit_code(const struct json *job);

/* Whether a state is an end. */
bool view_ended(const char *state);

/* Whether stdout takes colours: a terminal, and NO_COLOR is not set. */
bool view_color(void);

/* The cells PRIO, NODES and GPUS of a job's row. */
void view_add_shape(struct table *table, const struct json *job);

/* The ids of a list of jobs, one a line: -q. */
void view_print_ids(const struct json *jobs);

/* Write a buffer to stdout. */
void view_print(const struct buf *text);

/* What people call a job: 42, or 17_3 for an element of an array. Of the object, or kept inside. */
const char *view_id(const struct json *job, char ret[static VIEW_TEXT_BYTES]);

/* Append the table of quotas: HOLDER GROUP PRIO USED LIMIT BORROWED. */
void view_quotas(const struct json *quotas, struct buf *out);
