/* shell.h - a person's process beside a rank: in its environment, directory and cgroup, as its
 * user, on a terminal of its own or on a socket. */
#pragma once
#include "agent/agentd.h"

/* Start request->command, or the user's login shell if it is empty, beside the rank at an index of
 * the attempt's ranks on this node.
 *
 * ret_fd  terminal, or socket that is its stdin, stdout and stderr; non-blocking; the caller closes
 */
int shell_start(const struct attempt *at, size_t index, const struct stream_request *request,
                pid_t *ret_pid, int *ret_fd, struct hai_err *err);

void shell_resize(int fd, uint16_t rows, uint16_t columns);

/* No more input comes: on a terminal that is ctrl-D behind what waits, else the end. */
void shell_end_input(int fd, bool tty, struct buf *waiting);
