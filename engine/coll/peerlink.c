#include "engine/coll/peerlink.h"
#include "lib/digest.h"
#include "lib/fileio.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

enum {
    HELLO_MAGIC = 0x31434948, // "HIC1"
    HELLO_WAIT_US = 5000000,  // for the proof of one caller
    RETRY_US = 50000,
    GONE_MS = 10000, // a machine that answers nothing for so long is gone
};

/* What the caller sends first; the other side answers with its own proof alone. */
struct hello {
    uint32_t magic;
    uint32_t from, to;
    uint8_t nonce[PEERLINK_NONCE_BYTES];
    uint8_t proof[DIGEST_SHA256_BYTES];
};

int64_t peerlink_now_us(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

void peerlink_random(void *ret, size_t n_bytes) {
    if (getrandom(ret, n_bytes, 0) != (ssize_t)n_bytes)
        abort(); // never happens for so few bytes on a started machine
}

/* Proof of one side ('c' caller, 's' server) that it knows the secret, bound to this connection. */
static void prove(const struct peerlink_secret *secret, char side, const struct hello *h,
                  const uint8_t *server_nonce, uint8_t ret[DIGEST_SHA256_BYTES]) {
    uint8_t text[16 + 2 * PEERLINK_NONCE_BYTES] = "hai-coll-1";

    text[11] = (uint8_t)side;
    for (int i = 0; i < 4; i++)
        text[12 + i] = (uint8_t)((h->from ^ h->to << 16) >> 8 * i);
    memcpy(text + 16, h->nonce, PEERLINK_NONCE_BYTES);
    memcpy(text + 16 + PEERLINK_NONCE_BYTES, server_nonce, PEERLINK_NONCE_BYTES);
    digest_hmac(secret->key ? secret->key : "", secret->n_bytes, text, sizeof text, ret);
}

static void set_tcp_options(int fd) {
    static const struct {
        int level, name, value;
    } options[] = {
        {IPPROTO_TCP, TCP_NODELAY,      1      },
        {SOL_SOCKET,  SO_KEEPALIVE,     1      },
        {IPPROTO_TCP, TCP_KEEPIDLE,     2      },
        {IPPROTO_TCP, TCP_KEEPINTVL,    2      },
        {IPPROTO_TCP, TCP_KEEPCNT,      4      },
        {IPPROTO_TCP, TCP_USER_TIMEOUT, GONE_MS},
    };
    // On a Unix socket these fail, and are not needed: its peer's kernel is ours.
    for (size_t i = 0; i < ARRAY_SIZE(options); i++)
        (void)setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(int));
}

/* Wait until fd is ready for `events`, or the deadline. */
static int wait_ready(int fd, short events, int64_t deadline_us) {
    for (;;) {
        int64_t left_us = deadline_us - peerlink_now_us();
        struct pollfd p = {fd, events, 0};
        if (left_us <= 0)
            return -ETIMEDOUT;
        int r = poll(&p, 1, (int)MIN(left_us / 1000 + 1, INT64_C(1000)));
        if (r > 0)
            return 0;
        if (r < 0 && errno != EINTR)
            return -errno;
    }
}

int peerlink_send(int fd, const void *data, size_t n_bytes, int64_t deadline_us,
                  struct hai_err *err) {
    const uint8_t *p = data;

    while (n_bytes) {
        ssize_t n = send(fd, p, n_bytes, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            int r = wait_ready(fd, POLLOUT, deadline_us);
            if (r < 0)
                return hai_fail(err, r, "sending to a rank: %s", strerror(-r));
        } else if (n < 0 && errno != EINTR) {
            return hai_fail(err, -ECONNRESET, "sending to a rank: %m");
        } else if (n > 0) {
            p += n;
            n_bytes -= (size_t)n;
        }
    }
    return 0;
}

int peerlink_receive(int fd, void *data, size_t n_bytes, int64_t deadline_us, struct hai_err *err) {
    uint8_t *p = data;

    while (n_bytes) {
        ssize_t n = recv(fd, p, n_bytes, 0);
        if (n == 0)
            return hai_fail(err, -ECONNRESET, "the other rank closed the connection");
        if (n < 0 && errno == EAGAIN) {
            int r = wait_ready(fd, POLLIN, deadline_us);
            if (r < 0)
                return hai_fail(err, r, "waiting for a rank: %s", strerror(-r));
        } else if (n < 0 && errno != EINTR) {
            return hai_fail(err, -ECONNRESET, "waiting for a rank: %m");
        } else if (n > 0) {
            p += n;
            n_bytes -= (size_t)n;
        }
    }
    return 0;
}

