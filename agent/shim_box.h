/* shim_box.h - what holds an attempt's processes together, so that none escapes its end: a cgroup
 * (v2, or v1's freezer), a PID namespace, or a walk over the shim's descendants. Part of hai-shim.
 */
#pragma once
#include "agent/shim.h"

/* Make the box the spec asks for. Returns 0 or -errno with a sentence in message. */
int shim_box_make(struct shim *s, char message[static SHIM_MESSAGE_BYTES]);

/* Fork a rank inside the box, or a copy of us for SHIM_BOX_PIDNS's init. As fork(). */
pid_t shim_box_fork(struct shim *s);

/* In the child: enter what fork could not put it into. 0 or -errno. */
int shim_box_enter(struct shim *s);

/* SIGKILL to everything inside, once; what forks meanwhile needs another call. */
void shim_box_kill(struct shim *s);

/* SIGTERM to the ranks and the processes of their groups. */
void shim_box_term(struct shim *s);

/* Is no process left inside? */
bool shim_box_empty(struct shim *s);

/* Has the memory limit killed more than was asked for? Each call that says so takes one of what was
 * killed, as each rank asks for itself. */
bool shim_box_oom(struct shim *s);

/* Remove the empty box. */
void shim_box_remove(struct shim *s);
