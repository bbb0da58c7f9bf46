#include "scheduler/core/apply.h"
#include "lib/pure/plant.h"
#include "lib/pure/tlv.h"
#include "scheduler/core/apply_cluster.h"
#include "scheduler/core/apply_job.h"
#include "scheduler/core/apply_node.h"
#include "scheduler/core/apply_quota.h"
#include "scheduler/core/claim.h"
#include "scheduler/core/dependents.h"
#include "scheduler/core/elements.h"
#include "scheduler/core/fair.h"
#include "scheduler/core/ledger.h"
#include "scheduler/core/queue.h"
#include "scheduler/core/reserve.h"

/* Any payload, decoded. */
union payload {
#define MEMBER_(suffix, tag, version) struct tag tag;
    ENTRY_KINDS(MEMBER_)
#undef MEMBER_
};

static int dispatch(struct mutate *c, union payload *in) {
    switch (c->entry->kind) {
    case ENTRY_CLUSTER_SET:
        return apply_cluster_set(c, &in->entry_cluster_set);
    case ENTRY_SCHED_START:
        return apply_cluster_start(c, &in->entry_sched_start);
    case ENTRY_TICK:
        return 0; // all that is due happened before
    case ENTRY_USER_SET:
        return apply_cluster_user(c, &in->entry_user_set);
    case ENTRY_TOKEN_CREATE:
        return apply_cluster_token(c, &in->entry_token_create);
    case ENTRY_TOKEN_REVOKE:
        return apply_cluster_revoke(c, &in->entry_token_revoke);
    case ENTRY_NODE_UP:
        return apply_node_up(c, &in->entry_node_up);
    case ENTRY_NODE_LOST:
        return apply_node_lost(c, &in->entry_node_lost);
    case ENTRY_NODE_FENCED:
        return apply_node_fenced(c, &in->entry_node_fenced);
    case ENTRY_NODE_DRAIN:
        return apply_node_drain(c, &in->entry_node_drain);
    case ENTRY_NODE_UNDRAIN:
        return apply_node_undrain(c, &in->entry_node_undrain);
    case ENTRY_JOB_SUBMIT:
        return apply_job_submit(c, &in->entry_job_submit);
    case ENTRY_JOB_STOP:
        return apply_job_stop(c, &in->entry_job_stop);
    case ENTRY_JOB_SUSPEND:
        return apply_job_suspend(c, &in->entry_job_suspend);
    case ENTRY_JOB_RESUME:
        return apply_job_resume(c, &in->entry_job_resume);
    case ENTRY_JOB_SET:
        return apply_job_set(c, &in->entry_job_set);
    case ENTRY_PLACE:
        return apply_job_place(c, &in->entry_place);
    case ENTRY_RANKS_STARTED:
        return apply_node_started(c, &in->entry_ranks_started);
    case ENTRY_RANK_EXITED:
        return apply_node_exited(c, &in->entry_rank_exited);
    case ENTRY_RANKS_GONE:
        return apply_node_gone(c, &in->entry_ranks_gone);
    case ENTRY_RANK_HUNG:
        return apply_node_hung(c, &in->entry_rank_hung);
    case ENTRY_CKPT_COMMITTED:
        return apply_node_ckpt(c, &in->entry_ckpt_committed);
    case ENTRY_MAKE_ROOM:
        return claim_make_room(c, &in->entry_make_room);
    case ENTRY_RESERVE_SET:
        return reserve_set(c, &in->entry_reserve_set);
    case ENTRY_RESERVE_REMOVE:
        return reserve_remove(c, &in->entry_reserve_remove);
    case ENTRY_QUOTA_SET:
        return apply_quota_set(c, &in->entry_quota_set);
    default:
        return hai_fail(&c->reply->err, -EBADMSG, "unknown entry kind %d", c->entry->kind);
    }
}

/* What follows from what happened: an array that ends may be waited for by another one. */
static void settle(struct mutate *c) {
    do
        dependents_settle(c);
    while (elements_settle(c));
    apply_quota_settle(c);
}

/* What happens by itself up to the entry's time, the earliest first. A timer that is due is set
 * anew or taken away by what it does, so this ends. */
static void run_due(const struct mutate *change) {
    struct entry entry;
    struct mutate c = mutate_by_system(change, &entry);

    for (;;) {
        struct timer *timer = timers_first(&c.state->timers);
        if (!timer || timer->at_us > entry.time_us)
            return;
        int64_t key = timer->key;
        timers_set(&c.state->timers, timer, INT64_MAX);
        if (timer == &c.state->look)
            continue; // the time is all that the next decision needs
        if (timer == &c.state->turn) {
            fair_turn(c.state);
            queue_sort(c.state);
            continue;
        }
        if (timer == &c.state->reserve_due)
            reserve_due(&c);
        else if (key < 0)
            apply_node_due(&c, (int)(-key - 1));
        else
            apply_job_due(&c, state_job_find(c.state, key));
        settle(&c);
    }
}

static int apply_payload(struct mutate *c) {
    const struct entry *entry = c->entry;
    const struct schema *schema = entry_schema(entry->kind);
    union payload in;

    if (!schema || entry->version < 1 || entry->version > entry_version(entry->kind))
        return hai_fail(&c->reply->err, -EBADMSG, "unknown entry kind %d, version %d", entry->kind,
                        entry->version);
    int r = tlv_decode(schema, entry->payload, entry->payload_bytes, &in, &c->reply->err);
    if (r < 0)
        return r;
    r = dispatch(c, &in);
    schema_free(schema, &in);
    return r;
}

int apply_entry(struct state *state, const struct entry *entry, struct effects *fx,
                struct apply_reply *ret) {
    struct mutate c = {.state = state, .entry = entry, .fx = fx, .reply = ret};
    int64_t last_us = state->r.time_us;

    ret->id = 0;
    ret->repeated = ret->changed = false;
    ret->err.r = 0;
    ret->err.code[0] = ret->err.where[0] = ret->err.text[0] = ret->err.hint[0] = 0;
    assert(entry->index == state->r.index + 1);
    assert(entry->time_us > state->r.time_us);
    state->r.index = entry->index;
    state->r.term = entry->term;
    state->r.time_us = entry->time_us;
    ledger_pass(state, last_us, fx);
    keys_expire(&state->keys, entry->time_us);
    c.scope = entry_principal(entry->principal, &c.name);
    if (entry->kind == ENTRY_SCHED_START && entry->version >= 2 && c.scope == SCOPE_SYSTEM &&
        !HAI_PLANT(PLANT_CLOCK_STEP))
        apply_node_hold_anew(&c); // before the time that it brings makes anything due
    run_due(&c);
    int r = apply_payload(&c);
    settle(&c);
    mutate_look(state);
    return r;
}
