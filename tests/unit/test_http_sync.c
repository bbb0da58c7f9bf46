#include "tests/unit/test.h"
#include "wire/http_sync.h"
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* A server of one connection in a child: waits for each request's empty line, then writes the next
 * piece; closes after the last. Returns the port. */
static int serve(const char *const *pieces, size_t n_pieces, pid_t *ret_pid) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n_bytes = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    CHECK_EQ(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    CHECK_EQ(listen(fd, 4), 0);
    CHECK_EQ(getsockname(fd, (struct sockaddr *)&address, &n_bytes), 0);
    *ret_pid = fork();
    if (*ret_pid == 0) {
        int client = accept(fd, NULL, NULL);
        for (size_t i = 0; i < n_pieces; i++) {
            char last[4] = "";
            char c;
            while (memcmp(last, "\r\n\r\n", 4) != 0 && read(client, &c, 1) == 1) {
                memmove(last, last + 1, 3);
                last[3] = c;
            }
            // One byte at a time finds every place where an answer can be cut.
            for (const char *at = pieces[i]; *at; at++)
                if (write(client, at, 1) != 1)
                    break;
        }
        _exit(0);
    }
    close(fd);
    return ntohs(address.sin_port);
}

static struct http_sync *connect_to(int port) {
    _cleanup_free_ char *url = hai_asprintf("http://127.0.0.1:%d", port);
    struct http_sync *http = NULL;

    CHECK_EQ(http_sync_open(url, "t", &http, NULL), 0);
    return http;
}

static const struct {
    const char *answer;
    int r;
    int status;
    const char *body;
} cases[] = {
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",                                         0,           200, "hello"},
    {"HTTP/1.1 404 No\r\ncontent-length:  0 \r\n\r\n",                                            0,           404, ""     },
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", 0,
     200,                                                                                                           "abcde"},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nTrailer: x\r\n\r\n",              0,           200, ""     },
    {"HTTP/1.1 204 None\r\n\r\n",                                                                 0,           204, ""     },
    {"HTTP/1.1 200 OK\r\n\r\nbody",                                                               -EPROTO,     0,   NULL   },
    {"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",                                    -EPROTO,     0,   NULL   },
    {"HTTP/1.1 200 OK\r\nContent-Length: 5x\r\n\r\nhello",                                        -EPROTO,     0,   NULL   },
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",                               -EPROTO,     0,   NULL   },
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n1\r\na\r\n0\r\n\r\n",              -EPROTO,     0,
     NULL                                                                                                                  },
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\na\r\n0\r\n\r\n",                 -EPROTO,     0,   NULL   },
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n",         0,           200,
     "0123456789"                                                                                                          },
    {"SSH-2.0-OpenSSH_9\r\n\r\n",                                                                 -EPROTO,     0,   NULL   },
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",                                           -ECONNRESET, 0,   NULL   },
};

TEST(answers)
{
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_(http_sync_reply_free) struct http_sync_reply reply = {0};
        pid_t pid = 0;
        int port = serve(&cases[i].answer, 1, &pid);
        _cleanup_(http_sync_closep) struct http_sync *http = connect_to(port);
        int r = http_sync_ask(http, "GET", "/", NULL, NULL, 0, 5000, &reply, NULL);
        CHECK_EQ(r, cases[i].r, "%s", cases[i].answer);
        CHECK_EQ(reply.status, cases[i].status, "%s", cases[i].answer);
        if (r == 0)
            CHECK_STR(buf_cstr(&reply.body), cases[i].body);
        waitpid(pid, NULL, 0);
    }
}

TEST(requests_sent_ahead_are_answered_in_order)
{
    static const char *const answers[] = {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1",
                                          "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2",
                                          "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n3"};
    pid_t pid = 0;
    int port = serve(answers, 3, &pid);
    _cleanup_(http_sync_closep) struct http_sync *http = connect_to(port);

    for (int i = 0; i < 3; i++)
        CHECK_EQ(http_sync_send(http, "GET", "/", NULL, NULL, 0, NULL), 0);
    for (int i = 0; i < 3; i++) {
        _cleanup_(http_sync_reply_free) struct http_sync_reply reply = {0};
        CHECK_EQ(http_sync_receive(http, 5000, &reply, NULL), 0);
        CHECK_EQ(reply.body.n_bytes ? reply.body.data[0] : 0, '1' + i);
    }
    waitpid(pid, NULL, 0);
}

