#include "wire/http_sync.h"

#include "lib/fileio.h"
#include "lib/timefmt.h"
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>

enum {
    HEAD_BYTES_MAX = 64 * 1024,
    BODY_BYTES_MAX = 256 << 20,
    CONNECT_MS = 10000,
};

struct http_sync {
    char *host; // NULL: path is a Unix socket
    char *port;
    char *path;
    char *token;
    int fd;
    struct buf in; // arrived, not yet taken
    struct buf out;
};

int http_sync_open(const char *url, const char *token, struct http_sync **ret,
                   struct hai_err *err) {
    _cleanup_(http_sync_closep) struct http_sync *http = hai_new(struct http_sync);

    http->fd = -1;
    http->token = hai_strdup(token);
    if (token && strpbrk(token, "\r\n"))
        return hai_fail(err, -EINVAL, "the token has a line end in it");
    if (strncmp(url, "unix:/", 6) == 0) {
        http->path = hai_strdup(url + 5);
    } else if (strncmp(url, "http://", 7) == 0 && url[7] && url[7] != '/') {
        const char *host = url + 7;
        size_t n = strcspn(host, "/");
        if (host[n] == '/' && host[n + 1])
            return hai_fail(err, -EINVAL, "server is %s; expected no path after the port", url);
        const char *bracket = host[0] == '[' ? memchr(host, ']', n) : NULL;
        const char *colon =
            memrchr(bracket ? bracket : host, ':', n - (bracket ? bracket - host : 0));
        size_t n_host = colon ? (size_t)(colon - host) : n;
        http->port = colon ? hai_strndup(colon + 1, n - n_host - 1) : hai_strdup("7480");
        http->host = bracket ? hai_strndup(host + 1, (size_t)(bracket - host) - 1)
                             : hai_strndup(host, n_host);
    } else if (strncmp(url, "https://", 8) == 0) {
        return hai_fail(err, -EINVAL, "server is %s; https is not yet supported", url);
    } else {
        return hai_fail(err, -EINVAL, "server is '%s'; expected http://HOST:PORT or unix:/PATH",
                        url);
    }
    *ret = TAKE_PTR(http);
    return 0;
}

static void disconnect(struct http_sync *http) {
    if (http->fd >= 0)
        close(http->fd);
    http->fd = -1;
    buf_clear(&http->in);
}

void http_sync_close(struct http_sync *http) {
    if (!http)
        return;
    disconnect(http);
    free(http->host);
    free(http->port);
    free(http->path);
    free(http->token);
    buf_free(&http->in);
    buf_free(&http->out);
    free(http);
}

/* Connect a non-blocking socket, at most CONNECT_MS. */
static int connect_socket(const struct sockaddr *address, socklen_t n_bytes, int *ret) {
    _cleanup_(closep) int fd =
        socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int one = 1;
    int failed = 0;
    socklen_t n = sizeof failed;

    if (fd < 0)
        return -errno;
    if (address->sa_family != AF_UNIX)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, address, n_bytes) < 0) {
        struct pollfd wait = {.fd = fd, .events = POLLOUT};
        if (errno != EINPROGRESS)
            return -errno;
        if (poll(&wait, 1, CONNECT_MS) <= 0)
            return -ETIMEDOUT;
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &n) < 0)
            return -errno;
        if (failed)
            return -failed;
    }
    *ret = TAKE_FD(fd);
    return 0;
}

static int connect_unix(struct http_sync *http) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (strlen(http->path) >= sizeof address.sun_path)
        return -ENAMETOOLONG;
    memcpy(address.sun_path, http->path, strlen(http->path));
    return connect_socket((struct sockaddr *)&address, sizeof address, &http->fd);
}

static int connect_host(struct http_sync *http) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST};
    struct addrinfo *list = NULL;
    int r = -EHOSTUNREACH;

    // Names need the resolver and its libraries; addresses, the common case here, do not.
    if (getaddrinfo(http->host, http->port, &hints, &list) != 0) {
        hints.ai_flags = 0;
        if (getaddrinfo(http->host, http->port, &hints, &list) != 0)
            return -EHOSTUNREACH;
    }
    for (struct addrinfo *a = list; a && r < 0; a = a->ai_next)
        r = connect_socket(a->ai_addr, a->ai_addrlen, &http->fd);
    freeaddrinfo(list);
    return r;
}

