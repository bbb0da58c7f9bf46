#include "scheduler/core/apply_cluster.h"
#include "scheduler/core/apply_quota.h"
#include "scheduler/core/attempt.h"
#include "scheduler/core/fair.h"
#include "scheduler/core/ledger.h"
#include "scheduler/core/order.h"
#include "scheduler/core/queue.h"

/* ---- the description of the cluster ---- */

static int bad(struct mutate *c, const char *what, const char *name) {
    return hai_fail(&c->reply->err, -EINVAL, "%s: %s", name, what);
}

/* Every name once, every position within its list. */
static int check_cluster(struct mutate *c, const struct entry_cluster_set *in) {
    _cleanup_(map_free) struct map names = {0};

    for (size_t i = 0; i < in->zones.n; i++)
        for (size_t k = 0; k < i; k++)
            if (hai_streq(in->zones.items[i].name, in->zones.items[k].name))
                return bad(c, "a zone twice", in->zones.items[i].name);
    for (size_t i = 0; i < in->leaves.n; i++)
        if (in->leaves.items[i].zone >= (int64_t)in->zones.n)
            return bad(c, "its zone is not there", in->leaves.items[i].name);
    for (size_t i = 0; i < in->nodes.n; i++) {
        const struct entry_node *node = &in->nodes.items[i];
        if (node->leaf >= (int64_t)in->leaves.n)
            return bad(c, "its leaf is not there", node->name);
        if (map_put_text(&names, node->name, &names))
            return bad(c, "a node twice", node->name);
    }
    for (size_t i = 0; i < in->groups.n; i++) {
        const struct entry_group *group = &in->groups.items[i];
        for (size_t k = 0; k < i; k++)
            if (hai_streq(group->name, in->groups.items[k].name))
                return bad(c, "a group twice", group->name);
        for (size_t k = 0; k < group->nodes.n; k++)
            if (group->nodes.items[k] >= (int64_t)in->nodes.n ||
                (k && group->nodes.items[k] <= group->nodes.items[k - 1]))
                return bad(c, "its nodes are not there or not in order", group->name);
    }
    size_t n_new = 0;
    for (size_t i = 0; i < in->nodes.n; i++)
        n_new += state_node_find(c->state, in->nodes.items[i].name) < 0;
    if ((size_t)c->state->n_nodes + n_new > NODES_MAX)
        return hai_fail(&c->reply->err, -E2BIG, "more than %d nodes, removed ones included",
                        NODES_MAX);
    return 0;
}

static struct node *add_node(struct state *state, const char *name) {
    struct node *node = hai_new(struct node);

    schema_init(state_node_schema(), &node->r);
    node->r.name = hai_strdup(name);
    node->timer.key = -(int64_t)state->n_nodes - 1;
    state->nodes =
        hai_realloc_array(state->nodes, (size_t)state->n_nodes + 1, sizeof *state->nodes);
    state->nodes[state->n_nodes++] = node;
    map_put_text(&state->node_by_name, name, (void *)(intptr_t)state->n_nodes);
    return node;
}

/* Numbers of nodes stay; those no longer described are kept as removed, because jobs may run there
 * and history names them. */
static void set_nodes(struct mutate *c, const struct entry_cluster_set *in) {
    struct state *state = c->state;

    for (int i = 0; i < state->n_nodes; i++) {
        state->nodes[i]->r.removed = true;
        state->nodes[i]->groups = 0;
    }
    for (size_t i = 0; i < in->nodes.n; i++) {
        const struct entry_node *from = &in->nodes.items[i];
        int number = state_node_find(state, from->name);
        struct node *node = number < 0 ? add_node(state, from->name) : state->nodes[number];
        node->cpus_free += from->cpus - (number < 0 ? 0 : node->r.cpus);
        node->memory_free += from->memory_bytes - node->r.memory_bytes;
        node->r.leaf = from->leaf;
        node->r.gpus = from->gpus;
        node->r.cpus = from->cpus;
        node->r.memory_bytes = from->memory_bytes;
        node->r.nvlink = from->nvlink;
        node->r.removed = false;
    }
    for (int i = 0; i < state->n_nodes; i++) {
        struct node *node = state->nodes[i];
        if (node->r.removed) // its leaf may be gone
            node->r.leaf = 0;
        node->zone = state->n_leaves ? (int)state->leaves[node->r.leaf].zone : 0;
        mutate_node(c, i, false);
    }
}

static int compare_numbers(const void *pa, const void *pb) {
    int64_t a = *(const int64_t *)pa, b = *(const int64_t *)pb;

    return a < b ? -1 : a > b;
}

