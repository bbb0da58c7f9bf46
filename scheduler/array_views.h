/* array_views.h - what readers see of arrays and their elements. */
#pragma once
#include "scheduler/context.h"

/* Fill what a view has of arrays: label, array and index of an element; of an array the state that
 * its elements give it, and how many of them wait, run and have ended. */
void array_views_fill(const struct schedd *s, const struct state_job *job, struct job_view *ret);

/* "8-99 wait, 8 run: WHY", of an array that has not ended; NULL: it has. The caller frees. */
char *array_views_note(const struct schedd *s, const struct job *array, const char *why);

/* Is it one of the elements that lists show as a part of their array: made, and never started? */
bool array_views_hidden(const struct job *job);

/* Is it the first of these, where the array has its place in the queue? */
bool array_views_leads(const struct state *state, const struct job *job);

/* The id of "17_3", or -ENOENT. array: the record of job 17. */
int array_views_element(const struct state_job *array, const char *index, int64_t *ret);
