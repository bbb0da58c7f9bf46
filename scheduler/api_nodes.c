#include "scheduler/api_nodes.h"

#include "lib/digest.h"
#include "scheduler/api_call.h"
#include "scheduler/core/spare.h"
#include "scheduler/masking.h"
#include "scheduler/views.h"

/* The number of the node in the path; negative: answered. */
static int find_node(struct api_call *call) {
    const struct state *state = schedd_state(call->s);
    int node = state_node_find(state, call->params[0]);

    if (node >= 0 && !state->nodes[node]->r.removed)
        return node;
    api_call_fail(call, 404, "not_found", "there is no node %.80s", call->params[0]);
    return -ENOENT;
}

/* Lists have no index of their own: ?since= is compared with the log's, so a waiter is woken by
 * every change of a node and may find nothing new. */
static bool wait_for_nodes(struct api_call *call) {
    int64_t since;

    if (api_call_query_int(call, "since", 0, INT64_MAX - 1, -1, &since) < 0)
        return true;
    return since >= schedd_state(call->s)->r.index && api_call_wait(call, WATCH_NODES, 0);
}

/* External users see no nodes; what their jobs are on they see under other names (masking.h). */
static bool may_see(struct api_call *call) {
    if (!masking_needed(schedd_state(call->s), call->caller.user, call->caller.scope))
        return true;
    api_call_fail(call, 403, "denied", "external users see no nodes");
    return false;
}

void api_nodes_list(struct api_call *call) {
    const struct state *state = schedd_state(call->s);
    struct api_list list = api_call_list(call);

    if (!may_see(call) || wait_for_nodes(call))
        return;
    _cleanup_free_ uint64_t *spares = spare_map(state, false);
    for (int i = 0; i < state->n_nodes; i++) {
        struct node_view view;
        if (state->nodes[i]->r.removed)
            continue;
        views_node(call->s, i, spares, &view);
        api_call_list_add(&list, node_view_schema(), &view);
        schema_free(node_view_schema(), &view);
    }
    api_call_reply_list(call, &list);
}

void api_nodes_one(struct api_call *call) {
    struct node_view view;

    if (!may_see(call))
        return;
    int node = find_node(call);
    if (node < 0 || wait_for_nodes(call))
        return;
    _cleanup_free_ uint64_t *spares = spare_map(schedd_state(call->s), false);
    views_node(call->s, node, spares, &view);
    api_call_reply(call, 200, node_view_schema(), &view);
    schema_free(node_view_schema(), &view);
}

void api_nodes_drain(struct api_call *call) {
    const struct node_change *change = call->body;
    struct entry_node_drain entry;
    int node = find_node(call);

    if (node < 0)
        return;
    schema_init(entry_node_drain_schema(), &entry);
    entry.node = call->params[0];
    entry.reason = change->reason;
    api_call_append(call, ENTRY_NODE_DRAIN, &entry, api_call_on_changed);
}

void api_nodes_undrain(struct api_call *call) {
    struct entry_node_undrain entry;
    int node = find_node(call);

    if (node < 0)
        return;
    schema_init(entry_node_undrain_schema(), &entry);
    entry.node = call->params[0];
    api_call_append(call, ENTRY_NODE_UNDRAIN, &entry, api_call_on_changed);
}

void api_nodes_fenced(struct api_call *call) {
    const struct node_fenced *fenced = call->body;
    struct entry_node_fenced entry;

    /* The core knows the node, also one that has left the cluster file with ranks on it. */
    schema_init(entry_node_fenced_schema(), &entry);
    entry.node = call->params[0];
    entry.evidence = fenced->evidence;
    entry.boot_id = fenced->boot_id;
    api_call_append(call, ENTRY_NODE_FENCED, &entry, api_call_on_changed);
}

void api_nodes_groups(struct api_call *call) {
    struct api_list list = api_call_list(call);

    for (int i = 0; i < schedd_state(call->s)->n_groups; i++) {
        struct group_view view;
        views_group(call->s, i, &view);
        api_call_list_add(&list, group_view_schema(), &view);
        schema_free(group_view_schema(), &view);
    }
    api_call_reply_list(call, &list);
}

void api_nodes_zones(struct api_call *call) {
    struct api_list list = api_call_list(call);

    for (int i = 0; i < schedd_state(call->s)->n_zones; i++) {
        struct zone_view view;
        views_zone(call->s, i, &view);
        api_call_list_add(&list, zone_view_schema(), &view);
        schema_free(zone_view_schema(), &view);
    }
    api_call_reply_list(call, &list);
}

void api_nodes_healthz(struct api_call *call) {
    struct healthz_view view;

    schema_init(healthz_view_schema(), &view);
    view.status = hai_strdup("ok");
    view.version = hai_strdup(HAI_VERSION);
    view.index = entry_log_committed(turn_log(call->s->turn));
    api_call_reply(call, 200, healthz_view_schema(), &view);
    schema_free(healthz_view_schema(), &view);
}

void api_nodes_state(struct api_call *call) {
    struct state_view view;
    uint8_t digest[DIGEST_BYTES];
    char hex[2 * DIGEST_BYTES + 1];

    turn_digest(call->s->turn, digest);
    digest_hex(digest, sizeof digest, hex);
    schema_init(state_view_schema(), &view);
    view.index = schedd_state(call->s)->r.index;
    view.digest = hai_strdup(hex);
    api_call_reply(call, 200, state_view_schema(), &view);
    schema_free(state_view_schema(), &view);
}
