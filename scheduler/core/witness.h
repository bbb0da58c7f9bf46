/* witness.h - what the accounts of a node's agents say: which count, and what is gone by them.
 *
 * Pure: daemon and simulator follow the same rules. The network may bring what an agent said before
 * it was killed after the next one has spoken: such an account may be complete, and names nothing
 * of what was started since. Within a boot the later start tells which of two agents is the newer.
 */
#pragma once
#include "scheduler/core/desired.h"
#include "scheduler/core/entry.h"

enum { WITNESS_INSTANCE_MAX = 64 };

/* The agent of a node whose account was taken last; witness_new(): none was. */
struct witness {
    char instance[WITNESS_INSTANCE_MAX + 1];
    char boot_id[BOOT_ID_MAX + 1]; // not the state's: that changes before an account is taken
    int64_t started_us;            // by the clock of that boot; S_ABSENT: it did not say
};

/* What an agent says, with texts of the caller's. */
struct witness_account {
    const char *instance, *boot_id;
    int64_t started_us;
    int64_t revision; // of the desired set that it has
    bool synced;      // it names all that there is on the node
    bool (*holds)(const void *holdings, int64_t job, int64_t epoch);
    const void *holdings;
};

struct witness witness_new(void);

/* Has a newer agent of the same boot been heard? Then the account says nothing. Where the account
 * must wait, until the node's life is in the log, say, this must be asked again. */
bool witness_is_replaced(const struct witness *w, const struct witness_account *account);

/* Take an account that is not replaced. Returns whether it is this agent's first. */
bool witness_take(struct witness *w, const struct witness_account *account);

/* What an up-to-date, complete account of the node does not name is gone from there. An account by
 * an older revision says nothing about what was placed since, except a new agent's first, which has
 * looked at everything. What was never started is not gone: the agent will start it.
 *
 * ret  receives the entries, to be freed with free(); their texts are the state's
 *
 * Returns how many. */
size_t witness_gone(const struct state *state, int node, const struct witness_account *account,
                    bool first, struct entry_ranks_gone **ret);
