/* bench_submit - submissions a second: N jobs over C connections with one request in flight on
 * each.
 *
 * usage: bench_submit HOST PORT TOKEN N C SPEC [PREFIX]
 *
 * SPEC is the body of every request; Idempotency-Key is PREFIX and a number. Prints one JSON
 * object: seconds, accepted, refused, and the latency's median and 99th percentile in microseconds.
 * Raw sockets and epoll on one core, so that the client is not what is measured. */
#include "lib/base.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ANSWER_BYTES_MAX = 16384, CONNECTIONS_MAX = 1024 };

struct connection {
    int fd;
    int64_t sent_us;
    size_t n_bytes;
    char answer[ANSWER_BYTES_MAX];
};

struct bench {
    const char *host, *token, *spec, *prefix;
    int port;
    long n, sent, answered, accepted;
    int64_t *latency_us;
};

static int64_t now_us(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void connect_to(const struct bench *b, struct connection *c) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)b->port)};
    int on = 1;

    inet_pton(AF_INET, b->host, &to.sin_addr);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0)
        fail("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static void send_next(struct bench *b, struct connection *c) {
    char *request = hai_asprintf("POST /api/v1/jobs HTTP/1.1\r\nHost: %s\r\n"
                                 "Authorization: Bearer %s\r\nIdempotency-Key: %s-%ld\r\n"
                                 "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                                 b->host, b->token, b->prefix, b->sent++, strlen(b->spec), b->spec);
    size_t n = strlen(request);

    c->n_bytes = 0;
    c->sent_us = now_us();
    // A request is far smaller than a socket's buffer: it goes in one piece.
    if (write(c->fd, request, n) != (ssize_t)n)
        fail("write");
    free(request);
}

/* Has the whole answer come? */
static bool is_whole(struct connection *c) {
    c->answer[c->n_bytes] = 0;
    const char *body = strstr(c->answer, "\r\n\r\n");
    const char *length = strcasestr(c->answer, "\r\nContent-Length:");

    if (!body || !length || length > body)
        return false;
    return c->n_bytes >= (size_t)(body + 4 - c->answer) +
                             strtoul(length + strlen("\r\nContent-Length:"), NULL, 10);
}

static void receive(struct bench *b, struct connection *c) {
    ssize_t n = read(c->fd, c->answer + c->n_bytes, ANSWER_BYTES_MAX - 1 - c->n_bytes);

    if (n <= 0)
        fail("read");
    c->n_bytes += (size_t)n;
    if (!is_whole(c))
        return;
    bool ok = !strncmp(c->answer, "HTTP/1.1 201", 12);
    if (!ok && b->accepted == b->answered)
        fprintf(stderr, "first refusal: %s\n", c->answer);
    b->accepted += ok;
    b->latency_us[b->answered++] = now_us() - c->sent_us;
    if (b->sent < b->n)
        send_next(b, c);
}

static int by_size(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc < 7)
        return 2;
    struct bench b = {.host = argv[1],
                      .port = atoi(argv[2]),
                      .token = argv[3],
                      .n = atol(argv[4]),
                      .spec = argv[6],
                      .prefix = argc > 7 ? argv[7] : "bench"};
    int n_connections = atoi(argv[5]);
    if (b.n < 1 || n_connections < 1 || n_connections > CONNECTIONS_MAX)
        return 2;
    b.latency_us = hai_new_array(int64_t, (size_t)b.n);
    struct connection *connections = hai_new_array(struct connection, (size_t)n_connections);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < n_connections; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &connections[i]};
        connect_to(&b, &connections[i]);
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, connections[i].fd, &event) < 0)
            fail("epoll");
    }
    int64_t started_us = now_us();
    for (int i = 0; i < n_connections && b.sent < b.n; i++)
        send_next(&b, &connections[i]);
    while (b.answered < b.n) {
        struct epoll_event events[64];
        int n = epoll_wait(epoll, events, ARRAY_SIZE(events), 30000);
        if (n <= 0)
            fail("no answer for 30 s");
        for (int i = 0; i < n; i++)
            receive(&b, events[i].data.ptr);
    }
    double seconds = (double)(now_us() - started_us) * 1e-6;
    qsort(b.latency_us, (size_t)b.n, sizeof *b.latency_us, by_size);
    printf("{\"seconds\": %.6f, \"accepted\": %ld, \"refused\": %ld, \"median_us\": %lld, "
           "\"p99_us\": %lld}\n",
           seconds, b.accepted, b.n - b.accepted, (long long)b.latency_us[b.n / 2],
           (long long)b.latency_us[b.n * 99 / 100]);
    free(connections);
    free(b.latency_us);
    close(epoll);
    return b.accepted == b.n ? 0 : 1;
}
