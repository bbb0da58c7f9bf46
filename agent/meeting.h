/* meeting.h - how the agents of one attempt's nodes put together an all-gather of its ranks.
 *
 * Each agent collects the values of its own ranks; then it sends them to the agent of node rank 0,
 * which answers everyone with all values once it has them all. Over the agents' data ports; every
 * message carries an HMAC under the attempt's secret. A connection that breaks is made again and
 * everything sent anew: repeating does no harm.
 *
 *   hai-meet 1 JOB ATTEMPT EPOCH NODE_RANK ROUND NONCE BYTES LF, BYTES of `RANK HEX` lines, MAC LF
 *   answer:  ok BYTES LF, BYTES of `RANK HEX` lines, MAC LF  (its MAC covers the NONCE as well)
 */
#pragma once
#include "agent/agentd.h"

struct meeting;

/* Listen on the configured address, on the port of the last start if it is free. */
int meeting_new(struct agentd *a, struct meeting **ret, struct hai_err *err);
void meeting_free(struct meeting *meeting);
int meeting_port(const struct meeting *meeting);

/* All ranks of this node have given their values: bring them to node rank 0, until the round is
 * complete. On node rank 0 itself: nothing. */
void meeting_join(struct attempt *at, const char *round);

/* The round is complete on node rank 0: answer the agents that wait. */
void meeting_complete(struct attempt *at, const char *round);

/* The attempt ends: forget its rounds. */
void meeting_forget(struct attempt *at);
