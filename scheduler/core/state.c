#include "scheduler/core/state.h"

#include <stdio.h>

DEFINE_ENUM(node_state, NODE_STATE, NODE_STATES);
DEFINE_ENUM(rank_state, RANK_STATE, RANK_STATES);
DEFINE_ENUM(job_wanted, WANTED, WANTED_LIST);
DEFINE_ENUM(fault, FAULT, FAULTS);
DEFINE_ENUM(reason, REASON, REASONS);
DEFINE_ENUM(ledger_class, LEDGER, LEDGER_CLASSES);

// clang-format off
#include "lib/pure/schema_tables.h"
RECORD_SCHEMAS
#include "lib/pure/schema_undef.h"
// clang-format on

struct state *state_new(void) {
    struct state *state = hai_new(struct state);

    schema_init(state_head_schema(), &state->r);
    state->r.next_job = 1;
    state->r.next_token = 1;
    state->reserve_due.key = INT64_MIN; // before all else that is due at the same time
    state->ledger.sets = hai_new_array(struct ledger_set, 1); // of nodes in no group
    state->ledger.n_sets = 1;
    return state;
}

void state_job_free(struct job *job) {
    schema_free(state_job_schema(), &job->r);
    free(job->waiters);
    free(job->array);
    free(job->stands);
    free(job);
}

void state_cluster_free(struct state *state) {
    for (int i = 0; i < state->n_zones; i++)
        schema_free(state_zone_schema(), &state->zones[i]);
    for (int i = 0; i < state->n_leaves; i++)
        schema_free(state_leaf_schema(), &state->leaves[i]);
    for (int i = 0; i < state->n_groups; i++) {
        schema_free(state_group_schema(), &state->groups[i].r);
        free(state->groups[i].kinds);
    }
    free(state->zones);
    free(state->leaves);
    free(state->groups);
    state->zones = NULL;
    state->leaves = NULL;
    state->groups = NULL;
    state->n_zones = state->n_leaves = state->n_groups = 0;
}

static void free_values(struct map *all) {
    size_t at = 0;

    for (struct map_item *item; (item = map_next(all, &at));)
        free(item->value);
    map_free(all);
}

static void free_queue(struct queue *queue) {
    for (size_t i = 0; i < queue->n_slots; i++)
        free(queue->slots[i]);
    for (int line = 0; line < ORDER_LINES; line++)
        free(queue->present[line]);
    free(queue->slots);
    map_free(&queue->by_hash);
}

void state_free(struct state *state) {
    if (!state)
        return;
    while (state->jobs_first) {
        struct job *job = state->jobs_first;
        state->jobs_first = job->next;
        state_job_free(job);
    }
    free_queue(&state->queue);
    for (size_t i = 0; i < state->n_pasts; i++)
        schema_free(state_past_schema(), &state->pasts[i]);
    free(state->pasts);
    map_free(&state->past_by_key);
    for (size_t i = 0; i < state->n_shares; i++)
        schema_free(state_share_schema(), &state->shares[i]);
    free(state->shares);
    map_free(&state->share_by_user);
    free_values(&state->series);
    free_values(&state->book.lines);
    free_values(&state->book.accounts);
    free(state->book.sorted);
    free(state->runners.items);
    for (size_t i = 0; i < state->n_quotas; i++)
        schema_free(state_quota_schema(), &state->quotas[i]);
    free(state->quotas);
    state_cluster_free(state);
    for (int i = 0; i < state->n_nodes; i++) {
        schema_free(state_node_schema(), &state->nodes[i]->r);
        free(state->nodes[i]->jobs);
        free(state->nodes[i]->holders);
        free(state->nodes[i]);
    }
    free(state->nodes);
    for (size_t i = 0; i < state->n_users; i++)
        schema_free(state_user_schema(), &state->users[i]);
    free(state->users);
    for (size_t i = 0; i < state->n_tokens; i++)
        schema_free(state_token_schema(), &state->tokens[i]);
    free(state->tokens);
    for (size_t i = 0; i < state->n_reserves; i++)
        schema_free(state_reserve_schema(), &state->reserves[i]);
    free(state->reserves);
    free(state->ledger.sets);
    keys_free(&state->keys);
    map_free(&state->job_by_id);
    map_free(&state->node_by_name);
    map_free(&state->user_by_name);
    map_free(&state->token_by_hash);
    timers_free(&state->timers);
    schema_free(state_head_schema(), &state->r);
    free(state);
}

struct job *state_job_find(const struct state *state, int64_t id) {
    return map_get(&state->job_by_id, id);
}

int state_node_find(const struct state *state, const char *name) {
    return (int)(intptr_t)map_get_text(&state->node_by_name, name) - 1;
}

int state_group_find(const struct state *state, const char *name) {
    for (int i = 0; i < state->n_groups; i++)
        if (!strcmp(state->groups[i].r.name, name))
            return i;
    return -1;
}

int state_zone_find(const struct state *state, const char *name) {
    for (int i = 0; i < state->n_zones; i++)
        if (!strcmp(state->zones[i].name, name))
            return i;
    return -1;
}

static void name_one(char *text, size_t size, const char *kind, const char *name) {
    size_t used = strlen(text);

    (void)snprintf(text + used, size - used, "%s%s", used ? ", " : kind, name);
}

