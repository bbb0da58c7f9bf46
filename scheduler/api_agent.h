/* api_agent.h - what agents ask for: reports of starts, exits, checkpoints. Polls: fleet.h. */
#pragma once

struct api_call;

/* POST /api/v1/agent/report: answered when everything in it is recorded. */
void api_agent_report(struct api_call *call);
