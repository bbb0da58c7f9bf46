/* reserve.h - nodes kept for some users, or for nobody (maintenance), for a time.
 *
 * Pure. Only apply.c changes reservations. While one is active its nodes take no other jobs: those
 * that run there save and give way when it begins, claims to the nodes end, and jobs that name the
 * reservation are placed there and nowhere else. When it is over, or removed, its nodes are like
 * any others, and so are its jobs: what runs goes on where it is, what waits takes any nodes of its
 * group. A reservation that is over is forgotten; its number is never used again.
 */
#pragma once
#include "scheduler/core/mutate.h"
#include "scheduler/core/place.h"

/* Make a reservation or change the one of that name. Refused with -EEXIST (code "conflict") if
 * another one has one of the nodes at one of the times. */
int reserve_set(struct mutate *c, struct entry_reserve_set *in);
int reserve_remove(struct mutate *c, const struct entry_reserve_remove *in);

/* What ends by the entry's time, then what begins. */
void reserve_due(struct mutate *c);

/* For state_decode: do the records hold together? Nodes' part and the timer, from them. */
bool reserve_sound(const struct state *state);
void reserve_derive(struct state *state);

/* A new job's reservation by its spec. Refused unless it is there and the job's user is one of
 * its. */
int reserve_join(const struct state *state, struct job *job, struct hai_err *err);

/* Has it begun? */
bool reserve_active(const struct state *state, const struct state_reserve *reserve);

/* Which reservations keep a need from nodes of its group and zones, or take them too soon: "3 nodes
 * are reserved (upgrade, until 2026-12-01T17:00:00.000Z)", "(fans, from ...)"; empty: none does.
 * Returns how many nodes. */
int64_t reserve_say(const struct state *state, const struct place_need *need, char *ret,
                    size_t size);

/* For a job whose reservation has not begun: when it will, as a sentence. False: it has none, or
 * it has begun. */
bool reserve_say_waits(const struct state *state, const struct job *job, char *ret, size_t size);

/* For who leads a state on in time: when the next one begins or ends after the state's time,
 * INT64_MAX: none does; and by node which one has it then. The caller frees. */
struct reserve_part {
    int64_t reserve;   // number; 0: none
    int64_t coming_us; // when the next one takes it; 0: none does
};
int64_t reserve_next_us(const struct state *state);
struct reserve_part *reserve_parts(const struct state *state);