TEST(a_time_out_loses_nothing)
{
    static const char *const answers[] = {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"};
    _cleanup_(http_sync_reply_free) struct http_sync_reply reply = {0};
    pid_t pid = 0;
    int port = serve(answers, 1, &pid);
    _cleanup_(http_sync_closep) struct http_sync *http = connect_to(port);
    struct hai_err err = {0};

    CHECK_EQ(http_sync_send(http, "GET", "/", NULL, NULL, 0, &err), 0);
    while (http_sync_receive(http, 0, &reply, &err) == -ETIMEDOUT)
        ;
    CHECK_EQ(reply.status, 200);
    CHECK_STR(buf_cstr(&reply.body), "ok");
    waitpid(pid, NULL, 0);
}

TEST(headers_and_detached_bytes)
{
    static const char *const answers[] = {
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: hai-stream\r\nX-Long:  a b \r\n\r\nearly"};
    _cleanup_(http_sync_reply_free) struct http_sync_reply reply = {0};
    _cleanup_(buf_free) struct buf early = {0};
    pid_t pid = 0;
    char value[16];
    int port = serve(answers, 1, &pid);
    _cleanup_(http_sync_closep) struct http_sync *http = connect_to(port);

    CHECK_EQ(http_sync_ask(http, "POST", "/", NULL, NULL, 0, 5000, &reply, NULL), 0);
    CHECK_EQ(reply.status, 101);
    CHECK(http_sync_header(&reply, "x-long", sizeof value, value));
    CHECK_STR(value, "a b");
    CHECK(!http_sync_header(&reply, "X-Lon", sizeof value, value));
    waitpid(pid, NULL, 0);
    int fd = http_sync_detach(http, &early);
    CHECK(fd >= 0);
    CHECK_EQ(http_sync_fd(http), -1);
    char rest[8] = "";
    ssize_t n = recv(fd, rest, sizeof rest - 1, 0);
    buf_add(&early, rest, n > 0 ? (size_t)n : 0);
    CHECK_STR(buf_cstr(&early), "early");
    close(fd);
}

TEST(urls)
{
    static const struct {
        const char *url;
        int r;
    } urls[] = {
        {"http://127.0.0.1:7480", 0      },
        {"http://h",              0      },
        {"http://[::1]:80/",      0      },
        {"unix:/run/hai/sock",    0      },
        {"https://h",             -EINVAL},
        {"127.0.0.1:7480",        -EINVAL},
        {"http://h:1/path",       -EINVAL},
        {"http://",               -EINVAL},
        {"",                      -EINVAL},
    };

    for (size_t i = 0; i < ARRAY_SIZE(urls); i++) {
        _cleanup_(http_sync_closep) struct http_sync *http = NULL;
        CHECK_EQ(http_sync_open(urls[i].url, NULL, &http, NULL), urls[i].r, "%s", urls[i].url);
    }
}

TEST(nobody_there)
{
    _cleanup_(http_sync_closep) struct http_sync *http = connect_to(1);
    struct http_sync_reply reply = {0};
    struct hai_err err = {0};

    CHECK_EQ(http_sync_ask(http, "GET", "/", NULL, NULL, 0, 1000, &reply, &err), -ECONNREFUSED);
    CHECK_STR(err.text, "Connection refused");
}

TEST(encoding)
{
    _cleanup_(buf_free) struct buf out = {0};

    http_sync_encode("a-b_c.~/?&= \xc3\xa9", &out);
    CHECK_STR(buf_cstr(&out), "a-b_c.~%2F%3F%26%3D%20%C3%A9");
}
