#include "agent/meeting.h"
#include "agent/rounds.h"
#include "lib/digest.h"
#include "lib/fileio.h"
#include "lib/log.h"
#include "lib/random.h"
#include "rank/rankproto.h"
#include <arpa/inet.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    HEAD_BYTES_MAX = 512,
    MAC_BYTES = DIGEST_SHA256_HEX_BYTES, // with its line feed
    BODY_BYTES_MAX = 1 << 30,
    LINE_BYTES_MAX = 2 * RANK_VALUE_MAX + 24, // `RANK HEX`
    STRANGER_US = 10 * 1000 * 1000, // for a message to come, from a peer that has not proved itself
    AGAIN_US = 200000,
    CONNECTIONS_MAX = 65536,
    STRANGERS_MAX = 128, // peers that have not proved themselves: anybody may connect
};

/* A connection: to node rank 0 (ours), or from another agent (theirs). */
struct link {
    struct meeting *meeting;
    bool ours;
    struct attempt *at; // theirs: NULL until the message is complete
    char round[RANK_NAME_MAX + 1];
    char nonce[RANDOM_TOKEN_BYTES];
    int fd;
    struct loop_source *io;
    struct loop_source *timer; // ours: try again; theirs: no message has come
    struct buf in, out;
    struct link *next;
};

struct meeting {
    struct agentd *a;
    int fd;
    int port;
    struct loop_source *io;
    struct link *links;
    int n_links;
};

static void dial(void *data);

static void link_close(struct link *link) {
    loop_source_free(link->io);
    link->io = NULL;
    if (link->fd >= 0)
        close(link->fd);
    link->fd = -1;
    buf_clear(&link->in);
    buf_clear(&link->out);
}

static void link_free(struct link *link) {
    struct link **at = &link->meeting->links;

    while (*at != link)
        at = &(*at)->next;
    *at = link->next;
    link->meeting->n_links--;
    link_close(link);
    loop_source_free(link->timer);
    buf_free(&link->in);
    buf_free(&link->out);
    free(link);
}

static struct link *link_new(struct meeting *m) {
    struct link *link = hai_new(struct link);

    link->meeting = m;
    link->fd = -1;
    link->next = m->links;
    m->links = link;
    m->n_links++;
    return link;
}

/* Put off what failed: ours is tried again, theirs is theirs to try. */
static void link_fail(struct link *link) {
    if (!link->ours) {
        link_free(link);
        return;
    }
    link_close(link);
    loop_timer_after(link->timer, AGAIN_US);
}

/* HMAC under the attempt's secret over nonce and message, as hexadecimal. */
static void mac_of(const struct attempt *at, const char *nonce, const void *data, size_t n_bytes,
                   char ret[static DIGEST_SHA256_HEX_BYTES]) {
    _cleanup_(buf_free) struct buf b = {0};
    uint8_t mac[DIGEST_SHA256_BYTES];
    const char *secret = at->desired.secret ? at->desired.secret : "";

    buf_add_str(&b, nonce);
    buf_add(&b, data, n_bytes);
    digest_hmac(secret, strlen(secret), b.data, b.n_bytes, mac);
    digest_hex(mac, sizeof mac, ret);
}

/* Close the message that is in `out`. */
static void seal(struct link *link, const char *nonce) {
    char mac[DIGEST_SHA256_HEX_BYTES];

    mac_of(link->at, nonce, link->out.data, link->out.n_bytes, mac);
    buf_printf(&link->out, "%s\n", mac);
}

static bool is_sealed(const struct link *link, const char *nonce, size_t n_bytes) {
    char mac[DIGEST_SHA256_HEX_BYTES];

    mac_of(link->at, nonce, link->in.data, n_bytes, mac);
    return digest_equal(mac, link->in.data + n_bytes, MAC_BYTES - 1);
}

