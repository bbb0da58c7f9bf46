/* usage_child.h - GPU time is added up by a child, so that nobody waits for it but who asked.
 *
 * A year by job is millions of rows. The daemon forks: the child writes down what the store does
 * not have yet, as it was at that moment, and becomes a new process (SQLite must not be used across
 * a fork), which opens the store for reading. From the fork until that process has its view of the
 * tables the rows of GPU time are held (rows_hold): what the child knows and what it reads are of
 * one moment, and nothing is left out or counted twice.
 */
#pragma once
#include "scheduler/api_call.h"
#include "scheduler/store/query.h"

struct usage_children;

struct usage_children *usage_children_new(struct schedd *s);

/* Start none any more: the calls that wait are about to go, each of which would let the next one
 * begin. Then, when no call is held any more, free what is left. */
void usage_children_close(struct usage_children *children);
void usage_children_free(struct usage_children *children);

/* Answer a call; the query's texts are those of its request. A few run at once, others wait. */
void usage_child_start(struct api_call *call, const struct query_usage *query, int64_t limit);

/* What the new process does: the task from standard input, the store of a state directory, the
 * answer to standard output. Returns its exit status. */
int usage_child_main(const char *state_dir);
