#include "sim/world.h"
#include "lib/pure/tlv.h"

#include <stdio.h>

void world_init(struct world *w) {
    *w = (struct world){
        .state = state_new(),
        .fx = effects_new(),
        .decide = decide_new(),
        .now_us = INT64_C(1000000000) * 1000000,
    };
}

void world_log_free(struct world_entry *log, size_t n) {
    for (size_t i = 0; i < n; i++) {
        free(log[i].principal);
        buf_free(&log[i].payload);
    }
    free(log);
}

void world_free(struct world *w) {
    world_log_free(w->log, w->n_log);
    buf_free(&w->scratch);
    buf_free(&w->snapshot);
    decide_list_free(&w->proposals);
    decide_free(w->decide);
    naive_free(w->naive);
    effects_free(w->fx);
    state_free(w->state);
    *w = (struct world){0};
}

void world_clear(struct world *w) {
    effects_clear(w->fx);
}

static int apply_at(struct state *state, const struct world_entry *from, size_t index,
                    struct effects *fx, struct apply_reply *reply) {
    struct entry entry = {
        .index = (int64_t)index,
        .term = 1,
        .time_us = from->time_us,
        .principal = from->principal,
        .kind = from->kind,
        .version = from->version,
        .payload = from->payload.data,
        .payload_bytes = from->payload.n_bytes,
    };
    return apply_entry(state, &entry, fx, reply);
}

void world_apply(struct state *state, const struct world_entry *entry, size_t index,
                 struct effects *fx) {
    struct apply_reply reply;

    apply_at(state, entry, index, fx, &reply);
}

static const struct world_entry *log_entry(struct world *w, const struct world_entry *entry) {
    if (w->n_log == w->n_log_max) {
        w->n_log_max = MAX(2 * w->n_log_max, (size_t)64);
        w->log = hai_realloc_array(w->log, w->n_log_max, sizeof *w->log);
    }
    w->log[w->n_log] = *entry;
    w->log[w->n_log].principal = hai_strdup(entry->principal);
    return &w->log[w->n_log++];
}

/* Append and apply; the log, if there is one, takes the payload's bytes. */
static int append_bytes(struct world *w, const char *principal, int kind, struct buf *payload) {
    w->now_us = MAX(w->now_us, w->state->r.time_us + 1);
    struct world_entry entry = {w->now_us, (char *)principal, kind, entry_version(kind), *payload};
    if (!w->forget) {
        entry = *log_entry(w, &entry);
        *payload = (struct buf){0};
    }
    int r = apply_at(w->state, &entry, (size_t)w->state->r.index + 1, w->fx, &w->reply);
    if (w->appended)
        w->appended(w->userdata, kind);
    return r;
}

int world_append(struct world *w, const char *principal, enum entry_kind kind,
                 const void *payload) {
    buf_clear(&w->scratch);
    tlv_encode(entry_schema(kind), payload, &w->scratch);
    return append_bytes(w, principal, kind, &w->scratch);
}

/* Nothing came between the decision and its entry but what the entry's own time made due, such as
 * the time limit of a victim: such a proposal is stale, and what is proposed next is another one.
 * Refused for ever would be a mistake of ours. */
enum { STALE_MAX = 100 };

size_t world_decide(struct world *w) {
    size_t n_placed = 0, n_stale = 0;

    while (decide_run(w->decide, w->state, &w->proposals) || decide_unfinished(w->decide)) {
        for (size_t i = 0; i < w->proposals.n; i++) {
            struct decide_proposal *proposal = &w->proposals.items[i];
            if (w->naive)
                naive_check(w->naive, w->state, i, proposal);
            int r = append_bytes(w, "system:hai", proposal->kind, &proposal->payload);
            assert(r == 0 || r == -ESTALE);
            n_placed += r == 0;
            n_stale = r == 0 ? 0 : n_stale + 1;
            assert(n_stale < STALE_MAX);
        }
        decide_list_clear(&w->proposals);
    }
    if (w->naive)
        naive_check(w->naive, w->state, 0, NULL);
    return n_placed;
}

