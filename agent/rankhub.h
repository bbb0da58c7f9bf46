/* rankhub.h - the sockets that ranks speak on (rank/rank.h is the protocol): progress, checkpoint
 * commits, rendezvous, notices. One for each attempt, in its run directory. */
#pragma once
#include "agent/agentd.h"

struct rankhub;

/* Make the socket of an attempt; without one its ranks run as well, so a failure is only logged. */
void rankhub_open(struct attempt *at);
void rankhub_free(struct rankhub *hub);

/* at->desired is there now: answer the ranks that waited for it. */
void rankhub_desired(struct rankhub *hub);

/* Tell all ranks that they are being ended. kill_at_us: SIGKILL, CLOCK_BOOTTIME. */
void rankhub_terminate(struct rankhub *hub, int64_t kill_at_us);

/* What the scheduler said about a checkpoint. */
void rankhub_committed(struct agentd *a, const struct ckpt_result *result);

/* An all-gather has the values of all ranks now: give them to those who wait. */
void rankhub_complete(struct attempt *at, const char *round);
