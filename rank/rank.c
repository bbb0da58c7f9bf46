#include "rank/rank.h"
#include "lib/digest.h"
#include "lib/fileio.h"
#include "lib/pure/buf.h"
#include "lib/timefmt.h"
#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

enum {
    PROGRESS_EVERY_US = 50000,
    RECONNECT_EVERY_US = 100000,
    OUT_BYTES_MAX = 1 << 20, // beyond it new progress waits: the agent is not reading
    EVENTS_MAX = 32,
};

struct gather {
    char *line; // as it is sent, and sent again
    char round[RANK_NAME_MAX + 1];
    struct rank_value *values; // [n]; NULL once taken, or when nobody waits
    bool *have;
    int n, n_have;
    bool done;
};

struct commit {
    int64_t step;
    char *line;
};

struct rank {
    char *path;
    int number;
    int fd;
    bool welcome;
    bool refused; // the agent does not want us: its reason is in refusal
    char refusal[256];
    int64_t job, attempt, epoch;
    uint8_t secret[RANK_SECRET_BYTES];
    int64_t retry_us;
    int64_t progress_us; // when it was last sent
    struct buf progress; // newest, not yet sent
    struct buf phase;    // newest, sent again after a reconnection
    struct buf in, out;
    struct gather gathers[RANK_ROUNDS_MAX];
    int n_gathers;
    struct commit commits[RANK_COMMITS_MAX];
    int n_commits;
    struct rank_event events[EVENTS_MAX];
    int n_events;
};

static void event_push(struct rank *rank, const struct rank_event *event) {
    if (rank->n_events == EVENTS_MAX) { // nobody takes them: the oldest is the least worth
        memmove(rank->events, rank->events + 1, sizeof rank->events[0] * (EVENTS_MAX - 1));
        rank->n_events--;
    }
    rank->events[rank->n_events++] = *event;
}

static void disconnect(struct rank *rank) {
    if (rank->fd >= 0)
        close(rank->fd);
    rank->fd = -1;
    rank->welcome = false;
    buf_clear(&rank->in);
    buf_clear(&rank->out);
    rank->retry_us = timefmt_monotonic_us() + RECONNECT_EVERY_US;
}

/* Connect and put everything into `out` that the agent may have forgotten. */
static void connect_now(struct rank *rank) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    _cleanup_(closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    memcpy(address.sun_path, rank->path, strlen(rank->path));
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        rank->retry_us = timefmt_monotonic_us() + RECONNECT_EVERY_US;
        return;
    }
    rank->fd = TAKE_FD(fd);
    buf_printf(&rank->out, "hello %d %d\n", RANK_PROTO, rank->number);
    for (int i = 0; i < rank->n_gathers; i++)
        buf_add_str(&rank->out, rank->gathers[i].line);
    for (int i = 0; i < rank->n_commits; i++)
        buf_add_str(&rank->out, rank->commits[i].line);
    buf_add(&rank->out, rank->phase.data, rank->phase.n_bytes);
}

static struct gather *find_gather(struct rank *rank, const char *round) {
    for (int i = 0; i < rank->n_gathers; i++)
        if (!strcmp(rank->gathers[i].round, round))
            return &rank->gathers[i];
    return NULL;
}

/* The words after the first of an agent's line; each returns 0 or -EPROTO. */
static int on_welcome(struct rank *rank, const char *text) {
    char secret[2 * RANK_SECRET_BYTES + 1];
    int proto;

    if (sscanf(text, "%d %" SCNd64 " %" SCNd64 " %" SCNd64 " %64s", &proto, &rank->job,
               &rank->attempt, &rank->epoch, secret) != 5 ||
        proto != RANK_PROTO || digest_unhex(secret, RANK_SECRET_BYTES, rank->secret) < 0)
        return -EPROTO;
    rank->welcome = true;
    return 0;
}

static int on_commit(struct rank *rank, const char *text) {
    struct rank_event event = {0};
    int at = 0;

    if (sscanf(text, "%" SCNd64 " %n", &event.step, &at) != 1 || !at)
        return -EPROTO;
    if (!strcmp(text + at, "ok")) {
        event.kind = RANK_EVENT_COMMITTED;
    } else if (!strncmp(text + at, "refused", 7)) {
        event.kind = RANK_EVENT_REFUSED;
        snprintf(event.text, sizeof event.text, "%s", text + at + 7 + (text[at + 7] == ' '));
    } else {
        return -EPROTO;
    }
    for (int i = 0; i < rank->n_commits; i++)
        if (rank->commits[i].step == event.step) {
            free(rank->commits[i].line);
            rank->commits[i] = rank->commits[--rank->n_commits];
            event_push(rank, &event);
            break; // an answer to a repetition of an answered one is no news
        }
    return 0;
}