static int listen_unix(struct peerlink_listener *ret, struct hai_err *err) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    uint8_t name[12];
    char hex[2 * sizeof name + 1];

    peerlink_random(name, sizeof name);
    digest_hex(name, sizeof name, hex);
    snprintf(ret->address, sizeof ret->address, "unix:hai-%s", hex);
    size_t n = strlen(ret->address + 5);
    memcpy(a.sun_path + 1, ret->address + 5, n); // the zero byte before it: an abstract name
    _cleanup_(closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 ||
        bind(fd, (struct sockaddr *)&a,
             (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n)) < 0 ||
        listen(fd, 128) < 0)
        return hai_fail(err, -errno, "listening at a Unix socket: %m");
    ret->fd = TAKE_FD(fd);
    return 0;
}

static void address_text(const struct sockaddr_storage *a, char *ret, size_t n_bytes,
                         bool with_port) {
    char host[INET6_ADDRSTRLEN] = "";

    if (a->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)a;
        inet_ntop(AF_INET6, &in->sin6_addr, host, sizeof host);
        if (with_port)
            snprintf(ret, n_bytes, "[%s]:%d", host, ntohs(in->sin6_port));
    } else {
        const struct sockaddr_in *in = (const struct sockaddr_in *)a;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
        if (with_port)
            snprintf(ret, n_bytes, "%s:%d", host, ntohs(in->sin_port));
    }
    if (!with_port)
        snprintf(ret, n_bytes, "%s", host);
}

/* Look a name up; the caller frees. */
static int resolve(const char *host, const char *port, int flags, struct addrinfo **ret,
                   struct hai_err *err) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags};
    int r = getaddrinfo(host, port, &hints, ret);

    return r ? hai_fail(err, -ENOENT, "address '%s' port '%s': %s", host ? host : "", port,
                        gai_strerror(r))
             : 0;
}

int peerlink_serve(const char *host, const char *port, struct hai_err *err) {
    struct addrinfo *list;
    int r = resolve(host, port, AI_PASSIVE | AI_NUMERICSERV, &list, err);

    if (r < 0)
        return r;
    _cleanup_(closep) int fd =
        socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)) < 0 ||
        bind(fd, list->ai_addr, list->ai_addrlen) < 0 || listen(fd, 1024) < 0)
        r = hai_fail(err, -errno, "listening at %s port %s: %m", host, port);
    freeaddrinfo(list);
    return r < 0 ? r : TAKE_FD(fd);
}

int peerlink_listen(const char *host, struct peerlink_listener *ret, struct hai_err *err) {
    struct sockaddr_storage a;
    socklen_t n = sizeof a;

    *ret = (struct peerlink_listener){.fd = -1};
    peerlink_random(ret->nonce, sizeof ret->nonce);
    if (!host)
        return listen_unix(ret, err);
    int fd = peerlink_serve(host, "0", err);
    if (fd < 0)
        return fd;
    if (getsockname(fd, (struct sockaddr *)&a, &n) < 0) {
        close(fd);
        return hai_fail(err, -errno, "getsockname: %m");
    }
    address_text(&a, ret->address, sizeof ret->address, true);
    ret->fd = fd;
    return 0;
}

static void strangers_free(struct peerlink_strangers *all);

void peerlink_listener_close(struct peerlink_listener *listener) {
    closep(&listener->fd);
    listener->fd = -1;
    strangers_free(listener->strangers);
    listener->strangers = NULL;
}

/* Where nobody listens at a port that the kernel gives to callers, a caller may be given that very
 * port and meet itself (RFC 793, 3.4: simultaneous open). */
static bool is_connected_to_itself(int fd, const struct sockaddr *a, socklen_t n) {
    struct sockaddr_storage mine;
    socklen_t n_mine = sizeof mine;

    return a->sa_family != AF_UNIX && getsockname(fd, (struct sockaddr *)&mine, &n_mine) == 0 &&
           n_mine == n && memcmp(&mine, a, n) == 0;
}

