#include "wire/http_client.h"

#include <ctype.h>
#include <curl/curl.h>
#include <stdio.h>
#include <strings.h>

enum {
    CONNECT_TIMEOUT_MS = 5000,
    BODY_BYTES_MAX = 64 * 1024 * 1024, // of an answer
    HEAD_BYTES_MAX = 64 * 1024,
};

struct http_client {
    struct loop *loop;
    CURLM *multi;
    struct loop_source *timer;
    char *base;      // http://HOST:PORT
    char *unix_path; // or NULL
    char *token;     // the header line, or NULL
    struct http_call *calls;
    struct http_call *upgraded; // streams handed out
};

struct http_call {
    struct http_client *client;
    struct http_call *next, *prev;
    CURL *easy;
    struct curl_slist *headers;
    struct buf request; // body of a request, or the head of an upgrade still to be sent
    struct http_answer answer;
    http_answer_fn fn;
    http_upgrade_fn upgrade_fn;
    void *data;
    struct loop_source *io;    // of an upgrade until its answer is there
    struct loop_source *timer; // likewise
};

static void list_add(struct http_call **list, struct http_call *call) {
    call->next = *list;
    call->prev = NULL;
    if (call->next)
        call->next->prev = call;
    *list = call;
}

static void list_remove(struct http_call **list, struct http_call *call) {
    if (call->prev)
        call->prev->next = call->next;
    else
        *list = call->next;
    if (call->next)
        call->next->prev = call->prev;
}

static void call_release(struct http_call *call) {
    loop_source_free(call->io);
    loop_source_free(call->timer);
    (void)curl_multi_remove_handle(call->client->multi, call->easy);
    curl_easy_cleanup(call->easy);
    curl_slist_free_all(call->headers);
    buf_free(&call->request);
    buf_free(&call->answer.body);
    buf_free(&call->answer.head);
    free(call);
}

void http_call_cancel(struct http_call *call) {
    if (!call)
        return;
    list_remove(&call->client->calls, call);
    call_release(call);
}

static int errno_of(CURLcode code) {
    switch (code) {
    case CURLE_OK:
        return 0;
    case CURLE_COULDNT_CONNECT:
    case CURLE_COULDNT_RESOLVE_HOST:
        return -ECONNREFUSED;
    case CURLE_OPERATION_TIMEDOUT:
        return -ETIMEDOUT;
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_PARTIAL_FILE:
        return -ECONNRESET;
    default:
        return -EIO;
    }
}

/* ---- upgrades ---- */

static ssize_t raw_read(void *self, void *data, size_t n_bytes) {
    struct http_call *call = self;
    size_t n = 0;

    CURLcode code = curl_easy_recv(call->easy, data, n_bytes, &n);
    return code == CURLE_OK ? (ssize_t)n : code == CURLE_AGAIN ? -EAGAIN : -ECONNRESET;
}

static ssize_t raw_write(void *self, const void *data, size_t n_bytes) {
    struct http_call *call = self;
    size_t n = 0;

    CURLcode code = curl_easy_send(call->easy, data, n_bytes, &n);
    return code == CURLE_OK ? (ssize_t)n : code == CURLE_AGAIN ? -EAGAIN : -EPIPE;
}

static void raw_close(void *self) {
    struct http_call *call = self;

    list_remove(&call->client->upgraded, call);
    call_release(call);
}

static const struct http_raw_ops raw_ops = {raw_read, raw_write, raw_close};

static void upgrade_failed(struct http_call *call, int r, const char *why) {
    http_upgrade_fn fn = call->upgrade_fn;
    void *data = call->data;
    struct hai_err err = {0};

    hai_fail(&err, r, "%s%s: %s", call->client->base,
             call->client->unix_path ? call->client->unix_path : "", why);
    http_call_cancel(call);
    fn(NULL, &err, data);
}

static void upgrade_done(struct http_call *call, size_t n_head) {
    struct buf *head = &call->answer.head;
    curl_socket_t fd = CURL_SOCKET_BAD;

    (void)curl_easy_getinfo(call->easy, CURLINFO_ACTIVESOCKET, &fd);
    loop_source_free(TAKE_PTR(call->io));
    loop_source_free(TAKE_PTR(call->timer));
    list_remove(&call->client->calls, call);
    list_add(&call->client->upgraded, call);
    struct http_raw *raw =
        http_raw_new(&raw_ops, call, fd, head->data + n_head, head->n_bytes - n_head);
    buf_clear(head);
    call->upgrade_fn(raw, NULL, call->data);
}

