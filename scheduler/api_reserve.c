#include "scheduler/api_reserve.h"

#include "lib/pure/idset.h"
#include "lib/timefmt.h"
#include "scheduler/api_call.h"
#include "scheduler/core/array.h"
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

/* Words may name a node over and over: each is taken once, each zone and leaf is gone through once.
 */
enum { RANGE_NAMES_MAX = 2 * NODES_MAX };

struct expansion {
    const struct state *state;
    struct idset nodes, zones, leaves;
    size_t n_names; // of words that are neither
};

static void free_expansion(struct expansion *e) {
    idset_free(&e->nodes);
    idset_free(&e->zones);
    idset_free(&e->leaves);
}

/* All nodes of a zone, or of a leaf (the other is -1). */
static void add_all(struct expansion *e, int zone, int leaf) {
    if (!idset_add(zone >= 0 ? &e->zones : &e->leaves, zone >= 0 ? zone : leaf))
        return;
    for (int i = 0; i < e->state->n_nodes; i++) {
        const struct node *node = e->state->nodes[i];
        if (!node->r.removed && (node->zone == zone || node->r.leaf == leaf))
            idset_add(&e->nodes, i);
    }
}

static int find_leaf(const struct state *state, const char *name) {
    for (int i = 0; i < state->n_leaves; i++)
        if (hai_streq(state->leaves[i].name, name))
            return i;
    return -1;
}

static int add_node(struct expansion *e, const char *name, const char *word, struct hai_err *err) {
    int node = state_node_find(e->state, name);

    if (node < 0 || e->state->nodes[node]->r.removed)
        return hai_fail_at(err, -ENOENT, "not_found", "nodes", NULL,
                           strcmp(name, word) ? "there is no node %.80s"
                                              : "there is no node, zone or leaf %.80s",
                           name);
    idset_add(&e->nodes, node);
    return 0;
}

/* A word names a node, else a zone, else a leaf, else it is a range of nodes. */
static int add_word(struct expansion *e, const char *word, struct hai_err *err) {
    const struct state *state = e->state;
    struct schema_list names = {0};
    int zone = state_zone_find(state, word), leaf = find_leaf(state, word);
    int r = 0;

    if (state_node_find(state, word) < 0 && (zone >= 0 || leaf >= 0)) {
        add_all(e, zone, zone >= 0 ? -1 : leaf);
        return 0;
    }
    r = ranges_expand(word, NODES_MAX, &names, err);
    e->n_names += names.n;
    if (r == 0 && e->n_names > RANGE_NAMES_MAX)
        r = hai_fail_at(err, -ERANGE, "too_many", "nodes", NULL,
                        "nodes are named more than %d times; name each once", RANGE_NAMES_MAX);
    for (size_t i = 0; i < names.n; i++) {
        char *name = ((char **)names.items)[i];
        if (r == 0)
            r = add_node(e, name, word, err);
        free(name);
    }
    free(names.items);
    return r;
}

/* ---- changes ---- */

/* Of a time that was written as minutes, or by a clock that differs. */
#define LATE_MAX_US (INT64_C(120) * 1000000)

/* The nodes of all words, each once; names stay the state's. */
static int add_words(const struct state *state, const struct reservation_set *set,
                     struct entry_reserve_set *ret, struct hai_err *err) {
    struct expansion e = {.state = state};
    int r = 0;

    for (size_t i = 0; r == 0 && i < set->nodes.n; i++)
        r = add_word(&e, set->nodes.items[i], err);
    for (int node = idset_next(&e.nodes, 0); r == 0 && node >= 0;
         node = idset_next(&e.nodes, node + 1))
        *LIST_ADD(&ret->nodes) = state->nodes[node]->r.name;
    free_expansion(&e);
    return r;
}

/* What the commit refuses as well, told before anybody is asked about the jobs there. */
static int check_entry(const struct state *state, const struct entry_reserve_set *entry,
                       int64_t now_us, struct hai_err *err) {
    if (entry->until_us != S_ABSENT && entry->until_us <= MAX(entry->from_us, now_us))
        return hai_fail_at(err, -EINVAL, "out_of_range", "ends_at", NULL,
                           "reservation %s would be over before it begins", entry->name);
    for (size_t i = 0; i < entry->users.n; i++)
        if (!state_user_find(state, entry->users.items[i]))
            return hai_fail_at(err, -EINVAL, "unknown_user", "users", NULL, "there is no user %s",
                               entry->users.items[i]);
    return 0;
}