/* One attempt to connect; -errno without a text. */
static int connect_once(const struct sockaddr *a, socklen_t n, int64_t deadline_us) {
    int error = 0;
    socklen_t n_error = sizeof error;
    _cleanup_(closep) int fd = socket(a->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return -errno;
    set_tcp_options(fd);
    if (connect(fd, a, n) < 0) {
        if (errno != EINPROGRESS)
            return -errno;
        int r = wait_ready(fd, POLLOUT, deadline_us);
        if (r < 0)
            return r;
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n_error) < 0 || error)
            return -(error ? error : errno);
    }
    if (is_connected_to_itself(fd, a, n))
        return -ECONNREFUSED;
    return TAKE_FD(fd);
}

/* Again until somebody listens there: ranks start in any order. */
static int connect_until(const struct sockaddr *a, socklen_t n, int64_t deadline_us) {
    for (;;) {
        int fd = connect_once(a, n, deadline_us);
        if (fd >= 0 || peerlink_now_us() + RETRY_US > deadline_us)
            return fd;
        poll(NULL, 0, RETRY_US / 1000);
    }
}

int peerlink_dial(const char *host, const char *port, int64_t deadline_us, struct hai_err *err) {
    struct addrinfo *list;
    int r = resolve(host, port, AI_NUMERICSERV, &list, err);

    if (r < 0)
        return r;
    int fd = connect_until(list->ai_addr, list->ai_addrlen, deadline_us);
    freeaddrinfo(list);
    return fd < 0 ? hai_fail(err, fd, "connecting to %s port %s: %s", host, port, strerror(-fd))
                  : fd;
}

/* Split "host:port" or "[host]:port" in place. */
static int split_address(char *address, char **ret_host, char **ret_port) {
    char *colon = strrchr(address, ':');

    if (!colon)
        return -EINVAL;
    *colon = 0;
    *ret_port = colon + 1;
    *ret_host = address;
    if (address[0] == '[' && colon[-1] == ']') {
        colon[-1] = 0;
        *ret_host = address + 1;
    }
    return 0;
}

static int dial_address(const char *address, int64_t deadline_us, struct hai_err *err) {
    char text[PEERLINK_ADDRESS_BYTES], *host, *port;
    size_t n = strlen(address);

    if (n >= sizeof text)
        return hai_fail(err, -EINVAL, "address '%.80s' is too long", address);
    memcpy(text, address, n + 1);
    if (!strncmp(text, "unix:", 5)) {
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        memcpy(a.sun_path + 1, text + 5, n - 5);
        int fd = connect_until((struct sockaddr *)&a,
                               (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n - 5),
                               deadline_us);
        return fd < 0 ? hai_fail(err, fd, "connecting to %s: %s", address, strerror(-fd)) : fd;
    }
    if (split_address(text, &host, &port) < 0)
        return hai_fail(err, -EINVAL, "address '%s': expected host:port", address);
    return peerlink_dial(host, port, deadline_us, err);
}

int peerlink_connect(const char *address, int from, int to, const uint8_t *nonce,
                     const struct peerlink_secret *secret, int64_t deadline_us,
                     struct hai_err *err) {
    struct hello hello = {HELLO_MAGIC, (uint32_t)from, (uint32_t)to, {0}, {0}};
    uint8_t answer[DIGEST_SHA256_BYTES], wanted[DIGEST_SHA256_BYTES];
    _cleanup_(closep) int fd = dial_address(address, deadline_us, err);

    if (fd < 0)
        return fd;
    peerlink_random(hello.nonce, sizeof hello.nonce);
    prove(secret, 'c', &hello, nonce, hello.proof);
    prove(secret, 's', &hello, nonce, wanted);
    int r = peerlink_send(fd, &hello, sizeof hello, deadline_us, err);
    if (r == 0)
        r = peerlink_receive(fd, answer, sizeof answer, deadline_us, err);
    if (r < 0) {
        hai_err_prefix(err, "rank %d at %s: ", to, address);
        return r;
    }
    if (!digest_equal(answer, wanted, sizeof answer))
        return hai_fail(err, -EACCES, "rank %d at %s does not know this attempt's secret", to,
                        address);
    return TAKE_FD(fd);
}