static int ensure_connected(struct http_sync *http, struct hai_err *err) {
    if (http->fd >= 0)
        return 0;
    buf_clear(&http->in);
    int r = http->host ? connect_host(http) : connect_unix(http);
    if (r < 0)
        return hai_fail(err, r, "%s", strerrordesc_np(-r));
    return 0;
}

/* Read what is there: bytes, 0 at the end, -EAGAIN or another error. */
static ssize_t read_some(struct http_sync *http) {
    size_t before = http->in.n_bytes;
    char *at = buf_extend(&http->in, 65536);
    ssize_t n;

    do
        n = recv(http->fd, at, 65536, 0);
    while (n < 0 && errno == EINTR);
    http->in.n_bytes = before + (n > 0 ? (size_t)n : 0);
    return n < 0 ? -errno : n;
}

static int write_out(struct http_sync *http, struct hai_err *err) {
    size_t at = 0;

    while (at < http->out.n_bytes) {
        ssize_t n = send(http->fd, http->out.data + at, http->out.n_bytes - at, MSG_NOSIGNAL);
        if (n >= 0) {
            at += (size_t)n;
            continue;
        }
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return hai_fail(err, -errno, "%m");
        struct pollfd wait = {.fd = http->fd, .events = POLLIN | POLLOUT};
        if (poll(&wait, 1, -1) < 0 && errno != EINTR)
            return hai_fail(err, -errno, "%m");
        if (wait.revents & POLLIN) {
            ssize_t got = read_some(http);
            if (got == 0 || (got < 0 && got != -EAGAIN))
                return hai_fail(err, got ? (int)got : -ECONNRESET, "the connection was closed");
        }
    }
    return 0;
}

int http_sync_send(struct http_sync *http, const char *method, const char *target,
                   const char *headers, const void *body, size_t n_bytes, struct hai_err *err) {
    int r = ensure_connected(http, err);

    if (r < 0)
        return r;
    buf_clear(&http->out);
    buf_printf(&http->out, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, target,
               http->host ? http->host : "localhost");
    if (http->token)
        buf_printf(&http->out, "Authorization: Bearer %s\r\n", http->token);
    if (headers)
        buf_add_str(&http->out, headers);
    if (body || strcmp(method, "POST") == 0)
        buf_printf(&http->out, "Content-Type: application/json\r\nContent-Length: %zu\r\n",
                   n_bytes);
    buf_add_str(&http->out, "\r\n");
    if (n_bytes)
        buf_add(&http->out, body, n_bytes);
    r = write_out(http, err);
    if (r < 0)
        disconnect(http);
    return r;
}

/* Answers */

bool http_sync_header(const struct http_sync_reply *reply, const char *name, size_t n_bytes,
                      char *ret) {
    const char *at = (const char *)reply->head.data;
    const char *end = at + reply->head.n_bytes;
    size_t n_name = strlen(name);

    ret[0] = '\0';
    while (at < end) {
        const char *line_end = memchr(at, '\n', (size_t)(end - at));
        if (!line_end)
            return false;
        if ((size_t)(line_end - at) > n_name && strncasecmp(at, name, n_name) == 0 &&
            at[n_name] == ':') {
            const char *value = at + n_name + 1;
            const char *stop = line_end;
            while (value < stop && (*value == ' ' || *value == '\t'))
                value++;
            while (stop > value && (stop[-1] == '\r' || stop[-1] == ' '))
                stop--;
            (void)snprintf(ret, n_bytes, "%.*s", (int)(stop - value), value);
            return true;
        }
        at = line_end + 1;
    }
    return false;
}