static int on_value(struct rank *rank, const char *text) {
    char round[RANK_NAME_MAX + 1];
    int from, at = 0;

    if (sscanf(text, "%63s %d %n", round, &from, &at) != 2 || !at)
        return -EPROTO;
    struct gather *gather = find_gather(rank, round);
    if (!gather || !gather->values)
        return 0;
    size_t n_bytes = strlen(text + at) / 2;
    if (from < 0 || from >= gather->n || n_bytes > RANK_VALUE_MAX)
        return -EPROTO;
    if (gather->have[from])
        return 0;
    _cleanup_free_ uint8_t *data = hai_alloc(n_bytes + 1);
    if (digest_unhex(text + at, n_bytes, data) < 0)
        return -EPROTO;
    gather->values[from] = (struct rank_value){TAKE_PTR(data), n_bytes};
    gather->have[from] = true;
    gather->n_have++;
    return 0;
}

static int on_error(struct rank *rank, const char *text) {
    rank->refused = true;
    snprintf(rank->refusal, sizeof rank->refusal, "%s", text);
    return 0;
}

static int on_gathered(struct rank *rank, const char *text) {
    char round[RANK_NAME_MAX + 1];
    int n;

    if (sscanf(text, "%63s %d", round, &n) != 2)
        return -EPROTO;
    struct gather *gather = find_gather(rank, round);
    if (!gather || !gather->values)
        return 0;
    if (n != gather->n || gather->n_have != n)
        return on_error(rank, "the attempt has another number of ranks");
    gather->done = true;
    return 0;
}

static int on_notice(struct rank *rank, const char *text, enum rank_event_kind kind) {
    struct rank_event event = {.kind = kind, .seconds = strtoll(text, NULL, 10)};

    event_push(rank, &event);
    return 0;
}

static int on_line(struct rank *rank, char *line) {
    char *text = strchrnul(line, ' ');

    if (*text)
        *text++ = '\0';
    if (!strcmp(line, "welcome"))
        return on_welcome(rank, text);
    if (!strcmp(line, "commit"))
        return on_commit(rank, text);
    if (!strcmp(line, "value"))
        return on_value(rank, text);
    if (!strcmp(line, "gathered"))
        return on_gathered(rank, text);
    if (!strcmp(line, "terminate"))
        return on_notice(rank, text, RANK_EVENT_TERMINATE);
    if (!strcmp(line, "suspend"))
        return on_notice(rank, text, RANK_EVENT_SUSPEND);
    if (!strcmp(line, "error"))
        return on_error(rank, text);
    return 0; // a newer agent may say more
}

static void read_lines(struct rank *rank) {
    size_t at = 0;

    for (;;) {
        char *start = (char *)rank->in.data + at;
        char *end = memchr(start, '\n', rank->in.n_bytes - at);
        if (!end)
            break;
        *end = '\0';
        at = (size_t)(end + 1 - (char *)rank->in.data);
        if (on_line(rank, start) < 0) {
            disconnect(rank);
            return;
        }
    }
    buf_drop(&rank->in, at);
    if (rank->in.n_bytes > RANK_LINE_MAX)
        disconnect(rank);
}

static void receive(struct rank *rank) {
    for (;;) {
        size_t before = rank->in.n_bytes;
        ssize_t n = recv(rank->fd, buf_extend(&rank->in, RANK_LINE_MAX), RANK_LINE_MAX, 0);
        rank->in.n_bytes = before + (size_t)MAX(n, 0);
        if (n > 0) {
            read_lines(rank);
            if (rank->fd < 0)
                return;
        } else if (n < 0 && errno == EINTR) {
            continue;
        } else {
            if (n == 0 || errno != EAGAIN)
                disconnect(rank);
            return;
        }
    }
}

static void send_out(struct rank *rank) {
    while (rank->fd >= 0 && rank->out.n_bytes) {
        ssize_t n = send(rank->fd, rank->out.data, rank->out.n_bytes, MSG_NOSIGNAL);
        if (n > 0) {
            buf_drop(&rank->out, (size_t)n);
        } else if (errno != EINTR) {
            if (errno != EAGAIN)
                disconnect(rank);
            return;
        }
    }
}

/* Do what can be done without waiting: connect, send, receive. */
static void pump(struct rank *rank) {
    int64_t now_us = timefmt_monotonic_us();

    if (rank->fd < 0 && now_us >= rank->retry_us)
        connect_now(rank);
    if (rank->fd < 0)
        return;
    if (rank->progress.n_bytes && rank->out.n_bytes < OUT_BYTES_MAX &&
        now_us - rank->progress_us >= PROGRESS_EVERY_US) {
        buf_add(&rank->out, rank->progress.data, rank->progress.n_bytes);
        buf_clear(&rank->progress);
        rank->progress_us = now_us;
    }
    send_out(rank);
    if (rank->fd >= 0)
        receive(rank);
}