/* ---- who connects ---- */

enum { STRANGERS_MAX = 128 };

struct stranger {
    int fd;
    int64_t until_us;
    size_t n_bytes; // of hello that have come
    struct hello hello;
};

struct peerlink_strangers {
    int n;
    struct stranger items[STRANGERS_MAX]; // in the order in which they came
};

/* Returns its descriptor. */
static int take_out(struct peerlink_strangers *all, int at) {
    int fd = all->items[at].fd;

    memmove(all->items + at, all->items + at + 1, (size_t)(--all->n - at) * sizeof all->items[0]);
    return fd;
}

static void turn_away(struct peerlink_strangers *all, int at) {
    close(take_out(all, at));
}

static void strangers_free(struct peerlink_strangers *all) {
    while (all && all->n)
        turn_away(all, 0);
    free(all);
}

/* One of ours speaks at once: where there is no room, whoever was silent for longest goes. */
static void let_in(const struct peerlink_listener *listener) {
    struct peerlink_strangers *all = listener->strangers;
    int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0)
        return;
    set_tcp_options(fd);
    if (all->n == STRANGERS_MAX)
        turn_away(all, 0);
    all->items[all->n++] =
        (struct stranger){.fd = fd, .until_us = peerlink_now_us() + HELLO_WAIT_US};
}

/* 1: has proved itself, 0: there is more to come, -EACCES: is not one of ours. */
static int hear(struct stranger *s, const struct peerlink_listener *listener, int to,
                const struct peerlink_secret *secret) {
    uint8_t wanted[DIGEST_SHA256_BYTES], answer[DIGEST_SHA256_BYTES];
    ssize_t n =
        recv(s->fd, (uint8_t *)&s->hello + s->n_bytes, sizeof s->hello - s->n_bytes, MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n <= 0)
        return -EACCES;
    s->n_bytes += (size_t)n;
    if (s->n_bytes < sizeof s->hello)
        return 0;
    if (s->hello.magic != HELLO_MAGIC || s->hello.to != (uint32_t)to || s->hello.from > INT32_MAX)
        return -EACCES;
    prove(secret, 'c', &s->hello, listener->nonce, wanted);
    if (!digest_equal(s->hello.proof, wanted, sizeof wanted))
        return -EACCES;
    prove(secret, 's', &s->hello, listener->nonce, answer);
    return peerlink_send(s->fd, answer, sizeof answer, s->until_us, NULL) < 0 ? -EACCES : 1;
}

/* Wait until somebody connects or says something: 1, or 0 when it is time to look again. */
static int wait_for_any(const struct peerlink_listener *listener, struct pollfd *polls,
                        int64_t until_us) {
    struct peerlink_strangers *all = listener->strangers;

    polls[all->n] = (struct pollfd){listener->fd, POLLIN, 0};
    for (int i = 0; i < all->n; i++) {
        polls[i] = (struct pollfd){all->items[i].fd, POLLIN, 0};
        until_us = MIN(until_us, all->items[i].until_us);
    }
    int64_t left_us = MAX(until_us - peerlink_now_us(), INT64_C(0));
    int r = poll(polls, (nfds_t)all->n + 1, (int)MIN(left_us / 1000 + 1, INT64_C(1000)));
    return r < 0 && errno != EINTR ? -errno : r > 0;
}

/* The descriptor of the first that proves itself, or -EAGAIN. */
static int hear_all(const struct peerlink_listener *listener, int to,
                    const struct peerlink_secret *secret, const struct pollfd *polls,
                    int *ret_from) {
    struct peerlink_strangers *all = listener->strangers;

    for (int i = all->n; i-- > 0;) {
        struct stranger *s = &all->items[i];
        int r = polls[i].revents                   ? hear(s, listener, to, secret)
                : s->until_us <= peerlink_now_us() ? -EACCES
                                                   : 0;
        if (r > 0) {
            *ret_from = (int)s->hello.from;
            return take_out(all, i);
        }
        if (r < 0)
            turn_away(all, i);
    }
    return -EAGAIN;
}

