/* api_openapi.h - the API described in OpenAPI 3, made from the table of routes and messages.def.
 */
#pragma once
#include "lib/pure/buf.h"

struct api_call;

/* Append the description, JSON. The same text for the same program. */
void api_openapi_write(struct buf *ret);

void api_openapi_handle(struct api_call *call); // GET /api/v1/openapi.json
