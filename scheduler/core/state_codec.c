#include "lib/pure/tlv.h"
#include "scheduler/core/array.h"
#include "scheduler/core/attempt.h"
#include "scheduler/core/eligible.h"
#include "scheduler/core/fair.h"
#include "scheduler/core/ledger.h"
#include "scheduler/core/predict.h"
#include "scheduler/core/quota.h"
#include "scheduler/core/reserve.h"
#include "scheduler/core/runners.h"

/* A snapshot is records, each `varint tag, varint length, bytes`, in this order. */
enum record {
    RECORD_HEAD = 1,
    RECORD_ZONE,
    RECORD_LEAF,
    RECORD_NODE,
    RECORD_GROUP,
    RECORD_USER,
    RECORD_TOKEN,
    RECORD_KEYS,
    RECORD_JOB,
    RECORD_PAST,
    RECORD_RESERVE,
    RECORD_SHARE,
    RECORD_QUOTA,
};

static void add_bytes(struct buf *out, enum record tag, const struct buf *inner) {
    buf_add_varint(out, tag);
    buf_add_varint(out, inner->n_bytes);
    buf_add(out, inner->data, inner->n_bytes);
}

static void add(struct buf *out, enum record tag, const struct schema *schema, const void *value,
                struct buf *scratch) {
    buf_clear(scratch);
    tlv_encode(schema, value, scratch);
    add_bytes(out, tag, scratch);
}

void state_encode(const struct state *state, struct buf *ret) {
    _cleanup_(buf_free) struct buf one = {0};

    add(ret, RECORD_HEAD, state_head_schema(), &state->r, &one);
    for (int i = 0; i < state->n_zones; i++)
        add(ret, RECORD_ZONE, state_zone_schema(), &state->zones[i], &one);
    for (int i = 0; i < state->n_leaves; i++)
        add(ret, RECORD_LEAF, state_leaf_schema(), &state->leaves[i], &one);
    for (int i = 0; i < state->n_nodes; i++)
        add(ret, RECORD_NODE, state_node_schema(), &state->nodes[i]->r, &one);
    for (int i = 0; i < state->n_groups; i++)
        add(ret, RECORD_GROUP, state_group_schema(), &state->groups[i].r, &one);
    for (size_t i = 0; i < state->n_users; i++)
        add(ret, RECORD_USER, state_user_schema(), &state->users[i], &one);
    for (size_t i = 0; i < state->n_tokens; i++)
        add(ret, RECORD_TOKEN, state_token_schema(), &state->tokens[i], &one);
    for (size_t i = 0; i < state->n_reserves; i++)
        add(ret, RECORD_RESERVE, state_reserve_schema(), &state->reserves[i], &one);
    buf_clear(&one);
    keys_encode(&state->keys, &one);
    add_bytes(ret, RECORD_KEYS, &one);
    for (const struct job *job = state->jobs_first; job; job = job->next)
        add(ret, RECORD_JOB, state_job_schema(), &job->r, &one);
    for (size_t i = 0; i < state->n_pasts; i++)
        add(ret, RECORD_PAST, state_past_schema(), &state->pasts[i], &one);
    for (size_t i = 0; i < state->n_shares; i++)
        add(ret, RECORD_SHARE, state_share_schema(), &state->shares[i], &one);
    for (size_t i = 0; i < state->n_quotas; i++)
        add(ret, RECORD_QUOTA, state_quota_schema(), &state->quotas[i], &one);
}

#define APPEND(array, n)                                                                           \
    ({                                                                                             \
        (array) = hai_realloc_array((array), (size_t)(n) + 1, sizeof *(array));                    \
        memset(&(array)[(n)], 0, sizeof *(array));                                                 \
        &(array)[(n)++];                                                                           \
    })

static int take_node(struct state *state, const struct cursor *c, struct hai_err *err) {
    struct node *node = hai_new(struct node);

    int r = tlv_decode(state_node_schema(), c->data, c->n_bytes, &node->r, err);
    if (r < 0) {
        free(node);
        return r;
    }
    state->nodes =
        hai_realloc_array(state->nodes, (size_t)state->n_nodes + 1, sizeof *state->nodes);
    state->nodes[state->n_nodes++] = node;
    return 0;
}

static int take_job(struct state *state, const struct cursor *c, struct hai_err *err) {
    struct job *job = hai_new(struct job);

    int r = tlv_decode(state_job_schema(), c->data, c->n_bytes, &job->r, err);
    if (r < 0) {
        free(job);
        return r;
    }
    job->prev = state->jobs_last;
    if (job->prev)
        job->prev->next = job;
    else
        state->jobs_first = job;
    state->jobs_last = job;
    state->n_jobs++;
    if (job->prev && job->prev->r.id >= job->r.id)
        return hai_fail(err, -EBADMSG, "jobs out of order");
    return 0;
}