int peerlink_accept(struct peerlink_listener *listener, int to,
                    const struct peerlink_secret *secret, int64_t deadline_us, int *ret_from,
                    struct hai_err *err) {
    struct pollfd polls[STRANGERS_MAX + 1];

    if (!listener->strangers)
        listener->strangers = hai_new(struct peerlink_strangers);
    while (peerlink_now_us() < deadline_us) {
        int n = listener->strangers->n, r = wait_for_any(listener, polls, deadline_us);
        if (r < 0)
            return hai_fail(err, r, "waiting for ranks to connect: %s", strerror(-r));
        int fd = r ? hear_all(listener, to, secret, polls, ret_from)
                   : hear_all(listener, to, secret, memset(polls, 0, sizeof polls), ret_from);
        if (fd >= 0)
            return fd;
        if (r && polls[n].revents)
            let_in(listener);
    }
    return hai_fail(err, -ETIMEDOUT, "waiting for ranks to connect: %s", strerror(ETIMEDOUT));
}

int peerlink_local_address(const char *host, char ret[PEERLINK_ADDRESS_BYTES],
                           struct hai_err *err) {
    struct addrinfo *list;
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    int r = resolve(host, "9", AI_NUMERICSERV, &list, err);

    if (r < 0)
        return r;
    // Connecting a datagram socket sends nothing; it only picks the route.
    _cleanup_(closep) int fd = socket(list->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, list->ai_addr, list->ai_addrlen) < 0 ||
        getsockname(fd, (struct sockaddr *)&a, &n) < 0)
        r = hai_fail(err, -errno, "no route to %s: %m", host);
    else
        address_text(&a, ret, PEERLINK_ADDRESS_BYTES, false);
    freeaddrinfo(list);
    return r;
}

/* Take n bytes off the front of a list, and empty pieces with them. */
static void advance(struct iovec **list, int *n_pieces, size_t n_bytes) {
    while (*n_pieces && n_bytes >= (*list)->iov_len) {
        n_bytes -= (*list)->iov_len;
        ++*list;
        --*n_pieces;
    }
    if (*n_pieces) {
        (*list)->iov_base = (uint8_t *)(*list)->iov_base + n_bytes;
        (*list)->iov_len -= n_bytes;
    }
}

/* Move what can be moved now. Returns 1 if something is left, 0 if done. */
static int transfer_go(struct peerlink_transfer *t, struct hai_err *err) {
    enum { PIECES_MAX = 512 }; // of one call; the kernel allows 1024
    struct msghdr m = {0};

    advance(&t->out, &t->n_out, 0);
    advance(&t->in, &t->n_in, 0);
    while (t->n_out) {
        m.msg_iov = t->out;
        m.msg_iovlen = (size_t)MIN(t->n_out, PIECES_MAX);
        ssize_t n = sendmsg(t->fd, &m, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0 && errno != EINTR)
            return hai_fail(err, -ECONNRESET, "rank %d is gone: %m", t->rank);
        advance(&t->out, &t->n_out, (size_t)MAX(n, (ssize_t)0));
    }
    while (t->n_in) {
        ssize_t n = readv(t->fd, t->in, MIN(t->n_in, PIECES_MAX));
        if (n == 0)
            return hai_fail(err, -ECONNRESET, "rank %d is gone: it closed the connection", t->rank);
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0 && errno != EINTR)
            return hai_fail(err, -ECONNRESET, "rank %d is gone: %m", t->rank);
        advance(&t->in, &t->n_in, (size_t)MAX(n, (ssize_t)0));
    }
    return t->n_out || t->n_in;
}

int peerlink_exchange(struct peerlink_transfer *transfers, int n, struct hai_err *err) {
    struct pollfd polls[PEERLINK_EXCHANGE_MAX];

    assert(n <= PEERLINK_EXCHANGE_MAX);
    for (;;) {
        int n_left = 0;
        for (int i = 0; i < n; i++) {
            struct peerlink_transfer *t = &transfers[i];
            int r = transfer_go(t, err);
            if (r < 0)
                return r;
            if (r)
                polls[n_left++] = (struct pollfd){
                    t->fd, (short)((t->n_out ? POLLOUT : 0) | (t->n_in ? POLLIN : 0)), 0};
        }
        if (!n_left)
            return 0;
        if (poll(polls, (nfds_t)n_left, -1) < 0 && errno != EINTR)
            return hai_fail(err, -errno, "poll: %m");
    }
}