void world_pass(struct world *w, int64_t us) {
    int64_t until_us = w->now_us + us;

    for (;;) {
        int64_t due_us = state_next_wakeup(w->state);
        if (due_us > until_us)
            break;
        struct entry_tick tick = {.due_us = due_us};
        w->now_us = MAX(due_us, w->now_us);
        world_append(w, "system:hai", ENTRY_TICK, &tick);
        world_decide(w);
    }
    w->now_us = MAX(until_us, w->now_us);
}

struct state *world_replay(const struct world_entry *log, size_t n) {
    struct state *state = state_new();

    for (size_t i = 0; i < n; i++)
        world_apply(state, &log[i], i + 1, NULL);
    return state;
}

void world_start(struct world *w) {
    struct entry_sched_start start = {.version = (char *)HAI_VERSION};

    int r = world_append(w, "system:hai", ENTRY_SCHED_START, &start);
    assert(r == 0);
}

void world_snapshot(struct world *w) {
    buf_clear(&w->snapshot);
    state_encode(w->state, &w->snapshot);
    w->n_snapshot = w->n_log;
}

static struct state *decode(const struct buf *bytes) {
    struct state *state;

    int r = state_decode(bytes->data, bytes->n_bytes, &state, NULL);
    assert(r == 0);
    return state;
}

/* From the newest snapshot, if there is one, and what came after it. */
static struct state *recover(const struct world *w) {
    if (!w->snapshot.n_bytes)
        return world_replay(w->log, w->n_log);
    struct state *state = decode(&w->snapshot);
    for (size_t i = w->n_snapshot; i < w->n_log; i++)
        world_apply(state, &w->log[i], i + 1, NULL);
    return state;
}

static void take_state(struct world *w, struct state *state) {
    effects_free(w->fx);
    w->fx = effects_new();
    state_free(w->state);
    w->state = state;
    decide_free(w->decide);
    w->decide = decide_new();
}

void world_restart(struct world *w, bool snapshot) {
    assert(snapshot || !w->forget);
    if (snapshot) {
        _cleanup_(buf_free) struct buf bytes = {0};
        state_encode(w->state, &bytes);
        take_state(w, decode(&bytes));
    } else {
        take_state(w, world_replay(w->log, w->n_log));
    }
    world_start(w);
}

void world_crash(struct world *w, size_t n_kept) {
    assert(n_kept >= w->n_snapshot);
    while (w->n_log > n_kept) {
        free(w->log[--w->n_log].principal);
        buf_free(&w->log[w->n_log].payload);
    }
    take_state(w, recover(w));
}

static void describe(const struct world_cluster *cluster, struct entry_cluster_set *set) {
    schema_init(entry_cluster_set_schema(), set);
    set->name = hai_strdup("test");
    set->lease_us = cluster->lone ? 600000000 : 10000000;
    set->drift_us = cluster->lone ? 2000000 : 1000000;
    set->fence = cluster->fence;
    set->min_run_us = cluster->min_run_us ? cluster->min_run_us : S_ABSENT;
    set->fair_share_us = cluster->fair_share_us ? cluster->fair_share_us : S_ABSENT;
    set->aging_us = cluster->aging_us ? cluster->aging_us : S_ABSENT;
    set->backfill = cluster->min_run_us || !cluster->backfill ? S_ABSENT : cluster->backfill;
    struct entry_group *group = LIST_ADD(&set->groups);
    group->name = hai_strdup("default");
    group->time_limit_us = S_ABSENT;
    group->spares = cluster->spares ? cluster->spares : S_ABSENT;
    for (int z = 0; z < cluster->n_zones; z++) {
        int in_zone = 0;
        LIST_ADD(&set->zones)->name = hai_asprintf("%c", 'a' + z);
        for (int l = 0; l < cluster->leaves_per_zone; l++) {
            struct entry_leaf *leaf = LIST_ADD(&set->leaves);
            leaf->name = hai_asprintf("%c-leaf%d", 'a' + z, l + 1);
            leaf->zone = z;
            for (int n = 0; n < cluster->nodes_per_leaf; n++) {
                *LIST_ADD(&group->nodes) = (int64_t)set->nodes.n;
                struct entry_node *node = LIST_ADD(&set->nodes);
                node->name = hai_asprintf("%c%d", 'a' + z, ++in_zone);
                node->nvlink = cluster->nvlink ? cluster->nvlink : S_ABSENT;
                node->leaf = (int64_t)set->leaves.n - 1;
                node->gpus = cluster->gpus;
                node->cpus = cluster->cpus;
            }
        }
    }
}

