#include "scheduler/core/witness.h"

#include "lib/pure/plant.h"
#include <stdio.h>

struct witness witness_new(void) {
    return (struct witness){.started_us = S_ABSENT};
}

bool witness_is_replaced(const struct witness *w, const struct witness_account *account) {
    bool same_boot = hai_streq(w->boot_id, account->boot_id) || HAI_PLANT(PLANT_BOOTS_MIXED);

    return w->started_us != S_ABSENT && account->started_us != S_ABSENT && same_boot &&
           account->started_us < w->started_us && !HAI_PLANT(PLANT_REPLACED_AGENT);
}

bool witness_take(struct witness *w, const struct witness_account *account) {
    bool first = !hai_streq(w->instance, account->instance);

    assert(strlen(account->instance) <= WITNESS_INSTANCE_MAX);
    assert(strlen(account->boot_id) <= BOOT_ID_MAX);
    assert(!witness_is_replaced(w, account));
    strcpy(w->instance, account->instance);
    strcpy(w->boot_id, account->boot_id);
    w->started_us = account->started_us;
    return first;
}

static bool was_started(const struct desired_part *part) {
    for (int64_t i = 0; i < part->n_ranks; i++)
        if (part->ranks[i].state != RANK_STATE_ASSIGNED)
            return true;
    return false;
}

size_t witness_gone(const struct state *state, int node, const struct witness_account *account,
                    bool first, struct entry_ranks_gone **ret) {
    const struct state_node *record = &state->nodes[node]->r;
    _cleanup_free_ struct desired_part *parts = NULL;
    size_t n_gone = 0;

    *ret = NULL;
    if (!account->synced || (!first && account->revision != record->revision))
        return 0;
    size_t n = desired_node(state, node, &parts);
    struct entry_ranks_gone *gone = n ? hai_new_array(struct entry_ranks_gone, n) : NULL;
    for (size_t i = 0; i < n; i++) {
        const struct state_job *job = &parts[i].job->r;
        if (account->holds(account->holdings, job->id, job->epoch) || !was_started(&parts[i]))
            continue;
        schema_init(entry_ranks_gone_schema(), &gone[n_gone]);
        gone[n_gone].job = job->id;
        gone[n_gone].epoch = job->epoch;
        gone[n_gone].node = record->name;
        gone[n_gone++].evidence = (char *)"the agent does not hold it";
    }
    *ret = gone;
    return n_gone;
}
