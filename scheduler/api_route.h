/* api_route.h - the table of routes: the one home of what the API consists of.
 *
 * Dispatch, scopes, decoding of bodies, the OpenAPI description (api_openapi.h) and docs/api.md are
 * all made from it.
 */
#pragma once
#include "lib/pure/schema.h"
#include "scheduler/core/entry.h"

struct api_call;

enum api_answer { API_ANSWER_OBJECT, API_ANSWER_LIST, API_ANSWER_TEXT, API_ANSWER_BYTES };

/* path: segments in braces take any text: "/api/v1/jobs/{job}/why". query: names with one sentence
 * each, "NAME: what; NAME: what". body, schema: NULL where there is none. */
struct api_route {
    const char *method;
    const char *path;
    enum scope scope; // at least; SCOPE_NONE: no token needed
    const struct schema *(*body)(void);
    bool body_needed;
    bool body_ignores_unknown; // reports of other versions
    int status;                // of the answer
    enum api_answer answer;
    const struct schema *(*schema)(void);
    const char *query;
    const char *doc;
    void (*handle)(struct api_call *call);
};

const struct api_route *api_routes(int *ret_n);

/* The route for a method and path, with the texts of its braces (each for free()). NULL: none;
 * *ret_known tells whether another method would fit. */
enum { API_ROUTE_PARAMS_MAX = 2 };
const struct api_route *api_route_find(const char *method, const char *path,
                                       char *ret_params[API_ROUTE_PARAMS_MAX], bool *ret_known);
