#include "agent/holder.h"
#include "lib/fileio.h"
#include "lib/pure/buf.h"
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { FRAME_BYTES_MAX = 64 << 20 }; // of a shim

struct holder {
    struct loop *loop;
    int fd;
    struct loop_source *io;
    struct buf in, out;
    const struct holder_ops *ops;
    void *data;
    bool released;
    bool *freed; // set where a callback may free us
};

static int address_of(const char *dir, struct sockaddr_un *ret, struct hai_err *err) {
    *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
    if ((size_t)snprintf(ret->sun_path, sizeof ret->sun_path, "%s/shim.sock", dir) >=
        sizeof ret->sun_path)
        return hai_fail(err, -ENAMETOOLONG, "%s: too long for a socket", dir);
    return 0;
}

/* Bring what came into whole frames. -EPROTO. */
static int take_frame(struct holder *h, const struct shim_header *header, const uint8_t *body) {
    size_t n_bytes = header->n_bytes - sizeof *header;
    struct shim_state state = {0};
    struct shim_rank_state rank = {0};

    switch ((enum shim_kind)header->kind) {
    case SHIM_STATE: {
        // Of another version the struct may be longer or shorter: what both know is at its start,
        // and what is behind it, counted from the end, belongs to the ranks.
        memcpy(&state, body, MIN(n_bytes, sizeof state));
        uint64_t of_ranks = (uint64_t)state.n_ranks * state.rank_bytes;
        if (state.rank_bytes < offsetof(struct shim_rank_state, message) ||
            of_ranks + offsetof(struct shim_state, cgroup) > n_bytes)
            return -EPROTO;
        const uint8_t *at = body + n_bytes - (size_t)of_ranks;
        if ((size_t)(at - body) < sizeof state)
            memset((uint8_t *)&state + (at - body), 0, sizeof state - (size_t)(at - body));
        _cleanup_free_ struct shim_rank_state *ranks =
            hai_new_array(struct shim_rank_state, state.n_ranks + 1);
        for (uint32_t i = 0; i < state.n_ranks; i++) {
            memcpy(&ranks[i], at + (size_t)i * state.rank_bytes,
                   MIN(sizeof *ranks, (size_t)state.rank_bytes));
            ranks[i].message[sizeof ranks->message - 1] = '\0';
        }
        h->ops->state(h, &state, ranks, h->data);
        return 0;
    }
    case SHIM_EXIT:
        memcpy(&rank, body, MIN(n_bytes, sizeof rank));
        rank.message[sizeof rank.message - 1] = '\0';
        h->ops->exit(h, &rank, h->data);
        return 0;
    case SHIM_GONE:
        h->ops->gone(h, h->data);
        return 0;
    case SHIM_OUTPUT:
        if (h->ops->output)
            h->ops->output(h, body, n_bytes, h->data);
        return 0;
    default:
        return 0;
    }
}

static void closed(struct holder *h) {
    loop_source_free(h->io);
    h->io = NULL;
    if (!h->released)
        h->ops->closed(h, h->data);
}

static void flush(struct holder *h) {
    while (h->out.n_bytes && h->io) {
        ssize_t n = send(h->fd, h->out.data, h->out.n_bytes, MSG_NOSIGNAL);
        if (n > 0) {
            buf_drop(&h->out, (size_t)n);
        } else if (errno != EINTR) {
            break; // EAGAIN; other failures are seen by reading
        }
    }
    if (h->io)
        loop_io_set(h->io, EPOLLIN | (h->out.n_bytes ? EPOLLOUT : 0));
}

static void on_ready(int fd, uint32_t events, void *data) {
    struct holder *h = data;
    struct shim_header header;
    bool freed = false;
    size_t at = 0;

    if (events & EPOLLOUT) {
        flush(h);
        if (h->ops->taken)
            h->ops->taken(h, h->data);
    }
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        return;
    enum { STEP = 16 * 1024 };
    size_t before = h->in.n_bytes;
    ssize_t n = recv(fd, buf_extend(&h->in, STEP), STEP, 0);
    int e = errno;
    h->in.n_bytes = before + (size_t)MAX(n, (ssize_t)0);
    if (n == 0 || (n < 0 && e != EAGAIN && e != EINTR)) {
        closed(h);
        return;
    }
    h->freed = &freed;
    while (h->in.n_bytes - at >= sizeof header) {
        memcpy(&header, h->in.data + at, sizeof header);
        int r = -EPROTO;
        if (header.n_bytes >= sizeof header && header.n_bytes <= FRAME_BYTES_MAX) {
            if (h->in.n_bytes - at < header.n_bytes)
                break;
            r = take_frame(h, &header, h->in.data + at + sizeof header);
        }
        if (freed)
            return;
        if (r < 0) {
            h->freed = NULL; // it is on our stack
            closed(h);
            return;
        }
        at += header.n_bytes;
    }
    h->freed = NULL;
    buf_drop(&h->in, at);
}