static bool flush(struct link *link) {
    while (link->out.n_bytes) {
        ssize_t n = send(link->fd, link->out.data, link->out.n_bytes, MSG_NOSIGNAL);
        if (n > 0) {
            buf_drop(&link->out, (size_t)n);
        } else if (errno != EINTR) {
            if (errno == EAGAIN || errno == ENOTCONN || errno == EINPROGRESS)
                break;
            return false;
        }
    }
    loop_io_set(link->io, EPOLLIN | (link->out.n_bytes ? EPOLLOUT : 0));
    return true;
}

/* Length of the head line and of the whole message, MAC included, from a head with BYTES as its
 * last word. 0: not all there yet; -EBADMSG. */
static int64_t whole(const struct link *link, size_t *ret_head) {
    const char *feed = link->in.n_bytes ? memchr(link->in.data, '\n', link->in.n_bytes) : NULL;

    if (!feed)
        return link->in.n_bytes > HEAD_BYTES_MAX ? -EBADMSG : 0;
    size_t head = (size_t)(feed + 1 - (char *)link->in.data);
    const char *word = feed;
    while (word > (char *)link->in.data && word[-1] != ' ')
        word--;
    int64_t n_bytes = strtoll(word, NULL, 10);
    if (head > HEAD_BYTES_MAX || n_bytes < 0 || n_bytes > BODY_BYTES_MAX)
        return -EBADMSG;
    *ret_head = head;
    return (int64_t)head + n_bytes + MAC_BYTES;
}

static struct attempt *attempt_of(struct agentd *a, const struct reconcile_key *key) {
    for (size_t i = 0; i < a->n_attempts; i++) {
        struct attempt *at = a->attempts[i];
        if (at->key.job == key->job && at->key.attempt == key->attempt &&
            at->key.epoch == key->epoch)
            return at;
    }
    return NULL;
}

static void answer(struct link *link) {
    const struct rounds *rounds = link->at->rounds;
    _cleanup_(buf_free) struct buf body = {0};

    rounds_lines(rounds, link->round, 0, rounds_n_ranks(rounds), &body);
    buf_printf(&link->out, "ok %zu\n", body.n_bytes);
    buf_add(&link->out, body.data, body.n_bytes);
    seal(link, link->nonce);
    if (!flush(link))
        link_free(link);
}

/* Read a head. Returns the attempt it names and how many bytes that node's ranks can have to say,
 * or NULL: the attempt is not here yet, or no more. */
static struct attempt *take_head(struct link *link, size_t head, int64_t *ret_bytes_max) {
    struct reconcile_key key;
    int64_t node_rank, proto;

    link->in.data[head - 1] = '\0';
    int n =
        sscanf((char *)link->in.data,
               "hai-meet %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %63s %64s",
               &proto, &key.job, &key.attempt, &key.epoch, &node_rank, link->round, link->nonce);
    link->in.data[head - 1] = '\n';
    struct attempt *at = n == 7 && proto == 1 ? attempt_of(link->meeting->a, &key) : NULL;
    if (!at || !at->rounds || node_rank < 0 || (size_t)node_rank >= at->desired.nodes.n)
        return NULL;
    *ret_bytes_max = at->desired.nodes.items[node_rank].n_ranks * LINE_BYTES_MAX;
    return at;
}

/* Another agent has sent the values of its ranks. */
static void on_message(struct link *link, struct attempt *at, size_t head, size_t n_bytes) {
    link->at = at;
    loop_timer_stop(link->timer);
    if (!is_sealed(link, "", n_bytes - MAC_BYTES) ||
        rounds_add_lines(link->at->rounds, link->round, (char *)link->in.data + head,
                         n_bytes - MAC_BYTES - head) < 0) {
        link_free(link);
        return;
    }
    if (rounds_has_all(link->at->rounds, link->round))
        link->meeting->a->round_complete(link->at, link->round); // answers this link as well
}

/* Node rank 0 has sent all values. */
static void on_answer(struct link *link, size_t head, size_t n_bytes) {
    struct attempt *at = link->at;
    char round[sizeof link->round];

    if (strncmp((char *)link->in.data, "ok ", 3) != 0 ||
        !is_sealed(link, link->nonce, n_bytes - MAC_BYTES) ||
        rounds_add_lines(at->rounds, link->round, (char *)link->in.data + head,
                         n_bytes - MAC_BYTES - head) < 0 ||
        !rounds_has_all(at->rounds, link->round)) {
        link_fail(link);
        return;
    }
    memcpy(round, link->round, sizeof round);
    link_free(link);
    at->agentd->round_complete(at, round);
}

