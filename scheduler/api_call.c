#include "scheduler/api_call.h"

#include "lib/json_schema.h"
#include "lib/log.h"
#include "lib/timefmt.h"
#include "scheduler/masking.h"
#include <stdarg.h>
#include <stdio.h>

static const char json_type[] = "application/json";

struct api_call *api_call_new(struct schedd *s, struct http_request *request,
                              const struct api_route *route, const struct api_caller *caller) {
    struct api_call *call = hai_new(struct api_call);

    call->s = s;
    call->request = request;
    call->route = route;
    call->caller = *caller;
    return call;
}

static void free_call(struct api_call *call) {
    if (call->waiting)
        watch_remove(call->waiting);
    if (call->own_free)
        call->own_free(call->own);
    if (call->body) {
        schema_free(call->route->body(), call->body);
        free(call->body);
    }
    for (int i = 0; i < API_ROUTE_PARAMS_MAX; i++)
        free(call->params[i]);
    free(call);
}

void api_call_finish(struct api_call *call) {
    call->request = NULL;
    if (!call->n_appended)
        free_call(call);
}

int api_call_status(int r, const struct hai_err *err) {
    /* "ended" and "conflict" are words of the core for requests that came in the wrong state. */
    if (err && (!strcmp(err->code, "ended") || !strcmp(err->code, "conflict")))
        return 409;
    if (err && !strcmp(err->code, "too_deep")) // a body that is short enough, and nonsense
        return 400;
    if (err && !strcmp(err->code, "store")) // a database that cannot be read, say
        return 503;
    switch (r) {
    case -EACCES:
    case -EPERM:
        return 403;
    case -ENOENT:
        return 404;
    case -EEXIST:
    case -ESTALE:
        return 409;
    case -EFBIG:
    case -EMSGSIZE:
        return 413;
    case -E2BIG: // jobs, tokens: the request is fine, there are too many already
        return 429;
    case -EIO:
    case -ENOSPC:
    case -EBUSY:
        return 503;
    case -EOPNOTSUPP:
        return 501;
    default:
        return 400;
    }
}

/* A denied request leaves a row. One that changes something is in the log and among the events,
 * with who asked. */
static void audit(struct api_call *call, int status, const char *detail) {
    if (status != 401 && status != 403)
        return;
    rows_add_audit(turn_rows(call->s->turn),
                   &(struct rows_audit){.time_us = turn_now_us(call->s->turn),
                                        .principal = call->caller.principal,
                                        .method = call->route->method,
                                        .path = http_request_path(call->request),
                                        .status = status,
                                        .detail = detail});
}

static void write_error(const struct hai_err *err, struct buf *ret) {
    struct api_error_reply reply;

    schema_init(api_error_reply_schema(), &reply);
    reply.error.code = hai_strdup(err->code[0] ? err->code : hai_err_code(err->r));
    reply.error.message = hai_strdup(hai_err_text(err));
    reply.error.where = err->where[0] ? hai_strdup(err->where) : NULL;
    reply.error.hint = err->hint[0] ? hai_strdup(err->hint) : NULL;
    json_schema_dump(api_error_reply_schema(), &reply, ret);
    schema_free(api_error_reply_schema(), &reply);
}

void api_call_refuse(struct http_request *request, int status, const struct hai_err *err) {
    struct buf text = {0};

    write_error(err, &text);
    if (status == 401)
        http_request_add_header(request, "WWW-Authenticate", "Bearer");
    http_respond(request, status, json_type, &text);
    buf_free(&text);
}

static void respond(struct api_call *call, int status, const char *type, struct buf *text) {
    struct http_request *request = call->request;

    if (request)
        http_respond(request, status, type, text);
    buf_free(text);
    api_call_finish(call);
}

/* The state that masks what hai says to this caller, NULL: it is said as it is. */
static const struct state *mask_of(const struct api_call *call) {
    const struct state *state = schedd_state(call->s);

    return masking_needed(state, call->caller.user, call->caller.scope) ? state : NULL;
}

/* Nothing is said rather than something with names in it. */
static void respond_unmasked(struct api_call *call, const struct hai_err *cause) {
    struct hai_err err = {.r = -EFBIG};
    struct buf text = {0};

    log_error("answer to %s is not masked: %s", call->caller.user, hai_err_text(cause));
    (void)hai_fail_at(&err, -EFBIG, "too_long", NULL, "ask for less: hai list --limit N",
                      "the answer is too long to be given to an external user");
    write_error(&err, &text);
    respond(call, 503, json_type, &text);
}

/* Everything that hai says in JSON; not the texts of people: job files, output. */
static void respond_json(struct api_call *call, int status, struct buf *text) {
    const struct state *mask = call->request ? mask_of(call) : NULL;
    struct hai_err err = {0};

    if (!mask || masking_apply(mask, text, &err) == 0) {
        respond(call, status, json_type, text);
        return;
    }
    buf_free(text);
    respond_unmasked(call, &err);
}

void api_call_reply_json(struct api_call *call, int status, struct buf *text) {
    respond_json(call, status, text);
}

void api_call_reply_text(struct api_call *call, int status, const char *type, struct buf *text) {
    respond(call, status, type, text);
}

void api_call_reply(struct api_call *call, int status, const struct schema *schema,
                    const void *value) {
    struct buf text = {0};

    json_schema_dump(schema, value, &text);
    respond_json(call, status, &text);
}

void api_call_error(struct api_call *call, int r, const struct hai_err *err) {
    int status = api_call_status(r, err);
    struct buf text = {0};

    if (call->request)
        audit(call, status, hai_err_text(err));
    write_error(err, &text);
    respond_json(call, status, &text);
}

