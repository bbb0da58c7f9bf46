#include "cli/stream.h"

#include "cli/terminal.h"
#include "lib/fileio.h"
#include "wire/frame.h"
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>

enum {
    OUT_BYTES_MAX = 256 * 1024, // stdin is not read while so much waits to go out
    UPGRADE_MS = 30000,
};

struct stream {
    int fd;
    struct buf in;
    struct buf out;
    bool stdin_open;
    int status; // -1: not told yet
    struct hai_err *err;
};

static void add_size(struct stream *s) {
    uint16_t rows, cols;

    terminal_size(&rows, &cols);
    frame_put_size(&s->out, rows, cols);
}

static int take_frame(struct stream *s, const struct frame *frame) {
    switch (frame->channel) {
    case FRAME_STDOUT:
        return fileio_write_full(STDOUT_FILENO, frame->data, frame->n_bytes, FILEIO_HERE, s->err);
    case FRAME_STDERR:
        return fileio_write_full(STDERR_FILENO, frame->data, frame->n_bytes, FILEIO_HERE, s->err);
    case FRAME_EXIT:
        s->status = frame->n_bytes ? frame->data[0] : CLI_JOB_LOST;
        return 0;
    case FRAME_ERROR:
        return hai_fail(s->err, -EIO, "%.*s", (int)MIN(frame->n_bytes, 400u),
                        (const char *)frame->data);
    default:
        return 0; // of a newer version
    }
}

static int take_frames(struct stream *s) {
    struct frame frame;
    size_t at = 0;
    int r;

    while ((r = frame_next(&s->in, &at, &frame)) > 0) {
        r = take_frame(s, &frame);
        if (r < 0)
            return r;
    }
    if (r < 0)
        return hai_fail(s->err, r, "a frame from the node that is too long");
    buf_drop(&s->in, at);
    return 0;
}

/* 1: more may come; 0: the other side closed. */
static int receive(struct stream *s) {
    size_t before = s->in.n_bytes;
    void *at = buf_extend(&s->in, 65536);
    ssize_t n = read(s->fd, at, 65536);

    s->in.n_bytes = before + (n > 0 ? (size_t)n : 0);
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        return hai_fail(s->err, -ECONNRESET, "the connection broke: %m");
    if (n == 0)
        return 0;
    int r = take_frames(s);
    return r < 0 ? r : 1;
}

static int send_out(struct stream *s) {
    ssize_t n = send(s->fd, s->out.data, s->out.n_bytes, MSG_NOSIGNAL);

    if (n < 0)
        return errno == EAGAIN || errno == EINTR
                   ? 0
                   : hai_fail(s->err, -ECONNRESET, "the connection broke: %m");
    buf_drop(&s->out, (size_t)n);
    return 0;
}

static void read_stdin(struct stream *s) {
    char data[16384];
    ssize_t n = read(STDIN_FILENO, data, sizeof data);

    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    frame_put(&s->out, FRAME_STDIN, data, n > 0 ? (size_t)n : 0);
    s->stdin_open = n > 0;
}

static int relay(struct stream *s, int size_fd) {
    int r = take_frames(s);

    while (r >= 0 && s->status < 0) {
        struct pollfd fds[3] = {
            {.fd = s->fd,                                                               .events = (short)(POLLIN | (s->out.n_bytes ? POLLOUT : 0))},
            {.fd = s->stdin_open && s->out.n_bytes < OUT_BYTES_MAX ? STDIN_FILENO : -1,
             .events = POLLIN                                                                                                                     },
            {.fd = size_fd,                                                             .events = POLLIN                                          },
        };
        if (poll(fds, 3, -1) < 0) {
            if (errno == EINTR)
                continue;
            return hai_fail(s->err, -errno, "%m");
        }
        if (fds[2].revents) {
            char byte[16];
            ssize_t n = read(size_fd, byte, sizeof byte);
            if (n > 0)
                add_size(s);
        }
        if (fds[1].revents)
            read_stdin(s);
        if (fds[0].revents & POLLOUT)
            r = send_out(s);
        if (r >= 0 && fds[0].revents & (POLLIN | POLLHUP | POLLERR)) {
            r = receive(s);
            if (r == 0)
                break;
        }
    }
    return MIN(r, 0);
}

static int upgrade(struct cli *cli, const char *job, const struct stream_options *o,
                   struct stream *s) {
    _cleanup_(buf_free) struct buf target = {0}, headers = {0};
    _cleanup_(http_sync_reply_free) struct http_sync_reply reply = {0};
    uint16_t rows, cols;

    terminal_size(&rows, &cols);
    cli_job_target(job, "/stream", &target);
    buf_printf(&target, "?kind=%s&rank=%lld", o->kind, (long long)o->rank);
    if (o->tty)
        buf_printf(&target, "&tty=1&rows=%u&cols=%u", rows, cols);
    buf_add_str(&headers, "Connection: Upgrade\r\nUpgrade: hai-stream\r\n");
    if (o->command)
        buf_printf(&headers, "Hai-Command: %s\r\n", o->command);
    int r = cli_connect(cli, s->err);
    if (r < 0)
        return r;
    r = http_sync_ask(cli->http, "POST", buf_cstr(&target), buf_cstr(&headers), NULL, 0, UPGRADE_MS,
                      &reply, s->err);
    if (r < 0)
        return cli_no_answer(cli, r, s->err);
    r = cli_reply_error(&reply, s->err);
    if (r < 0)
        return r;
    if (reply.status != 101)
        return hai_fail(s->err, -EPROTO, "the scheduler answered with status %d, not a stream",
                        reply.status);
    s->fd = http_sync_detach(cli->http, &s->in);
    return 0;
}

int stream_join(struct cli *cli, const char *job, const struct stream_options *options, int *ret,
                struct hai_err *err) {
    struct stream s = {.fd = -1, .stdin_open = true, .status = -1, .err = err};
    int size_pipe[2] = {-1, -1};

    int r = upgrade(cli, job, options, &s);
    if (r < 0)
        return r;
    if (options->tty && pipe2(size_pipe, O_CLOEXEC | O_NONBLOCK) == 0) {
        (void)terminal_raw();
        terminal_watch_size(size_pipe[1]);
    }
    r = relay(&s, size_pipe[0]);
    terminal_watch_size(-1);
    terminal_restore();
    for (int i = 0; i < 2; i++)
        if (size_pipe[i] >= 0)
            close(size_pipe[i]);
    close(s.fd);
    buf_free(&s.in);
    buf_free(&s.out);
    if (r == 0 && s.status < 0)
        r = hai_fail(err, -ECONNRESET, "the stream ended before the rank did");
    if (r == 0)
        *ret = s.status;
    return r;
}

int stream_run(struct cli *cli, const char *job, const struct stream_options *options) {
    struct hai_err err = {0};
    int status = CLI_JOB_LOST;
    int r = stream_join(cli, job, options, &status, &err);

    return r < 0 ? cli_fail_of_job(cli, r, &err) : status;
}
