/* Which of a node's agents is believed, and what its account says. */
#include "scheduler/core/witness.h"
#include "tests/unit/core_steps.h"

/* Holds this one attempt; epoch 0: nothing. */
struct holding {
    int64_t job, epoch;
};

static bool holds(const void *holdings, int64_t job, int64_t epoch) {
    const struct holding *holding = holdings;

    return holding->job == job && holding->epoch == epoch;
}

static struct witness_account account(const char *instance, const char *boot_id,
                                      int64_t started_us) {
    static const struct holding nothing;

    return (struct witness_account){.instance = instance,
                                    .boot_id = boot_id,
                                    .started_us = started_us,
                                    .synced = true,
                                    .holds = holds,
                                    .holdings = &nothing};
}

/* Each account in turn, taken unless it is replaced or its client has gone. */
static const struct {
    const char *instance, *boot_id;
    int64_t started_us;
    bool gone, replaced, first;
} accounts[] = {
    {"a", "boot-1", S_ABSENT, false, false, true }, // says nothing of its start
    {"b", "boot-1", 2000,     false, false, true },
    {"b", "boot-1", 2000,     false, false, false},
    {"c", "boot-1", 1000,     false, true,  false},
    {"d", "boot-2", 500,      true,  false, false}, // its boot is in the state, and it is gone
    {"d", "boot-2", 500,      false, false, true },
    {"e", "boot-2", 400,      false, true,  false},
    {"f", "boot-2", 600,      false, false, true },
    {"d", "boot-2", 500,      false, true,  false},
    {"g", "boot-2", S_ABSENT, false, false, true },
};

TEST(a_newer_agent_of_the_same_boot_replaces_the_older)
{
    struct witness w = witness_new();

    for (size_t i = 0; i < ARRAY_SIZE(accounts); i++) {
        struct witness_account one =
            account(accounts[i].instance, accounts[i].boot_id, accounts[i].started_us);
        CHECK_EQ(witness_is_replaced(&w, &one), accounts[i].replaced, "%zu", i);
        if (!accounts[i].replaced && !accounts[i].gone)
            CHECK_EQ(witness_take(&w, &one), accounts[i].first, "%zu", i);
    }
}

static size_t n_gone(struct world *w, const struct witness_account *one, bool first) {
    struct entry_ranks_gone *gone;
    size_t n = witness_gone(w->state, 0, one, first, &gone);

    for (size_t i = 0; i < n; i++)
        CHECK_STR(gone[i].node, "a1");
    free(gone);
    return n;
}

TEST(what_an_account_does_not_name_is_gone)
{
    struct witness_account one = account("a", "boot-1", 1000);
    struct world w;

    small_cluster(&w, 1, 1);
    int64_t id = submit(&w, 1, 2, 2);
    CHECK_EQ(world_decide(&w), 1);
    one.revision = w.state->nodes[0]->r.revision;
    CHECK_EQ(n_gone(&w, &one, true), 0, "it was never started");
    all_started(&w, id);
    one.revision = w.state->nodes[0]->r.revision;
    CHECK_EQ(n_gone(&w, &one, false), 1);
    struct holding holding = {id, job_at(&w, id)->r.epoch};
    one.holdings = &holding;
    CHECK_EQ(n_gone(&w, &one, true), 0);
    holding.epoch++;
    CHECK_EQ(n_gone(&w, &one, true), 1, "it holds another");
    one.revision--;
    CHECK_EQ(n_gone(&w, &one, false), 0, "what was placed since is not in it");
    CHECK_EQ(n_gone(&w, &one, true), 1, "a new agent has looked at everything");
    one.synced = false;
    CHECK_EQ(n_gone(&w, &one, true), 0);
    world_free(&w);
}