static void set_groups(struct state *state, const struct entry_cluster_set *in) {
    state->n_groups = (int)in->groups.n;
    state->groups = hai_new_array(struct group, in->groups.n);
    for (size_t g = 0; g < in->groups.n; g++) {
        const struct entry_group *from = &in->groups.items[g];
        struct state_group *to = &state->groups[g].r;
        to->name = hai_strdup(from->name);
        to->time_limit_us = from->time_limit_us;
        to->spares = from->spares;
        to->nodes.n = from->nodes.n;
        to->nodes.items = from->nodes.n ? hai_new_array(int64_t, from->nodes.n) : NULL;
        for (size_t i = 0; i < from->nodes.n; i++) {
            int node = state_node_find(state, in->nodes.items[from->nodes.items[i]].name);
            to->nodes.items[i] = node;
            state_group_join(state, (int)g, node);
        }
        if (to->nodes.n)
            qsort(to->nodes.items, to->nodes.n, sizeof *to->nodes.items, compare_numbers);
    }
}

static void set_topology(struct state *state, struct entry_cluster_set *in) {
    state->n_zones = (int)in->zones.n;
    state->zones = hai_new_array(struct state_zone, in->zones.n);
    for (size_t i = 0; i < in->zones.n; i++)
        state->zones[i].name = TAKE_PTR(in->zones.items[i].name);
    state->n_leaves = (int)in->leaves.n;
    state->leaves = hai_new_array(struct state_leaf, in->leaves.n);
    for (size_t i = 0; i < in->leaves.n; i++)
        state->leaves[i] = (struct state_leaf){.name = TAKE_PTR(in->leaves.items[i].name),
                                               .zone = in->leaves.items[i].zone};
}

int apply_cluster_set(struct mutate *c, struct entry_cluster_set *in) {
    struct state *state = c->state;

    int r = mutate_need(c, SCOPE_ADMIN, "describing the cluster");
    if (r == 0)
        r = check_cluster(c, in);
    if (r < 0)
        return r;
    fair_set(state, in->fair_share_us, in->aging_us);
    for (struct job *job = state->jobs_first; job; job = job->next) {
        mutate_claim_drop(c, job);
        queue_remove(state, job);
    }
    state_cluster_free(state);
    hai_strset(&state->r.cluster, in->name);
    /* Leases granted until now run for as long as they were granted for. */
    if (state->n_nodes && in->lease_us < state->r.lease_us)
        state->r.lease_basis_us =
            MAX(state->r.lease_basis_us, c->entry->time_us + state->r.lease_us - in->lease_us);
    state->r.lease_us = in->lease_us;
    state->r.drift_us = in->drift_us;
    state->r.fence = in->fence;
    state->r.cross_zone_jobs = in->cross_zone_jobs;
    state->r.min_run_us = in->min_run_us;
    state->r.backfill = in->backfill;
    set_topology(state, in);
    set_nodes(c, in);
    set_groups(state, in);
    ledger_groups(state);
    for (struct job *job = state->jobs_first; job; job = job->next) {
        state_job_resolve(state, job);
        if (state_job_live(job)) {
            state->n_cross_zone -= job->spans;
            job->spans = attempt_spans(state, job);
            state->n_cross_zone += job->spans;
            if ((order_backfills(state) > 0) != (job->r.until_us != S_ABSENT))
                attempt_until(c, job, false);
        }
        mutate_follow(c, job);
    }
    state->cluster_seq++;
    if (c->fx)
        c->fx->cluster = true;
    effects_event(c->fx, c->entry, EVENT_CLUSTER, NULL, -1, -1, "%zu nodes in %zu zones",
                  in->nodes.n, in->zones.n);
    c->reply->changed = true;
    return 0;
}

int apply_cluster_start(struct mutate *c, const struct entry_sched_start *in) {
    int r = mutate_need(c, SCOPE_SYSTEM, "starting a scheduler");

    if (r < 0)
        return r;
    c->state->r.lease_basis_us = MAX(c->state->r.lease_basis_us, c->entry->time_us);
    if (c->entry->version >= 3)
        c->state->r.remembers = 1;
    if (c->entry->version >= 4)
        ledger_begin(c->state);
    effects_event(c->fx, c->entry, EVENT_CLUSTER, NULL, -1, -1, "scheduler %s serves",
                  in->version ? in->version : "");
    c->reply->changed = true;
    return 0;
}

/* ---- accounts ---- */

