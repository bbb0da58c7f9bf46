/* assignment.h - from the core's desired sets to what agents are told.
 *
 * Which rank gets which GPUs of its node, where the gang's nodes are reached, and the attempt's
 * secret are derived here, always the same for the same state: a set may be sent again.
 */
#pragma once
#include "scheduler/context.h"
#include "scheduler/core/desired.h"

/* One part of a node's desired set. Release with schema_free(desired_attempt_schema(), ret). */
void assignment_fill(const struct schedd *s, const struct desired_part *part,
                     struct desired_attempt *ret);

/* The GPUs of one of a node's ranks, added to a list of int64_t: an equal share of the set where it
 * can be shared equally, else all of them. */
void assignment_rank_gpus(uint32_t gpus, int64_t ranks_per_node, int64_t local_rank, void *ret);

/* A node's address in the state is "host:data_port", or only the host. ret_host: for free(). */
int64_t assignment_address(const char *address, char **ret_host);
