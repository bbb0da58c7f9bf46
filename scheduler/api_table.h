/* api_table.h - the table of routes: the one home of what the API consists of.
 *
 * Dispatch, scopes, decoding of bodies and the OpenAPI description (api_openapi.h) are made from
 * it.
 */
#pragma once
#include "scheduler/api_route.h"

const struct api_route *api_table_routes(int *ret_n);

/* The route for a method and path, with the texts of its braces (each for free()). NULL: none;
 * *ret_known tells whether another method would fit. */
const struct api_route *api_table_find(const char *method, const char *path,
                                       char *ret_params[API_ROUTE_PARAMS_MAX], bool *ret_known);
