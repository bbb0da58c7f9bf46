/* array_views.h - what readers see of arrays and their elements. */
#pragma once
#include "scheduler/context.h"
#include "scheduler/core/array.h"

/* Fill what a view has of arrays: label, array and index of an element; of an array the state that
 * its elements give it, and how many of them wait, run and have ended. */
void array_views_fill(const struct schedd *s, const struct state_job *job, struct job_view *ret);

/* "8-99 wait, 8 run: WHY", of an array that has not ended; NULL: it has. The caller frees. */
char *array_views_note(const struct schedd *s, const struct job *array, const char *why);

/* The state that its elements give an array, and "18 wait (3-20), 2 run, 1 failed; at most 4 at
 * once". job: its record, also of one that has ended. The caller frees the latter. */
enum job_state array_views_state(const struct state *state, const struct state_job *job);
char *array_views_sentence(const struct state *state, const struct state_job *job);

/* The first of its elements that was made and never started, NULL: none; the id of the one that
 * starts next, 0: all have started, or it has ended. */
const struct job *array_views_first(const struct state *state, const struct job *array);
int64_t array_views_next_id(const struct state *state, const struct job *array);

/* Is it one of the elements that lists show as a part of their array: made, and never started? */
bool array_views_hidden(const struct job *job);

/* Is it the first of these, where the array has its place in the queue? */
bool array_views_leads(const struct state *state, const struct job *job);

/* The id of "17_3", or -ENOENT. array: the record of job 17. */
int array_views_element(const struct state_job *array, const char *index, int64_t *ret);
