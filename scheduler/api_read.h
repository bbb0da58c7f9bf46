/* api_read.h - everything that only looks: jobs, events, nodes, groups, who am I. */
#pragma once

struct api_call;

void api_read_jobs(struct api_call *call);
void api_read_queue(struct api_call *call);
void api_read_job(struct api_call *call);
void api_read_why(struct api_call *call);
void api_read_spec(struct api_call *call);
void api_read_job_events(struct api_call *call);
void api_read_events(struct api_call *call);