static int take_record(struct state *state, uint64_t tag, const struct cursor *c,
                       struct hai_err *err) {
    switch (tag) {
    case RECORD_HEAD:
        schema_free(state_head_schema(), &state->r);
        return tlv_decode(state_head_schema(), c->data, c->n_bytes, &state->r, err);
    case RECORD_ZONE:
        return tlv_decode(state_zone_schema(), c->data, c->n_bytes,
                          APPEND(state->zones, state->n_zones), err);
    case RECORD_LEAF:
        return tlv_decode(state_leaf_schema(), c->data, c->n_bytes,
                          APPEND(state->leaves, state->n_leaves), err);
    case RECORD_NODE:
        return take_node(state, c, err);
    case RECORD_GROUP:
        return tlv_decode(state_group_schema(), c->data, c->n_bytes,
                          &APPEND(state->groups, state->n_groups)->r, err);
    case RECORD_USER:
        return tlv_decode(state_user_schema(), c->data, c->n_bytes,
                          APPEND(state->users, state->n_users), err);
    case RECORD_TOKEN:
        return tlv_decode(state_token_schema(), c->data, c->n_bytes,
                          APPEND(state->tokens, state->n_tokens), err);
    case RECORD_KEYS:
        return keys_decode(&state->keys, c->data, c->n_bytes);
    case RECORD_JOB:
        return take_job(state, c, err);
    case RECORD_PAST:
        return tlv_decode(state_past_schema(), c->data, c->n_bytes,
                          APPEND(state->pasts, state->n_pasts), err);
    case RECORD_RESERVE:
        return tlv_decode(state_reserve_schema(), c->data, c->n_bytes,
                          APPEND(state->reserves, state->n_reserves), err);
    case RECORD_SHARE:
        return tlv_decode(state_share_schema(), c->data, c->n_bytes,
                          APPEND(state->shares, state->n_shares), err);
    case RECORD_QUOTA:
        return tlv_decode(state_quota_schema(), c->data, c->n_bytes,
                          APPEND(state->quotas, state->n_quotas), err);
    default:
        return hai_fail(err, -EBADMSG, "unknown record %llu", (unsigned long long)tag);
    }
}

/* Numbers in a damaged snapshot must not lead outside the arrays. */
static bool job_sound(const struct state *state, const struct job *job) {
    if (job->r.ranks.n != job->r.allocs.n * (size_t)job->r.spec.ranks_per_node ||
        state_priority_level(job->r.priority) < 0)
        return false;
    for (size_t i = 0; i < job->r.allocs.n; i++)
        if (job->r.allocs.items[i].node >= state->n_nodes)
            return false;
    for (size_t i = 0; i < job->r.avoid.n; i++)
        if (job->r.avoid.items[i] >= state->n_nodes)
            return false;
    for (size_t i = 0; i < job->r.claim.n; i++)
        if (job->r.claim.items[i].node >= state->n_nodes)
            return false;
    if (job->r.reserve != S_ABSENT && !state_job_ended(job) &&
        !state_reserve_find(state, job->r.reserve))
        return false;
    if (job->r.allocs.n && (job->r.master_port < MASTER_PORT_FIRST ||
                            job->r.master_port > MASTER_PORT_LAST || job->r.placed_us == S_ABSENT))
        return false;
    if (array_check(&job->r.spec, NULL) < 0 || !ledger_sound(state, job))
        return false;
    return job->r.fault_node == S_ABSENT || job->r.fault_node < state->n_nodes;
}

static bool cluster_sound(const struct state *state) {
    if (state->n_zones > ZONES_MAX || state->n_leaves > LEAVES_MAX || state->n_nodes > NODES_MAX ||
        state->n_groups > GROUPS_MAX)
        return false;
    if (state->r.ledger.n && state->r.ledger.n != LEDGER_COUNT + 1)
        return false;
    for (int i = 0; i < state->n_leaves; i++)
        if (state->leaves[i].zone >= state->n_zones)
            return false;
    for (int i = 0; i < state->n_nodes; i++)
        if (state->nodes[i]->r.leaf >= MAX(state->n_leaves, 1))
            return false;
    for (int i = 0; i < state->n_groups; i++)
        for (size_t k = 0; k < state->groups[i].r.nodes.n; k++)
            if (state->groups[i].r.nodes.items[k] >= state->n_nodes)
                return false;
    for (size_t i = 0; i < state->n_tokens; i++)
        if (state->tokens[i].hash.n_bytes != DIGEST_BYTES)
            return false;
    return reserve_sound(state) && quota_sound(state);
}

