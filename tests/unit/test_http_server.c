#include "lib/fileio.h"
#include "lib/timefmt.h"
#include "tests/unit/test.h"
#include "wire/http_address.h"
#include "wire/http_server.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* The server runs in the loop of the test's thread; a second thread is the client and plays a
 * script of blocking reads and writes. */
struct fixture {
    struct loop *loop;
    struct http_server *server;
    char address[160];
    void (*script)(struct fixture *f);
    int done[2];
    struct http_request *held[256];
    int n_held;
    int n_closed;
    int n_drained;
    bool answers_others;
    struct buf pieces;
    int refuse_pieces;
    struct http_raw *raw;
    struct loop_source *raw_source;
};

static void reply(struct http_request *request, const char *text) {
    struct buf body = {0};

    buf_add_str(&body, text);
    http_respond(request, 200, "text/plain", &body);
}

static void on_closed(struct http_request *request, void *data) {
    struct fixture *f = data;

    f->n_closed++;
    if (f->answers_others && f->n_held == 2) {
        reply(f->held[f->held[0] == request], "too late");
        f->n_held = 0;
    }
}

static void on_raw(int fd, uint32_t events, void *data) {
    struct fixture *f = data;
    char bytes[64];

    ssize_t n = http_raw_read(f->raw, bytes, sizeof bytes);
    if (n > 0) { // upper-case echo
        for (ssize_t i = 0; i < n; i++)
            bytes[i] = (char)(bytes[i] & ~0x20);
        CHECK_EQ(http_raw_write(f->raw, bytes, (size_t)n), n);
    } else if (n != -EAGAIN) {
        loop_source_free(TAKE_PTR(f->raw_source));
        http_raw_close(TAKE_PTR(f->raw));
    }
}

static void on_upgraded(struct http_raw *raw, void *data) {
    struct fixture *f = data;

    f->raw = raw;
    f->raw_source = loop_io_new(f->loop, http_raw_fd(raw), EPOLLIN, on_raw, f);
    if (http_raw_has_bytes(raw))
        on_raw(http_raw_fd(raw), EPOLLIN, f);
}

static size_t on_piece(struct http_request *request, const void *piece, size_t n_bytes,
                       void *data) {
    struct fixture *f = data;

    if (strcmp(http_request_path(request), "/early") == 0) {
        http_respond(request, 409, NULL, NULL);
        return n_bytes / 2;
    }
    if (f->refuse_pieces-- > 0) {
        f->held[f->n_held++] = request;
        return 0;
    }
    buf_add(&f->pieces, piece, n_bytes);
    return n_bytes;
}

static void on_begin(struct http_request *request, void *data) {
    if (strcmp(http_request_path(request), "/pieces") == 0 ||
        strcmp(http_request_path(request), "/early") == 0)
        http_request_take_body(request, on_piece, on_closed, data);
    if (strcmp(http_request_path(request), "/denied") == 0)
        http_respond(request, 401, NULL, NULL);
}

static void on_query(const char *name, const char *value, void *data) {
    buf_printf(data, "%s=%s;", name, value);
}

static void on_drain(struct http_request *request, void *data) {
    ((struct fixture *)data)->n_drained++;
}

static void on_request(struct http_request *request, void *data) {
    const char *path = http_request_path(request);
    struct fixture *f = data;
    struct buf body = {0};

    if (strcmp(path, "/hold") == 0) {
        http_request_hold(request, on_closed, f);
        f->held[f->n_held++] = request;
    } else if (strcmp(path, "/stream") == 0) {
        http_respond_stream(request, 200, "text/plain", on_drain, on_closed, f);
        CHECK_EQ(http_stream_write(request, "one,", 4), 4);
        f->held[f->n_held++] = request;
    } else if (strcmp(path, "/release") == 0) {
        for (int i = 0; i < f->n_held; i++)
            reply(f->held[i], "late");
        f->n_held = 0;
        reply(request, "released");
    } else if (strcmp(path, "/more") == 0) {
        http_stream_write(f->held[0], "two", 3);
        http_stream_end(f->held[0]);
        reply(request, "");
    } else if (strcmp(path, "/go-on") == 0) {
        http_request_resume_body(f->held[0]);
        reply(request, "");
    } else if (strcmp(path, "/pieces") == 0) {
        buf_printf(&body, "%zu", f->pieces.n_bytes);
        http_respond(request, 200, NULL, &body);
    } else if (strcmp(path, "/up") == 0) {
        if (http_respond_upgrade(request, "hai", on_upgraded, f) < 0)
            http_respond(request, 426, NULL, NULL);
    } else {
        const char *key = http_request_header(request, "idempotency-key");
        const char *watch = http_request_query(request, "watch");
        buf_printf(&body, "%s %s key=%s watch=%s ", http_request_method(request), path,
                   key ? key : "-", watch ? watch : "-");
        http_request_queries(request, on_query, &body);
        buf_add(&body, http_request_body(request)->data, http_request_body(request)->n_bytes);
        http_request_add_header(request, "X-One", "1");
        http_respond(request, 200, "text/plain", &body);
    }
}