int state_no_group(const struct state *state, const char *where, const char *name,
                   struct hai_err *err) {
    char hint[HAI_ERR_HINT_BYTES] = "";

    for (int i = 0; i < state->n_groups; i++)
        name_one(hint, sizeof hint, "groups: ", state->groups[i].r.name);
    return hai_fail_at(err, -EINVAL, "unknown_group", where, hint, "there is no group %s", name);
}

int state_no_zone(const struct state *state, const char *where, const char *name,
                  struct hai_err *err) {
    char hint[HAI_ERR_HINT_BYTES] = "";

    for (int i = 0; i < state->n_zones; i++)
        name_one(hint, sizeof hint, "zones: ", state->zones[i].name);
    return hai_fail_at(err, -EINVAL, "unknown_zone", where, hint, "there is no zone %s", name);
}

const struct state_user *state_user_find(const struct state *state, const char *name) {
    intptr_t number = (intptr_t)map_get_text(&state->user_by_name, name);

    return number ? &state->users[number - 1] : NULL;
}

void state_token_name(const uint8_t *hash, char *ret) {
    static const char digits[] = "0123456789abcdef";

    for (int i = 0; i < DIGEST_BYTES; i++) {
        ret[2 * i] = digits[hash[i] >> 4];
        ret[2 * i + 1] = digits[hash[i] & 15];
    }
    ret[2 * DIGEST_BYTES] = 0;
}

size_t state_token_at(const struct state *state, int64_t id) {
    size_t low = 0, high = state->n_tokens;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (state->tokens[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const struct state_token *state_token_find(const struct state *state, const uint8_t *hash) {
    char name[2 * DIGEST_BYTES + 1];

    state_token_name(hash, name);
    int64_t id = (intptr_t)map_get_text(&state->token_by_hash, name);
    return id ? &state->tokens[state_token_at(state, id)] : NULL;
}

const struct state_reserve *state_reserve_find(const struct state *state, int64_t number) {
    size_t low = 0, high = state->n_reserves;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (state->reserves[middle].number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low < state->n_reserves && state->reserves[low].number == number ? &state->reserves[low]
                                                                            : NULL;
}

const struct state_reserve *state_reserve_named(const struct state *state, const char *name) {
    for (size_t i = 0; i < state->n_reserves; i++)
        if (hai_streq(state->reserves[i].name, name))
            return &state->reserves[i];
    return NULL;
}

bool state_reserve_has(const struct state_reserve *reserve, int node) {
    size_t low = 0, high = reserve->nodes.n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (reserve->nodes.items[middle] < node)
            low = middle + 1;
        else
            high = middle;
    }
    return low < reserve->nodes.n && reserve->nodes.items[low] == node;
}

int64_t state_next_wakeup(const struct state *state) {
    const struct timer *timer = timers_first(&state->timers);

    return timer ? timer->at_us : INT64_MAX;
}

#define LEVEL_(value) value,
static const int64_t levels[] = {PRIORITIES(LEVEL_)};
#undef LEVEL_

int64_t state_priority_at(int level) {
    assert(level >= 0);
    assert(level < PRIORITY_COUNT);
    return levels[level];
}

int state_priority_level(int64_t priority) {
#define POSITION_(value) POSITION_##value,
    enum { PRIORITIES(POSITION_) POSITION_COUNT };
#undef POSITION_
    _Static_assert((int)POSITION_COUNT == PRIORITY_COUNT, "PRIORITIES");

    switch (priority) {
#define CASE_(value)                                                                               \
    case value:                                                                                    \
        return POSITION_##value;
        PRIORITIES(CASE_)
#undef CASE_
    default:
        return -EINVAL;
    }
}

static struct node_kind *kind_of(struct group *group, const struct node *node) {
    struct node_kind new = {node->zone, node->r.gpus, node->r.cpus, node->r.memory_bytes, 0};

    for (int i = 0; i < group->n_kinds; i++) {
        struct node_kind *kind = &group->kinds[i];
        if (kind->zone == new.zone && kind->gpus == new.gpus && kind->cpus == new.cpus &&
            kind->memory_bytes == new.memory_bytes)
            return kind;
    }
    group->kinds =
        hai_realloc_array(group->kinds, (size_t)group->n_kinds + 1, sizeof *group->kinds);
    group->kinds[group->n_kinds] = new;
    return &group->kinds[group->n_kinds++];
}

void state_group_join(struct state *state, int number, int node) {
    struct group *group = &state->groups[number];

    state->nodes[node]->groups |= UINT64_C(1) << number;
    group->gpus_max = MAX(group->gpus_max, state->nodes[node]->r.gpus);
    kind_of(group, state->nodes[node])->n++;
}

void state_job_resolve(const struct state *state, struct job *job) {
    const struct entry_job_spec *spec = &job->r.spec;

    job->group = state_group_find(state, spec->group);
    job->cpus_per_node =
        spec->cpus_per_node == S_ABSENT ? spec->ranks_per_node : spec->cpus_per_node;
    job->zones = spec->zones.n ? 0 : UINT64_MAX;
    for (size_t i = 0; i < spec->zones.n; i++) {
        int zone = state_zone_find(state, spec->zones.items[i]);
        if (zone >= 0)
            job->zones |= UINT64_C(1) << zone;
    }
}
