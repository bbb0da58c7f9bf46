/* cluster.h - the cluster file: read, checked, and made into the log entry that describes it. */
#pragma once
#include "lib/json_schema.h"
#include "scheduler/core/entry.h"
#include "wire/messages.h"

/* Read and check a cluster file. ret: for schema_free(cluster_file_schema(), ret); errors: all of
 * them, with file:line:column. Returns 0, -EINVAL, -ERANGE, or what reading the file gives. */
int cluster_read(const char *path, struct cluster_file *ret, struct json_schema_errors *errors,
                 struct hai_err *err);

/* The entry for a checked file; for schema_free(entry_cluster_set_schema(), ret). fence: somebody
 * fences although the file names no command (hai up). */
int cluster_entry(const struct cluster_file *file, bool fence, struct entry_cluster_set *ret,
                  struct hai_err *err);

/* Whose money a user spends unless told otherwise: the team that the file names, else the user's
 * own. Valid as long as both arguments. */
const char *cluster_team(const struct cluster_file *file, const char *user);

/* The entry for a quota of the file; texts are the file's. */
void cluster_quota_entry(const struct cluster_quota *quota, struct entry_quota_set *ret);

/* Nobody's ranks run as a system account. */
bool cluster_system_uid(int64_t uid);

/* Does somebody of the file stand behind the name, or a quota, so that jobs billed to it would be
 * his, or his team's? */
struct state;
bool cluster_has_team(const struct cluster_file *file, const struct state *state, const char *team);

/* May jobs of the user say that this team pays? Of a user with teams in the file only those, else
 * one would escape the quota of one's team by naming another. Of others the user's own name, or one
 * that is nobody's: no user's (who is his own team), no team's in the file, and no team's quota. */
bool cluster_may_name_team(const struct cluster_file *file, const struct state *state,
                           const char *user, const char *team);

/* Whether the state already is as the entry says; then no entry is needed. */
bool cluster_same(const struct state *state, const struct entry_cluster_set *entry);
