#include "agent/shim_control.h"
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { OUT_BYTES_MAX = 256 * 1024 }; // a watcher that reads slower loses output

static void drop(struct shim_connection *c) {
    close(c->fd);
    buf_free(&c->in);
    buf_free(&c->out);
    *c = (struct shim_connection){.fd = -1, .watch = -1};
}

static void flush(struct shim_connection *c) {
    while (c->out.n_bytes) {
        ssize_t n = send(c->fd, c->out.data, c->out.n_bytes, MSG_NOSIGNAL);
        if (n > 0) {
            buf_drop(&c->out, (size_t)n);
        } else if (errno != EINTR) {
            if (errno != EAGAIN)
                drop(c);
            return;
        }
    }
}

static void send_frame(struct shim_connection *c, enum shim_kind kind, const void *data,
                       size_t n_bytes) {
    struct shim_header header = {(uint32_t)(sizeof header + n_bytes), SHIM_VERSION, kind};

    if (c->fd < 0)
        return;
    buf_add(&c->out, &header, sizeof header);
    buf_add(&c->out, data, n_bytes);
    flush(c);
}

void shim_control_add(struct shim *s, int fd) {
    fcntl(fd, F_SETFL, O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    for (int i = 0; i < SHIM_CONNECTIONS_MAX; i++)
        if (s->connections[i].fd < 0) {
            s->connections[i].fd = fd;
            return;
        }
    close(fd);
}

void shim_control_accept(struct shim *s, int listen_fd) {
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);

    if (fd >= 0)
        shim_control_add(s, fd);
}

static void send_state(struct shim *s, struct shim_connection *c) {
    struct shim_state state = {
        .job = s->spec->job,
        .attempt = s->spec->attempt,
        .epoch = s->spec->epoch,
        .started_us = s->started_us,
        .lease_until_us = s->lease_until_us,
        .uid = s->spec->uid,
        .gid = s->spec->gid,
        .box = s->spec->box,
        .gone = s->gone,
        .n_ranks = s->spec->n_ranks,
        .rank_bytes = sizeof(struct shim_rank_state),
    };

    memcpy(state.cgroup, s->cgroup, strnlen(s->cgroup, sizeof state.cgroup - 1));
    _cleanup_(buf_free) struct buf b = {0};
    buf_add(&b, &state, sizeof state);
    for (uint32_t i = 0; i < s->spec->n_ranks; i++)
        buf_add(&b, &s->ranks[i].state, sizeof s->ranks[i].state);
    send_frame(c, SHIM_STATE, b.data, b.n_bytes);
}

static void take_stdin(struct shim *s, const void *data, size_t n_bytes) {
    if (s->stdin_fd < 0)
        return;
    if (n_bytes)
        buf_add(&s->stdin_data, data, n_bytes);
    else
        s->stdin_end = true;
    shim_control_stdin(s);
}

static void obey(struct shim *s, struct shim_connection *c, enum shim_kind kind, const void *data,
                 size_t n_bytes) {
    struct shim_time time = {0};
    struct shim_watch watch = {0};

    switch (kind) {
    case SHIM_HELLO:
        send_state(s, c);
        break;
    case SHIM_LEASE:
        memcpy(&time, data, MIN(n_bytes, sizeof time));
        s->lease_until_us = MAX(s->lease_until_us, time.at_us);
        break;
    case SHIM_TERM:
        memcpy(&time, data, MIN(n_bytes, sizeof time));
        s->term_asked_us = time.at_us;
        break;
    case SHIM_KILL:
        s->kill_asked = true;
        break;
    case SHIM_RELEASE:
        s->release = true;
        break;
    case SHIM_WATCH:
        memcpy(&watch, data, MIN(n_bytes, sizeof watch));
        for (uint32_t i = 0; i < s->spec->n_ranks; i++)
            if (s->ranks[i].state.rank == (int32_t)watch.rank)
                c->watch = (int)i;
        break;
    case SHIM_STDIN:
        c->feeds = true;
        take_stdin(s, data, n_bytes);
        break;
    default: // from a newer agent
        break;
    }
}

static void obey_all(struct shim *s, struct shim_connection *c) {
    struct shim_header header;
    size_t at = 0;

    while (c->in.n_bytes - at >= sizeof header) {
        memcpy(&header, c->in.data + at, sizeof header);
        if (header.n_bytes < sizeof header || header.n_bytes > SHIM_FRAME_MAX) {
            drop(c);
            return;
        }
        if (c->in.n_bytes - at < header.n_bytes)
            break;
        obey(s, c, header.kind, c->in.data + at + sizeof header, header.n_bytes - sizeof header);
        if (c->fd < 0)
            return;
        at += header.n_bytes;
    }
    buf_drop(&c->in, at);
}

void shim_control_ready(struct shim *s, struct shim_connection *c, short events) {
    uint8_t data[SHIM_CHUNK_MAX];

    if (events & POLLOUT)
        flush(c);
    if (c->fd < 0 || !(events & (POLLIN | POLLHUP | POLLERR)))
        return;
    ssize_t n = recv(c->fd, data, sizeof data, 0);
    if (n > 0) {
        buf_add(&c->in, data, (size_t)n);
        obey_all(s, c);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        drop(c);
    }
}

void shim_control_exit(struct shim *s, const struct shim_rank *rank) {
    for (int i = 0; i < SHIM_CONNECTIONS_MAX; i++)
        send_frame(&s->connections[i], SHIM_EXIT, &rank->state, sizeof rank->state);
}

void shim_control_gone(struct shim *s) {
    for (int i = 0; i < SHIM_CONNECTIONS_MAX; i++)
        send_frame(&s->connections[i], SHIM_GONE, NULL, 0);
}

void shim_control_output(struct shim *s, int index, const void *data, size_t n_bytes) {
    for (int i = 0; i < SHIM_CONNECTIONS_MAX; i++) {
        struct shim_connection *c = &s->connections[i];
        if (c->fd >= 0 && c->watch == index && c->out.n_bytes < OUT_BYTES_MAX)
            send_frame(c, SHIM_OUTPUT, data, n_bytes);
    }
}

void shim_control_stdin(struct shim *s) {
    while (s->stdin_fd >= 0 && s->stdin_data.n_bytes) {
        ssize_t n = write(s->stdin_fd, s->stdin_data.data, s->stdin_data.n_bytes);
        if (n > 0) {
            buf_drop(&s->stdin_data, (size_t)n);
        } else if (errno != EINTR) {
            if (errno == EAGAIN)
                return;
            buf_clear(&s->stdin_data); // nobody reads any more
            s->stdin_end = true;
        }
    }
    if (s->stdin_fd >= 0 && s->stdin_end) {
        close(s->stdin_fd);
        s->stdin_fd = -1;
    }
}
