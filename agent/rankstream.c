#include "agent/rankstream.h"
#include "agent/logfile.h"
#include "agent/shell.h"
#include "lib/log.h"
#include "lib/timefmt.h"
#include "wire/frame.h"
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    LOG_LOOK_US = 50000, // how often a reader that waits looks for new bytes
    SEND_TIMEOUT_MS = 30000,
    OUT_BYTES_MAX = 1 << 20, // of an attached person who does not read
    HOLD_BACK_BYTES = 64 * 1024,
};

struct stream {
    struct agentd *a;
    struct stream_request request;
    struct http_call *call;
    struct loop_source *timer; // log: look again
    int64_t until_us;
    struct http_raw *raw;
    struct loop_source *io;
    struct buf in, out;
    bool closing;             // ends when `out` is empty
    struct holder *holder;    // attach
    pid_t pid;                // shell; 0: none
    struct reconcile_key key; // shell: the attempt it is in
    int shell_fd;
    struct loop_source *shell_io;
    struct buf shell_in; // for the shell, not yet taken
    bool shell_ended;
    int shell_code;
    struct stream *next;
};

struct rankstreams {
    struct stream *first;
};

static void end(struct stream *s) {
    struct stream **at = &s->a->streams->first;

    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    http_call_cancel(s->call);
    loop_source_free(s->timer);
    loop_source_free(s->io);
    loop_source_free(s->shell_io);
    http_raw_close(s->raw);
    holder_free(s->holder);
    if (s->shell_fd >= 0)
        close(s->shell_fd); // the terminal's end is a hang-up for what still runs on it
    if (s->pid > 0)
        kill(-s->pid, SIGKILL);
    buf_free(&s->in);
    buf_free(&s->out);
    buf_free(&s->shell_in);
    schema_free(stream_request_schema(), &s->request);
    free(s);
}

static const struct attempt *find_attempt(const struct agentd *a, int64_t job, int64_t attempt) {
    const struct attempt *newest = NULL;

    for (size_t i = 0; i < a->n_attempts; i++)
        if (a->attempts[i]->key.job == job &&
            (!attempt || a->attempts[i]->key.attempt == attempt) &&
            (!newest || a->attempts[i]->key.attempt > newest->key.attempt))
            newest = a->attempts[i];
    return newest;
}

/* ---- ranges of output ---- */

static void on_log_sent(struct http_answer *answer, void *data) {
    struct stream *s = data;

    s->call = NULL;
    end(s);
}

static void send_log(struct stream *s, int64_t attempt, int64_t offset, struct buf *bytes,
                     bool ended, bool missing) {
    char headers[5][64], target[64];
    const char *lines[] = {headers[0], headers[1], headers[2], headers[3], headers[4], NULL};

    snprintf(headers[0], sizeof headers[0], "Content-Type: application/octet-stream");
    snprintf(headers[1], sizeof headers[1], "Hai-Attempt: %" PRId64, attempt);
    snprintf(headers[2], sizeof headers[2], "Hai-Offset: %" PRId64, offset);
    snprintf(headers[3], sizeof headers[3], "Hai-Next-Offset: %" PRId64,
             offset + (int64_t)bytes->n_bytes);
    snprintf(headers[4], sizeof headers[4], missing ? "Hai-Missing: 1" : "Hai-End: %d", ended);
    if (!missing && !ended)
        lines[4] = NULL;
    snprintf(target, sizeof target, "/api/v1/agent/streams/%" PRId64, s->request.id);
    s->call = http_client_send(s->a->client, "POST", target, lines,
                               bytes->data ? (void *)bytes->data : "", bytes->n_bytes,
                               SEND_TIMEOUT_MS, on_log_sent, s);
}

static void look(void *data) {
    struct stream *s = data;
    const struct stream_request *q = &s->request;
    const struct attempt *at = find_attempt(s->a, q->job, q->attempt);
    int64_t attempt = q->attempt, offset = q->offset, last = 0;
    _cleanup_(buf_free) struct buf bytes = {0};

    if (!attempt)
        attempt = at ? at->key.attempt : logfile_newest_attempt(s->a->config.log_dir, q->job);
    bool ended = !at || at->gone; // asked before reading, so that the last bytes are in it
    int64_t n = logfile_read(s->a->config.log_dir, q->job, attempt, q->rank, q->offset,
                             (size_t)q->n_bytes_max, &bytes, &offset, &last);
    bool waits = n <= 0 && !ended && timefmt_monotonic_us() < s->until_us;
    if (waits) {
        loop_timer_after(s->timer, LOG_LOOK_US);
        return;
    }
    send_log(s, attempt, offset, &bytes, ended && offset + (int64_t)bytes.n_bytes >= last,
             n < 0 && ended);
}

