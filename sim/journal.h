/* journal.h - an agent's marks on a simulated disk: what is written and what is synced differ.
 *
 * Pure. It has the interface of agent/marks.h and keeps its rules: marks wait in the memory of the
 * agent until a sync writes them and makes them durable. Whoever kills the agent loses what waits;
 * whoever takes the power loses besides any subset of what was written and not synced.
 */
#pragma once
#include "agent/core/reconcile.h"
#include "sim/rng.h"

struct journal_line {
    struct reconcile_key key;
    bool removed;
};

struct journal {
    struct journal_line *lines; // on disk, then in the agent's memory
    size_t n, n_max;
    size_t n_synced, n_written; // of them
};

void journal_free(struct journal *journal);
void journal_add(struct journal *journal, const struct reconcile_key *key);
void journal_remove(struct journal *journal, const struct reconcile_key *key);

/* The two halves of marks_sync: a crash may come between them. */
void journal_write(struct journal *journal);
void journal_sync(struct journal *journal);
bool journal_waits(const struct journal *journal);

/* The agent, or the machine, is no more. */
void journal_killed(struct journal *journal);
void journal_power_off(struct journal *journal, struct rng *rng);

/* A new agent reads it: fn for every mark, and it is written anew without the removed ones. */
void journal_open(struct journal *journal, void (*fn)(const struct reconcile_key *key, void *data),
                  void *data);