/* Bytes have come. Of a peer that has not proved itself only what could be true is kept. */
static void on_bytes(struct link *link) {
    struct attempt *at = NULL;
    size_t head = 0;
    int64_t n_bytes_max = 0, n_bytes = whole(link, &head);

    if (n_bytes > 0 && !link->ours) {
        at = take_head(link, head, &n_bytes_max);
        if (!at || n_bytes - (int64_t)head - MAC_BYTES > n_bytes_max)
            n_bytes = -EBADMSG; // an agent among them will ask again
    }
    if (n_bytes < 0 || (!link->ours && link->at)) {
        link_fail(link);
        return;
    }
    if (!n_bytes || link->in.n_bytes < (size_t)n_bytes)
        return;
    if (link->ours)
        on_answer(link, head, (size_t)n_bytes);
    else
        on_message(link, at, head, (size_t)n_bytes);
}

static void on_link(int fd, uint32_t events, void *data) {
    struct link *link = data;
    size_t step = link->ours ? 64 * 1024 : 8 * 1024, before = link->in.n_bytes;

    if (events & EPOLLOUT && !flush(link)) {
        link_fail(link);
        return;
    }
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        return;
    ssize_t n = recv(fd, buf_extend(&link->in, step), step, 0);
    int e = errno;
    link->in.n_bytes = before + (size_t)MAX(n, (ssize_t)0);
    if (n < 0 && (e == EAGAIN || e == EINTR))
        return;
    if (n <= 0)
        link_fail(link);
    else
        on_bytes(link);
}

static void on_late(void *data) {
    link_free(data);
}

/* Close the oldest stranger where there are too many; an agent among them comes again. */
static void make_room(struct meeting *m) {
    struct link *oldest = NULL;
    int n = 0;

    for (struct link *link = m->links; link; link = link->next) // newest first
        if (!link->ours && !link->at) {
            oldest = link;
            n++;
        }
    if (n >= STRANGERS_MAX)
        link_free(oldest);
}

static void on_connection(int fd, uint32_t events, void *data) {
    struct meeting *m = data;
    int one = 1;

    int peer = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (peer < 0)
        return;
    if (m->n_links >= CONNECTIONS_MAX) {
        close(peer);
        return;
    }
    setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    make_room(m);
    struct link *link = link_new(m);
    link->fd = peer;
    link->io = loop_io_new(m->a->loop, peer, EPOLLIN, on_link, link);
    link->timer = loop_timer_new(m->a->loop, LOOP_MONOTONIC, on_late, link);
    loop_timer_after(link->timer, STRANGER_US);
}

/* ---- our own way to node rank 0 ---- */

static void put_message(struct link *link) {
    const struct attempt *at = link->at;
    _cleanup_(buf_free) struct buf body = {0};

    for (size_t i = 0; i < at->desired.ranks.n; i++)
        rounds_lines(at->rounds, link->round, at->desired.ranks.items[i].rank, 1, &body);
    random_token(link->nonce);
    buf_printf(&link->out, "hai-meet 1 %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %s %s %zu\n",
               at->key.job, at->key.attempt, at->key.epoch, at->desired.node_rank, link->round,
               link->nonce, body.n_bytes);
    buf_add(&link->out, body.data, body.n_bytes);
    seal(link, "");
}

static int connect_to(const char *host, int64_t port) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    char service[16];
    int fd = -1;

    snprintf(service, sizeof service, "%d", (int)port);
    if (getaddrinfo(host, service, &hints, &found) != 0 || !found)
        return -EHOSTUNREACH;
    fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && connect(fd, found->ai_addr, found->ai_addrlen) < 0 && errno != EINPROGRESS) {
        close(fd);
        fd = -1;
    }
    freeaddrinfo(found);
    return fd < 0 ? -ECONNREFUSED : fd;
}

