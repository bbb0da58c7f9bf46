/* uplink.h - the agent's side of the control protocol: long polls for the desired set, and reports,
 * each repeated until the scheduler has answered it. */
#pragma once
#include "agent/agentd.h"

struct uplink;

struct uplink *uplink_new(struct agentd *a);
void uplink_free(struct uplink *uplink);

/* Send what is new, if nothing is under way. At the end of a turn. */
void uplink_turn_end(struct agentd *a);
