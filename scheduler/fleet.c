#include "scheduler/fleet.h"

#include "lib/log.h"
#include "lib/timefmt.h"
#include "scheduler/assignment.h"
#include "scheduler/core/witness.h"
#include <stdio.h>

enum {
    PROTO = 1,
    CHECK_US = 250 * 1000,
    DEAF_US = 1000 * 1000, // a look at silence that comes so late tells nothing
    STREAMS_WAITING_MAX = 256,
};

struct agent {
    struct fleet *fleet;
    int node;
    struct witness witness; // whose poll was taken last
    char *health;
    int64_t heard_us; // log time
    int64_t grant_us; // of the newest lease; S_ABSENT: none since the start
    struct api_call *poll;
    struct loop_source *timer;    // end of the poll's wait
    bool fresh;                   // the poll is this instance's first
    int64_t silent_us;            // log time from which its silence counts
    bool lost_said;               // a node_lost entry is under way
    struct agent_desired streams; // only the list `streams` is used
};

struct fleet {
    struct schedd *s;
    struct loop_source *check;
    int64_t checked_us;   // log time
    struct agent **items; // by node number, NULL: never heard of
    int n_items;
    int64_t n_polling;
};

static void answer(struct agent *agent);
static void on_wait_over(void *data);

static struct agent *agent_of(struct fleet *fleet, int node) {
    if (node >= fleet->n_items) {
        int n = schedd_state(fleet->s)->n_nodes;
        fleet->items = hai_realloc_array(fleet->items, (size_t)n, sizeof *fleet->items);
        for (int i = fleet->n_items; i < n; i++)
            fleet->items[i] = NULL;
        fleet->n_items = n;
    }
    if (!fleet->items[node]) {
        struct agent *agent = hai_new(struct agent);
        agent->fleet = fleet;
        agent->node = node;
        agent->heard_us = agent->silent_us = turn_now_us(fleet->s->turn);
        agent->grant_us = S_ABSENT;
        agent->witness = witness_new();
        agent->timer = loop_timer_new(fleet->s->loop, LOOP_MONOTONIC, on_wait_over, agent);
        schema_init(agent_desired_schema(), &agent->streams);
        fleet->items[node] = agent;
    }
    return fleet->items[node];
}

static struct node *node_of(const struct agent *agent) {
    return schedd_state(agent->fleet->s)->nodes[agent->node];
}

static void add_desired(struct agent *agent, struct agent_desired *reply) {
    _cleanup_free_ struct desired_part *parts = NULL;
    size_t n = desired_node(schedd_state(agent->fleet->s), agent->node, &parts);

    reply->changed = true;
    for (size_t i = 0; i < n; i++)
        assignment_fill(agent->fleet->s, &parts[i], LIST_ADD(&reply->desired));
}

/* Answer the poll that is held. The lease is granted from the moment it came in. */
static void answer(struct agent *agent) {
    struct schedd *s = agent->fleet->s;
    struct api_call *call = TAKE_PTR(agent->poll);
    const struct agent_poll *poll = call->body;
    struct agent_desired reply;

    agent->fleet->n_polling--;
    loop_timer_stop(agent->timer);
    call->own_free = NULL;
    schema_init(agent_desired_schema(), &reply);
    reply.revision = node_of(agent)->r.revision;
    reply.lease_us = schedd_state(s)->r.lease_us;
    reply.cluster = hai_strdup(store_id(s->store));
    reply.now = turn_now_us(s->turn);
    if (agent->fresh || poll->revision != reply.revision)
        add_desired(agent, &reply);
    __typeof__(reply.streams) streams = reply.streams;
    reply.streams = agent->streams.streams;
    agent->streams.streams = streams;
    agent->grant_us = agent->heard_us;
    agent->fresh = false;
    api_call_reply(call, 200, agent_desired_schema(), &reply);
    schema_free(agent_desired_schema(), &reply);
}

static void on_wait_over(void *data) {
    struct agent *agent = data;

    if (agent->poll)
        answer(agent);
}

/* The held poll's client has gone, or the poll was answered elsewhere. */
static void forget_poll(void *data) {
    struct agent *agent = data;

    agent->fleet->n_polling--;
    agent->poll = NULL;
    loop_timer_stop(agent->timer);
}

static bool worth_answering(const struct agent *agent) {
    const struct agent_poll *poll = agent->poll->body;

    return agent->fresh || agent->streams.streams.n || poll->revision != node_of(agent)->r.revision;
}

static bool holds_part(const void *holdings, int64_t job, int64_t epoch) {
    const struct agent_poll *poll = holdings;

    for (size_t i = 0; i < poll->holds.n; i++)
        if (poll->holds.items[i].job == job && poll->holds.items[i].epoch == epoch)
            return true;
    return false;
}

