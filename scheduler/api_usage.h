/* api_usage.h - GET /api/v1/usage. */
#pragma once
#include "scheduler/api_call.h"

void api_usage_handle(struct api_call *call);
