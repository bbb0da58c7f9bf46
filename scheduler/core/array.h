/* array.h - arrays: one submission, one id, many elements that differ in their index.
 *
 * Pure. An array is a job that never takes nodes itself. It has id A, and reserves the ids behind
 * it: element number k (in the order of the indices) is job A + 1 + k, so elements wait in the
 * order of submission like all jobs. An element becomes a job of its own only shortly before it can
 * run (elements.h): an array of 10,000 is one entry, one record and at most ARRAY_AHEAD waiting
 * jobs. What was waited for (eligible.h) is the array's affair, before its first element is made.
 *
 * People say 17_3 for the element of array 17 with index 3.
 */
#pragma once
#include "scheduler/core/state.h"

enum { ARRAY_AHEAD = 64 }; // elements made that have not started

/* What is derived of an array that has not ended. */
struct array {
    int64_t n;        // elements
    int64_t n_open;   // made and not ended
    int64_t n_fresh;  // of these: never started
    struct job *last; // in the list of all jobs, the last one of the array; itself if there is none
    struct job *next, *prev; // array that has not ended, in no order that matters
    bool noticed;            // is in state->arrays_noticed
    struct job *noticed_next;
};

static inline bool array_is(const struct job *job) {
    return job->r.spec.array.n > 0;
}

static inline bool array_is_element(const struct job *job) {
    return job->r.array != S_ABSENT;
}

/* "17_3" or "42". */
struct array_label {
    char text[48];
};
struct array_label array_label(const struct state_job *job);

/* The same by id, also of an element that is no job (yet) of an array that has not ended; the id of
 * any other job that is gone. */
struct array_label array_label_of(const struct state *state, int64_t id);

/* Elements of a list of indices; the index of number k; the number of an index, -1: there is none.
 */
int64_t array_count(const struct entry_job_spec *spec);
int64_t array_index(const struct entry_job_spec *spec, int64_t number);
int64_t array_number(const struct entry_job_spec *spec, int64_t index);

/* 0, or -EINVAL: indices ascend, at most ARRAY_MAX of them, and an array asks for nothing else. */
int array_check(const struct entry_job_spec *spec, struct hai_err *err);

/* The array that has not ended and has reserved this id for an element; NULL: none. */
struct job *array_of(const struct state *state, int64_t id);

/* Is the element with this number a job by now, or was it? */
bool array_made(const struct job *array, int64_t number);

/* An element that has not been made, as it would be: for readers. Its texts are the array's. */
struct job array_unmade(const struct state *state, const struct job *array, int64_t id);

/* The next element that has not ended, after an element or from the array itself; NULL: none. */
struct job *array_next_open(const struct job *array, const struct job *from);

/* Elements that are not made or never started, as a list of indices: "8-99", cut with "..." where
 * they are too many. n_bytes: at least 8. */
void array_waiting_list(const struct job *array, char *ret, size_t n_bytes);

/* For apply and state_decode: an array or element was made or read; changed its state (from, to),
 * is dropped from the list of jobs; the array must be looked at when the entry is done. */
void array_enter(struct state *state, struct job *job);
void array_changed(struct state *state, struct job *job, enum job_state from);
void array_dropped(struct state *state, struct job *job);
void array_notice(struct state *state, struct job *array);
