/* api_route.h - what is known about one route of the API; the table of them is api_table.h. */
#pragma once
#include "lib/pure/schema.h"
#include "scheduler/core/entry.h"

struct api_call;

enum { API_ROUTE_PARAMS_MAX = 2 };

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
