/* later.h - who joins the line later, in a draw of a forecast: jobs that wait for others or for
 * their time (eligible.h), jobs whose delay after a fault is not over, and elements of arrays that
 * are no jobs yet.
 *
 * Pure and reading only. What runs is taken to end well: nothing that waits for a failure comes,
 * but behind an array that has failed already. Who waits for what nobody foresees (a job that is
 * held, over quota in strict order, or on its way out of its nodes) is left out, and so is who
 * waits for that one in turn.
 */
#pragma once
#include "scheduler/core/state.h"

struct later;

/* extra: as in forecast.h. The state must stay as it is, but for its time. */
struct later *later_new(const struct state *state, const struct job *extra);
void later_free(struct later *later);
DEFINE_CLEANUP(struct later *, later_free)

/* Those that are told apart: jobs, and arrays whose next element is no job yet; ascending ids. */
size_t later_count(const struct later *later);
int64_t later_id(const struct later *later, size_t i);

/* A job, or an element, has started for the first time; has ended. */
void later_started(struct later *later, const struct job *job);
void later_ended(struct later *later, const struct job *job);

/* When the next one's time comes, INT64_MAX: nobody waits for that alone. */
int64_t later_next_us(const struct later *later);

/* The next one that joins at this time or did before; false: none. Its texts are those of the state
 * or of extra. ret_i: which of later_count it starts, SIZE_MAX: none. ret_ahead: the job whose end
 * it waited for last, 0: none. */
bool later_take(struct later *later, int64_t now_us, struct job *ret, size_t *ret_i,
                int64_t *ret_ahead);

/* A copy of a job as it would stand in line now: without nodes or claim, its place found anew. */
void later_line_up(const struct state *state, struct job *job);