/* Wait until more has arrived; deadline_us 0: for ever. */
static int await_more(struct http_sync *http, int64_t deadline_us, struct hai_err *err) {
    for (;;) {
        struct pollfd wait = {.fd = http->fd, .events = POLLIN};
        int64_t left_us = deadline_us ? deadline_us - timefmt_monotonic_us() : 0;
        int wait_ms = left_us > 0 ? (int)(left_us / 1000) + 1 : 0;
        int r = poll(&wait, 1, deadline_us ? wait_ms : -1);
        if (r < 0 && errno != EINTR)
            return hai_fail(err, -errno, "%m");
        if (r == 0 && left_us <= 0)
            return hai_fail(err, -ETIMEDOUT, "no answer in time");
        if (r <= 0)
            continue;
        ssize_t n = read_some(http);
        if (n > 0)
            return 0;
        if (n != -EAGAIN)
            return hai_fail(err, n == 0 ? -ECONNRESET : (int)n, "the connection was closed");
    }
}

/* Wait until in[from..] has a line; gives the bytes up to and including its line feed. */
static int await_line(struct http_sync *http, size_t from, int64_t deadline_us, size_t *ret_bytes,
                      struct hai_err *err) {
    for (;;) {
        const uint8_t *lf = from < http->in.n_bytes
                                ? memchr(http->in.data + from, '\n', http->in.n_bytes - from)
                                : NULL;
        if (lf) {
            *ret_bytes = (size_t)(lf - http->in.data) - from + 1;
            return 0;
        }
        if (http->in.n_bytes - MIN(from, http->in.n_bytes) > HEAD_BYTES_MAX)
            return hai_fail(err, -EPROTO, "an answer with an endless line");
        int r = await_more(http, deadline_us, err);
        if (r < 0)
            return r;
    }
}