static void *client(void *data) {
    struct fixture *f = data;

    f->script(f);
    (void)!write(f->done[1], "x", 1);
    return NULL;
}

static void on_done(int fd, uint32_t events, void *data) {
    loop_quit(data, 0);
}

static void play(const char *address, void (*script)(struct fixture *f), struct fixture *ret) {
    struct fixture f = {.script = script};
    const struct http_server_config config = {
        .begin = on_begin, .handle = on_request, .data = &f, .body_bytes_max = 1000};
    pthread_t thread;

    CHECK_EQ(loop_new(&f.loop, NULL), 0);
    f.server = http_server_new(f.loop, &config);
    struct hai_err err = {0};
    int port = http_server_listen(f.server, address, &err);
    CHECK(port >= 0, "%s", err.text);
    if (http_address_path(address))
        (void)snprintf(f.address, sizeof f.address, "%s", address);
    else
        (void)snprintf(f.address, sizeof f.address, "127.0.0.1:%d", port);
    CHECK_EQ(pipe(f.done), 0);
    struct loop_source *done = loop_io_new(f.loop, f.done[0], EPOLLIN, on_done, f.loop);
    pthread_create(&thread, NULL, client, &f);
    CHECK_EQ(loop_run(f.loop), 0);
    pthread_join(thread, NULL);
    loop_source_free(done);
    if (f.raw)
        on_raw(0, 0, &f);
    http_server_free(f.server);
    loop_free(f.loop);
    buf_free(&f.pieces);
    close(f.done[0]);
    close(f.done[1]);
    *ret = f;
}

static int dial(struct fixture *f) {
    int fd = http_address_connect(f->address, 1000, NULL);
    struct timeval limit = {.tv_sec = 5};

    CHECK(fd >= 0);
    int flags = fcntl(fd, F_GETFL);
    fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    return fd;
}

