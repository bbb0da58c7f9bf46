/* known.h - names that a request may mean, and what to say of one that is not among them. */
#pragma once
#include "scheduler/context.h"

/* 0, or -EINVAL with "there is no user zoe" and those that there are as the hint. A team is known
 * if it is somebody's, has a quota, or a job that has not ended names it. */
int known_user(const struct schedd *s, const char *name, struct hai_err *err);
int known_team(const struct schedd *s, const char *name, struct hai_err *err);
int known_group(const struct schedd *s, const char *name, struct hai_err *err);