/* Pump until done(rank, data), a refusal, or the deadline. 0 or -ETIMEDOUT, -EPROTO. */
static int wait_until(struct rank *rank, bool (*done)(struct rank *rank, void *data), void *data,
                      int64_t wait_us) {
    int64_t end_us = timefmt_monotonic_us() + wait_us;

    for (;;) {
        pump(rank);
        if (done(rank, data))
            return 0;
        if (rank->refused)
            return -EPROTO;
        int64_t left_us = end_us - timefmt_monotonic_us();
        if (left_us <= 0)
            return -ETIMEDOUT;
        struct pollfd p = {rank->fd, (short)(POLLIN | (rank->out.n_bytes ? POLLOUT : 0)), 0};
        int64_t step_us = MIN(left_us, RECONNECT_EVERY_US);
        poll(&p, 1, (int)((step_us + 999) / 1000)); // fd -1 is passed over: a plain pause
    }
}

static bool is_welcome(struct rank *rank, void *data) {
    return rank->welcome;
}

int rank_open(int64_t wait_us, struct rank **ret, struct hai_err *err) {
    const char *path = getenv("HAI_SOCKET"), *number = getenv("RANK");
    char *end;

    assert(ret);
    if (!path || !*path) {
        *ret = NULL;
        return 0;
    }
    if (strlen(path) >= sizeof((struct sockaddr_un *)NULL)->sun_path)
        return hai_fail(err, -EINVAL, "HAI_SOCKET: a path of %zu bytes is too long for a socket",
                        strlen(path));
    long value = number ? strtol(number, &end, 10) : -1;
    if (value < 0 || value > INT32_MAX || end == number || *end)
        return hai_fail(err, -EINVAL, "RANK is '%s'; expected a number", number ? number : "");
    _cleanup_(rank_closep) struct rank *rank = hai_new(struct rank);
    rank->fd = -1;
    rank->path = hai_strdup(path);
    rank->number = (int)value;
    int r = wait_until(rank, is_welcome, NULL, wait_us);
    if (r == -EPROTO)
        return hai_fail(err, r, "%s: %s", path, rank->refusal);
    if (r < 0)
        return hai_fail(err, r, "%s: no answer from the node's agent", path);
    *ret = TAKE_PTR(rank);
    return 1;
}

void rank_close(struct rank *rank) {
    if (!rank)
        return;
    rank->progress_us = 0; // the last word goes out whenever the one before it did
    if (rank->fd >= 0)
        pump(rank);
    if (rank->fd >= 0)
        close(rank->fd);
    for (int i = 0; i < rank->n_gathers; i++) {
        free(rank->gathers[i].line);
        free(rank->gathers[i].have);
        rank_values_free(rank->gathers[i].values, rank->gathers[i].n);
        free(rank->gathers[i].values);
    }
    for (int i = 0; i < rank->n_commits; i++)
        free(rank->commits[i].line);
    buf_free(&rank->progress);
    buf_free(&rank->phase);
    buf_free(&rank->in);
    buf_free(&rank->out);
    free(rank->path);
    explicit_bzero(rank->secret, sizeof rank->secret);
    free(rank);
}

int64_t rank_job(const struct rank *rank) {
    return rank ? rank->job : 0;
}

int64_t rank_attempt(const struct rank *rank) {
    return rank ? rank->attempt : 0;
}

int64_t rank_epoch(const struct rank *rank) {
    return rank ? rank->epoch : 0;
}

const uint8_t *rank_secret(const struct rank *rank) {
    return rank ? rank->secret : NULL;
}

int rank_fd(const struct rank *rank) {
    return rank ? rank->fd : -1;
}

void rank_progress(struct rank *rank, const struct rank_progress *progress) {
    assert(progress);
    if (!rank)
        return;
    struct buf *line = &rank->progress;
    buf_clear(line);
    buf_add_str(line, "progress");
    if (progress->step >= 0)
        buf_printf(line, " step=%" PRId64, progress->step);
    if (progress->steps >= 0)
        buf_printf(line, " steps=%" PRId64, progress->steps);
    if (isfinite(progress->loss))
        buf_printf(line, " loss=%.9g", progress->loss);
    if (isfinite(progress->rate))
        buf_printf(line, " rate=%.6g", progress->rate);
    if (progress->unit)
        buf_printf(line, " unit=%s", progress->unit);
    if (progress->left_us >= 0)
        buf_printf(line, " left_s=%.3f", (double)progress->left_us * 1e-6);
    buf_add_str(line, "\n");
    pump(rank);
}

static bool is_name(const char *s) {
    size_t n = strlen(s);

    if (n < 1 || n > RANK_NAME_MAX)
        return false;
    for (; *s; s++)
        if (!isalnum((unsigned char)*s) && !strchr("._-", *s))
            return false;
    return true;
}

