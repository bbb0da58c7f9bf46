/* views.h - what readers see, made from the state, the store and the live table.
 *
 * A filled view owns its texts: schema_free(NAME_schema(), &view).
 */
#pragma once
#include "scheduler/context.h"

struct rows_job;
struct rows_event;
struct event;

/* A job of the state. index: of its newest change; ranks: with the list of its ranks. */
void views_job(const struct schedd *s, const struct state_job *job, int64_t index, bool ranks,
               struct job_view *ret);

/* The forecast of a job that waits, as far as it is known, else NULL; of an array (id: its own, or
 * that of an element that is no job yet) that of the element that starts next. ret_index and how
 * long it is valid: as outlook_of has it. */
struct outlook_job;
const struct outlook_job *views_forecast(const struct schedd *s, const struct job *job, int64_t id,
                                         int64_t *ret_index);

/* Put it into a view, where it is known. */
void views_start(const struct schedd *s, const struct job *job, struct job_view *ret);

/* The same, and say why a job that waits does so: reason and message, where the record has none.
 * Lists do it for the first VIEWS_REASONS_MAX jobs that wait, since an answer must not hold up the
 * loop. */
enum { VIEWS_REASONS_MAX = 200 };
void views_reason(const struct schedd *s, const struct job *job, struct job_view *ret);

/* why_job with the time in the sentence, as ISO 8601, which the command shows as local time. */
struct why;
void views_why(const struct schedd *s, const struct job *job, struct why *ret);
void views_why_plan(const struct schedd *s, const struct job *job, struct why *ret);
void views_why_time(struct why *why);

/* A job of the store: 0, or -EBADMSG if its record cannot be read. */
int views_job_row(const struct schedd *s, const struct rows_job *row, bool ranks,
                  struct job_view *ret, struct hai_err *err);

/* spares: spare_map of the state. */
void views_node(const struct schedd *s, int number, const uint64_t *spares, struct node_view *ret);
void views_group(const struct schedd *s, int number, struct group_view *ret);
void views_zone(const struct schedd *s, int number, struct zone_view *ret);
void views_event_row(const struct rows_event *row, struct event_view *ret);

/* Copy of a text, cut to a number of bytes at a character's end. */
char *views_cut(const char *text, size_t n_bytes_max);
