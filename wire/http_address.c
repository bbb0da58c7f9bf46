#include "wire/http_address.h"

#include "lib/fileio.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

enum {
    BACKLOG = 1024,
    HOST_BYTES_MAX = 256,
};

const char *http_address_path(const char *address) {
    return strncmp(address, "unix:", 5) == 0 ? address + 5 : NULL;
}

static int unix_address(const char *path, struct sockaddr_un *ret, struct hai_err *err) {
    if (!*path || strlen(path) >= sizeof ret->sun_path)
        return hai_fail(err, -EINVAL, "unix:%.120s: expected a path of 1 to %zu bytes", path,
                        sizeof ret->sun_path - 1);
    *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
    strcpy(ret->sun_path, path);
    return 0;
}

static int unix_listen(const char *path, mode_t mode, struct hai_err *err) {
    struct sockaddr_un address;
    struct stat st;

    int r = unix_address(path, &address, err);
    if (r < 0)
        return r;
    if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode))
        (void)unlink(path);
    _cleanup_(closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || fchmod(fd, mode) < 0) // the file takes its mode from the socket
        return hai_fail(err, -errno, "%s: %m", path);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || chmod(path, mode) < 0 ||
        listen(fd, BACKLOG) < 0)
        return hai_fail(err, -errno, "%s: %m", path);
    return TAKE_FD(fd);
}

/* Split `host:port` or `[host]:port`. */
static int split(const char *address, char host[static HOST_BYTES_MAX], const char **ret_port,
                 struct hai_err *err) {
    const char *colon = strrchr(address, ':');
    const char *start = address;
    size_t n = colon ? (size_t)(colon - address) : 0;

    if (n >= 2 && address[0] == '[' && colon[-1] == ']') {
        start++;
        n -= 2;
    }
    if (n == 0 || n >= HOST_BYTES_MAX || !colon[1] ||
        strspn(colon + 1, "0123456789") != strlen(colon + 1) || strlen(colon + 1) > 5 ||
        atoi(colon + 1) > 65535)
        return hai_fail(err, -EINVAL,
                        "'%.120s' is not an address; expected 127.0.0.1:PORT, "
                        "[::1]:PORT or unix:PATH",
                        address);
    memcpy(host, start, n);
    host[n] = 0;
    *ret_port = colon + 1;
    return 0;
}

static void freeaddrinfop(struct addrinfo **list) {
    if (*list)
        freeaddrinfo(*list);
}

static int resolve(const char *address, int flags, struct addrinfo **ret, struct hai_err *err) {
    struct addrinfo hints = {.ai_flags = flags | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    char host[HOST_BYTES_MAX];
    const char *port = NULL;

    int r = split(address, host, &port, err);
    if (r < 0)
        return r;
    r = getaddrinfo(host, port, &hints, ret);
    if (r != 0)
        return hai_fail(err, -EINVAL, "%s: %s", address, gai_strerror(r));
    return 0;
}

static int tcp_listen(const char *address, int *ret_port, struct hai_err *err) {
    _cleanup_(freeaddrinfop) struct addrinfo *info = NULL;
    struct sockaddr_in6 bound;
    socklen_t n_bytes = sizeof bound;
    int on = 1;

    int r = resolve(address, AI_PASSIVE | AI_NUMERICHOST, &info, err);
    if (r < 0)
        return r;
    _cleanup_(closep) int fd =
        socket(info->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        bind(fd, info->ai_addr, info->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0 ||
        getsockname(fd, (struct sockaddr *)&bound, &n_bytes) < 0)
        return hai_fail(err, -errno, "%s: %m", address);
    *ret_port = ntohs(bound.sin6_port); // at the same place in sockaddr_in
    return TAKE_FD(fd);
}

int http_address_listen(const char *address, mode_t unix_mode, int *ret_port, struct hai_err *err) {
    const char *path = http_address_path(address);

    if (!path)
        return tcp_listen(address, ret_port, err);
    *ret_port = 0;
    return unix_listen(path, unix_mode, err);
}

/* A connect that began in a non-blocking socket, made blocking again at its end. */
static int await_connected(int fd, int timeout_ms) {
    struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};
    int error = 0;
    socklen_t n_bytes = sizeof error;
    int n;

    do
        n = poll(&poll_fd, 1, timeout_ms);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return n < 0 ? -errno : -ETIMEDOUT;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n_bytes) < 0)
        return -errno;
    return -error;
}

static int connect_to(const struct sockaddr *address, socklen_t n_bytes, int timeout_ms) {
    _cleanup_(closep) int fd =
        socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int on = 1;

    if (fd < 0)
        return -errno;
    if (connect(fd, address, n_bytes) < 0) {
        int r = errno == EINPROGRESS ? await_connected(fd, timeout_ms) : -errno;
        if (r < 0)
            return r;
    }
    if (address->sa_family != AF_UNIX)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return TAKE_FD(fd);
}

int http_address_connect(const char *address, int timeout_ms, struct hai_err *err) {
    _cleanup_(freeaddrinfop) struct addrinfo *info = NULL;
    const char *path = http_address_path(address);
    int fd = -ECONNREFUSED;

    if (path) {
        struct sockaddr_un un;
        int r = unix_address(path, &un, err);
        if (r < 0)
            return r;
        fd = connect_to((struct sockaddr *)&un, sizeof un, timeout_ms);
    } else {
        int r = resolve(address, 0, &info, err);
        if (r < 0)
            return r;
        for (struct addrinfo *at = info; at && fd < 0; at = at->ai_next)
            fd = connect_to(at->ai_addr, at->ai_addrlen, timeout_ms);
    }
    if (fd < 0)
        return hai_fail(err, fd, "%s: %s", address, strerrordesc_np(-fd));
    return fd;
}