static struct witness_account account_of(const struct agent_poll *poll) {
    return (struct witness_account){
        .instance = poll->hello.instance,
        .boot_id = poll->hello.boot_id,
        .started_us = poll->hello.started,
        .revision = poll->revision,
        .synced = poll->synced,
        .holds = holds_part,
        .holdings = poll,
    };
}

static void conclude_gone(struct agent *agent, const struct witness_account *account, bool first) {
    struct schedd *s = agent->fleet->s;
    _cleanup_free_ struct entry_ranks_gone *gone = NULL;
    size_t n = witness_gone(schedd_state(s), agent->node, account, first, &gone);

    for (size_t i = 0; i < n; i++)
        turn_append(s->turn, ENTRY_RANKS_GONE, &gone[i], agent->poll->caller.principal, NULL, NULL);
}

static bool refuse_replaced(const struct agent *agent, struct api_call *call) {
    struct witness_account account = account_of(call->body);

    if (!witness_is_replaced(&agent->witness, &account))
        return false;
    api_call_fail(call, 409, "replaced", "a newer agent of node %s has polled since",
                  call->caller.node);
    return true;
}

/* The poll is accepted: hold it, and answer at once if there is news. */
static void take_poll(struct agent *agent, struct api_call *call) {
    const struct agent_poll *poll = call->body;
    struct witness_account account = account_of(poll);
    bool fresh = witness_take(&agent->witness, &account);

    if (agent->poll)
        answer(agent); // a newer poll of the same node: the older one is nobody's any more
    api_call_hold(call);
    call->own = agent;
    call->own_free = forget_poll;
    agent->poll = call;
    agent->fleet->n_polling++;
    agent->fresh = agent->fresh || fresh;
    conclude_gone(agent, &account, fresh);
    if (worth_answering(agent))
        answer(agent);
    else
        loop_timer_after(agent->timer, poll->wait_us);
}

static char *address_of(const struct agent_hello *hello) {
    if (!hello->address || !hello->data_port)
        return hai_strdup(hello->address);
    return hai_asprintf("%s:%lld", hello->address, (long long)hello->data_port);
}

static void on_up(void *data, int64_t index, int r, const struct apply_reply *reply) {
    struct api_call *call = data;

    api_call_appended(call);
    if (!call->request) {
        api_call_finish(call);
        return;
    }
    if (r < 0) {
        api_call_error(call, r, &reply->err);
        return;
    }
    int node = state_node_find(schedd_state(call->s), call->caller.node);
    struct agent *agent = agent_of(call->s->fleet, node);
    if (!refuse_replaced(agent, call)) // both may have waited for the same commit
        take_poll(agent, call);
}

/* An agent that is new, or back, or lives elsewhere now: the state must know before anything is
 * granted. So it must where the node is just being called lost: that entry names the newest grant.
 * Returns true if an entry was needed. */
static bool announce(struct agent *agent, struct api_call *call) {
    const struct agent_poll *poll = call->body;
    const struct state_node *node = &node_of(agent)->r;
    _cleanup_free_ char *address = address_of(&poll->hello);
    struct entry_node_up up;

    if (node->state == NODE_STATE_UP && !agent->lost_said &&
        hai_streq(node->boot_id, poll->hello.boot_id) && hai_streq(node->address, address) &&
        hai_streq(node->version, poll->hello.version))
        return false;
    schema_init(entry_node_up_schema(), &up);
    up.node = node->name;
    up.address = address;
    up.boot_id = poll->hello.boot_id;
    up.version = poll->hello.version;
    api_call_append(call, ENTRY_NODE_UP, &up, on_up);
    return true;
}

void fleet_heard(struct fleet *fleet, int node) {
    struct agent *agent = agent_of(fleet, node);

    agent->heard_us = agent->silent_us = turn_now_us(fleet->s->turn);
}

/* Out of the cluster file, and nothing runs there any more: no business of ours. */
static bool is_left(const struct node *node) {
    return node->r.removed && !node->n_jobs;
}

void fleet_poll(struct api_call *call) {
    const struct agent_poll *poll = call->body;
    const struct state *state = schedd_state(call->s);
    int node = state_node_find(state, call->caller.node);

    if (!hai_streq(poll->hello.node, call->caller.node)) {
        api_call_fail(call, 403, "denied", "the token is for node %s, not for %s",
                      call->caller.node, poll->hello.node);
        return;
    }
    if (poll->hello.proto != PROTO) {
        api_call_fail(call, 400, "proto", "the agent speaks protocol %lld; this scheduler %d",
                      (long long)poll->hello.proto, PROTO);
        return;
    }
    if (node < 0 || is_left(state->nodes[node])) {
        api_call_fail(call, 404, "not_found", "node %s is not in the cluster file",
                      call->caller.node);
        return;
    }
    struct agent *agent = agent_of(call->s->fleet, node);
    if (refuse_replaced(agent, call))
        return;
    fleet_heard(call->s->fleet, node);
    hai_strset(&agent->health, poll->hello.health);
    if (!announce(agent, call))
        take_poll(agent, call);
}