void api_call_fail(struct api_call *call, int status, const char *code, const char *format, ...) {
    struct hai_err err = {.r = -EINVAL};
    struct buf text = {0};
    va_list args;

    va_start(args, format);
    vsnprintf(err.text, sizeof err.text, format, args);
    va_end(args);
    snprintf(err.code, sizeof err.code, "%s", code);
    if (call->request)
        audit(call, status, err.text);
    write_error(&err, &text);
    respond_json(call, status, &text);
}

struct api_list api_call_list(const struct api_call *call) {
    return (struct api_list){.began = true, .mask = mask_of(call)};
}

/* Element by element: a list of all jobs may be longer than what one can read. */
static void add_masked(struct api_list *list, const struct schema *schema, const void *value) {
    _cleanup_(buf_free) struct buf one = {0};

    json_schema_dump(schema, value, &one);
    if (!list->err.r && masking_apply(list->mask, &one, &list->err) == 0)
        buf_add(&list->text, one.data, one.n_bytes);
}

void api_call_list_add(struct api_list *list, const struct schema *schema, const void *value) {
    assert(list->began);
    buf_add_str(&list->text, list->n++ ? ",\n" : "[");
    if (list->mask)
        add_masked(list, schema, value);
    else
        json_schema_dump(schema, value, &list->text);
}

void api_call_reply_list(struct api_call *call, struct api_list *list) {
    assert(list->began);
    buf_add_str(&list->text, list->n ? "]\n" : "[]\n");
    if (!list->err.r) {
        respond(call, 200, json_type, &list->text);
        return;
    }
    buf_free(&list->text);
    respond_unmasked(call, &list->err);
}

static void on_client_gone(struct http_request *request, void *data) {
    api_call_finish(data);
}

void api_call_hold(struct api_call *call) {
    if (!call->held && call->request)
        http_request_hold(call->request, on_client_gone, call);
    call->held = true;
}

static void handle_again(void *data) {
    struct api_call *call = data;

    call->waiting = NULL;
    call->route->handle(call);
}

static bool read_wait(const struct api_call *call, double *ret) {
    const char *text = http_request_query(call->request, "wait");
    char *end = NULL;

    *ret = text ? strtod(text, &end) : 0;
    return !text || !*text || (end != text && !*end && *ret >= 0); // NaN is not
}

int api_call_check_wait(struct api_call *call) {
    double seconds;

    if (read_wait(call, &seconds))
        return 0;
    api_call_fail(call, 400, "out_of_range", "wait is '%.40s'; expected seconds from 0",
                  http_request_query(call->request, "wait"));
    return -EINVAL;
}

int64_t api_call_wait_us(const struct api_call *call, int64_t max_us) {
    double seconds;

    return read_wait(call, &seconds) ? (int64_t)MIN(seconds * 1e6, (double)max_us) : 0;
}

bool api_call_wait(struct api_call *call, enum watch_topic topic, int64_t job) {
    int64_t now_us = timefmt_monotonic_us();

    if (!call->wait_until_us) {
        int64_t wait_us = api_call_wait_us(call, API_WAIT_S_MAX * INT64_C(1000000));
        if (!wait_us)
            return false;
        call->wait_until_us = now_us + wait_us;
    }
    if (now_us >= call->wait_until_us)
        return false;
    api_call_hold(call);
    call->waiting =
        watch_add(call->s->watch, topic, job, call->wait_until_us - now_us, handle_again, call);
    return true;
}

void api_call_append(struct api_call *call, enum entry_kind kind, const void *payload,
                     turn_reply_fn fn) {
    api_call_hold(call);
    call->n_appended++;
    turn_append(call->s->turn, kind, payload, call->caller.principal, fn, call);
}

void api_call_appended(struct api_call *call) {
    assert(call->n_appended > 0);
    call->n_appended--;
}

void api_call_changed(struct api_call *call, int64_t index, int r, const struct apply_reply *reply,
                      int64_t id) {
    struct index_view answer;

    api_call_appended(call);
    if (r < 0) {
        api_call_error(call, r, &reply->err);
        return;
    }
    schema_init(index_view_schema(), &answer);
    answer.index = index;
    answer.id = id;
    answer.message = reply->changed ? NULL : hai_strdup("nothing to change");
    api_call_reply(call, 200, index_view_schema(), &answer);
    schema_free(index_view_schema(), &answer);
}

void api_call_on_changed(void *data, int64_t index, int r, const struct apply_reply *reply) {
    api_call_changed(data, index, r, reply, S_ABSENT);
}

int api_call_query_int(struct api_call *call, const char *name, int64_t min, int64_t max,
                       int64_t fallback, int64_t *ret) {
    const char *text = http_request_query(call->request, name);
    char *end;

    *ret = fallback;
    if (!text || !*text)
        return 0;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (*end || errno || value < min || value > max) {
        api_call_fail(call, 400, "out_of_range",
                      "%s is '%.40s'; expected a number from %lld to %lld", name, text,
                      (long long)min, (long long)max);
        return -EINVAL;
    }
    *ret = value;
    return 0;
}

bool api_call_query_flag(struct api_call *call, const char *name) {
    const char *text = http_request_query(call->request, name);

    return text && strcmp(text, "0") != 0 && strcmp(text, "false") != 0;
}

bool api_call_owns(struct api_call *call, const char *user) {
    if (call->caller.scope >= SCOPE_OPERATE || hai_streq(user, call->caller.user))
        return true;
    api_call_fail(call, 403, "denied", "the job belongs to %s; you are %s", user,
                  call->caller.user[0] ? call->caller.user : call->caller.principal);
    return false;
}
