/* bench_http_server: answers every request with a small JSON text, for wrk
 * (tests/bench/http_server).
 *
 * usage: bench_http_server PORT [hold]   hold: answer at the end of the turn, as a commit would
 */
#include "wire/http_server.h"

#include <stdio.h>

enum { BATCH_MAX = 4096 };

struct bench {
    bool hold;
    struct http_request *held[BATCH_MAX];
    int n_held;
};

static void answer(struct http_request *request) {
    struct buf body = {0};

    buf_printf(&body, "{\"id\":%d,\"state\":\"queued\",\"name\":\"gpt-small\"}\n", 42);
    http_respond(request, 200, "application/json", &body);
}

static void forget(struct http_request *request, void *data) {
    struct bench *bench = data;

    for (int i = 0; i < bench->n_held; i++)
        if (bench->held[i] == request)
            bench->held[i] = bench->held[--bench->n_held];
}

static void on_request(struct http_request *request, void *data) {
    struct bench *bench = data;

    if (!bench->hold || bench->n_held == BATCH_MAX) {
        answer(request);
        return;
    }
    http_request_hold(request, forget, bench);
    bench->held[bench->n_held++] = request;
}

static void on_turn_end(void *data) {
    struct bench *bench = data;

    for (int i = 0; i < bench->n_held; i++)
        answer(bench->held[i]);
    bench->n_held = 0;
}

int main(int argc, char **argv) {
    struct bench bench = {.hold = argc > 2 && strcmp(argv[2], "hold") == 0};
    const struct http_server_config config = {.handle = on_request, .data = &bench};
    _cleanup_(loop_freep) struct loop *loop = NULL;
    struct hai_err err = {0};
    char address[64];

    (void)snprintf(address, sizeof address, "127.0.0.1:%s", argc > 1 ? argv[1] : "0");
    int r = loop_new(&loop, &err);
    if (r < 0)
        return 1;
    _cleanup_(http_server_freep) struct http_server *server = http_server_new(loop, &config);
    int port = http_server_listen(server, address, &err);
    if (port < 0) {
        fprintf(stderr, "%s\n", hai_err_text(&err));
        return 1;
    }
    printf("%d\n", port);
    fflush(stdout);
    loop_set_turn_end(loop, on_turn_end, &bench);
    return loop_run(loop);
}
