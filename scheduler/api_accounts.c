#include "scheduler/api_accounts.h"

#include "lib/digest.h"
#include "lib/random.h"
#include "scheduler/api_call.h"
#include "scheduler/cluster.h"
#include "scheduler/core/fair.h"
#include "scheduler/core/quota.h"
#include "scheduler/known.h"
#include "scheduler/masking.h"
#include "scheduler/views.h"
#include "wire/jobfile.h"
#include <pwd.h>
#include <stdio.h>

/* ---- quotas ---- */

/* As its holder sees it. name: of the user or team, NULL: every user. */
static void fill_quota(const struct state *state, const struct map *loans,
                       const struct state_quota *quota, const char *name, struct quota_view *ret) {
    bool team = quota->holder == QUOTA_HOLDER_TEAM;

    schema_init(quota_view_schema(), ret);
    ret->user = team ? NULL : hai_strdup(name ? name : "*");
    ret->team = team ? hai_strdup(name) : NULL;
    ret->group = hai_strdup(quota->group);
    ret->priority = quota->priority;
    ret->gpus = quota->gpus;
    if (!name)
        return;
    ret->used = quota_used(state, quota->holder, name, quota->group, quota->priority);
    ret->borrowed = quota_borrowed(loans, quota->holder, name, quota->group, quota->priority);
}

/* Does the quota limit jobs of the user, for the team? Then with which name. */
static bool limits(const struct state *state, const struct state_quota *quota, const char *user,
                   const char *team, const char **ret_name) {
    switch (quota->holder) {
    case QUOTA_HOLDER_TEAM:
        *ret_name = quota->name;
        return hai_streq(quota->name, team);
    case QUOTA_HOLDER_USER:
        *ret_name = quota->name;
        return hai_streq(quota->name, user);
    default:
        *ret_name = user;
        return !quota_find(state, QUOTA_HOLDER_USER, user, quota->group, quota->priority);
    }
}

void api_accounts_quotas(struct api_call *call) {
    const struct state *state = schedd_state(call->s);
    const char *user = call->caller.user, *team = cluster_team(&call->s->cluster, user), *name;
    bool own = masking_needed(state, user, call->caller.scope);
    struct api_list list = api_call_list(call);
    _cleanup_(map_free) struct map loans;

    quota_loans(state, &loans);
    for (size_t i = 0; i < state->n_quotas; i++) {
        struct quota_view view;
        if (own && !limits(state, &state->quotas[i], user, team, &name))
            continue;
        fill_quota(state, &loans, &state->quotas[i], own ? name : state->quotas[i].name, &view);
        api_call_list_add(&list, quota_view_schema(), &view);
        schema_free(quota_view_schema(), &view);
    }
    api_call_reply_list(call, &list);
}

/* A quota of nobody, or nowhere, would be taken for one that limits somebody. One of a name that is
 * gone may still be taken away. */
static int check_names(const struct schedd *s, const struct quota_change *change,
                       struct hai_err *err) {
    if (change->gpus == S_ABSENT || (change->user && strcmp(change->user, "*") == 0))
        return 0;
    return change->team ? known_team(s, change->team, err) : known_user(s, change->user, err);
}

void api_accounts_set_quota(struct api_call *call) {
    const struct quota_change *change = call->body;
    struct entry_quota_set entry;
    struct hai_err err = {0};

    if (!change->user == !change->team) {
        api_call_fail(call, 400, "bad_value", "expected a user or a team");
        return;
    }
    if (check_names(call->s, change, &err) < 0) {
        api_call_error(call, -EINVAL, &err);
        return;
    }
    schema_init(entry_quota_set_schema(), &entry);
    entry.holder = change->team                 ? QUOTA_HOLDER_TEAM
                   : !strcmp(change->user, "*") ? QUOTA_HOLDER_EVERY
                                                : QUOTA_HOLDER_USER;
    if (entry.holder != QUOTA_HOLDER_EVERY)
        entry.name = change->team ? change->team : change->user;
    entry.group = change->group ? change->group : (char *)"default";
    entry.priority = change->priority;
    entry.gpus = change->gpus;
    api_call_append(call, ENTRY_QUOTA_SET, &entry, api_call_on_changed);
}

/* ---- users ---- */

void api_accounts_users(struct api_call *call) {
    const struct state *state = schedd_state(call->s);
    struct api_list list = api_call_list(call);

    for (size_t i = 0; i < state->n_users; i++) {
        const struct state_user *user = &state->users[i];
        struct whoami_view view;
        schema_init(whoami_view_schema(), &view);
        view.user = hai_strdup(user->name);
        view.uid = user->uid;
        view.team = hai_strdup(cluster_team(&call->s->cluster, user->name));
        *LIST_ADD(&view.scopes) = hai_strdup(scope_text(user->scope));
        view.external = user->external == 1;
        view.disabled = user->disabled;
        api_call_list_add(&list, whoami_view_schema(), &view);
        schema_free(whoami_view_schema(), &view);
    }
    api_call_reply_list(call, &list);
}

