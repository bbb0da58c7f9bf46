#include "agent/rankhub.h"
#include "agent/meeting.h"
#include "agent/news.h"
#include "agent/rankline.h"
#include "agent/rounds.h"
#include "lib/fileio.h"
#include "lib/log.h"
#include "lib/timefmt.h"
#include <inttypes.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    OUT_BYTES_MAX = 512 << 20, // all values of the largest gang for one rank
    WAITS_MAX = RANK_ROUNDS_MAX,
    // Connections of an attempt: for each of its ranks, and a few more for all. The agent's
    // descriptors are everybody's.
    PEERS_A_RANK_MAX = 4,
    PEERS_MORE_MAX = 16,
};

/* One connection of a rank. */
struct peer {
    struct rankhub *hub;
    int fd;
    struct loop_source *io;
    struct buf in, out;
    int64_t rank;           // -1: has not said hello
    bool welcome;           // was answered; what it says before waits in `in`
    char *waits[WAITS_MAX]; // rounds whose values it has not got
    int n_waits;
    int64_t save_from_us; // it says that it saves, since then; 0: it does not
    int64_t stall_us;     // saved for so long since it last committed a checkpoint
    struct peer *next;
};

struct rankhub {
    struct attempt *at;
    int fd;
    char *path;
    struct loop_source *io;
    struct peer *peers;
    size_t n_peers;
    int64_t kill_at_us; // 0: the ranks have not been told to end
};

static void serve(struct peer *peer);

static void peer_free(struct peer *peer) {
    struct peer **at = &peer->hub->peers;

    while (*at != peer)
        at = &(*at)->next;
    *at = peer->next;
    peer->hub->n_peers--;
    loop_source_free(peer->io);
    close(peer->fd);
    buf_free(&peer->in);
    buf_free(&peer->out);
    for (int i = 0; i < peer->n_waits; i++)
        free(peer->waits[i]);
    free(peer);
}

/* Send what waits. Returns false if the peer is no more. */
static bool flush(struct peer *peer) {
    while (peer->out.n_bytes) {
        ssize_t n = send(peer->fd, peer->out.data, peer->out.n_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) {
            buf_drop(&peer->out, (size_t)n);
        } else if (errno != EINTR) {
            if (errno == EAGAIN)
                break;
            peer_free(peer);
            return false;
        }
    }
    loop_io_set(peer->io, EPOLLIN | (peer->out.n_bytes ? EPOLLOUT : 0));
    return true;
}

static void refuse(struct peer *peer, const char *text) {
    buf_printf(&peer->out, "error %s\n", text);
}

/* ---- lines of a rank ---- */

static void say_terminate(struct peer *peer) {
    int64_t at_us = peer->hub->kill_at_us;
    int64_t left_us = MAX(at_us - timefmt_boottime_us(), (int64_t)0);

    buf_printf(&peer->out, "terminate %" PRId64 "\n", left_us / 1000000);
}

static bool is_local(const struct attempt *at, int64_t rank) {
    for (size_t i = 0; i < at->desired.ranks.n; i++)
        if (at->desired.ranks.items[i].rank == rank)
            return true;
    return false;
}

static void welcome(struct peer *peer) {
    const struct attempt *at = peer->hub->at;

    if (!is_local(at, peer->rank)) {
        refuse(peer, "no such rank on this node");
        return;
    }
    buf_printf(&peer->out, "welcome %d %" PRId64 " %" PRId64 " %" PRId64 " %s\n", RANK_PROTO,
               at->key.job, at->key.attempt, at->key.epoch,
               at->desired.secret ? at->desired.secret : "");
    peer->welcome = true;
    if (peer->hub->kill_at_us)
        say_terminate(peer);
}

static void on_hello(struct peer *peer, const struct rankline *said) {
    peer->rank = said->rank;
    if (peer->hub->at->desired.job)
        welcome(peer);
    // else the scheduler has not told us yet, after our own start: rankhub_desired goes on
}

/* While a rank is in its phase `save` the gang makes no progress: ranks wait for each other. */
static void note_phase(struct peer *peer, const char *phase) {
    bool saves = !strcmp(phase, "save");
    int64_t now_us = timefmt_monotonic_us();

    if (saves && !peer->save_from_us)
        peer->save_from_us = now_us;
    if (saves || !peer->save_from_us)
        return;
    peer->stall_us += now_us - peer->save_from_us;
    peer->save_from_us = 0;
}

static void on_progress(struct peer *peer, struct rankline *said) {
    const struct attempt *at = peer->hub->at;
    struct rank_progress progress;

    if (said->progress.phase)
        note_phase(peer, said->progress.phase);
    schema_init(rank_progress_schema(), &progress);
    progress.job = at->key.job;
    progress.attempt = at->key.attempt;
    progress.rank = peer->rank;
    progress.progress = said->progress;
    schema_init(progress_view_schema(), &said->progress); // it is the report's now
    progress.progress.at = timefmt_now_us();
    struct hai_err err = {0};
    if (schema_check(rank_progress_schema(), &progress, &err) < 0) {
        refuse(peer, err.text);
        schema_free(rank_progress_schema(), &progress);
        return;
    }
    news_progress(at->agentd, &progress);
}

