#include "tests/unit/test.h"
#include "wire/http_client.h"
#include "wire/http_server.h"

#include <stdio.h>

/* A server and a client in one loop. */
struct pair {
    struct loop *loop;
    struct http_server *server;
    struct http_client *client;
    int n_answers;
    int status;
    int r;
    char body[64];
    char header[64];
    struct http_raw *raw;
    struct http_raw *server_raw;
};

static void on_server_raw(struct http_raw *raw, void *data) {
    struct pair *pair = data;

    pair->server_raw = raw;
}

static void on_request(struct http_request *request, void *data) {
    const char *path = http_request_path(request);
    _cleanup_(buf_free) struct buf body = {0};

    if (!strcmp(path, "/raw")) {
        CHECK_EQ(http_respond_upgrade(request, "test", on_server_raw, data), 0);
        return;
    }
    if (!strcmp(path, "/never")) {
        http_request_hold(request, NULL, NULL);
        return;
    }
    const char *token = http_request_header(request, "Authorization");
    buf_printf(&body, "%s %s %zu", http_request_method(request), token ? token : "none",
               http_request_body(request)->n_bytes);
    http_request_add_header(request, "Hai-Test", "seen");
    http_respond(request, 201, "text/plain", &body);
}

static void on_answer(struct http_answer *answer, void *data) {
    struct pair *pair = data;

    pair->n_answers++;
    pair->status = answer->status;
    pair->r = answer->r;
    (void)snprintf(pair->body, sizeof pair->body, "%.*s", (int)answer->body.n_bytes,
                   (const char *)answer->body.data);
    (void)http_answer_header(answer, "hai-test", sizeof pair->header, pair->header);
}

static void on_raw(struct http_raw *raw, const struct hai_err *err, void *data) {
    struct pair *pair = data;

    pair->n_answers++;
    pair->raw = raw;
    pair->r = err ? err->r : 0;
}

static void pair_open(struct pair *pair) {
    struct hai_err err = {0};
    char url[64];

    *pair = (struct pair){0};
    CHECK_EQ(loop_new(&pair->loop, &err), 0);
    struct http_server_config config = {.handle = on_request, .data = pair};
    pair->server = http_server_new(pair->loop, &config);
    int port = http_server_listen(pair->server, "127.0.0.1:0", &err);
    CHECK(port > 0, "%s", err.text);
    (void)snprintf(url, sizeof url, "http://127.0.0.1:%d", port);
    CHECK_EQ(http_client_new(pair->loop, url, "secret", &pair->client, &err), 0);
}

static void pair_close(struct pair *pair) {
    http_raw_close(pair->raw);
    http_raw_close(pair->server_raw);
    http_client_free(pair->client);
    http_server_free(pair->server);
    loop_free(pair->loop);
}

static void run_until(struct pair *pair, int n_answers) {
    for (int i = 0; i < 2000 && pair->n_answers < n_answers; i++)
        (void)loop_turn(pair->loop, 10000);
    CHECK_EQ(pair->n_answers, n_answers);
}

TEST(requests_are_answered)
{
    struct pair pair;
    pair_open(&pair);
    for (int i = 0; i < 20; i++)
        http_client_send(pair.client, "POST", "/x?y=1", NULL, "{\"a\":1}", 7, 5000, on_answer,
                         &pair);
    run_until(&pair, 20);
    CHECK_EQ(pair.status, 201);
    CHECK_STR(pair.body, "POST Bearer secret 7");
    CHECK_STR(pair.header, "seen");
    http_client_send(pair.client, "GET", "/x", NULL, NULL, 0, 5000, on_answer, &pair);
    run_until(&pair, 21);
    CHECK_STR(pair.body, "GET Bearer secret 0");
    pair_close(&pair);
}

TEST(no_answer_is_told_apart)
{
    struct pair pair;
    struct http_client *nobody;
    struct hai_err err = {0};
    pair_open(&pair);
    http_client_send(pair.client, "GET", "/never", NULL, NULL, 0, 100, on_answer, &pair);
    run_until(&pair, 1);
    CHECK_EQ(pair.r, -ETIMEDOUT);
    CHECK_EQ(http_client_new(pair.loop, "http://127.0.0.1:1", NULL, &nobody, &err), 0);
    http_client_send(nobody, "GET", "/", NULL, NULL, 0, 5000, on_answer, &pair);
    run_until(&pair, 2);
    CHECK_EQ(pair.r, -ECONNREFUSED);
    http_client_free(nobody);
    CHECK_EQ(http_client_new(pair.loop, "ftp://x", NULL, &nobody, &err), -EINVAL);
    pair_close(&pair);
}

TEST(a_cancelled_call_stays_silent)
{
    struct pair pair;
    pair_open(&pair);
    http_call_cancel(
        http_client_send(pair.client, "GET", "/x", NULL, NULL, 0, 5000, on_answer, &pair));
    http_client_send(pair.client, "GET", "/never", NULL, NULL, 0, 5000, on_answer, &pair);
    for (int i = 0; i < 20; i++)
        (void)loop_turn(pair.loop, 1000);
    CHECK_EQ(pair.n_answers, 0);
    pair_close(&pair);
}

TEST(an_upgrade_gives_a_stream)
{
    struct pair pair;
    char text[16] = {0};
    pair_open(&pair);
    http_client_upgrade(pair.client, "/raw", "test", 5000, on_raw, &pair);
    run_until(&pair, 1);
    CHECK(pair.raw && pair.server_raw);
    if (pair.raw && pair.server_raw) {
        CHECK_EQ(http_raw_write(pair.raw, "ping", 4), 4);
        ssize_t n = -EAGAIN;
        for (int i = 0; i < 1000 && n == -EAGAIN; i++) {
            (void)loop_turn(pair.loop, 1000);
            n = http_raw_read(pair.server_raw, text, sizeof text - 1);
        }
        CHECK_STR(text, "ping");
        CHECK_EQ(http_raw_write(pair.server_raw, "pong!", 5), 5);
        n = -EAGAIN;
        for (int i = 0; i < 1000 && n == -EAGAIN; i++) {
            (void)loop_turn(pair.loop, 1000);
            n = http_raw_read(pair.raw, text, sizeof text - 1);
        }
        CHECK_STR(text, "pong!");
    }
    http_client_upgrade(pair.client, "/x", "test", 5000, on_raw, &pair);
    struct http_raw *first = TAKE_PTR(pair.raw);
    run_until(&pair, 2);
    CHECK(!pair.raw);
    CHECK_EQ(pair.r, -EPROTO);
    pair.raw = first;
    pair_close(&pair);
}