static int fill_entry(const struct schedd *s, const struct reservation_set *set,
                      struct entry_reserve_set *ret, struct hai_err *err) {
    int64_t now_us = turn_now_us(s->turn);

    if (!jobfile_name_valid(set->name))
        return hai_fail_at(err, -EINVAL, "invalid", "name", NULL,
                           "name is '%.80s'; expected a letter, then [a-z0-9._-]", set->name);
    if (set->ends_at != S_ABSENT && set->length_us != S_ABSENT)
        return hai_fail_at(err, -EINVAL, "invalid", "length_s", NULL,
                           "ends_at and length_s are both given; expected one of them");
    if (set->starts_at != S_ABSENT && set->starts_at < now_us - LATE_MAX_US) {
        char at[TIMEFMT_ISO_BYTES];
        timefmt_iso(set->starts_at, at);
        return hai_fail_at(err, -EINVAL, "invalid", "starts_at", NULL,
                           "starts_at is %s; expected a time that is not past", at);
    }
    ret->name = set->name;
    ret->from_us = set->starts_at;
    ret->until_us = set->ends_at;
    if (set->length_us != S_ABSENT)
        ret->until_us = MAX(set->starts_at, now_us) + set->length_us;
    ret->reason = set->reason;
    ret->users.items = set->users.items;
    ret->users.n = set->users.n;
    int r = check_entry(schedd_state(s), ret, now_us, err);
    return r < 0 ? r : add_words(schedd_state(s), set, ret, err);
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

/* ---- what would become of it ---- */

static int by_number(const void *pa, const void *pb) {
    int64_t a = *(const int64_t *)pa, b = *(const int64_t *)pb;

    return a < b ? -1 : a > b;
}

/* The jobs that would be told to leave if it began now: in the order of their ids. */
static void fill_leaving(const struct state *state, const struct entry_reserve_set *set,
                         struct reservation_view *ret) {
    const struct state_reserve *old = state_reserve_named(state, set->name);
    SCHEMA_LIST(int64_t) ids = {0};

    for (size_t i = 0; i < set->nodes.n; i++) {
        const struct node *node = state->nodes[state_node_find(state, set->nodes.items[i])];
        for (size_t k = 0; k < node->n_jobs; k++) {
            const struct job *job = state_job_find(state, node->jobs[k]);
            if (job->r.phase == DESIRED_PHASE_RUN && !(old && job->r.reserve == old->number))
                *LIST_ADD(&ids) = job->r.id;
        }
    }
    if (ids.n)
        qsort(ids.items, ids.n, sizeof *ids.items, by_number);
    ret->n_leaving = 0;
    for (size_t i = 0; i < ids.n; i++) {
        if (i && ids.items[i] == ids.items[i - 1])
            continue;
        if (ret->n_leaving++ < RESERVE_LEAVING_MAX)
            *LIST_ADD(&ret->leaving) = hai_strdup(array_label_of(state, ids.items[i]).text);
    }
    free(ids.items);
}

/* ?dry_run=1: everything is checked but what only the commit can tell. */
static void reply_dry_run(struct api_call *call, const struct entry_reserve_set *set) {
    int64_t now_us = turn_now_us(call->s->turn);
    struct reservation_view view;

    schema_init(reservation_view_schema(), &view);
    view.name = hai_strdup(set->name);
    view.starts_at = MAX(set->from_us, now_us); // absent is less than any
    view.ends_at = set->until_us;
    view.active = view.starts_at == now_us;
    for (size_t i = 0; i < set->nodes.n; i++)
        *LIST_ADD(&view.nodes) = hai_strdup(set->nodes.items[i]);
    for (size_t i = 0; i < set->users.n; i++)
        *LIST_ADD(&view.users) = hai_strdup(set->users.items[i]);
    view.reason = hai_strdup(set->reason);
    fill_leaving(schedd_state(call->s), set, &view);
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
    else if (api_call_query_flag(call, "dry_run"))
        reply_dry_run(call, &entry);
    else
        api_call_append(call, ENTRY_RESERVE_SET, &entry, on_set);
    free(entry.nodes.items); // the names are the state's
}

void api_reserve_remove(struct api_call *call) {
    struct entry_reserve_remove entry = {.name = call->params[0]};

    api_call_append(call, ENTRY_RESERVE_REMOVE, &entry, api_call_on_changed);
}
