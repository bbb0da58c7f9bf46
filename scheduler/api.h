/* api.h - the API's HTTP side: requests to routes, tokens to callers, bodies to structs. */
#pragma once
#include "scheduler/context.h"

/* The configuration of the server whose requests are answered here. s must outlive the server. */
struct http_server_config api_server_config(struct schedd *s);
