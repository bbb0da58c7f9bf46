/* people.h - those who ask the scheduler for something, in a storm: submissions of every kind,
 * stops, priorities, suspensions, moves, quotas, reservations.
 *
 * What an answer promises is kept account of by clients.h, for the requests that go through it.
 */
#pragma once
#include "sim/clients.h"

struct people {
    struct world *world;
    struct rng *rng;
    struct clients *clients;
    int64_t n_jobs; // accepted, as far as they know
    int (*append)(void *userdata, const char *principal, enum entry_kind kind, const void *payload);
    void *userdata;
};

/* A job, with all that a spec may ask for. */
void people_submit(struct people *p);

/* A change of some job, or of a quota. */
void people_ask(struct people *p);

/* A reservation is made, changed or removed. */
void people_reserve(struct people *p);

/* In strict order a job larger than its quota waits for more of it: take all quotas away. */
void people_lift_quotas(struct people *p);
