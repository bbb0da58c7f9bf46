/* cgroups.h - the cgroups of a node, in v2, v1 and mixed layouts: where they are mounted, which one
 * attempts get theirs below, and how a whole one is ended. Shared by hai-agentd and hai-upd.
 */
#pragma once
#include "agent/shim_proto.h"
#include "lib/base.h"

/* What was found at the start. Texts are owned; NULL where there is none. */
struct cgroups {
    enum shim_box box; // CGROUP2 or FREEZER with a base; PIDNS or WALK without
    char *base;        // directory below which attempts get theirs
    char *memory;      // the same in v1's memory hierarchy; NULL: v2 does it, or nobody
    bool limits_memory;
};

/* Find out what this machine allows, and move ourselves to a cgroup below the base.
 *
 * wanted  NULL: choose; `none`: do without cgroups; else the directory to use as base
 * name    for a new base; the same at every start of this agent, and of no other one
 *
 * Cannot fail: there is always SHIM_BOX_WALK.
 */
void cgroups_find(const char *wanted, const char *name, struct cgroups *ret);
void cgroups_free(struct cgroups *cgroups);

/* The directory of our own cgroup in the hierarchy that ends processes (v2, else the freezer), or
 * NULL if there is none that we may change. The caller frees. */
char *cgroups_own(void);

/* SIGKILL to everything in a cgroup and below it until nothing is left, for at most wait_us; then
 * remove it. 0, or -ETIMEDOUT while something lives on. -ENOENT is 0. Other hierarchies than the
 * given directory's are left alone. */
int cgroups_end(const char *path, int64_t wait_us);

/* Number of processes in a cgroup and below. */
int cgroups_count(const char *path);

/* Put a process into one. */
int cgroups_enter(const char *path, pid_t pid);