/* ---- attach and shell: frames over an upgraded connection ---- */

static void flush(struct stream *s) {
    while (s->out.n_bytes) {
        ssize_t n = http_raw_write(s->raw, s->out.data, s->out.n_bytes);
        if (n == -EAGAIN)
            break;
        if (n < 0) {
            s->closing = true;
            buf_clear(&s->out);
            break;
        }
        buf_drop(&s->out, (size_t)n);
    }
    size_t n_waiting = s->shell_in.n_bytes + (s->holder ? holder_waiting(s->holder) : 0);
    loop_io_set(s->io, (n_waiting < HOLD_BACK_BYTES ? EPOLLIN : 0) | // nobody reads: we neither
                           (s->out.n_bytes ? EPOLLOUT : 0));
    if (s->shell_io) // what nobody reads stops the shell, not us
        loop_io_set(s->shell_io, (s->out.n_bytes < HOLD_BACK_BYTES ? EPOLLIN : 0) |
                                     (s->shell_in.n_bytes ? EPOLLOUT : 0));
}

static void say(struct stream *s, enum frame_channel channel, const void *data, size_t n_bytes) {
    if (!s->raw || s->out.n_bytes > OUT_BYTES_MAX)
        return;
    frame_put(&s->out, channel, data, n_bytes);
    flush(s);
}

static void finish(struct stream *s, int code) {
    if (!s->closing) {
        frame_put_exit(&s->out, (uint8_t)code);
        s->closing = true;
    }
    flush(s);
    if (!s->out.n_bytes)
        loop_timer_after(s->timer, 0);
}

static void fail(struct stream *s, const char *text) {
    say(s, FRAME_ERROR, text, strlen(text));
    finish(s, 125);
}

static void feed_shell(struct stream *s) {
    while (s->shell_in.n_bytes && s->shell_fd >= 0) {
        ssize_t n = write(s->shell_fd, s->shell_in.data, s->shell_in.n_bytes);
        if (n < 0)
            break;
        buf_drop(&s->shell_in, (size_t)n);
    }
    flush(s);
}

static void take_frame(struct stream *s, const struct frame *frame) {
    uint16_t rows, columns;

    if (frame->channel == FRAME_STDIN && s->holder) {
        holder_stdin(s->holder, frame->data, frame->n_bytes);
        flush(s);
    } else if (frame->channel == FRAME_STDIN && s->shell_fd >= 0) {
        if (frame->n_bytes)
            buf_add(&s->shell_in, frame->data, frame->n_bytes);
        else
            shell_end_input(s->shell_fd, s->request.tty, &s->shell_in);
        feed_shell(s);
    } else if (frame_size(frame, &rows, &columns) == 0 && s->shell_fd >= 0) {
        shell_resize(s->shell_fd, rows, columns);
    }
}

/* Returns false when the person has gone. */
static bool read_frames(struct stream *s) {
    enum { STEP = 16 * 1024 };
    struct frame frame;
    size_t at = 0;
    int r;

    do {
        size_t before = s->in.n_bytes;
        ssize_t n = http_raw_read(s->raw, buf_extend(&s->in, STEP), STEP);
        s->in.n_bytes = before + (size_t)MAX(n, (ssize_t)0);
        if (n == -EAGAIN)
            break;
        if (n <= 0)
            return false;
    } while (http_raw_has_bytes(s->raw));
    while ((r = frame_next(&s->in, &at, &frame)) > 0)
        take_frame(s, &frame);
    buf_drop(&s->in, at);
    return r == 0;
}

static void on_raw(int fd, uint32_t events, void *data) {
    struct stream *s = data;

    if (events & EPOLLOUT)
        flush(s);
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && !read_frames(s)) {
        end(s);
        return;
    }
    if (s->closing && !s->out.n_bytes)
        end(s);
}

static void on_over(void *data) {
    end(data);
}

/* ---- attach ---- */

static int code_of(const struct shim_rank_state *rank) {
    return rank->code == CLD_EXITED ? rank->status & 0xff : 128 + rank->status;
}

static void on_rank_exit(struct holder *holder, const struct shim_rank_state *rank, void *data) {
    struct stream *s = data;

    if (rank->rank == s->request.rank && rank->exited)
        finish(s, code_of(rank));
}

static void on_rank_state(struct holder *holder, const struct shim_state *state,
                          const struct shim_rank_state *ranks, void *data) {
    for (uint32_t i = 0; i < state->n_ranks; i++)
        on_rank_exit(holder, &ranks[i], data);
}

static void on_rank_output(struct holder *holder, const void *bytes, size_t n_bytes, void *data) {
    say(data, FRAME_STDOUT, bytes, n_bytes);
}

static void on_rank_gone(struct holder *holder, void *data) {
    finish(data, 125);
}

