/* peerlink.h - authenticated stream connections between ranks, and exchange of blocks over many.
 *
 * Both ends prove that they know the attempt's secret before anything else is said (HMAC-SHA256
 * over both ranks and both nonces); a connection that cannot is closed and forgotten. Over TCP
 * between nodes, over abstract Unix sockets inside one. A dead peer is -ECONNRESET: at once where
 * its kernel lives, after 10 s where its machine is gone.
 */
#pragma once
#include "lib/base.h"
#include <sys/uio.h>

enum {
    PEERLINK_NONCE_BYTES = 16,
    PEERLINK_EXCHANGE_MAX = 256,  // connections of one exchange
    PEERLINK_ADDRESS_BYTES = 300, // "unix:NAME", "1.2.3.4:567" or "[::1]:567"
};

struct peerlink_secret {
    const void *key;
    size_t n_bytes; // 0: ranks started by hand without a secret
};

/* Where a rank can be reached: made by peerlink_listen, published by rendezvous. */
struct peerlink_strangers;
struct peerlink_listener {
    int fd;
    struct peerlink_strangers *strangers; // connections that prove themselves; NULL: none yet
    char address[PEERLINK_ADDRESS_BYTES];
    uint8_t nonce[PEERLINK_NONCE_BYTES]; // fresh; part of every proof, so none can be replayed
};

/* Listen at a free port of a local address ("127.0.0.1"), or at an abstract Unix name if host is
 * NULL. */
int peerlink_listen(const char *host, struct peerlink_listener *ret, struct hai_err *err);
void peerlink_listener_close(struct peerlink_listener *listener);

/* Connect as rank `from` to rank `to`, which listens there under that nonce. Tries until
 * deadline_us (CLOCK_MONOTONIC). Returns a non-blocking descriptor. */
int peerlink_connect(const char *address, int from, int to, const uint8_t *nonce,
                     const struct peerlink_secret *secret, int64_t deadline_us,
                     struct hai_err *err);

/* Wait for the next rank that proves itself; *ret_from is its number. All that connect are heard at
 * once, so that who is silent keeps nobody waiting; others are turned away. Those that are half
 * done stay with the listener. */
int peerlink_accept(struct peerlink_listener *listener, int to,
                    const struct peerlink_secret *secret, int64_t deadline_us, int *ret_from,
                    struct hai_err *err);

/* What goes out and comes in on one connection, in order. The lists are used up. */
struct peerlink_transfer {
    int fd;
    int rank; // for messages
    struct iovec *out;
    int n_out;
    struct iovec *in;
    int n_in;
};

/* Run all transfers, each on its own connection, to their end. */
int peerlink_exchange(struct peerlink_transfer *transfers, int n, struct hai_err *err);

/* Whole blocks on one non-blocking descriptor, until deadline_us. */
int peerlink_send(int fd, const void *data, size_t n_bytes, int64_t deadline_us,
                  struct hai_err *err);
int peerlink_receive(int fd, void *data, size_t n_bytes, int64_t deadline_us, struct hai_err *err);

int64_t peerlink_now_us(void);

/* The local address that a packet to that host would leave from: what others can reach. */
int peerlink_local_address(const char *host, char ret[PEERLINK_ADDRESS_BYTES], struct hai_err *err);

/* A TCP connection or listener by name and port, for rendezvous. Both non-blocking. */
int peerlink_dial(const char *host, const char *port, int64_t deadline_us, struct hai_err *err);
int peerlink_serve(const char *host, const char *port, struct hai_err *err);

/* Fill with random bytes from the kernel. */
void peerlink_random(void *ret, size_t n_bytes);