/* Read the answer's head until its empty line; what follows belongs to the stream. */
static void upgrade_read(struct http_call *call) {
    struct buf *head = &call->answer.head;
    char piece[4096];
    int status;

    ssize_t n = raw_read(call, piece, sizeof piece);
    if (n == -EAGAIN)
        return;
    if (n <= 0 || head->n_bytes > HEAD_BYTES_MAX) {
        upgrade_failed(call, -ECONNRESET, "closed before it answered the upgrade");
        return;
    }
    buf_add(head, piece, (size_t)n);
    const char *text = buf_cstr(head);
    const char *end = strstr(text, "\r\n\r\n");
    if (!end)
        return;
    if (sscanf(text, "HTTP/1.1 %d", &status) == 1 && status == 101) {
        upgrade_done(call, (size_t)(end + 4 - text));
        return;
    }
    _cleanup_free_ char *why =
        hai_asprintf("answered the upgrade with %.*s", (int)strcspn(text, "\r"), text);
    upgrade_failed(call, -EPROTO, why);
}

static void on_upgrade_io(int fd, uint32_t events, void *data) {
    struct http_call *call = data;

    if (call->request.n_bytes == 0) {
        upgrade_read(call);
        return;
    }
    ssize_t n = raw_write(call, call->request.data, call->request.n_bytes);
    if (n < 0 && n != -EAGAIN) {
        upgrade_failed(call, (int)n, "the connection broke");
        return;
    }
    if (n > 0)
        buf_drop(&call->request, (size_t)n);
    if (call->request.n_bytes == 0)
        loop_io_set(call->io, EPOLLIN);
}

static void on_upgrade_timeout(void *data) {
    upgrade_failed(data, -ETIMEDOUT, "no answer to the upgrade");
}

static void upgrade_connected(struct http_call *call, CURLcode code) {
    curl_socket_t fd = CURL_SOCKET_BAD;

    if (code != CURLE_OK) {
        upgrade_failed(call, errno_of(code), curl_easy_strerror(code));
        return;
    }
    (void)curl_easy_getinfo(call->easy, CURLINFO_ACTIVESOCKET, &fd);
    call->io = loop_io_new(call->client->loop, fd, EPOLLOUT, on_upgrade_io, call);
}

/* ---- the multi interface in the loop ---- */

static void call_done(struct http_call *call, CURLcode code) {
    struct http_answer *answer = &call->answer;
    long status = 0;

    if (call->upgrade_fn) {
        upgrade_connected(call, code);
        return;
    }
    (void)curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    answer->status = (int)status;
    answer->r = errno_of(code);
    if (answer->r < 0)
        hai_fail(&answer->err, answer->r, "%s%s: %s", call->client->base,
                 call->client->unix_path ? call->client->unix_path : "", curl_easy_strerror(code));
    list_remove(&call->client->calls, call);
    call->fn(answer, call->data);
    call_release(call);
}

/* A call back may free the client: nothing of it is touched after the last one. The messages are
 * taken first, since they are libcurl's until the next call into it. */
static void reap(struct http_client *client) {
    int n_left;
    CURLMsg *message;

    while ((message = curl_multi_info_read(client->multi, &n_left))) {
        struct http_call *call = NULL;
        CURLcode code = message->data.result;
        if (message->msg != CURLMSG_DONE)
            continue;
        (void)curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&call);
        call_done(call, code);
        if (n_left == 0)
            return;
    }
}

