/* procs.h - processes known by their environment, for boxes without a cgroup: when the shim that
 * held an attempt was killed, its socket's name there tells what is left of it.
 *
 * A process that clears its environment is not found.
 */
#pragma once
#include "lib/base.h"

/* SIGKILL to every process whose environment has exactly this entry, `NAME=value`, until none is
 * left, for at most wait_us. 0; -ETIMEDOUT while something lives on; or -errno: it was not possible
 * to look. */
int procs_end(const char *entry, int64_t wait_us);
