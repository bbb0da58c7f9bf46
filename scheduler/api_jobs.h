/* api_jobs.h - submissions of jobs, and changes to them. */
#pragma once

struct api_call;

void api_jobs_submit(struct api_call *call);       // POST /jobs
void api_jobs_submit_batch(struct api_call *call); // POST /jobs:batch
void api_jobs_stop(struct api_call *call);         // POST /jobs/{job}/stop, and so on
void api_jobs_suspend(struct api_call *call);
void api_jobs_resume(struct api_call *call);
void api_jobs_rerun(struct api_call *call);
void api_jobs_set(struct api_call *call);
