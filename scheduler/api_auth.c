#include "scheduler/api_auth.h"

#include "lib/digest.h"
#include "lib/random.h"
#include <stdio.h>
#include <strings.h>

static int unauthorized(struct hai_err *err, const char *text) {
    return hai_fail_at(err, -EACCES, "unauthorized", "Authorization",
                       "hai init stores a token; hai doctor checks it", "%s", text);
}

static int read_token(const char *authorization, const char **ret, struct hai_err *err) {
    if (!authorization)
        return unauthorized(err, "no token: expected the header Authorization: Bearer TOKEN");
    if (strncasecmp(authorization, "Bearer ", 7) != 0)
        return unauthorized(err, "the Authorization header has another form than Bearer TOKEN");
    const char *token = authorization + 7;
    if (strlen(token) != RANDOM_TOKEN_BYTES - 1)
        return unauthorized(err, "the token has the wrong length");
    *ret = token;
    return 0;
}

int api_auth_check(const struct state *state, const char *authorization, int64_t now_us,
                   struct api_caller *ret, struct hai_err *err) {
    uint8_t hash[DIGEST_SHA256_BYTES];
    const char *text = NULL;
    int r = read_token(authorization, &text, err);

    if (r < 0)
        return r;
    digest_sha256(text, strlen(text), hash);
    const struct state_token *token = state_token_find(state, hash);
    if (!token)
        return unauthorized(err, "the token is not known (never made, or revoked)");
    if (token->expires_us != S_ABSENT && token->expires_us <= now_us)
        return unauthorized(err, "the token has expired");
    *ret = (struct api_caller){
        .scope = token->scope, .token = token->id, .expires_us = token->expires_us};
    if (token->scope == SCOPE_NODE) {
        snprintf(ret->node, sizeof ret->node, "%s", token->owner);
    } else {
        const struct state_user *user = state_user_find(state, token->owner);
        if (!user || user->disabled)
            return unauthorized(err, "the token's user is gone or disabled");
        ret->scope = MIN(token->scope, user->scope);
        snprintf(ret->user, sizeof ret->user, "%s", token->owner);
    }
    snprintf(ret->principal, sizeof ret->principal, "%s:%s", scope_text(ret->scope), token->owner);
    return 0;
}

bool api_auth_allowed(const struct api_caller *caller, enum scope needed) {
    if (needed == SCOPE_NODE)
        return caller->scope == SCOPE_NODE;
    return caller->scope >= needed;
}
