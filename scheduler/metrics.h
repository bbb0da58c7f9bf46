/* metrics.h - GET /metrics: figures of the scheduler in Prometheus' text form. */
#pragma once

struct api_call;

void metrics_handle(struct api_call *call);
