/* api_call.h - one request to the API, from the handlers' point of view.
 *
 * A handler gets a call that is routed, authenticated and whose body is decoded. It answers with
 * one of api_call_reply..., or arranges to be called again (api_call_wait, api_call_append) and
 * returns. The call frees itself when it was answered, or when its client has gone.
 */
#pragma once
#include "scheduler/api_route.h"
#include "scheduler/context.h"
#include "scheduler/watch.h"

enum { API_WAIT_S_MAX = 60 };

/* Who asks. user: of a person's token; node: of an agent's; the other is NULL. */
struct api_caller {
    char principal[PRINCIPAL_MAX + 1]; // of log entries
    enum scope scope;
    char user[USER_NAME_MAX + 1];
    char node[NODE_NAME_MAX + 1];
    int64_t token;
    int64_t expires_us; // or S_ABSENT
};

struct api_call {
    struct schedd *s;
    struct http_request *request; // NULL: the client has gone
    const struct api_route *route;
    struct api_caller caller;
    char *params[API_ROUTE_PARAMS_MAX]; // {JOB}, {NODE} of the path
    void *body;                         // of route->body, decoded
    bool held;
    struct watch_item *waiting;
    int64_t wait_until_us; // CLOCK_MONOTONIC; 0: has not waited yet
    int n_appended;        // entries whose result is awaited
    void *own;             // of the handler, with
    void (*own_free)(void *own);
};

/* A call for a request; taken care of by the functions below from then on. */
struct api_call *api_call_new(struct schedd *s, struct http_request *request,
                              const struct api_route *route, const struct api_caller *caller);

/* Free an answered call, unless results of entries are still to come: then the last one frees it.
 */
void api_call_finish(struct api_call *call);

/* Answers. */
void api_call_reply(struct api_call *call, int status, const struct schema *schema,
                    const void *value);
void api_call_reply_json(struct api_call *call, int status, struct buf *text); // takes it over
void api_call_reply_text(struct api_call *call, int status, const char *type, struct buf *text);
void api_call_error(struct api_call *call, int r, const struct hai_err *err);
void api_call_fail(struct api_call *call, int status, const char *code, const char *format, ...)
    _printf_(4, 5);

/* Answer before there is a call. Also what api_call_fail says. */
void api_call_refuse(struct http_request *request, int status, const struct hai_err *err);

/* The HTTP status of a negative result. */
int api_call_status(int r, const struct hai_err *err);

/* A JSON array, element by element; the reply takes it over. */
struct api_list {
    bool began;
    const struct state *mask; // NULL: the caller may see the names of nodes
    struct buf text;
    size_t n;
    struct hai_err err; // r: an element could not be masked
};
struct api_list api_call_list(const struct api_call *call);
void api_call_list_add(struct api_list *list, const struct schema *schema, const void *value);
void api_call_reply_list(struct api_call *call, struct api_list *list);

/* A blocking query: wait until the topic changes, then have the handler called again. False: the
 * time asked for (?wait=, at most API_WAIT_S_MAX) is over, answer with what there is. */
bool api_call_wait(struct api_call *call, enum watch_topic topic, int64_t job);

/* ?wait= in microseconds, at most so many; 0: none. */
int64_t api_call_wait_us(const struct api_call *call, int64_t max_us);

/* 0, or -EINVAL with the error answered: ?wait= is no number of seconds. */
int api_call_check_wait(struct api_call *call);

/* Append an entry in the caller's name. fn gets the call; if the client has gone meanwhile,
 * call->request is NULL and answering does nothing. */
void api_call_append(struct api_call *call, enum entry_kind kind, const void *payload,
                     turn_reply_fn fn);

/* To be called first in every such fn. */
void api_call_appended(struct api_call *call);

/* The end of api_call_append where nothing but the change itself is told (index_view). id: the job
 * concerned, or S_ABSENT. api_call_on_changed: the same as a turn_reply_fn, without a job. */
void api_call_changed(struct api_call *call, int64_t index, int r, const struct apply_reply *reply,
                      int64_t id);
void api_call_on_changed(void *data, int64_t index, int r, const struct apply_reply *reply);

/* Keep the request open for an answer that comes from elsewhere. */
void api_call_hold(struct api_call *call);

/* Whole numbers of the query, e.g. ?since=12: 0, or -EINVAL with the error answered. */
int api_call_query_int(struct api_call *call, const char *name, int64_t min, int64_t max,
                       int64_t fallback, int64_t *ret);
bool api_call_query_flag(struct api_call *call, const char *name); // ?all=1, ?all

/* Is the caller the owner of a job, or may operate? If not, answers 403. */
bool api_call_owns(struct api_call *call, const char *user);