static int derive_cluster(struct state *state) {
    char name[2 * DIGEST_BYTES + 1];

    for (int i = 0; i < state->n_nodes; i++) {
        struct node *node = state->nodes[i];
        node->zone = state->n_leaves ? (int)state->leaves[node->r.leaf].zone : 0;
        node->cpus_free = node->r.cpus;
        node->memory_free = node->r.memory_bytes;
        node->timer.key = -(int64_t)i - 1;
        if (map_put_text(&state->node_by_name, node->r.name, (void *)(intptr_t)(i + 1)))
            return -EBADMSG;
        if (node->r.hold_until_us != S_ABSENT)
            timers_set(&state->timers, &node->timer, node->r.hold_until_us);
    }
    for (int g = 0; g < state->n_groups; g++)
        for (size_t k = 0; k < state->groups[g].r.nodes.n; k++)
            state_group_join(state, g, (int)state->groups[g].r.nodes.items[k]);
    for (size_t i = 0; i < state->n_users; i++)
        map_put_text(&state->user_by_name, state->users[i].name, (void *)(intptr_t)(i + 1));
    for (size_t i = 0; i < state->n_tokens; i++) {
        state_token_name(state->tokens[i].hash.data, name);
        map_put_text(&state->token_by_hash, name, (void *)(intptr_t)state->tokens[i].id);
    }
    reserve_derive(state);
    ledger_groups(state);
    quota_levels(state);
    int r = fair_derive(state);
    return r < 0 ? r : predict_derive(state);
}

static int derive_job(struct state *state, struct job *job) {
    job->timer.key = job->r.id;
    map_put(&state->job_by_id, job->r.id, job);
    state_job_resolve(state, job);
    for (size_t i = 0; i < job->r.ranks.n; i++)
        job->n_assigned += job->r.ranks.items[i].state == RANK_STATE_ASSIGNED;
    for (size_t i = 0; i < job->r.allocs.n; i++) {
        const struct state_alloc *alloc = &job->r.allocs.items[i];
        struct node *node = state->nodes[alloc->node];
        if (!alloc->released) {
            if (node->gpus_held & alloc->gpus)
                return -EBADMSG;
            attempt_hold(state, job, i);
            ledger_derive(state, job, i);
        }
        if (!alloc->gone) {
            mutate_node_jobs(node, job->r.id, true);
            job->n_left++;
        }
    }
    for (size_t i = 0; i < job->r.claim.n; i++)
        if (state->nodes[job->r.claim.items[i].node]->gpus_claimed & job->r.claim.items[i].gpus)
            return -EBADMSG;
    mutate_claim_hold(state, job);
    if (state_job_live(job)) {
        attempt_live(state, job, true);
        state->ports_used[job->r.master_port - MASTER_PORT_FIRST]++;
        job->spans = attempt_spans(state, job);
        state->n_cross_zone += job->spans;
    }
    mutate_enter(state, job);
    array_enter(state, job);
    eligible_enter(state, job);
    quota_read(state, job, mutate_counts(state, job));
    mutate_follow_state(state, job);
    return 0;
}

int state_decode(const void *data, size_t n_bytes, struct state **ret, struct hai_err *err) {
    _cleanup_(state_freep) struct state *state = state_new();
    struct cursor c = {data, n_bytes, 0};

    while (cursor_left(&c)) {
        uint64_t tag, n;
        struct cursor inner = {0};
        if (cursor_varint(&c, &tag) < 0 || cursor_varint(&c, &n) < 0 || n > cursor_left(&c) ||
            cursor_bytes(&c, n, &inner.data) < 0)
            return hai_fail(err, -EBADMSG, "the snapshot ends within a record");
        inner.n_bytes = n;
        int r = take_record(state, tag, &inner, err);
        if (r < 0)
            return r;
    }
    if (!cluster_sound(state) || derive_cluster(state) < 0)
        return hai_fail(err, -EBADMSG, "the snapshot's cluster does not hold together");
    runners_fill(state);
    for (struct job *job = state->jobs_first; job; job = job->next)
        if (!job_sound(state, job) || derive_job(state, job) < 0)
            return hai_fail(err, -EBADMSG, "the snapshot's job %lld does not hold together",
                            (long long)job->r.id);
    quota_settled(state);
    runners_sort(state);
    mutate_look(state);
    *ret = TAKE_PTR(state);
    return 0;
}