static void dial(void *data) {
    struct link *link = data;
    const struct node_place *root = &link->at->desired.nodes.items[0];

    link->fd = connect_to(root->address ? root->address : "127.0.0.1", root->data_port);
    if (link->fd < 0) {
        loop_timer_after(link->timer, AGAIN_US);
        return;
    }
    put_message(link);
    link->io = loop_io_new(link->meeting->a->loop, link->fd, EPOLLIN | EPOLLOUT, on_link, link);
}

void meeting_join(struct attempt *at, const char *round) {
    struct meeting *m = at->agentd->meeting;

    if (at->desired.node_rank == 0 || !at->desired.nodes.n)
        return;
    for (struct link *link = m->links; link; link = link->next)
        if (link->ours && link->at == at && !strcmp(link->round, round))
            return;
    struct link *link = link_new(m);
    link->ours = true;
    link->at = at;
    snprintf(link->round, sizeof link->round, "%s", round);
    link->timer = loop_timer_new(at->agentd->loop, LOOP_MONOTONIC, dial, link);
    dial(link);
}

void meeting_complete(struct attempt *at, const char *round) {
    for (struct link *link = at->agentd->meeting->links, *next; link; link = next) {
        next = link->next;
        if (!link->ours && link->at == at && !strcmp(link->round, round) && !link->out.n_bytes)
            answer(link);
    }
}

void meeting_forget(struct attempt *at) {
    for (struct link *link = at->agentd->meeting ? at->agentd->meeting->links : NULL, *next; link;
         link = next) {
        next = link->next;
        if (link->at == at)
            link_free(link);
    }
}

/* ---- the listener ---- */

/* Other agents have learnt the port from the scheduler: after a restart it should be the same. */
static int listen_on(struct meeting *m, int port) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    struct sockaddr_storage bound;
    socklen_t n = sizeof bound;
    char service[16];
    int one = 1;

    snprintf(service, sizeof service, "%d", port);
    if (getaddrinfo(m->a->config.address, service, &hints, &found) != 0 || !found)
        return -EADDRNOTAVAIL;
    _cleanup_(closep) int fd =
        socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int r = 0;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
        bind(fd, found->ai_addr, found->ai_addrlen) < 0 || listen(fd, 1024) < 0 ||
        getsockname(fd, (struct sockaddr *)&bound, &n) < 0)
        r = -errno;
    freeaddrinfo(found);
    if (r < 0)
        return r;
    m->port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
                                                : ((struct sockaddr_in *)&bound)->sin_port);
    m->fd = TAKE_FD(fd);
    return 0;
}

int meeting_new(struct agentd *a, struct meeting **ret, struct hai_err *err) {
    _cleanup_free_ char *path = hai_asprintf("%s/data_port", a->config.state_dir);
    _cleanup_(buf_free) struct buf known = {0};
    struct meeting *m = hai_new(struct meeting);
    char text[16];

    m->a = a;
    m->fd = -1;
    int port = fileio_read_file(path, 64, &known, NULL) < 0 ? 0 : atoi(buf_cstr(&known));
    int r = port > 0 && port < 65536 ? listen_on(m, port) : -ENOENT;
    if (r < 0)
        r = listen_on(m, 0);
    if (r < 0) {
        free(m);
        return hai_fail(err, r, "cannot listen on %s: %s", a->config.address, strerror(-r));
    }
    snprintf(text, sizeof text, "%d\n", m->port);
    if (m->port != port && fileio_replace(path, text, strlen(text), 0600, err) < 0)
        log_warning("%s", hai_err_text(err));
    m->io = loop_io_new(a->loop, m->fd, EPOLLIN, on_connection, m);
    *ret = m;
    return 0;
}

void meeting_free(struct meeting *m) {
    if (!m)
        return;
    while (m->links)
        link_free(m->links);
    loop_source_free(m->io);
    if (m->fd >= 0)
        close(m->fd);
    free(m);
}

int meeting_port(const struct meeting *m) {
    return m->port;
}
