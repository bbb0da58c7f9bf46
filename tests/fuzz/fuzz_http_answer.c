/* Whatever bytes a server answers with: an answer or an error, never a crash; a body is never
 * longer than what came. */
#include "wire/http_sync.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static char path[80];

static void remove_path(void) {
    (void)unlink(path);
    *strrchr(path, '/') = 0;
    (void)rmdir(path);
}

/* A Unix socket; a connection waits in its backlog, so one thread can be both sides. */
static int listening(void) {
    static int fd = -1;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char folder[] = "/tmp/fuzz-http-XXXXXX";

    if (fd >= 0)
        return fd;
    char *made = mkdtemp(folder);
    assert(made);
    (void)snprintf(path, sizeof path, "%s/socket", folder);
    strcpy(address.sun_path, path);
    (void)atexit(remove_path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int r = bind(fd, (struct sockaddr *)&address, sizeof address);
    assert(r == 0);
    r = listen(fd, 1);
    assert(r == 0);
    return fd;
}

static void take(struct http_sync *http, size_t n_bytes) {
    struct http_sync_reply reply = {0};
    struct hai_err err = {0};
    char value[32];

    while (http_sync_receive(http, 1000, &reply, &err) == 0) {
        assert(reply.head.n_bytes + reply.body.n_bytes <= n_bytes);
        (void)http_sync_header(&reply, "Hai-End", sizeof value, value);
        http_sync_reply_free(&reply);
        if (http_sync_fd(http) < 0)
            return;
    }
    assert(err.text[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    _cleanup_(http_sync_closep) struct http_sync *http = NULL;
    int server = listening();
    char url[96], request[512];

    (void)snprintf(url, sizeof url, "unix:%s", path);
    int r = http_sync_open(url, "token", &http, NULL);
    assert(r == 0);
    r = http_sync_send(http, "GET", "/", NULL, NULL, 0, NULL);
    assert(r == 0);
    int fd = accept4(server, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    assert(fd >= 0);
    (void)!recv(fd, request, sizeof request, 0); // what is not read would break the connection
    ssize_t n = send(fd, data, n_bytes, MSG_NOSIGNAL); // what does not fit is cut off
    close(fd);
    take(http, n > 0 ? (size_t)n : 0);
    return 0;
}