static void put_frame(struct holder *h, enum shim_kind kind, const void *body, size_t n_bytes) {
    struct shim_header header = {(uint32_t)(sizeof header + n_bytes), SHIM_VERSION, kind};

    buf_add(&h->out, &header, sizeof header);
    buf_add(&h->out, body, n_bytes);
    flush(h);
}

static struct holder *holder_new(struct loop *loop, int fd, const struct holder_ops *ops,
                                 void *data) {
    struct holder *h = hai_new(struct holder);

    h->loop = loop;
    h->fd = fd;
    h->ops = ops;
    h->data = data;
    h->io = loop_io_new(loop, fd, EPOLLIN, on_ready, h);
    put_frame(h, SHIM_HELLO, NULL, 0);
    return h;
}

/* Descriptors for the shim, out of the way of the numbers they get there. */
static int high(int fd) {
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 16);

    if (fd >= 0)
        close(fd);
    return copy;
}

/* With our environment: by its mark a supervisor without cgroups knows whose a process is. */
static int spawn(const char *program, int listen_fd, int spec_fd, int agent_fd,
                 struct hai_err *err) {
    char *argv[] = {(char *)"hai-shim", NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    pid_t pid;

    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDWR, 0);
    posix_spawn_file_actions_adddup2(&actions, STDIN_FILENO, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, listen_fd, SHIM_LISTEN_FD);
    posix_spawn_file_actions_adddup2(&actions, spec_fd, SHIM_SPEC_FD);
    posix_spawn_file_actions_adddup2(&actions, agent_fd, SHIM_AGENT_FD);
    posix_spawnattr_init(&attributes);
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    int r = posix_spawn(&pid, program, &actions, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return r ? hai_fail(err, -r, "%s: %s", program, strerror(r)) : 0;
}

int holder_start(struct loop *loop, const char *program, const char *dir, const void *spec,
                 size_t spec_bytes, const struct holder_ops *ops, void *data, struct holder **ret,
                 struct hai_err *err) {
    struct sockaddr_un address;
    int pair[2];

    int r = address_of(dir, &address, err);
    if (r < 0)
        return r;
    _cleanup_(closep) int listener = high(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    unlink(address.sun_path);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        chmod(address.sun_path, 0600) < 0 || listen(listener, 8) < 0)
        return hai_fail(err, -errno, "%s: %m", address.sun_path);
    _cleanup_(closep) int file = high(memfd_create("hai-shim-spec", MFD_CLOEXEC));
    if (file < 0)
        return hai_fail(err, -errno, "memfd_create: %m");
    r = fileio_write_full(file, spec, spec_bytes, 0, err);
    if (r < 0)
        return r;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
        return hai_fail(err, -errno, "socketpair: %m");
    _cleanup_(closep) int ours = pair[0];
    _cleanup_(closep) int theirs = high(pair[1]);
    r = spawn(program, listener, file, theirs, err);
    if (r < 0) {
        unlink(address.sun_path);
        return r;
    }
    *ret = holder_new(loop, TAKE_FD(ours), ops, data);
    return 0;
}

int holder_connect(struct loop *loop, const char *dir, const struct holder_ops *ops, void *data,
                   struct holder **ret, struct hai_err *err) {
    struct sockaddr_un address;

    int r = address_of(dir, &address, err);
    if (r < 0)
        return r;
    _cleanup_(closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        return hai_fail(err, -errno, "%s: %m", address.sun_path);
    *ret = holder_new(loop, TAKE_FD(fd), ops, data);
    return 0;
}

void holder_free(struct holder *h) {
    if (!h)
        return;
    if (h->freed)
        *h->freed = true;
    loop_source_free(h->io);
    close(h->fd);
    buf_free(&h->in);
    buf_free(&h->out);
    free(h);
}

void holder_lease(struct holder *h, int64_t until_us) {
    put_frame(h, SHIM_LEASE, &(struct shim_time){until_us}, sizeof(struct shim_time));
}

void holder_term(struct holder *h, int64_t kill_at_us) {
    put_frame(h, SHIM_TERM, &(struct shim_time){kill_at_us}, sizeof(struct shim_time));
}

void holder_kill(struct holder *h) {
    put_frame(h, SHIM_KILL, NULL, 0);
}

void holder_release(struct holder *h) {
    h->released = true;
    put_frame(h, SHIM_RELEASE, NULL, 0);
}

void holder_watch(struct holder *h, int64_t rank) {
    struct shim_watch watch = {(uint32_t)rank};

    put_frame(h, SHIM_WATCH, &watch, sizeof watch);
}

void holder_stdin(struct holder *h, const void *bytes, size_t n_bytes) {
    do {
        size_t n = MIN(n_bytes, (size_t)SHIM_CHUNK_MAX);
        put_frame(h, SHIM_STDIN, bytes, n);
        bytes = (const uint8_t *)bytes + n;
        n_bytes -= n;
    } while (n_bytes);
}

size_t holder_waiting(const struct holder *h) {
    return h->out.n_bytes;
}
