/* api_auth.h - from the Authorization header to who is asking.
 *
 * A token is 256 random bits as hexadecimal digits; the state knows its SHA-256 only. It is taken
 * from `Authorization: Bearer TOKEN` and from nowhere else.
 */
#pragma once
#include "scheduler/api_call.h"

/* Fill in the caller. now_us is the log's time. Returns 0 or -EACCES, which is status 401: no
 * token, an unknown, expired or revoked one, or one of a disabled user. */
int api_auth_check(const struct state *state, const char *authorization, int64_t now_us,
                   struct api_caller *ret, struct hai_err *err);

/* May the caller use routes of this scope? Agents' routes are for agents only. */
bool api_auth_allowed(const struct api_caller *caller, enum scope needed);
