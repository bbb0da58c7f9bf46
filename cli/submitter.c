#include "cli/submitter.h"

#include "cli/patience.h"
#include "lib/json_schema.h"
#include "lib/random.h"
#include <stdio.h>

enum {
    BATCH = 250,   // jobs of a request: the scheduler makes each request one commit
    IN_FLIGHT = 3, // requests sent ahead of their answers
    REPLY_MS = 60000,
    KEY_BYTES = 48,
};

int submitter_one(struct cli *cli, const struct job_spec *spec, bool dry_run, struct json **ret,
                  struct hai_err *err) {
    _cleanup_(buf_free) struct buf body = {0};
    char header[128];

    json_schema_dump(job_spec_schema(), spec, &body);
    (void)snprintf(header, sizeof header, "Idempotency-Key: %016llx%016llx\r\n",
                   (unsigned long long)random_u64(), (unsigned long long)random_u64());
    int r = cli_ask(cli, "POST", dry_run ? "/api/v1/jobs?dry_run=1" : "/api/v1/jobs", header,
                    buf_cstr(&body), ret, err);
    // The scheduler names the field of a job file; here there is an option as well.
    if (r < 0 && strncmp(err->hint, "resources: {cross_zones: true} ", 31) == 0)
        (void)snprintf(err->hint, sizeof err->hint,
                       "--cross-zones, or resources: {cross_zones: true}, lets one run span zones");
    return r;
}

/* One request in flight. */
struct batch {
    struct buf body;
    int n_jobs;
};

struct submitter {
    struct cli *cli;
    void (*result)(void *context, const struct json *submitted);
    void *context;
    char prefix[KEY_BYTES]; // of the keys of this run
    int64_t n_added;
    struct batch batches[IN_FLIGHT + 1]; // a ring: sent ones from `first`, then the open one
    int first;
    int n_sent;
};

struct submitter *submitter_new(struct cli *cli,
                                void (*result)(void *context, const struct json *submitted),
                                void *context) {
    struct submitter *s = hai_new(struct submitter);

    s->cli = cli;
    s->result = result;
    s->context = context;
    (void)snprintf(s->prefix, sizeof s->prefix, "%016llx%016llx", (unsigned long long)random_u64(),
                   (unsigned long long)random_u64());
    return s;
}

void submitter_free(struct submitter *submitter) {
    if (!submitter)
        return;
    for (size_t i = 0; i < ARRAY_SIZE(submitter->batches); i++)
        buf_free(&submitter->batches[i].body);
    free(submitter);
}

static struct batch *batch_at(struct submitter *s, int i) {
    return &s->batches[(s->first + i) % (int)ARRAY_SIZE(s->batches)];
}

static int send_batch(struct submitter *s, const struct batch *batch, struct hai_err *err) {
    int r = cli_connect(s->cli, err);

    if (r < 0)
        return r;
    return http_sync_send(s->cli->http, "POST", "/api/v1/jobs:batch", NULL, batch->body.data,
                          batch->body.n_bytes, err);
}

static int take_results(struct submitter *s, const struct batch *batch,
                        const struct http_sync_reply *reply, struct hai_err *err) {
    _cleanup_(json_freep) struct json *answer = NULL;

    int r = cli_reply_error(reply, err);
    if (r < 0)
        return r;
    if (json_parse(reply->body.data, reply->body.n_bytes, NULL, &answer, NULL) < 0 ||
        (int)json_count(json_get(answer, "results")) != batch->n_jobs)
        return hai_fail(err, -EPROTO, "the scheduler's answer to a batch is not understood");
    for (const struct json *v = json_first(json_get(answer, "results")); v; v = json_next(v))
        s->result(s->context, v);
    return 0;
}

/* Take the answer of the oldest request. After a broken connection all requests in flight are sent
 * again: their keys make that harmless. */
static int receive_batch(struct submitter *s, struct hai_err *err) {
    struct batch *oldest = batch_at(s, 0);
    struct patience patience = {0};
    int r = 0;

    do {
        _cleanup_(http_sync_reply_free) struct http_sync_reply reply = {0};
        if (patience.since_us) {
            r = 0;
            for (int k = 0; k < s->n_sent && r == 0; k++)
                r = send_batch(s, batch_at(s, k), err);
        }
        if (r == 0)
            r = http_sync_receive(s->cli->http, REPLY_MS, &reply, err);
        if (r == 0)
            r = take_results(s, oldest, &reply, err);
        else
            r = cli_no_answer(s->cli, r, err);
        if (r == 0) {
            buf_clear(&oldest->body);
            oldest->n_jobs = 0;
            s->first = (s->first + 1) % (int)ARRAY_SIZE(s->batches);
            s->n_sent--;
        }
        if (r != -EHOSTDOWN)
            return r;
    } while (patience_wait(&patience, PATIENCE_US, s->cli->quiet || s->cli->json));
    return r;
}

static int flush(struct submitter *s, struct hai_err *err) {
    struct batch *open = batch_at(s, s->n_sent);

    buf_add_str(&open->body, "]}");
    int r = send_batch(s, open, err);
    // A broken connection shows again when the answer is awaited, and is mended there.
    if ((r == -ECONNREFUSED || r == -ENOENT) && s->n_sent == 0 &&
        !patience_supervised(s->cli->server_url, s->cli->server_from))
        return cli_no_answer(s->cli, r, err);
    s->n_sent++;
    return s->n_sent >= IN_FLIGHT ? receive_batch(s, err) : 0;
}

int submitter_add(struct submitter *s, const struct job_spec *spec, struct hai_err *err) {
    struct batch *open = batch_at(s, s->n_sent);

    buf_printf(&open->body, "%s{\"key\":\"%s-%lld\",\"spec\":", open->n_jobs ? "," : "{\"jobs\":[",
               s->prefix, (long long)s->n_added++);
    json_schema_dump(job_spec_schema(), spec, &open->body);
    buf_add_str(&open->body, "}");
    return ++open->n_jobs >= BATCH ? flush(s, err) : 0;
}

int submitter_finish(struct submitter *s, struct hai_err *err) {
    int r = batch_at(s, s->n_sent)->n_jobs ? flush(s, err) : 0;

    while (r == 0 && s->n_sent)
        r = receive_batch(s, err);
    return r;
}
