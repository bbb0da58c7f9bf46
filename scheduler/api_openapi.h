/* api_openapi.h - the API described in OpenAPI 3, made from the table of routes and messages.def.
 */
#pragma once
#include "lib/pure/buf.h"

struct api_call;
struct api_route;

/* Append the description, JSON. The same text for the same program. */
void api_openapi_write(const struct api_route *routes, int n_routes, struct buf *ret);

void api_openapi_handle(struct api_call *call); // GET /api/v1/openapi.json
