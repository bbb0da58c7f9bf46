/* loglines.h - the output of ranks as it is shown: lines with time and rank, with the events of the
 * job between them.
 *
 * On disk a line is `2026-11-23T13:11:40.102Z text`; shown it is `14:11:40.102 0| text`, plain text
 * for `hai run`, or a JSON object. Fetching is follow.h's business.
 */
#pragma once
#include "cli/cli.h"

enum loglines_form { LOGLINES_PREFIX, LOGLINES_PLAIN, LOGLINES_JSON };

struct loglines;

/* grep: an extended regular expression over the text, or NULL. list: with LOGLINES_JSON one array
 * instead of an object a line. -EINVAL: bad expression. */
int loglines_new(const struct cli *cli, enum loglines_form form, bool list, const char *grep,
                 struct loglines **ret, struct hai_err *err);

/* Writes what is left and, for a list, the end of the array. */
void loglines_free(struct loglines *lines);
DEFINE_CLEANUP(struct loglines *, loglines_free)

/* Show one line, without its line feed; events that came before it go first. */
void loglines_show(struct loglines *lines, int64_t rank, int64_t attempt, const char *line,
                   size_t n_bytes);

/* Keep an event_view until a later line, or until loglines_flush. Events that were there already,
 * by index, are dropped. */
void loglines_event(struct loglines *lines, const struct json *event);
void loglines_flush(struct loglines *lines);
bool loglines_has_events(const struct loglines *lines);
int64_t loglines_last_event(const struct loglines *lines); // index; 0: none
