/* shim_start.h - reads what to run and starts the rank processes. Part of hai-shim. */
#pragma once
#include "agent/shim.h"

/* Why a process could not become the rank it should be; written by it before it ends. */
struct shim_start_error {
    int32_t index;
    int32_t error;  // errno
    uint32_t cause; // enum shim_cause: START, or UNKNOWN where the node is to blame
    char what[SHIM_MESSAGE_BYTES - 64];
};

/* What the init of a PID namespace says of a rank that ended, on init_fd. */
struct shim_init_exit {
    int32_t index;
    int32_t code; // CLD_EXITED ...
    int32_t status;
};

/* Map and check the spec, and point into it. -EBADMSG. */
int shim_start_read(struct shim *s, int spec_fd);

/* Start all ranks (in the box made before). Those that
 * cannot be forked get cause unknown and a message, and no pid. */
void shim_start_ranks(struct shim *s);

/* Become rank `index`: never returns. In the child; fds: stdin, output. */
void shim_start_become(struct shim *s, int index, int stdin_fd, int output_fd)
    __attribute__((noreturn));
