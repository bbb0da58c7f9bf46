#include "engine/coll/rendezvous.h"
#include "lib/fileio.h"

#include <stdio.h>

enum { TIMEOUT_S = 120 };

/* A whole number from the environment; fallback if it is not set, -1: it must be. */
static int env_number(const char *name, int64_t low, int64_t high, int fallback, int *ret,
                      struct hai_err *err) {
    const char *text = getenv(name);
    char *end = NULL;

    if (!text && fallback >= 0) {
        *ret = fallback;
        return 0;
    }
    errno = 0;
    long long v = text ? strtoll(text, &end, 10) : 0;
    if (!text || errno || end == text || *end || v < low || v > high)
        return hai_fail(err, -EINVAL, "%s is %s%s%s; expected %lld to %lld", name, text ? "'" : "",
                        text ? text : "not set", text ? "'" : "", (long long)low, (long long)high);
    *ret = (int)v;
    return 0;
}

int rendezvous_from_env(struct rendezvous *ret, struct hai_err *err) {
    struct rendezvous meet = {.rank = 0, .world = 1, .node = "", .timeout_s = TIMEOUT_S};
    const char *node = getenv("NODE_RANK");
    int port, r = env_number("WORLD_SIZE", 1, RENDEZVOUS_WORLD_MAX, 1, &meet.world, err);

    if (r == 0)
        r = env_number("RANK", 0, meet.world - 1, meet.world == 1 ? 0 : -1, &meet.rank, err);
    if (r == 0 && meet.world > 1) {
        meet.master_host = getenv("MASTER_ADDR");
        meet.master_port = getenv("MASTER_PORT");
        r = env_number("MASTER_PORT", 1, 65535, -1, &port, err);
        if (r == 0 && !meet.master_host)
            r = hai_fail(err, -EINVAL, "MASTER_ADDR is not set; expected the address of rank 0");
    }
    if (r < 0)
        return r;
    if (node)
        meet.node = node;
    *ret = meet;
    return 0;
}

/* Every rank's listener has a nonce that its callers know beforehand; this one is the same for
 * all, so a recorded connection could be repeated within an attempt. It would only be given the
 * ranks' addresses, which themselves ask for a proof under fresh nonces. */
static void first_nonce(struct peerlink_listener *listener) {
    memset(listener->nonce, 0, sizeof listener->nonce);
    memcpy(listener->nonce, "rendezvous", 10);
}

static int serve(const struct rendezvous *meet, char (*ret)[RENDEZVOUS_VALUE_BYTES],
                 int64_t deadline_us, struct hai_err *err) {
    struct peerlink_listener listener = {.fd = -1};
    _cleanup_free_ int *fds = hai_new_array(int, (size_t)meet->world);
    int r, from, n_come = 1;

    first_nonce(&listener);
    listener.fd = peerlink_serve(meet->master_host, meet->master_port, err);
    r = MIN(listener.fd, 0);
    for (int i = 0; i < meet->world; i++)
        fds[i] = -1;
    while (r == 0 && n_come < meet->world) {
        int peer = peerlink_accept(&listener, 0, &meet->secret, deadline_us, &from, err);
        if (peer < 0) {
            r = hai_err_prefix(err, "rendezvous, %d of %d ranks are here: ", n_come, meet->world);
            break;
        }
        // Whoever breaks off, or comes twice, is not counted; a rank may try again.
        if (from < 1 || from >= meet->world || fds[from] >= 0 ||
            peerlink_receive(peer, ret[from], RENDEZVOUS_VALUE_BYTES, deadline_us, NULL) < 0) {
            close(peer);
            continue;
        }
        ret[from][RENDEZVOUS_VALUE_BYTES - 1] = 0;
        fds[from] = peer;
        n_come++;
    }
    for (int i = 1; r == 0 && i < meet->world; i++)
        r = peerlink_send(fds[i], ret, (size_t)meet->world * RENDEZVOUS_VALUE_BYTES, deadline_us,
                          err);
    for (int i = 1; i < meet->world; i++)
        closep(&fds[i]);
    peerlink_listener_close(&listener);
    return r;
}

static int visit(const struct rendezvous *meet, char (*ret)[RENDEZVOUS_VALUE_BYTES],
                 int64_t deadline_us, struct hai_err *err) {
    struct peerlink_listener listener;
    char address[256];

    first_nonce(&listener);
    snprintf(address, sizeof address, strchr(meet->master_host, ':') ? "[%s]:%s" : "%s:%s",
             meet->master_host, meet->master_port);
    _cleanup_(closep) int fd =
        peerlink_connect(address, meet->rank, 0, listener.nonce, &meet->secret, deadline_us, err);
    int r = MIN(fd, 0);
    if (r == 0)
        r = peerlink_send(fd, ret[meet->rank], RENDEZVOUS_VALUE_BYTES, deadline_us, err);
    if (r == 0)
        r = peerlink_receive(fd, ret, (size_t)meet->world * RENDEZVOUS_VALUE_BYTES, deadline_us,
                             err);
    if (r < 0)
        hai_err_prefix(err, "rendezvous with ");
    return r;
}

int rendezvous_allgather(const struct rendezvous *meet, const char *value,
                         char (*ret)[RENDEZVOUS_VALUE_BYTES], struct hai_err *err) {
    int64_t deadline_us = peerlink_now_us() + meet->timeout_s * 1000000;

    assert(strlen(value) < RENDEZVOUS_VALUE_BYTES);
    memset(ret, 0, (size_t)meet->world * RENDEZVOUS_VALUE_BYTES);
    strcpy(ret[meet->rank], value);
    if (meet->world == 1)
        return 0;
    if (meet->allgather)
        return meet->allgather(meet->userdata, value, ret, err);
    return meet->rank == 0 ? serve(meet, ret, deadline_us, err)
                           : visit(meet, ret, deadline_us, err);
}
