/* api_logs.h - output of ranks, and streams into them. */
#pragma once

struct api_call;

void api_logs_read(struct api_call *call);  // GET /jobs/{job}/logs
void api_logs_join(struct api_call *call);  // POST /jobs/{job}/stream
void api_logs_agent(struct api_call *call); // POST /agent/streams/{stream}