static void on_commit(struct peer *peer, const struct rankline *said) {
    const struct attempt *at = peer->hub->at;
    struct ckpt_commit commit;

    schema_init(ckpt_commit_schema(), &commit);
    commit.job = at->key.job;
    commit.attempt = at->key.attempt;
    commit.epoch = at->key.epoch;
    commit.step = said->step;
    commit.digest = hai_strdup(said->digest);
    commit.dir = hai_strdup(said->dir);
    if (peer->save_from_us) { // asks within its phase
        peer->stall_us += timefmt_monotonic_us() - peer->save_from_us;
        peer->save_from_us = timefmt_monotonic_us();
    }
    commit.stall_us = peer->stall_us;
    peer->stall_us = 0;
    struct hai_err err = {0};
    int r = schema_check(ckpt_commit_schema(), &commit, &err);
    if (r < 0)
        refuse(peer, err.text);
    else if ((r = news_commit(at->agentd, &commit)) < 0)
        buf_printf(&peer->out, "commit %" PRId64 " refused too many at once\n", commit.step);
    if (r < 0)
        schema_free(ckpt_commit_schema(), &commit);
}

static void give_values(struct peer *peer, const char *round) {
    const struct rounds *rounds = peer->hub->at->rounds;
    int64_t n = rounds_n_ranks(rounds);

    for (int64_t i = 0; i < n; i++)
        buf_printf(&peer->out, "value %s %" PRId64 " %s\n", round, i,
                   rounds_value(rounds, round, i));
    buf_printf(&peer->out, "gathered %s %" PRId64 "\n", round, n);
}

static void on_gather(struct peer *peer, const struct rankline *said) {
    struct attempt *at = peer->hub->at;

    if (rounds_add(at->rounds, said->round, peer->rank, said->hex) < 0 ||
        peer->n_waits == WAITS_MAX) {
        refuse(peer, "gather: expected 'gather ROUND HEX', at most 4096 bytes");
        return;
    }
    peer->waits[peer->n_waits++] = hai_strdup(said->round);
    if (rounds_has_all(at->rounds, said->round)) {
        at->agentd->round_complete(at, said->round);
        return;
    }
    for (size_t i = 0; i < at->desired.ranks.n; i++)
        if (!rounds_value(at->rounds, said->round, at->desired.ranks.items[i].rank))
            return;
    meeting_join(at, said->round);
}

static void on_line(struct peer *peer, char *line) {
    struct rankline said;
    struct hai_err err = {0};

    if (rankline_parse(line, &said, &err) < 0) {
        refuse(peer, err.text);
        return;
    }
    if (said.kind == RANKLINE_HELLO && peer->rank < 0)
        on_hello(peer, &said);
    else if (!peer->welcome)
        refuse(peer, "say hello first");
    else if (said.kind == RANKLINE_PROGRESS)
        on_progress(peer, &said);
    else if (said.kind == RANKLINE_COMMIT)
        on_commit(peer, &said);
    else if (said.kind == RANKLINE_GATHER)
        on_gather(peer, &said);
    else
        refuse(peer, "hello was said before");
    rankline_clear(&said);
}

/* Take whole lines; those behind a hello that cannot be answered yet wait. */
static void serve(struct peer *peer) {
    size_t at = 0;
    char *line;

    while ((peer->rank < 0 || peer->welcome) && (line = rankline_next(&peer->in, &at)))
        on_line(peer, line);
    buf_drop(&peer->in, at);
}

static void on_peer(int fd, uint32_t events, void *data) {
    struct peer *peer = data;
    size_t before = peer->in.n_bytes;

    if (events & EPOLLOUT && !flush(peer))
        return;
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        return;
    ssize_t n = recv(fd, buf_extend(&peer->in, RANK_LINE_MAX), RANK_LINE_MAX, MSG_DONTWAIT);
    int e = errno;
    peer->in.n_bytes = before + (size_t)MAX(n, (ssize_t)0);
    if (n < 0 && (e == EAGAIN || e == EINTR))
        return;
    if (n > 0)
        serve(peer);
    // A line without end, or values nobody fetches: not a rank of ours.
    if (n <= 0 || peer->in.n_bytes > 64 * RANK_LINE_MAX || peer->out.n_bytes > OUT_BYTES_MAX)
        peer_free(peer);
    else
        flush(peer);
}

