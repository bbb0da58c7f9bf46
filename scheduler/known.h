/* known.h - names that a request may mean, and what to say of one that is not among them. */
#pragma once
#include "scheduler/context.h"

/* 0, or -ENOENT with "there is no user zoe; there are alice, bob and 12 more". A team is known if
 * it is somebody's, has a quota, or a job that has not ended names it. */
int known_user(const struct schedd *s, const char *name, struct hai_err *err);
int known_team(const struct schedd *s, const char *name, struct hai_err *err);
int known_group(const struct schedd *s, const char *name, struct hai_err *err);
