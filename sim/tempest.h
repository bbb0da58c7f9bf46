/* tempest.h - the parts of one storm, for storm.c, which runs it, and faults.c, which breaks it;
 * and its entries, each with a look at what it touched.
 */
#pragma once
#include "sim/agents.h"
#include "sim/clients.h"
#include "sim/gateway.h"
#include "sim/people.h"
#include "sim/quota_rules.h"
#include "sim/starve.h"
#include "sim/storm_result.h"

#define TEMPEST_SECOND INT64_C(1000000)

struct tempest {
    uint64_t seed;
    const struct storm_options *options;
    struct world world;
    struct rng rng;
    struct agenda agenda;
    struct network net;
    struct agents agents;
    struct gateway gateway;
    struct clients clients;
    struct people people;
    struct quota_rules_seen quotas;
    struct starve starve;
    struct drift wall;             // the clock of the scheduler's host
    struct drift clock;            // log time, from the last start on
    bool down;                     // no scheduler runs
    bool calm;                     // no more faults and requests
    int64_t turn_us;               // its next turn, by true time; INT64_MAX: none
    size_t n_committed;            // entries
    int64_t n_turns, n_full_turns; // those with entries
    int64_t n_met;                 // faults whose time came, skipped ones included
    struct storm_result result;
    struct hai_err *err;
    int r;
};

static inline bool tempest_chance(struct tempest *t, int64_t n) {
    return rng_once_in(&t->rng, n);
}

/* Remember the first thing that is wrong. */
static inline void tempest_note(struct tempest *t, int r) {
    if (t->r == 0)
        t->r = r;
}

/* Append an entry. Of each, whoever appended it, tempest_look checks what it touched. */
int tempest_append(void *tempest, const char *principal, enum entry_kind kind, const void *payload);
void tempest_look(void *tempest, enum entry_kind kind);
