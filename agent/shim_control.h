/* shim_control.h - the connections of agents to a shim. Part of hai-shim. */
#pragma once
#include "agent/shim.h"

void shim_control_add(struct shim *s, int fd);
void shim_control_accept(struct shim *s, int listen_fd);

/* Read and obey, or send what waits. */
void shim_control_ready(struct shim *s, struct shim_connection *c, short events);

/* Tell everybody. */
void shim_control_exit(struct shim *s, const struct shim_rank *rank);
void shim_control_gone(struct shim *s);
void shim_control_output(struct shim *s, int index, const void *data, size_t n_bytes);

/* Give rank 0 what waits for it. */
void shim_control_stdin(struct shim *s);