static void on_io(int fd, uint32_t events, void *data) {
    struct http_client *client = data;
    int n_running;
    int what = (events & (EPOLLIN | EPOLLHUP) ? CURL_CSELECT_IN : 0) |
               (events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
               (events & EPOLLERR ? CURL_CSELECT_ERR : 0);

    (void)curl_multi_socket_action(client->multi, fd, what, &n_running);
    reap(client);
}

static void on_timer(void *data) {
    struct http_client *client = data;
    int n_running;

    (void)curl_multi_socket_action(client->multi, CURL_SOCKET_TIMEOUT, 0, &n_running);
    reap(client);
}

static int set_socket(CURL *easy, curl_socket_t fd, int what, void *data, void *socket_data) {
    struct http_client *client = data;
    struct loop_source *io = socket_data;
    uint32_t events = (what & CURL_POLL_IN ? EPOLLIN : 0) | (what & CURL_POLL_OUT ? EPOLLOUT : 0);

    if (what == CURL_POLL_REMOVE) {
        loop_source_free(io);
        (void)curl_multi_assign(client->multi, fd, NULL);
    } else if (io) {
        loop_io_set(io, events);
    } else {
        io = loop_io_new(client->loop, fd, events, on_io, client);
        (void)curl_multi_assign(client->multi, fd, io);
    }
    return 0;
}

static int set_timer(CURLM *multi, long timeout_ms, void *data) {
    struct http_client *client = data;

    if (timeout_ms < 0)
        loop_timer_stop(client->timer);
    else
        loop_timer_after(client->timer, timeout_ms * 1000);
    return 0;
}

/* ---- calls ---- */

static size_t take(struct buf *into, size_t n_bytes_max, const char *piece, size_t n_bytes) {
    if (into->n_bytes + n_bytes > n_bytes_max)
        return 0;
    buf_add(into, piece, n_bytes);
    return n_bytes;
}

static size_t on_body(char *piece, size_t size, size_t n, void *data) {
    struct http_call *call = data;

    return take(&call->answer.body, BODY_BYTES_MAX, piece, size * n);
}

/* An interim answer (100) has a head of its own, which the next one replaces. */
static size_t on_head(char *piece, size_t size, size_t n, void *data) {
    struct http_call *call = data;

    if (size * n > 5 && !memcmp(piece, "HTTP/", 5))
        buf_clear(&call->answer.head);
    return take(&call->answer.head, HEAD_BYTES_MAX, piece, size * n);
}

static struct http_call *call_new(struct http_client *client, const char *target, void *data) {
    struct http_call *call = hai_new(struct http_call);
    _cleanup_free_ char *url = hai_asprintf("%s%s", client->base, target);

    call->client = client;
    call->data = data;
    call->easy = curl_easy_init();
    assert(call->easy);
    (void)curl_easy_setopt(call->easy, CURLOPT_URL, url);
    (void)curl_easy_setopt(call->easy, CURLOPT_PRIVATE, (char *)call);
    (void)curl_easy_setopt(call->easy, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(call->easy, CURLOPT_NOPROXY, "*");
    (void)curl_easy_setopt(call->easy, CURLOPT_TCP_NODELAY, 1L);
    (void)curl_easy_setopt(call->easy, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS);
    if (client->unix_path)
        (void)curl_easy_setopt(call->easy, CURLOPT_UNIX_SOCKET_PATH, client->unix_path);
    list_add(&client->calls, call);
    return call;
}

static void add_header(struct http_call *call, const char *line) {
    call->headers = curl_slist_append(call->headers, line);
    assert(call->headers);
}

struct http_call *http_client_send(struct http_client *client, const char *method,
                                   const char *target, const char *const headers[],
                                   const void *body, size_t n_bytes, int timeout_ms,
                                   http_answer_fn fn, void *data) {
    struct http_call *call = call_new(client, target, data);
    bool typed = false;

    call->fn = fn;
    for (; headers && *headers; headers++) {
        typed |= !strncasecmp(*headers, "Content-Type:", 13);
        add_header(call, *headers);
    }
    if (client->token)
        add_header(call, client->token);
    add_header(call, "Expect:"); // no round trip to ask whether the body is welcome
    (void)curl_easy_setopt(call->easy, CURLOPT_CUSTOMREQUEST, method);
    if (body) {
        if (!typed)
            add_header(call, "Content-Type: application/json");
        buf_add(&call->request, body, n_bytes);
        (void)curl_easy_setopt(call->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)n_bytes);
        (void)curl_easy_setopt(call->easy, CURLOPT_POSTFIELDS,
                               n_bytes ? (char *)call->request.data : "");
    }
    (void)curl_easy_setopt(call->easy, CURLOPT_HTTPHEADER, call->headers);
    (void)curl_easy_setopt(call->easy, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
    (void)curl_easy_setopt(call->easy, CURLOPT_WRITEFUNCTION, on_body);
    (void)curl_easy_setopt(call->easy, CURLOPT_WRITEDATA, call);
    (void)curl_easy_setopt(call->easy, CURLOPT_HEADERFUNCTION, on_head);
    (void)curl_easy_setopt(call->easy, CURLOPT_HEADERDATA, call);
    (void)curl_multi_add_handle(client->multi, call->easy);
    return call;
}

struct http_call *http_client_upgrade(struct http_client *client, const char *target,
                                      const char *protocol, int timeout_ms, http_upgrade_fn fn,
                                      void *data) {
    struct http_call *call = call_new(client, target, data);
    const char *host = client->unix_path ? "localhost" : client->base + strlen("http://");

    call->upgrade_fn = fn;
    buf_printf(&call->request,
               "POST %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: %s\r\n"
               "Content-Length: 0\r\n%s%s\r\n",
               target, host, protocol, client->token ? client->token : "",
               client->token ? "\r\n" : "");
    (void)curl_easy_setopt(call->easy, CURLOPT_CONNECT_ONLY, 1L);
    (void)curl_easy_setopt(call->easy, CURLOPT_FRESH_CONNECT, 1L);
    call->timer = loop_timer_new(client->loop, LOOP_MONOTONIC, on_upgrade_timeout, call);
    loop_timer_after(call->timer, (int64_t)timeout_ms * 1000);
    (void)curl_multi_add_handle(client->multi, call->easy);
    return call;
}

bool http_answer_header(const struct http_answer *answer, const char *name, size_t n_bytes,
                        char *ret) {
    size_t n_name = strlen(name);
    const char *at = (const char *)answer->head.data;
    const char *end = at + answer->head.n_bytes;

    ret[0] = 0;
    while (at < end) {
        const char *line_end = memchr(at, '\n', (size_t)(end - at));
        size_t n = line_end ? (size_t)(line_end - at) : (size_t)(end - at);
        if (n > n_name && at[n_name] == ':' && !strncasecmp(at, name, n_name)) {
            const char *value = at + n_name + 1;
            const char *stop = at + n;
            while (value < stop && isspace((unsigned char)*value))
                value++;
            while (stop > value && isspace((unsigned char)stop[-1]))
                stop--;
            (void)snprintf(ret, n_bytes, "%.*s", (int)(stop - value), value);
            return true;
        }
        at += n + 1;
    }
    return false;
}

int http_client_new(struct loop *loop, const char *url, const char *token, struct http_client **ret,
                    struct hai_err *err) {
    bool is_unix = !strncmp(url, "unix:/", 6);

    if (!is_unix && strncmp(url, "http://", 7))
        return hai_fail(err, -EINVAL, "%s is no URL; expected http://HOST:PORT or unix:/PATH", url);
    struct http_client *client = hai_new(struct http_client);
    client->loop = loop;
    client->base = hai_strdup(is_unix ? "http://localhost" : url);
    client->unix_path = is_unix ? hai_strdup(url + 5) : NULL;
    client->token = token ? hai_asprintf("Authorization: Bearer %s", token) : NULL;
    size_t n = strlen(client->base);
    if (client->base[n - 1] == '/')
        client->base[n - 1] = 0;
    client->timer = loop_timer_new(loop, LOOP_MONOTONIC, on_timer, client);
    client->multi = curl_multi_init();
    assert(client->multi);
    (void)curl_multi_setopt(client->multi, CURLMOPT_SOCKETFUNCTION, set_socket);
    (void)curl_multi_setopt(client->multi, CURLMOPT_SOCKETDATA, client);
    (void)curl_multi_setopt(client->multi, CURLMOPT_TIMERFUNCTION, set_timer);
    (void)curl_multi_setopt(client->multi, CURLMOPT_TIMERDATA, client);
    *ret = client;
    return 0;
}

void http_client_free(struct http_client *client) {
    if (!client)
        return;
    assert(!client->upgraded);
    while (client->calls)
        http_call_cancel(client->calls);
    (void)curl_multi_cleanup(client->multi);
    loop_source_free(client->timer);
    free(client->base);
    free(client->unix_path);
    free(client->token);
    free(client);
}