static bool counts(const struct entry_user_set *in, int64_t bit) {
    return !in->only || (in->only & bit);
}

/* Nobody locks himself out: the last admin could not be let in again. */
static int check_own(struct mutate *c, const struct state_user *known,
                     const struct entry_user_set *in) {
    bool lowers = counts(in, USER_SET_SCOPE) && in->scope < known->scope;
    bool disables = counts(in, USER_SET_DISABLED) && in->disabled && !known->disabled;

    if ((!lowers && !disables) || !hai_streq(known->name, c->name))
        return 0;
    return hai_fail_at(&c->reply->err, -EINVAL, "conflict", NULL, NULL,
                       "you are %s: another admin may %s you", known->name,
                       lowers ? "lower" : "disable");
}

static int check_user(struct mutate *c, const struct state_user *known,
                      const struct entry_user_set *in) {
    if (counts(in, USER_SET_SCOPE) && (in->scope < SCOPE_READ || in->scope > SCOPE_ADMIN))
        return hai_fail(&c->reply->err, -EINVAL, "scope is %s; expected read to admin",
                        scope_text(in->scope));
    if (!known && c->state->n_users >= USERS_MAX)
        return hai_fail(&c->reply->err, -E2BIG, "more than %d users", USERS_MAX);
    if (known && (in->only & USER_SET_NEW))
        return hai_fail_at(&c->reply->err, -EEXIST, "conflict", NULL, NULL, "there is a user %s",
                           in->name);
    if (!known && (in->only & USER_SET_KNOWN))
        return hai_fail_at(&c->reply->err, -ENOENT, "not_found", NULL, NULL,
                           "there is no user %s; --create makes one", in->name);
    return known && (in->only & USER_SET_KNOWN) ? check_own(c, known, in) : 0;
}

static struct state_user *user_find(struct state *state, const char *name) {
    intptr_t number = (intptr_t)map_get_text(&state->user_by_name, name);

    return number ? &state->users[number - 1] : NULL;
}

static struct state_user *user_add(struct state *state, struct entry_user_set *in) {
    state->users = hai_realloc_array(state->users, state->n_users + 1, sizeof *state->users);
    struct state_user *user = &state->users[state->n_users++];
    schema_init(state_user_schema(), user);
    user->name = TAKE_PTR(in->name);
    map_put_text(&state->user_by_name, user->name, (void *)(intptr_t)state->n_users);
    return user;
}

int apply_cluster_user(struct mutate *c, struct entry_user_set *in) {
    struct state_user *user = user_find(c->state, in->name);
    int r = mutate_need(c, SCOPE_ADMIN, "changing accounts");

    if (r == 0)
        r = check_user(c, user, in);
    if (r < 0)
        return r;
    if (!user)
        user = user_add(c->state, in);
    if (counts(in, USER_SET_ACCOUNT)) {
        user->uid = in->uid;
        user->gid = in->gid;
    }
    if (counts(in, USER_SET_SCOPE))
        user->scope = in->scope;
    if (counts(in, USER_SET_DISABLED))
        user->disabled = in->disabled;
    int64_t external = in->external == 1 ? 1 : S_ABSENT;
    bool moved = counts(in, USER_SET_EXTERNAL) && user->external != external;
    if (moved) {
        user->external = external;
        apply_quota_user(c, user->name);
    }
    if (c->fx)
        c->fx->accounts = true;
    effects_event(c->fx, c->entry, EVENT_ACCOUNT, NULL, -1, -1, "user %s: %s%s%s", user->name,
                  scope_text(user->scope), user->external == 1 ? ", external" : "",
                  user->disabled ? ", disabled" : "");
    c->reply->changed = true;
    return 0;
}

static void remove_token(struct state *state, size_t at) {
    struct state_token *token = &state->tokens[at];
    char name[2 * DIGEST_BYTES + 1];

    state_token_name(token->hash.data, name);
    map_remove_text(&state->token_by_hash, name);
    schema_free(state_token_schema(), token);
}

static bool has_expired(const struct mutate *c, const struct state_token *token) {
    return token->expires_us != S_ABSENT && token->expires_us <= c->entry->time_us;
}

/* How many tokens there are, and how many the owner has, once the expired ones are gone. */
static int count_tokens(struct mutate *c, const char *owner) {
    const struct state *state = c->state;
    size_t n = 0, n_own = 0;

    for (size_t i = 0; i < state->n_tokens; i++) {
        if (has_expired(c, &state->tokens[i]))
            continue;
        n++;
        n_own += hai_streq(state->tokens[i].owner, owner);
    }
    if (n_own >= TOKENS_OWNER_MAX)
        return hai_fail_at(&c->reply->err, -E2BIG, "too_many", NULL, "hai token revoke ID",
                           "%s has %d tokens; no more are made", owner, TOKENS_OWNER_MAX);
    if (n >= TOKENS_MAX)
        return hai_fail(&c->reply->err, -E2BIG, "more than %d tokens", TOKENS_MAX);
    return 0;
}