static void say(int fd, const char *text) {
    CHECK_EQ(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* Read until the text has come; the whole of what was read. */
static const char *await(int fd, const char *text, struct buf *got) {
    char bytes[4096];

    while (!got->data || !strstr(buf_cstr(got), text)) {
        ssize_t n = recv(fd, bytes, sizeof bytes, 0);
        if (n <= 0) {
            CHECK(false, "'%s' did not come: %s", text, buf_cstr(got));
            break;
        }
        buf_add(got, bytes, (size_t)n);
    }
    return buf_cstr(got);
}

static void ask_fd(int fd, const char *request, const char *expected) {
    _cleanup_(buf_free) struct buf got = {0};

    say(fd, request);
    await(fd, expected, &got);
}

static void ask(struct fixture *f, const char *request, const char *expected) {
    _cleanup_(closep) int fd = dial(f);

    ask_fd(fd, request, expected);
}

static void script_plain(struct fixture *f) {
    _cleanup_(closep) int fd = dial(f);

    for (int i = 0; i < 3; i++) // kept alive
        ask_fd(fd, "GET /a%20b?x=1&watch&y=%26z HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k1\r\n\r\n",
               "GET /a b key=k1 watch= x=1;watch=;y=&z;");
    ask_fd(fd, "POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
           "POST /p key=- watch=- hello");
    ask_fd(fd,
           "PUT /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
           "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
           "PUT /p key=- watch=- abcde");
    ask(f, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "X-One: 1\r\n");
    ask(f, "GET /denied HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 401 ");
    ask(f, "POST /denied HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n", "HTTP/1.1 401 ");
    _cleanup_(closep) int bad = dial(f);
    char c;
    say(bad, "rubbish\r\n\r\n");
    while (recv(bad, &c, 1, 0) > 0)
        ;
    ask_fd(fd, "GET /a HTTP/1.1\r\nHost: x\r\n\r\n", "GET /a"); // serves on
}

TEST(plain_requests)
{
    struct fixture f;

    play("127.0.0.1:0", script_plain, &f);
}

static void script_large(struct fixture *f) {
    // The answer comes before the body has been sent.
    ask(f, "POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n", "HTTP/1.1 413 ");
    ask(f,
        "POST /p HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
        "Content-Length: 99999999999999999999\r\n\r\n",
        "HTTP/1.1 4");
    _cleanup_(buf_free) struct buf chunked = {0};
    buf_add_str(&chunked,
                "POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n");
    memset(buf_extend(&chunked, 1001), 'x', 1001);
    buf_add_str(&chunked, "\r\n0\r\n\r\n");
    ask(f, buf_cstr(&chunked), "HTTP/1.1 413 ");
    ask(f, "POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nfit", "fit");
}

TEST(large_bodies_are_refused)
{
    struct fixture f;

    play("127.0.0.1:0", script_large, &f);
}

static void script_hold(struct fixture *f) {
    int fds[200];

    for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
        fds[i] = dial(f);
        say(fds[i], "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    while (http_server_stats(f->server).n_held < (int)ARRAY_SIZE(fds)) // close enough for a test
        usleep(1000);
    ask(f, "GET /release HTTP/1.1\r\nHost: x\r\n\r\n", "released");
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
        _cleanup_(buf_free) struct buf got = {0};
        await(fds[i], "late", &got);
        close(fds[i]);
    }
}

TEST(held_requests)
{
    struct fixture f;

    play("127.0.0.1:0", script_hold, &f);
    CHECK_EQ(f.n_closed, 0);
}

static void script_gone(struct fixture *f) {
    int fd = dial(f);
    int64_t start_us = timefmt_monotonic_us();

    say(fd, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    usleep(120000); // watched by now
    close(fd);
    while (__atomic_load_n(&f->n_closed, __ATOMIC_RELAXED) < 1 &&
           timefmt_monotonic_us() - start_us < 2000000)
        usleep(1000);
    CHECK_EQ(f->n_closed, 1);
    fd = dial(f);
    say(fd, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    close(fd); // gone before it is watched
    start_us = timefmt_monotonic_us();
    while (__atomic_load_n(&f->n_closed, __ATOMIC_RELAXED) < 2 &&
           timefmt_monotonic_us() - start_us < 2000000)
        usleep(1000);
    CHECK_EQ(f->n_closed, 2);
    say(dial(f), "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n"); // still held when the server ends
    usleep(20000);
}

TEST(clients_that_go_away_are_noticed)
{
    struct fixture f;

    play("127.0.0.1:0", script_gone, &f);
    CHECK_EQ(f.n_closed, 3);
}

static void script_stream(struct fixture *f) {
    _cleanup_(closep) int fd = dial(f);
    _cleanup_(buf_free) struct buf got = {0};

    say(fd, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
    await(fd, "one,\r\n", &got);
    ask(f, "GET /more HTTP/1.1\r\nHost: x\r\n\r\n", "200 OK");
    await(fd, "two\r\n0\r\n\r\n", &got);
    ask_fd(fd, "GET /again HTTP/1.1\r\nHost: x\r\n\r\n", "GET /again"); // still alive
}

/* Both requests are over, and one of them is still to be answered. */
TEST(an_answer_to_a_request_that_is_over)
{
    struct fixture f = {.answers_others = true};
    struct http_server_config config = {.handle = on_request, .data = &f};
    struct hai_err err = {0};
    int fds[2];

    CHECK_EQ(loop_new(&f.loop, &err), 0);
    f.server = http_server_new(f.loop, &config);
    int port = http_server_listen(f.server, "127.0.0.1:0", &err);
    snprintf(f.address, sizeof f.address, "127.0.0.1:%d", port);
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
        fds[i] = dial(&f);
        say(fds[i], "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    for (int i = 0; i < 100 && f.n_held < 2; i++)
        loop_turn(f.loop, 10000);
    CHECK_EQ(f.n_held, 2);
    http_server_free(f.server);
    CHECK_EQ(f.n_held, 0);
    CHECK_EQ(f.n_closed, 1, "whoever has answered does not hear of the end");
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        close(fds[i]);
    loop_free(f.loop);
}

TEST(streamed_answers)
{
    struct fixture f;

    play("127.0.0.1:0", script_stream, &f);
    CHECK_EQ(f.n_drained, 1);
    CHECK_EQ(f.n_closed, 0);
}

static void script_pieces(struct fixture *f) {
    _cleanup_(buf_free) struct buf body = {0};
    _cleanup_(buf_free) struct buf got = {0};
    _cleanup_(closep) int fd = dial(f);

    f->refuse_pieces = 1;
    buf_add_str(&body, "POST /pieces HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n");
    memset(buf_extend(&body, 100000), 'x', 100000);
    say(fd, buf_cstr(&body));
    usleep(20000);
    CHECK_EQ(f->pieces.n_bytes, 0, "stopped");
    ask(f, "GET /go-on HTTP/1.1\r\nHost: x\r\n\r\n", "200 OK");
    buf_clear(&body);
    memset(buf_extend(&body, 200000), 'y', 200000);
    say(fd, buf_cstr(&body));
    await(fd, "\r\n\r\n300000", &got); // far above the limit of collected bodies
    ask(f,
        "POST /early HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        "6\r\nabcdef\r\n3\r\nghi\r\n0\r\n\r\n",
        "HTTP/1.1 409 "); // once, before the end
}

TEST(bodies_in_pieces)
{
    struct fixture f;

    play("127.0.0.1:0", script_pieces, &f);
    CHECK_EQ(f.n_closed, 0);
}

static void script_upgrade(struct fixture *f) {
    _cleanup_(closep) int fd = dial(f);
    _cleanup_(buf_free) struct buf got = {0};

    ask(f, "GET /up HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 426 ");
    say(fd, "GET /up HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: hai\r\n\r\nearly");
    await(fd, "EARLY", &got);
    CHECK(strstr(buf_cstr(&got), "HTTP/1.1 101 ") != NULL);
    say(fd, "later");
    await(fd, "LATER", &got);
    shutdown(fd, SHUT_WR);
    char c;
    CHECK_EQ(recv(fd, &c, 1, 0), 0, "the server closes after us");
}

TEST(upgrades)
{
    struct fixture f;

    play("127.0.0.1:0", script_upgrade, &f);
    CHECK(!f.raw);
}

TEST(unix_sockets)
{
    struct fixture f;
    struct stat st;
    char dir[] = "/tmp/hai-test-http-XXXXXX";

    CHECK(mkdtemp(dir) != NULL);
    _cleanup_free_ char *address = hai_asprintf("unix:%s/s", dir);
    play(address, script_plain, &f);
    CHECK_EQ(access(address + 5, F_OK), -1, "removed at the end");
    int port = 7;
    _cleanup_(closep) int fd = http_address_listen(address, 0640, &port, NULL);
    CHECK_EQ(port, 0);
    CHECK_EQ(stat(address + 5, &st), 0);
    CHECK_EQ(st.st_mode & 0777, 0640);
    _cleanup_(closep) int again = http_address_listen(address, 0600, &port, NULL);
    CHECK(again >= 0, "an old socket is replaced");
    CHECK_EQ(fileio_remove_tree(dir, NULL), 0);
}

static const struct {
    const char *address;
    int r;
} bad_addresses[] = {
    {"127.0.0.1",           -EINVAL       },
    {"127.0.0.1:",          -EINVAL       },
    {"127.0.0.1:65536",     -EINVAL       },
    {":80",                 -EINVAL       },
    {"127.0.0.1:x",         -EINVAL       },
    {"unix:",               -EINVAL       },
    {"localhost:1",         -EINVAL       },
    {"[::1",                -EINVAL       },
    {"unix:/no/such/dir/s", -ENOENT       },
    {"203.0.113.1:1",       -EADDRNOTAVAIL},
};

TEST(addresses)
{
    for (size_t i = 0; i < ARRAY_SIZE(bad_addresses); i++) {
        int port;
        struct hai_err err = {0};
        CHECK_EQ(http_address_listen(bad_addresses[i].address, 0600, &port, &err),
                 bad_addresses[i].r, "%s", bad_addresses[i].address);
        CHECK(err.text[0] != 0);
    }
    CHECK_EQ(http_address_connect("127.0.0.1:1", 1000, NULL), -ECONNREFUSED);
}