void api_accounts_whoami(struct api_call *call) {
    const struct state *state = schedd_state(call->s);
    const struct state_user *user = state_user_find(state, call->caller.user);
    const char *team = cluster_team(&call->s->cluster, call->caller.user), *name;
    _cleanup_(map_free) struct map loans;
    struct whoami_view view;

    quota_loans(state, &loans);
    schema_init(whoami_view_schema(), &view);
    view.user = hai_strdup(call->caller.user);
    view.uid = user ? user->uid : S_ABSENT;
    view.team = hai_strdup(team);
    for (int scope = SCOPE_READ; scope <= (int)call->caller.scope; scope++)
        *LIST_ADD(&view.scopes) = hai_strdup(scope_text((enum scope)scope));
    view.expires_at = call->caller.expires_us;
    view.cluster = hai_strdup(state->r.cluster);
    view.version = hai_strdup(HAI_VERSION);
    view.external = user && user->external == 1;
    for (int i = 0; i < state->n_groups; i++)
        views_group(call->s, i, LIST_ADD(&view.groups));
    for (size_t i = 0; i < state->n_quotas; i++)
        if (limits(state, &state->quotas[i], call->caller.user, team, &name))
            fill_quota(state, &loans, &state->quotas[i], name, LIST_ADD(&view.quotas));
    fair_used(state, view.user, &view.share_used_us, &view.share_mean_us);
    api_call_reply(call, 200, whoami_view_schema(), &view);
    schema_free(whoami_view_schema(), &view);
}

/* The word of a scope that people may have, -1: another word. */
static int scope_of(const char *word) {
    int scope = schema_enum_parse(&scope_enum, word);

    return scope >= SCOPE_READ && scope <= SCOPE_ADMIN ? scope : -1;
}

/* "yes", "no" or nothing. 0, or -EINVAL with the error answered. */
static int read_yes(struct api_call *call, const char *name, const char *text, bool *ret) {
    if (!text)
        return 0;
    *ret = !strcmp(text, "yes");
    if (*ret || !strcmp(text, "no"))
        return 0;
    api_call_fail(call, 400, "bad_value", "%s is '%.8s'; expected yes or no", name, text);
    return -EINVAL;
}

/* The account of the nodes for a new user. */
static void find_account(const char *name, struct entry_user_set *entry) {
    const struct passwd *pw = getpwnam(name);

    if (!pw)
        return;
    entry->uid = pw->pw_uid;
    entry->gid = pw->pw_gid;
}

/* What the request says, and with `only` that it is no more than that: others may change other
 * parts of the account meanwhile. */
static int fill_user(struct api_call *call, const struct user_change *change,
                     struct entry_user_set *entry) {
    int scope = change->scope ? scope_of(change->scope) : (int)entry->scope;
    bool external = false;

    if (scope < 0) {
        api_call_fail(call, 400, "bad_value",
                      "scope is '%.16s'; expected read, submit, operate or admin", change->scope);
        return -EINVAL;
    }
    entry->scope = (enum scope)scope;
    if (read_yes(call, "disabled", change->disabled, &entry->disabled) < 0 ||
        read_yes(call, "external", change->external, &external) < 0)
        return -EINVAL;
    entry->external = external ? 1 : S_ABSENT;
    if (change->uid != S_ABSENT) {
        entry->uid = change->uid;
        entry->gid = change->gid == S_ABSENT ? change->uid : change->gid;
    }
    entry->only = USER_SET_KNOWN | (change->uid != S_ABSENT ? USER_SET_ACCOUNT : 0) |
                  (change->scope ? USER_SET_SCOPE : 0) |
                  (change->disabled ? USER_SET_DISABLED : 0) |
                  (change->external ? USER_SET_EXTERNAL : 0);
    if (change->create)
        entry->only = USER_SET_FIELDS | USER_SET_NEW;
    if ((entry->only & USER_SET_ACCOUNT) && cluster_system_uid(entry->uid)) {
        api_call_fail(call, 400, "system_account",
                      "user %s would run as uid %lld, which is a system account", entry->name,
                      (long long)entry->uid);
        return -EINVAL;
    }
    return 0;
}