void rank_phase(struct rank *rank, const char *name, int64_t at_most_s) {
    assert(is_name(name));
    if (!rank)
        return;
    buf_clear(&rank->phase);
    buf_printf(&rank->phase, "phase %s %" PRId64 "\n", name, at_most_s);
    if (rank->fd >= 0 && rank->out.n_bytes < OUT_BYTES_MAX)
        buf_add(&rank->out, rank->phase.data, rank->phase.n_bytes);
    pump(rank);
}

int rank_commit(struct rank *rank, int64_t step, const char *dir, const char *digest,
                struct hai_err *err) {
    uint8_t bytes[DIGEST_SHA256_BYTES];

    assert(dir);
    assert(digest);
    if (strlen(digest) != 2 * sizeof bytes || digest_unhex(digest, sizeof bytes, bytes) < 0)
        return hai_fail(err, -EINVAL, "digest '%s': expected 64 hexadecimal digits", digest);
    if (!*dir || strchr(dir, '\n') || strlen(dir) > RANK_LINE_MAX / 2)
        return hai_fail(err, -EINVAL, "checkpoint directory: empty, too long or with a line feed");
    if (!rank)
        return 0;
    if (rank->n_commits == RANK_COMMITS_MAX)
        return hai_fail(err, -ENOBUFS, "%d checkpoints wait for the scheduler", rank->n_commits);
    struct commit *commit = &rank->commits[rank->n_commits++];
    commit->step = step;
    commit->line = hai_asprintf("commit %" PRId64 " %s %s\n", step, digest, dir);
    if (rank->fd >= 0)
        buf_add_str(&rank->out, commit->line);
    pump(rank);
    return 0;
}

int rank_next(struct rank *rank, struct rank_event *ret) {
    assert(ret);
    if (!rank)
        return 0;
    pump(rank);
    if (!rank->n_events)
        return 0;
    *ret = rank->events[0];
    memmove(rank->events, rank->events + 1, sizeof *ret * (size_t)--rank->n_events);
    return 1;
}

static bool is_gathered(struct rank *rank, void *data) {
    return ((struct gather *)data)->done;
}

/* The own value under a new round, put on its way. */
static struct gather *gather_new(struct rank *rank, const char *round, const void *value,
                                 size_t n_bytes, int n) {
    struct gather *gather = &rank->gathers[rank->n_gathers++];
    _cleanup_free_ char *hex = hai_alloc(2 * n_bytes + 1);

    digest_hex(value, n_bytes, hex);
    gather->line = hai_asprintf("gather %s %s\n", round, hex);
    snprintf(gather->round, sizeof gather->round, "%s", round);
    gather->n = n;
    gather->values = hai_new_array(struct rank_value, (size_t)n);
    gather->have = hai_new_array(bool, (size_t)n);
    if (rank->fd >= 0)
        buf_add_str(&rank->out, gather->line);
    return gather;
}

int rank_gather(struct rank *rank, const char *round, const void *value, size_t n_bytes,
                int64_t wait_us, int n, struct rank_value *ret, struct hai_err *err) {
    assert(round);
    assert(n > 0);
    assert(ret);
    if (!is_name(round) || n_bytes > RANK_VALUE_MAX)
        return hai_fail(err, -EINVAL, "gather '%s': bad name, or more than %d bytes", round,
                        RANK_VALUE_MAX);
    if (!rank) {
        if (n != 1)
            return hai_fail(err, -ENOTCONN, "gather '%s' of %d ranks: not under hai", round, n);
        ret[0] = (struct rank_value){hai_alloc(n_bytes + 1), n_bytes};
        memcpy(ret[0].data, value, n_bytes);
        return 0;
    }
    if (find_gather(rank, round))
        return hai_fail(err, -EINVAL, "gather '%s': this round has been used", round);
    if (rank->n_gathers == RANK_ROUNDS_MAX)
        return hai_fail(err, -ENOBUFS, "gather '%s': more than %d rounds", round, RANK_ROUNDS_MAX);
    struct gather *gather = gather_new(rank, round, value, n_bytes, n);
    rank->refused = false;
    int r = wait_until(rank, is_gathered, gather, wait_us);
    if (r == -EPROTO)
        return hai_fail(err, r, "gather '%s': %s", round, rank->refusal);
    if (r < 0)
        return hai_fail(err, r, "gather '%s': %d of %d ranks came", round, gather->n_have, n);
    memcpy(ret, gather->values, sizeof *ret * (size_t)n);
    free(gather->values);
    gather->values = NULL;
    return 0;
}

void rank_values_free(struct rank_value *values, int n) {
    for (int i = 0; values && i < n; i++) {
        free(values[i].data);
        values[i] = (struct rank_value){0};
    }
}