void world_cluster(struct world *w, const struct world_cluster *cluster) {
    struct entry_cluster_set set;
    char address[32], boot_id[32];

    describe(cluster, &set);
    int r = world_append(w, "system:hai", ENTRY_CLUSTER_SET, &set);
    assert(r == 0);
    schema_free(entry_cluster_set_schema(), &set);
    for (int i = 0; i < w->state->n_nodes; i++) {
        (void)snprintf(address, sizeof address, "10.0.0.%d", i);
        (void)snprintf(boot_id, sizeof boot_id, "boot-%d-1", i);
        struct entry_node_up up = {
            .node = w->state->nodes[i]->r.name, .address = address, .boot_id = boot_id};
        r = world_append(w, "system:hai", ENTRY_NODE_UP, &up);
        assert(r == 0);
    }
    if (w->state->r.remembers != 1)
        world_start(w);
}

struct entry_job_spec world_spec(void) {
    struct entry_job_spec spec;

    schema_init(entry_job_spec_schema(), &spec);
    spec.uid = spec.gid = 1000;
    return spec;
}

int64_t world_submit(struct world *w, const struct entry_job_spec *spec) {
    struct entry_job_submit submit = {.job = *spec};
    char principal[PRINCIPAL_MAX + 1];

    if (!spec->user)
        submit.job.user = (char *)"alice";
    if (!spec->name)
        submit.job.name = (char *)"job";
    if (!spec->group)
        submit.job.group = (char *)"default";
    (void)snprintf(principal, sizeof principal, "submit:%s", submit.job.user);
    int r = world_append(w, principal, ENTRY_JOB_SUBMIT, &submit);
    return r < 0 ? r : w->reply.id;
}

void world_save(const struct world *w, struct buf *ret) {
    for (size_t i = 0; i < w->n_log; i++) {
        const struct world_entry *entry = &w->log[i];
        buf_add_u64(ret, (uint64_t)entry->time_us);
        buf_add_varint(ret, (uint64_t)entry->kind);
        buf_add_varint(ret, (uint64_t)entry->version);
        buf_add_varint(ret, strlen(entry->principal));
        buf_add_str(ret, entry->principal);
        buf_add_varint(ret, entry->payload.n_bytes);
        buf_add(ret, entry->payload.data, entry->payload.n_bytes);
    }
}

static int load_one(struct cursor *c, struct world_entry *ret) {
    uint64_t time_us, kind, version, n_principal, n_payload;
    const uint8_t *principal, *payload;

    if (cursor_u64(c, &time_us) < 0 || cursor_varint(c, &kind) < 0 ||
        cursor_varint(c, &version) < 0 || cursor_varint(c, &n_principal) < 0 ||
        cursor_bytes(c, n_principal, &principal) < 0 || cursor_varint(c, &n_payload) < 0 ||
        cursor_bytes(c, n_payload, &payload) < 0)
        return -EBADMSG;
    *ret = (struct world_entry){
        .time_us = (int64_t)time_us,
        .principal = hai_strndup((const char *)principal, n_principal),
        .kind = (int)kind,
        .version = (int)version,
    };
    buf_add(&ret->payload, payload, n_payload);
    return 0;
}

int world_load(const void *data, size_t n_bytes, struct world_entry **ret, size_t *ret_n) {
    struct cursor c = {data, n_bytes, 0};
    struct world_entry *log = NULL;
    size_t n = 0;

    while (cursor_left(&c)) {
        log = hai_realloc_array(log, n + 1, sizeof *log);
        int r = load_one(&c, &log[n]);
        if (r < 0) {
            world_log_free(log, n);
            return r;
        }
        n++;
    }
    *ret = log;
    *ret_n = n;
    return 0;
}
