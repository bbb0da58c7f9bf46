#include "scheduler/api.h"

#include "lib/json_schema.h"
#include "scheduler/api_auth.h"
#include "scheduler/api_table.h"
#include "scheduler/spec.h"

/* What the head of a request tells. */
struct head {
    const struct api_route *route;
    struct api_caller caller;
    char *params[API_ROUTE_PARAMS_MAX];
};

static void free_head(struct head *head) {
    for (int i = 0; i < API_ROUTE_PARAMS_MAX; i++)
        free(head->params[i]);
}

static void refuse(struct http_request *request, int status, const char *code, const char *text) {
    struct hai_err err = {0};

    hai_fail_at(&err, -EINVAL, code, NULL, NULL, "%s", text);
    api_call_refuse(request, status, &err);
}

/* A request that was denied before it became a call. */
static void audit_denied(struct schedd *s, struct http_request *request, const char *principal,
                         int status, const char *detail) {
    rows_add_audit(turn_rows(s->turn), &(struct rows_audit){
                                           .time_us = turn_now_us(s->turn),
                                           .principal = principal,
                                           .method = http_request_method(request),
                                           .path = http_request_path(request),
                                           .status = status,
                                           .detail = detail,
                                       });
}

static bool find_route(struct http_request *request, struct head *head) {
    bool known;

    head->route = api_table_find(http_request_method(request), http_request_path(request),
                                 head->params, &known);
    if (head->route)
        return true;
    if (known)
        refuse(request, 405, "method", "this path knows other methods only");
    else
        refuse(request, 404, "not_found", "no such path; GET /api/v1/openapi.json lists them");
    return false;
}

static bool find_caller(struct schedd *s, struct http_request *request, struct head *head) {
    struct hai_err err = {0};

    if (head->route->scope == SCOPE_NONE)
        return true;
    if (api_auth_check(schedd_state(s), http_request_header(request, "Authorization"),
                       turn_now_us(s->turn), &head->caller, &err) < 0) {
        audit_denied(s, request, "", 401, err.text);
        api_call_refuse(request, 401, &err);
        return false;
    }
    if (!api_auth_allowed(&head->caller, head->route->scope)) {
        hai_fail_at(&err, -EACCES, "denied", "Authorization", NULL,
                    "this needs a token of scope %s; yours has %s", scope_text(head->route->scope),
                    scope_text(head->caller.scope));
        audit_denied(s, request, head->caller.principal, 403, err.text);
        api_call_refuse(request, 403, &err);
        return false;
    }
    return true;
}

/* The head of a request is there: refuse what can be refused before its body is read. Nothing is
 * kept for `handle`, which looks again: a client that goes away in between leaves nothing behind.
 */
static void begin(struct http_request *request, void *data) {
    _cleanup_(free_head) struct head head = {0};

    if (find_route(request, &head))
        find_caller(data, request, &head);
}

static int decode_body(struct api_call *call, struct hai_err *err) {
    const struct api_route *route = call->route;
    const struct buf *body = http_request_body(call->request);

    if (!route->body)
        return 0;
    if (!body->n_bytes && route->body_needed)
        return hai_fail_at(err, -EINVAL, "no_body", NULL, NULL, "the request has no body");
    void *value = hai_alloc(route->body()->n_bytes);
    int r = 0;
    if (body->n_bytes)
        r = json_schema_parse(route->body(), body->data, body->n_bytes,
                              route->body_ignores_unknown ? JSON_SCHEMA_IGNORE_UNKNOWN : 0, value,
                              err);
    else
        schema_init(route->body(), value);
    if (r < 0) {
        spec_name_unsupported(err);
        free(value);
        return r;
    }
    call->body = value;
    return 0;
}

static void handle(struct http_request *request, void *data) {
    _cleanup_(free_head) struct head head = {0};
    struct hai_err err = {0};

    if (!find_route(request, &head) || !find_caller(data, request, &head))
        return;
    struct api_call *call = api_call_new(data, request, head.route, &head.caller);
    memcpy(call->params, head.params, sizeof call->params);
    memset(head.params, 0, sizeof head.params);
    int r = decode_body(call, &err);
    if (r < 0)
        api_call_error(call, r, &err);
    else if (api_call_check_wait(call) == 0)
        call->route->handle(call);
}

struct http_server_config api_server_config(struct schedd *s) {
    s->routes = api_table_routes(&s->n_routes);
    return (struct http_server_config){
        .begin = begin,
        .handle = handle,
        .data = s,
        .body_bytes_max = HTTP_BODY_BYTES_MAX,
    };
}
