#include "scheduler/api_reserve.h"

#include "scheduler/api_call.h"
#include "scheduler/core/reserve.h"
#include "scheduler/ranges.h"
#include "wire/jobfile.h"

static void fill_view(const struct state *state, const struct state_reserve *reserve,
                      struct reservation_view *ret) {
    schema_init(reservation_view_schema(), ret);
    ret->name = hai_strdup(reserve->name);
    ret->active = reserve_active(state, reserve);
    for (size_t i = 0; i < reserve->nodes.n; i++)
        *LIST_ADD(&ret->nodes) = hai_strdup(state->nodes[reserve->nodes.items[i]]->r.name);
    for (size_t i = 0; i < reserve->users.n; i++)
        *LIST_ADD(&ret->users) = hai_strdup(reserve->users.items[i]);
    ret->starts_at = reserve->from_us;
    ret->ends_at = reserve->until_us;
    ret->by = hai_strdup(reserve->by);
    ret->reason = hai_strdup(reserve->reason);
}

void api_reserve_list(struct api_call *call) {
    const struct state *state = schedd_state(call->s);
    struct api_list list = api_call_list(call);

    for (size_t i = 0; i < state->n_reserves; i++) {
        struct reservation_view view;
        fill_view(state, &state->reserves[i], &view);
        api_call_list_add(&list, reservation_view_schema(), &view);
        schema_free(reservation_view_schema(), &view);
    }
    api_call_reply_list(call, &list);
}

/* ---- which nodes ---- */

/* All nodes of a zone, or of a leaf (the other is -1). Names stay the state's. */
static void add_all(const struct state *state, int zone, int leaf, struct entry_reserve_set *ret) {
    for (int i = 0; i < state->n_nodes; i++) {
        const struct node *node = state->nodes[i];
        if (!node->r.removed && (node->zone == zone || node->r.leaf == leaf))
            *LIST_ADD(&ret->nodes) = node->r.name;
    }
}

static int find_leaf(const struct state *state, const char *name) {
    for (int i = 0; i < state->n_leaves; i++)
        if (hai_streq(state->leaves[i].name, name))
            return i;
    return -1;
}

static int add_node(const struct state *state, const char *name, const char *word,
                    struct entry_reserve_set *ret, struct hai_err *err) {
    int node = state_node_find(state, name);

    if (node < 0 || state->nodes[node]->r.removed)
        return hai_fail_at(err, -ENOENT, "not_found", "nodes", NULL,
                           strcmp(name, word) ? "there is no node %.80s"
                                              : "there is no node, zone or leaf %.80s",
                           name);
    *LIST_ADD(&ret->nodes) = state->nodes[node]->r.name;
    return 0;
}

/* A word names a node, else a zone, else a leaf, else it is a range of nodes. */
static int add_word(const struct state *state, const char *word, struct entry_reserve_set *ret,
                    struct hai_err *err) {
    struct schema_list names = {0};
    int zone = state_zone_find(state, word), leaf = find_leaf(state, word);
    int r = 0;

    if (state_node_find(state, word) < 0 && (zone >= 0 || leaf >= 0)) {
        add_all(state, zone, zone >= 0 ? -1 : leaf, ret);
        return 0;
    }
    r = ranges_expand(word, NODES_MAX, &names, err);
    for (size_t i = 0; i < names.n; i++) {
        char *name = ((char **)names.items)[i];
        if (r == 0)
            r = add_node(state, name, word, ret, err);
        free(name);
    }
    free(names.items);
    return r;
}

/* ---- changes ---- */

static int fill_entry(const struct schedd *s, const struct reservation_set *set,
                      struct entry_reserve_set *ret, struct hai_err *err) {
    int64_t now_us = turn_now_us(s->turn);

    if (!jobfile_name_valid(set->name))
        return hai_fail_at(err, -EINVAL, "invalid", "name", NULL,
                           "name is '%.80s'; expected a letter, then [a-z0-9._-]", set->name);
    if (set->ends_at != S_ABSENT && set->length_us != S_ABSENT)
        return hai_fail_at(err, -EINVAL, "invalid", "length_s", NULL,
                           "ends_at and length_s are both given; expected one of them");
    ret->name = set->name;
    ret->from_us = set->starts_at;
    ret->until_us = set->ends_at;
    if (set->length_us != S_ABSENT)
        ret->until_us = MAX(set->starts_at, now_us) + set->length_us;
    ret->reason = set->reason;
    ret->users.items = set->users.items;
    ret->users.n = set->users.n;
    for (size_t i = 0; i < set->nodes.n; i++) {
        int r = add_word(schedd_state(s), set->nodes.items[i], ret, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static void on_set(void *data, int64_t index, int r, const struct apply_reply *reply) {
    struct api_call *call = data;
    struct reservation_view view;

    api_call_appended(call);
    if (r < 0) {
        api_call_error(call, r, &reply->err);
        return;
    }
    const struct state *state = schedd_state(call->s);
    const struct state_reserve *reserve = state_reserve_find(state, reply->id);
    if (!reserve) { // removed by the next entry of the same batch
        api_call_fail(call, 409, "conflict", "the reservation was removed at once");
        return;
    }
    fill_view(state, reserve, &view);
    api_call_reply(call, 200, reservation_view_schema(), &view);
    schema_free(reservation_view_schema(), &view);
}

void api_reserve_set(struct api_call *call) {
    struct entry_reserve_set entry;
    struct hai_err err = {0};

    schema_init(entry_reserve_set_schema(), &entry);
    int r = fill_entry(call->s, call->body, &entry, &err);
    if (r < 0)
        api_call_error(call, r, &err);
    else
        api_call_append(call, ENTRY_RESERVE_SET, &entry, on_set);
    free(entry.nodes.items); // the names are the state's
}

static void on_removed(void *data, int64_t index, int r, const struct apply_reply *reply) {
    struct api_call *call = data;
    struct index_view answer;

    api_call_appended(call);
    if (r < 0) {
        api_call_error(call, r, &reply->err);
        return;
    }
    schema_init(index_view_schema(), &answer);
    answer.index = index;
    api_call_reply(call, 200, index_view_schema(), &answer);
    schema_free(index_view_schema(), &answer);
}

void api_reserve_remove(struct api_call *call) {
    struct entry_reserve_remove entry = {.name = call->params[0]};

    api_call_append(call, ENTRY_RESERVE_REMOVE, &entry, on_removed);
}
