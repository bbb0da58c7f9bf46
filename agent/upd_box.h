/* upd_box.h - the box of an emulated node: everything that runs on it, and how to end all of it.
 *
 * A node of `hai up` is an agent, its shims and their ranks. As root they live in one cgroup (v2
 * with cgroup.kill, or a v1 hierarchy), so that ending the node is sure. Where no cgroup can be
 * made the stand-in is a walk over /proc: processes that carry the node's mark in their environment
 * and all their descendants; a process that both clears its environment and leaves its parents
 * escapes it, which `hai doctor` says.
 */
#pragma once
#include "lib/base.h"
#include <sys/types.h>

struct upd_box;

/* Make the box of a node. node_dir (DIR/nodes/NAME) is the mark; the cgroup's path, if there is
 * one, is written to node_dir/cgroup. Returns 0 or -errno. */
int upd_box_new(const char *node_dir, const char *name, struct upd_box **ret, struct hai_err *err);

/* Frees the description only; upd_box_remove takes the cgroup away. */
void upd_box_free(struct upd_box *box);

/* In a child between fork and exec: put the calling process into the box. Sets the mark, so it must
 * come before the environment is used. Returns 0 or -errno. */
int upd_box_enter(const struct upd_box *box);

/* SIGKILL everything in the box. Returns how many processes were still there when it looked after
 * that; 0 means that none is left and none can come. The caller repeats until then. */
int upd_box_kill(const struct upd_box *box);

/* Remove the cgroup, with those below it. Returns 0 or -EBUSY while something lives in it. */
int upd_box_remove(const struct upd_box *box);

/* "cgroup /path" or "process walk", for log lines. */
const char *upd_box_kind(const struct upd_box *box);