static void drop_expired(struct mutate *c) {
    struct state *state = c->state;
    size_t n = 0;

    for (size_t i = 0; i < state->n_tokens; i++) {
        if (has_expired(c, &state->tokens[i]))
            remove_token(state, i);
        else
            state->tokens[n++] = state->tokens[i];
    }
    state->n_tokens = n;
}

/* Version 1 kept expired tokens, and counted none by their owner. */
static int make_room(struct mutate *c, const char *owner) {
    if (c->entry->version < 2)
        return c->state->n_tokens < TOKENS_MAX
                   ? 0
                   : hai_fail(&c->reply->err, -E2BIG, "more than %d tokens", TOKENS_MAX);
    int r = count_tokens(c, owner);
    if (r == 0)
        drop_expired(c);
    return r;
}

int apply_cluster_token(struct mutate *c, struct entry_token_create *in) {
    struct state *state = c->state;
    char name[2 * DIGEST_BYTES + 1];

    int r = mutate_need(c, SCOPE_SUBMIT, "making a token");
    if (r < 0)
        return r;
    if (c->scope < SCOPE_ADMIN &&
        (in->scope > c->scope || in->scope == SCOPE_NODE || !hai_streq(c->name, in->owner)))
        return hai_fail_at(&c->reply->err, -EACCES, "denied", NULL, NULL,
                           "%s may not make a token of scope %s for %s", c->name,
                           scope_text(in->scope), in->owner);
    if (in->hash.n_bytes != DIGEST_BYTES || in->scope == SCOPE_NONE || in->scope >= SCOPE_SYSTEM)
        return hai_fail(&c->reply->err, -EINVAL, "a token needs a hash of %d bytes and a scope",
                        DIGEST_BYTES);
    if (state_token_find(state, in->hash.data))
        return hai_fail(&c->reply->err, -EEXIST, "this token exists");
    r = make_room(c, in->owner);
    if (r < 0)
        return r;
    state->tokens = hai_realloc_array(state->tokens, state->n_tokens + 1, sizeof *state->tokens);
    state->tokens[state->n_tokens++] = (struct state_token){
        .id = state->r.next_token++,
        .hash = in->hash,
        .owner = TAKE_PTR(in->owner),
        .scope = in->scope,
        .created_us = c->entry->time_us,
        .expires_us = in->expires_us,
        .label = TAKE_PTR(in->label),
    };
    in->hash = (struct schema_blob){0};
    const struct state_token *token = &state->tokens[state->n_tokens - 1];
    state_token_name(token->hash.data, name);
    map_put_text(&state->token_by_hash, name, (void *)(intptr_t)token->id);
    if (c->fx)
        c->fx->accounts = true;
    effects_event(c->fx, c->entry, EVENT_ACCOUNT, NULL, -1, -1, "token %lld for %s, scope %s",
                  (long long)token->id, token->owner, scope_text(token->scope));
    c->reply->id = token->id;
    c->reply->changed = true;
    return 0;
}

int apply_cluster_revoke(struct mutate *c, const struct entry_token_revoke *in) {
    struct state *state = c->state;
    size_t at = state_token_at(state, in->token);

    c->reply->id = in->token;
    if (at == state->n_tokens || state->tokens[at].id != in->token)
        return hai_fail(&c->reply->err, -ENOENT, "there is no token %lld", (long long)in->token);
    struct state_token *token = &state->tokens[at];
    if (c->scope < SCOPE_ADMIN && !(c->scope >= SCOPE_SUBMIT && hai_streq(c->name, token->owner)))
        return hai_fail_at(&c->reply->err, -EACCES, "denied", NULL, NULL,
                           "token %lld belongs to %s", (long long)in->token, token->owner);
    effects_event(c->fx, c->entry, EVENT_ACCOUNT, NULL, -1, -1, "token %lld of %s revoked",
                  (long long)in->token, token->owner);
    remove_token(state, at);
    state->n_tokens--;
    memmove(token, token + 1, (state->n_tokens - at) * sizeof *token);
    if (c->fx)
        c->fx->accounts = true;
    c->reply->changed = true;
    return 0;
}