void api_accounts_set_user(struct api_call *call) {
    const struct user_change *change = call->body;
    struct entry_user_set entry;

    if (change->create && !jobfile_name_valid(call->params[0])) {
        api_call_fail(call, 400, "invalid", "name is '%.80s'; expected a letter, then [a-z0-9._-]",
                      call->params[0]);
        return;
    }
    if (strlen(call->params[0]) > USER_NAME_MAX) {
        api_call_fail(call, 404, "not_found", "there is no user %.63s", call->params[0]);
        return;
    }
    schema_init(entry_user_set_schema(), &entry);
    entry.name = call->params[0];
    if (change->create)
        find_account(entry.name, &entry);
    if (fill_user(call, change, &entry) == 0)
        api_call_append(call, ENTRY_USER_SET, &entry, api_call_on_changed);
}

/* ---- tokens ---- */

static void fill_token(const struct state_token *token, struct token_view *ret) {
    schema_init(token_view_schema(), ret);
    ret->id = token->id;
    ret->user = hai_strdup(token->owner);
    ret->scope = hai_strdup(scope_text(token->scope));
    ret->label = token->label ? hai_strdup(token->label) : NULL;
    ret->created_at = token->created_us;
    ret->expires_at = token->expires_us;
}

void api_accounts_tokens(struct api_call *call) {
    const struct state *state = schedd_state(call->s);
    struct api_list list = api_call_list(call);

    for (size_t i = 0; i < state->n_tokens; i++) {
        const struct state_token *token = &state->tokens[i];
        struct token_view view;
        if (call->caller.scope < SCOPE_ADMIN && !hai_streq(token->owner, call->caller.user))
            continue;
        fill_token(token, &view);
        api_call_list_add(&list, token_view_schema(), &view);
        schema_free(token_view_schema(), &view);
    }
    api_call_reply_list(call, &list);
}

/* The text is known to nobody else: it is kept until the token is durable. */
static void on_token(void *data, int64_t index, int r, const struct apply_reply *reply) {
    struct api_call *call = data;
    const struct state *state = schedd_state(call->s);
    struct token_view view;

    api_call_appended(call);
    if (r < 0) {
        api_call_error(call, r, &reply->err);
        return;
    }
    size_t at = state_token_at(state, reply->id);
    if (at == state->n_tokens || state->tokens[at].id != reply->id) {
        api_call_fail(call, 404, "not_found", "token %lld was revoked at once",
                      (long long)reply->id);
        return;
    }
    fill_token(&state->tokens[at], &view);
    view.token = hai_strdup(call->own);
    api_call_reply(call, 201, token_view_schema(), &view);
    schema_free(token_view_schema(), &view);
}

void api_accounts_make_token(struct api_call *call) {
    const struct token_change *change = call->body;
    uint8_t hash[DIGEST_SHA256_BYTES];
    struct entry_token_create entry;
    int scope = change->scope ? scope_of(change->scope) : SCOPE_SUBMIT;

    if (scope < 0) {
        api_call_fail(call, 400, "bad_value",
                      "scope is '%.16s'; expected read, submit, operate or admin", change->scope);
        return;
    }
    const struct state_user *owner =
        state_user_find(schedd_state(call->s), change->user ? change->user : call->caller.user);
    if (!owner && change->user) {
        api_call_fail(call, 404, "not_found", "there is no user %s", change->user);
        return;
    }
    if (owner && change->scope && scope > (int)owner->scope) {
        api_call_fail(call, 400, "bad_value", "scope is '%s'; expected at most %s, which %s has",
                      change->scope, scope_text(owner->scope), owner->name);
        return;
    }
    char *text = hai_alloc(RANDOM_TOKEN_BYTES);
    call->own = text;
    call->own_free = free;
    random_token(text);
    digest_sha256(text, strlen(text), hash);
    schema_init(entry_token_create_schema(), &entry);
    entry.hash = (struct schema_blob){hash, sizeof hash};
    entry.owner = change->user ? change->user : call->caller.user;
    entry.scope = (enum scope)scope;
    entry.label = change->label;
    if (change->lasts_us != S_ABSENT)
        entry.expires_us = turn_now_us(call->s->turn) + change->lasts_us;
    /* A token that is to end on a day makes none that lasts beyond it. */
    if (call->caller.expires_us != S_ABSENT)
        entry.expires_us = entry.expires_us == S_ABSENT
                               ? call->caller.expires_us
                               : MIN(entry.expires_us, call->caller.expires_us);
    api_call_append(call, ENTRY_TOKEN_CREATE, &entry, on_token);
}

void api_accounts_revoke_token(struct api_call *call) {
    struct entry_token_revoke entry;
    char *end;
    long long id = strtoll(call->params[0], &end, 10);

    if (end == call->params[0] || *end || id < 1) {
        api_call_fail(call, 404, "not_found", "there is no token %.40s", call->params[0]);
        return;
    }
    entry.token = id;
    api_call_append(call, ENTRY_TOKEN_REVOKE, &entry, api_call_on_changed);
}