void fleet_on_applied(struct fleet *fleet, const struct effects *fx) {
    for (size_t i = 0; i < fx->n_nodes; i++) {
        int node = fx->nodes[i];
        struct agent *agent = node < fleet->n_items ? fleet->items[node] : NULL;
        if (agent && agent->poll && worth_answering(agent))
            answer(agent);
    }
}

int fleet_request_stream(struct fleet *fleet, int node, struct stream_request *request,
                         struct hai_err *err) {
    struct agent *agent = node < fleet->n_items ? fleet->items[node] : NULL;
    const struct node *n = schedd_state(fleet->s)->nodes[node];

    if (!agent || n->r.state != NODE_STATE_UP)
        return hai_fail_at(err, -ENOTCONN, "node_away", NULL, NULL, "node %s is %s", n->r.name,
                           n->r.state == NODE_STATE_LOST ? "lost" : "not connected");
    if (agent->streams.streams.n >= STREAMS_WAITING_MAX)
        return hai_fail_at(err, -EBUSY, "too_many", NULL, "try again",
                           "%d streams wait for node %s", STREAMS_WAITING_MAX, n->r.name);
    *LIST_ADD(&agent->streams.streams) = *request;
    memset(request, 0, sizeof *request);
    if (agent->poll)
        answer(agent);
    return 0;
}

static void on_lost(void *data, int64_t index, int r, const struct apply_reply *reply) {
    struct agent *agent = data;

    agent->lost_said = false; // if it could not be saved, the next look says it again
}

static void say_lost(struct agent *agent, int64_t silent_us) {
    struct schedd *s = agent->fleet->s;
    struct entry_node_lost lost;
    char evidence[64];

    if (agent->poll)
        answer(agent); // before the newest grant is written down
    snprintf(evidence, sizeof evidence, "silent for %.1f s", (double)silent_us / 1e6);
    schema_init(entry_node_lost_schema(), &lost);
    lost.node = node_of(agent)->r.name;
    lost.last_grant_us = agent->grant_us;
    lost.evidence = evidence;
    log_write(LOG_LEVEL_WARNING, LOG_FIELDS(.node = lost.node), "node %s is lost: %s", lost.node,
              evidence);
    turn_append(s->turn, ENTRY_NODE_LOST, &lost, "system:hai", on_lost, agent);
    agent->lost_said = true;
}

static void check_silence(void *data) {
    struct fleet *fleet = data;
    const struct state *state = schedd_state(fleet->s);
    int64_t now_us = turn_now_us(fleet->s->turn);
    int64_t late_us = now_us - fleet->checked_us - CHECK_US;
    /* What agents said while this process stood still (a slow disk, a paused machine) is not read
     * yet: they were not silent, we were deaf. */
    int64_t deaf_us = late_us > DEAF_US ? late_us : 0;

    fleet->checked_us = now_us;
    for (int i = 0; i < state->n_nodes; i++) {
        if (state->nodes[i]->r.state != NODE_STATE_UP || is_left(state->nodes[i]))
            continue;
        struct agent *agent = agent_of(fleet, i);
        agent->silent_us += deaf_us;
        int64_t silent_us = now_us - agent->silent_us;
        if (silent_us > fleet->s->cluster.node_silence_us && !agent->lost_said)
            say_lost(agent, silent_us);
    }
    loop_timer_after(fleet->check, CHECK_US);
}

void fleet_describe(const struct fleet *fleet, int node, struct node_view *ret) {
    const struct agent *agent = node < fleet->n_items ? fleet->items[node] : NULL;

    if (!agent || !agent->witness.instance[0])
        return;
    ret->health = hai_strdup(agent->health);
    ret->seen_at = agent->heard_us;
}

int64_t fleet_n_polling(const struct fleet *fleet) {
    return fleet->n_polling;
}

struct fleet *fleet_new(struct schedd *s) {
    struct fleet *fleet = hai_new(struct fleet);

    fleet->s = s;
    fleet->checked_us = turn_now_us(s->turn);
    fleet->check = loop_timer_new(s->loop, LOOP_BOOTTIME, check_silence, fleet);
    loop_timer_after(fleet->check, CHECK_US);
    return fleet;
}

void fleet_free(struct fleet *fleet) {
    if (!fleet)
        return;
    for (int i = 0; i < fleet->n_items; i++) {
        struct agent *agent = fleet->items[i];
        if (!agent)
            continue;
        loop_source_free(agent->timer);
        schema_free(agent_desired_schema(), &agent->streams);
        free(agent->health);
        free(agent);
    }
    loop_source_free(fleet->check);
    free(fleet->items);
    free(fleet);
}