static void on_input_taken(struct holder *holder, void *data) {
    flush(data);
}

static const struct holder_ops attach_ops = {
    .state = on_rank_state,
    .exit = on_rank_exit,
    .output = on_rank_output,
    .gone = on_rank_gone,
    .closed = on_rank_gone,
    .taken = on_input_taken,
};

static void open_attach(struct stream *s, const struct attempt *at) {
    struct hai_err err = {0};

    if (holder_connect(s->a->loop, at->dir, &attach_ops, s, &s->holder, &err) < 0)
        fail(s, hai_err_text(&err));
    else
        holder_watch(s->holder, s->request.rank);
}

/* ---- shell ---- */

static void shell_over(struct stream *s) {
    if (s->shell_ended && s->shell_fd < 0)
        finish(s, s->shell_code);
}

static void on_shell(int fd, uint32_t events, void *data) {
    struct stream *s = data;
    char bytes[4096];

    if (events & EPOLLOUT)
        feed_shell(s);
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        return;
    ssize_t n = read(fd, bytes, sizeof bytes);
    if (n > 0) {
        say(s, FRAME_STDOUT, bytes, (size_t)n);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        loop_source_free(s->shell_io);
        s->shell_io = NULL;
        close(s->shell_fd);
        s->shell_fd = -1;
        shell_over(s);
    }
}

static void open_shell(struct stream *s, const struct attempt *at) {
    const struct stream_request *q = &s->request;
    struct hai_err err = {0};
    size_t index = 0;

    while (index < at->desired.ranks.n && at->desired.ranks.items[index].rank != q->rank)
        index++;
    if (index == at->desired.ranks.n) {
        fail(s, at->desired.job ? "this rank is not on this node" : "try again in a moment");
        return;
    }
    if (shell_start(at, index, q, &s->pid, &s->shell_fd, &err) < 0) {
        fail(s, hai_err_text(&err));
        return;
    }
    s->key = at->key;
    s->shell_io = loop_io_new(s->a->loop, s->shell_fd, EPOLLIN, on_shell, s);
}

bool rankstream_has_shell(const struct agentd *a, const struct reconcile_key *key) {
    for (const struct stream *s = a->streams ? a->streams->first : NULL; s; s = s->next)
        if (s->pid > 0 && !memcmp(&s->key, key, sizeof *key))
            return true;
    return false;
}

bool rankstream_reaped(struct agentd *a, pid_t pid, int status) {
    for (struct stream *s = a->streams ? a->streams->first : NULL; s; s = s->next)
        if (s->pid == pid) {
            s->pid = 0;
            s->shell_ended = true;
            s->shell_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            shell_over(s);
            return true;
        }
    return false;
}

static void on_upgrade(struct http_raw *raw, const struct hai_err *err, void *data) {
    struct stream *s = data;
    const struct stream_request *q = &s->request;

    s->call = NULL;
    if (!raw) {
        log_warning("stream %" PRId64 ": %s", q->id, hai_err_text(err));
        end(s);
        return;
    }
    s->raw = raw;
    s->io = loop_io_new(s->a->loop, http_raw_fd(raw), EPOLLIN, on_raw, s);
    const struct attempt *at = find_attempt(s->a, q->job, q->attempt);
    if (!at || at->gone || !at->holder)
        fail(s, "the job does not run on this node any more");
    else if (q->kind == STREAM_KIND_ATTACH)
        open_attach(s, at);
    else
        open_shell(s, at);
    if (!s->closing && http_raw_has_bytes(raw) && !read_frames(s))
        end(s);
}

void rankstream_open(struct agentd *a, const struct stream_request *request) {
    struct stream *s = hai_new(struct stream);
    char target[64];

    s->a = a;
    s->shell_fd = -1;
    schema_copy(stream_request_schema(), &s->request, request);
    s->next = a->streams->first;
    a->streams->first = s;
    if (request->kind == STREAM_KIND_LOG) {
        s->until_us = timefmt_monotonic_us() + request->wait_us;
        s->timer = loop_timer_new(a->loop, LOOP_MONOTONIC, look, s);
        look(s);
        return;
    }
    s->timer = loop_timer_new(a->loop, LOOP_MONOTONIC, on_over, s);
    snprintf(target, sizeof target, "/api/v1/agent/streams/%" PRId64, request->id);
    s->call = http_client_upgrade(a->client, target, "hai-stream", SEND_TIMEOUT_MS, on_upgrade, s);
}

struct rankstreams *rankstream_new(struct agentd *a) {
    return hai_new(struct rankstreams);
}

void rankstream_free(struct rankstreams *streams) {
    if (!streams)
        return;
    while (streams->first)
        end(streams->first);
    free(streams);
}