static void on_connection(int fd, uint32_t events, void *data) {
    struct rankhub *hub = data;
    struct ucred cred = {0};
    socklen_t n = sizeof cred;
    uid_t uid = hub->at->agentd->launch.switch_user ? hub->at->state.uid : geteuid();

    int peer_fd = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (peer_fd < 0)
        return;
    if (getsockopt(peer_fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) < 0 || cred.uid != uid) {
        log_warning("%s: a process of uid %u is not of job %" PRId64, hub->path, cred.uid,
                    hub->at->key.job);
        close(peer_fd);
        return;
    }
    // Of a started attempt the scheduler has told the ranks, of an adopted one its shim.
    size_t n_ranks = MAX(hub->at->desired.ranks.n, (size_t)hub->at->state.n_ranks);
    if (hub->n_peers >= n_ranks * PEERS_A_RANK_MAX + PEERS_MORE_MAX) {
        close(peer_fd);
        return;
    }
    struct peer *peer = hai_new(struct peer);
    peer->hub = hub;
    peer->fd = peer_fd;
    peer->rank = -1;
    peer->next = hub->peers;
    hub->peers = peer;
    hub->n_peers++;
    peer->io = loop_io_new(hub->at->agentd->loop, peer_fd, EPOLLIN, on_peer, peer);
}

/* ---- from the other parts ---- */

static void make_rounds(struct attempt *at) {
    int64_t n_ranks = 0;

    for (size_t i = 0; i < at->desired.nodes.n; i++)
        n_ranks += at->desired.nodes.items[i].n_ranks;
    if (at->desired.job && !at->rounds)
        at->rounds = rounds_new(n_ranks);
}

void rankhub_open(struct attempt *at) {
    struct agentd *a = at->agentd;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct rankhub *hub = hai_new(struct rankhub);

    make_rounds(at);
    hub->at = at;
    hub->path = hai_asprintf("%s/rank.sock", at->dir);
    hub->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    at->hub = hub;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", hub->path);
    unlink(hub->path);
    if (hub->fd < 0 || bind(hub->fd, (struct sockaddr *)&address, sizeof address) < 0 ||
        chmod(hub->path, 0600) < 0 ||
        (a->launch.switch_user && chown(hub->path, at->state.uid, at->state.gid) < 0) ||
        listen(hub->fd, 256) < 0) {
        log_error("%s: %m; ranks of job %" PRId64 " cannot report", hub->path, at->key.job);
        return;
    }
    hub->io = loop_io_new(a->loop, hub->fd, EPOLLIN, on_connection, hub);
}

void rankhub_free(struct rankhub *hub) {
    if (!hub)
        return;
    meeting_forget(hub->at);
    while (hub->peers)
        peer_free(hub->peers);
    loop_source_free(hub->io);
    if (hub->fd >= 0)
        close(hub->fd);
    rounds_free(hub->at->rounds);
    hub->at->rounds = NULL;
    hub->at->hub = NULL;
    free(hub->path);
    free(hub);
}

void rankhub_desired(struct rankhub *hub) {
    if (!hub)
        return;
    make_rounds(hub->at);
    for (struct peer *peer = hub->peers, *next; peer; peer = next) {
        next = peer->next;
        if (peer->rank >= 0 && !peer->welcome) {
            welcome(peer);
            serve(peer);
            flush(peer);
        }
    }
}

void rankhub_terminate(struct rankhub *hub, int64_t kill_at_us) {
    if (!hub)
        return;
    hub->kill_at_us = kill_at_us;
    for (struct peer *peer = hub->peers, *next; peer; peer = next) {
        next = peer->next;
        if (!peer->welcome)
            continue;
        say_terminate(peer);
        flush(peer);
    }
}

void rankhub_complete(struct attempt *at, const char *round) {
    meeting_complete(at, round);
    for (struct peer *peer = at->hub ? at->hub->peers : NULL, *next; peer; peer = next) {
        next = peer->next;
        for (int i = 0; i < peer->n_waits; i++)
            if (!strcmp(peer->waits[i], round)) {
                free(peer->waits[i]);
                peer->waits[i] = peer->waits[--peer->n_waits];
                give_values(peer, round);
                loop_io_set(peer->io, EPOLLIN | EPOLLOUT);
                break;
            }
    }
}

/* To every rank of the job: whoever asked knows, the others do not care. */
void rankhub_committed(struct agentd *a, const struct ckpt_result *result) {
    for (size_t i = 0; i < a->n_attempts; i++) {
        struct attempt *at = a->attempts[i];
        if (!at->hub || at->key.job != result->job || at->key.epoch != result->epoch)
            continue;
        for (struct peer *peer = at->hub->peers, *next; peer; peer = next) {
            next = peer->next;
            buf_printf(&peer->out, "commit %" PRId64 " %s%s\n", result->step,
                       result->ok ? "ok" : "refused ",
                       result->ok ? "" : (result->message ? result->message : "not recorded"));
            flush(peer);
        }
    }
}
