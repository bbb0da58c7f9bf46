/* accounts.h - accounts of this machine by uid: name, home, shell, supplementary groups. */
#pragma once
#include "lib/base.h"

struct accounts;
struct launch_account;

struct accounts *accounts_new(void);
void accounts_free(struct accounts *accounts);
DEFINE_CLEANUP(struct accounts *, accounts_free)

/* Look one up, from memory if that is less than a minute old. A uid without an account gets home /
 * and /bin/sh. Texts in ret stay until the next call. */
void accounts_get(struct accounts *accounts, uint32_t uid, uint32_t gid, const char *fallback_name,
                  struct launch_account *ret);