static int await_bytes(struct http_sync *http, size_t n_bytes, int64_t deadline_us,
                       struct hai_err *err) {
    while (http->in.n_bytes < n_bytes) {
        int r = await_more(http, deadline_us, err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Find the end of the head; in is left as it is, so that a time-out loses nothing. */
static int await_head(struct http_sync *http, int64_t deadline_us, size_t *ret_bytes,
                      struct hai_err *err) {
    size_t at = 0;

    for (;;) {
        size_t n = 0;
        int r = await_line(http, at, deadline_us, &n, err);
        if (r < 0)
            return r;
        at += n;
        if (n == 1 || (n == 2 && http->in.data[at - 2] == '\r'))
            break;
        if (at > HEAD_BYTES_MAX)
            return hai_fail(err, -EPROTO, "an answer with an endless head");
    }
    *ret_bytes = at;
    return 0;
}

/* The hexadecimal number that a line with its line feed starts with. Not strtoull: that passes over
 * line ends, and so to bytes that have not come. */
static bool chunk_size(const char *line, size_t *ret) {
    static const char digits[] = "0123456789abcdef";
    const char *at = line;
    size_t n = 0;

    for (const char *d; *at && (d = strchr(digits, *at | (*at >= 'A' ? 0x20 : 0))); at++) {
        n = n * 16 + (size_t)(d - digits);
        if (n > BODY_BYTES_MAX)
            return false;
    }
    *ret = n;
    return at > line && strchr("\r\n; \t", *at);
}

/* A chunked body that starts at `at`: collects it into body and gives where it ends. */
static int receive_chunks(struct http_sync *http, size_t at, int64_t deadline_us, struct buf *body,
                          size_t *ret_end, struct hai_err *err) {
    for (;;) {
        size_t n_line = 0;
        int r = await_line(http, at, deadline_us, &n_line, err);
        if (r < 0)
            return r;
        size_t n = 0;
        if (!chunk_size((const char *)http->in.data + at, &n) || body->n_bytes + n > BODY_BYTES_MAX)
            return hai_fail(err, -EPROTO, "an answer with a bad chunk");
        at += n_line;
        if (n == 0) {
            do { // trailers, then an empty line
                r = await_line(http, at, deadline_us, &n_line, err);
                if (r < 0)
                    return r;
                at += n_line;
            } while (n_line > 2);
            *ret_end = at;
            return 0;
        }
        r = await_bytes(http, at + n + 2, deadline_us, err);
        if (r < 0)
            return r;
        buf_add(body, http->in.data + at, n);
        at += n + 2;
    }
}

static int receive_body(struct http_sync *http, const struct http_sync_reply *reply, size_t at,
                        int64_t deadline_us, struct buf *body, size_t *ret_end,
                        struct hai_err *err) {
    char value[64];

    if (reply->status == 101 || reply->status == 204 || reply->status == 304) {
        *ret_end = at;
        return 0;
    }
    if (http_sync_header(reply, "Transfer-Encoding", sizeof value, value) &&
        strcasecmp(value, "chunked") == 0)
        return receive_chunks(http, at, deadline_us, body, ret_end, err);
    char *end = NULL;
    if (!http_sync_header(reply, "Content-Length", sizeof value, value))
        return hai_fail(err, -EPROTO, "an answer without a length");
    unsigned long long n = strtoull(value, &end, 10);
    if (*end || end == value || n > BODY_BYTES_MAX)
        return hai_fail(err, -EPROTO, "an answer with the length '%s'", value);
    int r = await_bytes(http, at + n, deadline_us, err);
    if (r < 0)
        return r;
    buf_add(body, http->in.data + at, n);
    *ret_end = at + n;
    return 0;
}

static int receive(struct http_sync *http, int64_t deadline_us, struct http_sync_reply *reply,
                   struct hai_err *err) {
    size_t n_head = 0;
    size_t end = 0;

    int r = await_head(http, deadline_us, &n_head, err);
    if (r < 0)
        return r;
    buf_add(&reply->head, http->in.data, n_head);
    const char *head = buf_cstr(&reply->head);
    if (strncmp(head, "HTTP/1.", 7) != 0 || n_head < 14)
        return hai_fail(err, -EPROTO, "an answer that is not HTTP");
    reply->status = atoi(head + 9);
    r = receive_body(http, reply, n_head, deadline_us, &reply->body, &end, err);
    if (r < 0)
        return r;
    buf_drop(&http->in, end);
    return 0;
}

int http_sync_receive(struct http_sync *http, int timeout_ms, struct http_sync_reply *ret,
                      struct hai_err *err) {
    struct http_sync_reply reply = {0};
    char connection[32];

    if (http->fd < 0)
        return hai_fail(err, -ENOTCONN, "not connected");
    int64_t deadline_us = timeout_ms < 0 ? 0 : timefmt_monotonic_us() + timeout_ms * INT64_C(1000);
    int r = receive(http, deadline_us, &reply, err);
    if (r < 0) {
        http_sync_reply_free(&reply);
        if (r != -ETIMEDOUT)
            disconnect(http);
        return r;
    }
    http_sync_header(&reply, "Connection", sizeof connection, connection);
    if (strcasecmp(connection, "close") == 0)
        disconnect(http);
    *ret = reply;
    return 0;
}

void http_sync_reply_free(struct http_sync_reply *reply) {
    buf_free(&reply->head);
    buf_free(&reply->body);
    *reply = (struct http_sync_reply){0};
}

int http_sync_ask(struct http_sync *http, const char *method, const char *target,
                  const char *headers, const void *body, size_t n_bytes, int timeout_ms,
                  struct http_sync_reply *ret, struct hai_err *err) {
    bool kept = http->fd >= 0;

    for (;;) {
        int r = http_sync_send(http, method, target, headers, body, n_bytes, err);
        if (r == 0)
            r = http_sync_receive(http, timeout_ms, ret, err);
        if (r == 0 || !kept || (r != -ECONNRESET && r != -EPIPE))
            return r;
        kept = false;
    }
}

int http_sync_detach(struct http_sync *http, struct buf *ret_early) {
    buf_add(ret_early, http->in.data, http->in.n_bytes);
    buf_clear(&http->in);
    return TAKE_FD(http->fd);
}

int http_sync_fd(const struct http_sync *http) {
    return http->fd;
}

bool http_sync_has_bytes(const struct http_sync *http) {
    return http->in.n_bytes > 0;
}

void http_sync_encode(const char *text, struct buf *ret) {
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~";

    for (; *text; text++)
        if (strchr(plain, *text))
            buf_add_u8(ret, (uint8_t)*text);
        else
            buf_printf(ret, "%%%02X", (uint8_t)*text);
}
