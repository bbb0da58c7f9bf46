#include "engine/coll/coll.h"
#include "engine/coll/reduce.h"
#include "engine/coll/shmgroup.h"
#include "lib/digest.h"
#include "lib/fileio.h"

#include <stdio.h>

enum {
    LINE_BYTES = 64,
    CHUNK_LOCAL_BYTES = 512 << 10, // one node: all ranks' chunks stay in the caches
    CHUNK_NODES_BYTES = 2 << 20,   // several: fewer turns of the network
};

/* A number that travels between nodes: of one rank, or of a whole group on one node. */
struct term {
    int first, n; // ranks
    int node;
};

struct node {
    int n;
    int ranks[SHMGROUP_RANKS_MAX];
    int link; // to its first rank; -1: none, or my own node
};

struct coll {
    int rank, world;
    int group_ranks;
    struct node *nodes;
    int n_nodes, my_node;
    int me;                   // number inside my node
    int *node_of, *number_of; // of every rank: its node, its number there
    struct shmgroup *shm;
    size_t chunk_bytes;
    bool broken;
    // What the shape and the placement make of it:
    struct term *terms;
    int *group_start; // terms of each group
    int n_terms, n_groups;
    bool adds_before; // some group is added up on its node before it travels
    // First rank of a node only: rows of the other nodes' terms, and lists for the network.
    uint8_t *received;
    size_t received_bytes;
    struct iovec *pieces;
    size_t n_pieces;
    const void **rows;
};

/* What a rank tells the others. */
struct address {
    uint64_t node;
    char unix_address[PEERLINK_ADDRESS_BYTES], tcp_address[PEERLINK_ADDRESS_BYTES];
    uint8_t unix_nonce[PEERLINK_NONCE_BYTES], tcp_nonce[PEERLINK_NONCE_BYTES];
};

static void address_write(uint64_t node, const struct peerlink_listener *local,
                          const struct peerlink_listener *tcp, char ret[RENDEZVOUS_VALUE_BYTES]) {
    char a[2 * PEERLINK_NONCE_BYTES + 1], b[2 * PEERLINK_NONCE_BYTES + 1];

    digest_hex(local->nonce, PEERLINK_NONCE_BYTES, a);
    digest_hex(tcp->nonce, PEERLINK_NONCE_BYTES, b);
    snprintf(ret, RENDEZVOUS_VALUE_BYTES, "%016llx %.64s %s %.64s %s", (unsigned long long)node,
             local->address, a, tcp->address, b);
}

static int address_read(const char *text, int rank, struct address *ret, struct hai_err *err) {
    char a[2 * PEERLINK_NONCE_BYTES + 1], b[2 * PEERLINK_NONCE_BYTES + 1];
    unsigned long long node;

    if (sscanf(text, "%16llx %64s %32s %64s %32s", &node, ret->unix_address, a, ret->tcp_address,
               b) != 5 ||
        digest_unhex(a, PEERLINK_NONCE_BYTES, ret->unix_nonce) < 0 ||
        digest_unhex(b, PEERLINK_NONCE_BYTES, ret->tcp_nonce) < 0)
        return hai_fail(err, -EBADMSG, "rank %d published '%.80s'; expected its addresses", rank,
                        text);
    ret->node = node;
    return 0;
}

/* Ranks share memory if they name the same node and run under the same kernel. */
static uint64_t node_number(const char *node) {
    _cleanup_(buf_free) struct buf text = {0};

    fileio_read_file("/proc/sys/kernel/random/boot_id", 64, &text, NULL);
    buf_add_str(&text, node);
    return digest_xxh3(text.data, text.n_bytes);
}

/* Number the nodes by their first rank. */
static int place_ranks(struct coll *c, const struct address *addresses, struct hai_err *err) {
    c->nodes = hai_new_array(struct node, COLL_NODES_MAX);
    c->node_of = hai_new_array(int, (size_t)c->world);
    c->number_of = hai_new_array(int, (size_t)c->world);
    for (int i = 0; i < c->world; i++) {
        int k = 0;
        while (k < c->n_nodes && addresses[c->nodes[k].ranks[0]].node != addresses[i].node)
            k++;
        if (k == COLL_NODES_MAX)
            return hai_fail(err, -E2BIG, "ranks on more than %d nodes", COLL_NODES_MAX);
        struct node *node = &c->nodes[k];
        if (k == c->n_nodes)
            c->nodes[c->n_nodes++] = (struct node){.link = -1};
        if (node->n == SHMGROUP_RANKS_MAX)
            return hai_fail(err, -E2BIG, "more than %d ranks on a node", SHMGROUP_RANKS_MAX);
        c->node_of[i] = k;
        c->number_of[i] = node->n;
        node->ranks[node->n++] = i;
    }
    c->my_node = c->node_of[c->rank];
    c->me = c->number_of[c->rank];
    return 0;
}

static int natural_group(const struct coll *c) {
    int n = c->nodes[0].n;

    for (int i = 0; i < c->world; i++)
        if (c->node_of[i] != i / n)
            return 1;
    return c->world % n ? 1 : n;
}

void coll_set_group_ranks(struct coll *c, int n) {
    assert(n >= 1);
    assert(n <= c->world);
    c->group_ranks = n;
    c->n_groups = (c->world + n - 1) / n;
    c->n_terms = 0;
    c->adds_before = false;
    if (c->world == 1)
        return;
    for (int g = 0; g < c->n_groups; g++) {
        int first = g * n, end = MIN(first + n, c->world);
        bool together = c->n_nodes > 1;
        for (int i = first; i < end; i++)
            together &= c->node_of[i] == c->node_of[first];
        c->group_start[g] = c->n_terms;
        for (int i = first; i < end; i += c->terms[c->n_terms++].n)
            c->terms[c->n_terms] = (struct term){i, together ? end - i : 1, c->node_of[i]};
        c->adds_before |= together && end - first > 1;
    }
    c->group_start[c->n_groups] = c->n_terms;
}

/* Connections between the first ranks of the nodes: each calls the nodes before it. */
static int link_nodes(struct coll *c, const struct address *addresses,
                      const struct rendezvous *meet, struct peerlink_listener *listener,
                      int64_t deadline_us, struct hai_err *err) {
    for (int k = 0; k < c->my_node; k++) {
        int to = c->nodes[k].ranks[0];
        int fd = peerlink_connect(addresses[to].tcp_address, c->rank, to, addresses[to].tcp_nonce,
                                  &meet->secret, deadline_us, err);
        if (fd < 0)
            return fd;
        c->nodes[k].link = fd;
    }
    for (int left = c->n_nodes - 1 - c->my_node; left;) {
        int from;
        int fd = peerlink_accept(listener, c->rank, &meet->secret, deadline_us, &from, err);
        if (fd < 0)
            return fd;
        struct node *node = from < c->world ? &c->nodes[c->node_of[from]] : NULL;
        if (!node || node->ranks[0] != from || node->link >= 0 || from < c->rank) {
            close(fd);
            continue;
        }
        node->link = fd;
        left--;
    }
    return 0;
}

static int join_node(struct coll *c, const struct address *addresses, const struct rendezvous *meet,
                     struct peerlink_listener *listener, int64_t deadline_us, struct hai_err *err) {
    struct shmgroup_member members[SHMGROUP_RANKS_MAX];
    const struct node *node = &c->nodes[c->my_node];

    // Two slots, each: a chunk of every rank, one for every rank to add up in, the result.
    c->chunk_bytes = c->n_nodes > 1 ? CHUNK_NODES_BYTES : CHUNK_LOCAL_BYTES;
    for (int i = 0; i < node->n; i++)
        members[i] =
            (struct shmgroup_member){node->ranks[i], addresses[node->ranks[i]].unix_address,
                                     addresses[node->ranks[i]].unix_nonce};
    return shmgroup_open(members, node->n, c->me, listener, &meet->secret,
                         2 * (size_t)(2 * node->n + 1) * c->chunk_bytes, deadline_us, &c->shm, err);
}

static int join(struct coll *c, const struct rendezvous *meet, struct peerlink_listener *local,
                struct peerlink_listener *tcp, struct hai_err *err) {
    size_t n = (size_t)c->world;
    _cleanup_free_ struct address *addresses = hai_new_array(struct address, n);
    _cleanup_free_ char(*values)[RENDEZVOUS_VALUE_BYTES] =
        hai_alloc_array(n, RENDEZVOUS_VALUE_BYTES);
    char mine[RENDEZVOUS_VALUE_BYTES];
    int64_t deadline_us = peerlink_now_us() + meet->timeout_s * 1000000;

    address_write(node_number(meet->node), local, tcp, mine);
    int r = rendezvous_allgather(meet, mine, values, err);
    for (int i = 0; r == 0 && i < c->world; i++)
        r = address_read(values[i], i, &addresses[i], err);
    if (r == 0)
        r = place_ranks(c, addresses, err);
    if (r == 0)
        r = join_node(c, addresses, meet, local, deadline_us, err);
    if (r == 0 && c->n_nodes > 1 && c->me == 0)
        r = link_nodes(c, addresses, meet, tcp, deadline_us, err);
    if (r < 0)
        return r;
    c->terms = hai_new_array(struct term, n);
    c->group_start = hai_new_array(int, n + 1);
    // For each other node my terms go out and its terms come in; results: one out, one in.
    c->n_pieces = (size_t)(c->n_nodes - 1) * ((size_t)c->nodes[c->my_node].n + 2) + n;
    c->pieces = hai_new_array(struct iovec, c->n_pieces);
    c->rows = hai_new_array(const void *, n);
    // Of every other rank at most one row as long as this node's share of a chunk.
    c->received_bytes = (c->chunk_bytes / LINE_BYTES / (size_t)c->n_nodes + 1) * LINE_BYTES;
    if (c->n_nodes > 1 && c->me == 0)
        c->received = hai_alloc_array(n, c->received_bytes);
    coll_set_group_ranks(c, natural_group(c));
    return coll_barrier(c, err);
}

int coll_open(const struct rendezvous *meet, struct coll **ret, struct hai_err *err) {
    _cleanup_(coll_closep) struct coll *c = hai_new(struct coll);
    struct peerlink_listener local = {.fd = -1}, tcp = {.fd = -1};
    char host[PEERLINK_ADDRESS_BYTES];

    *c = (struct coll){.rank = meet->rank, .world = meet->world, .n_nodes = 1, .group_ranks = 1};
    if (c->world > 1) {
        int r = peerlink_local_address(meet->master_host, host, err);
        if (r == 0)
            r = peerlink_listen(NULL, &local, err);
        if (r == 0)
            r = peerlink_listen(host, &tcp, err);
        if (r == 0)
            r = join(c, meet, &local, &tcp, err);
        peerlink_listener_close(&local);
        peerlink_listener_close(&tcp);
        if (r < 0)
            return r;
    }
    *ret = TAKE_PTR(c);
    return 0;
}

void coll_close(struct coll *c) {
    if (!c)
        return;
    for (int k = 0; c->nodes && k < c->n_nodes; k++)
        closep(&c->nodes[k].link);
    shmgroup_close(c->shm);
    free(c->nodes);
    free(c->node_of);
    free(c->number_of);
    free(c->terms);
    free(c->group_start);
    free(c->received);
    free(c->pieces);
    free(c->rows);
    free(c);
}

int coll_rank(const struct coll *c) {
    return c->rank;
}

int coll_world(const struct coll *c) {
    return c->world;
}

int coll_nodes(const struct coll *c) {
    return c->n_nodes;
}

int coll_group_ranks(const struct coll *c) {
    return c->group_ranks;
}

/* Parts of a slot of the shared memory. */
static uint8_t *staged(const struct coll *c, int slot, int number) {
    size_t per_slot = 2 * (size_t)c->nodes[c->my_node].n + 1;
    return (uint8_t *)shmgroup_payload(c->shm) +
           (per_slot * (size_t)slot + (size_t)number) * c->chunk_bytes;
}

static uint8_t *added(const struct coll *c, int slot, int number) {
    return staged(c, slot, c->nodes[c->my_node].n + number);
}

static uint8_t *result(const struct coll *c, int slot) {
    return staged(c, slot, 2 * c->nodes[c->my_node].n);
}

/* Share i of n_shares of a chunk: bytes [from, to), cut at cache lines. */
static void share(size_t n_bytes, int i, int n_shares, size_t *ret_from, size_t *ret_to) {
    size_t lines = (n_bytes + LINE_BYTES - 1) / LINE_BYTES;
    size_t each = (lines + (size_t)n_shares - 1) / (size_t)n_shares * LINE_BYTES;

    *ret_from = MIN((size_t)i * each, n_bytes);
    *ret_to = MIN(*ret_from + each, n_bytes);
}

/* All ranks on one node: each adds up its share of the chunk straight from the others' copies, and
 * takes it home while it is in the nearest cache. */
static void sum_share_local(struct coll *c, enum reduce_type type, uint8_t *data, size_t n_bytes,
                            int slot) {
    size_t from, to;

    share(n_bytes, c->me, c->world, &from, &to);
    for (int i = 0; i < c->world; i++)
        c->rows[i] = (i == c->me ? data : staged(c, slot, i)) + from;
    reduce_tree(type, result(c, slot) + from, c->rows, c->group_start, c->n_groups,
                (to - from) / reduce_type_bytes(type));
    memcpy(data + from, result(c, slot) + from, to - from);
}

/* All of a chunk that is not my share. */
static void copy_others(const struct coll *c, uint8_t *to, const uint8_t *from, size_t n_bytes) {
    size_t mine, end;

    share(n_bytes, c->me, c->world, &mine, &end);
    memcpy(to, from, mine);
    memcpy(to + end, from + end, n_bytes - end);
}

/* One barrier a chunk: while a rank copies a chunk in, the result of the one before lies ready in
 * the other slot, and the barrier between says that nobody reads what is overwritten. */
static int sum_local(struct coll *c, enum reduce_type type, uint8_t *data, size_t n_bytes,
                     struct hai_err *err) {
    size_t done = 0, before = 0;
    int slot = 0, r = 0;

    for (size_t at = 0; r == 0 && at < n_bytes; at += c->chunk_bytes, slot ^= 1) {
        size_t n = MIN(c->chunk_bytes, n_bytes - at);
        copy_others(c, staged(c, slot, c->me), data + at, n);
        r = shmgroup_barrier(c->shm, err);
        if (r < 0)
            return r;
        sum_share_local(c, type, data + at, n, slot);
        copy_others(c, data + done, result(c, slot ^ 1), before);
        done += before;
        before = n;
    }
    r = shmgroup_barrier(c->shm, err);
    if (r == 0)
        copy_others(c, data + done, result(c, slot ^ 1), before);
    return r;
}

/* Where this node has the numbers of one of its terms. */
static uint8_t *term_data(const struct coll *c, const struct term *t, int slot) {
    int number = c->number_of[t->first];
    return t->n == 1 ? staged(c, slot, number) : added(c, slot, number);
}

/* My share of adding up the groups that lie whole on this node. */
static void sum_groups(struct coll *c, enum reduce_type type, size_t n_bytes, int slot) {
    size_t from, to;

    share(n_bytes, c->me, c->nodes[c->my_node].n, &from, &to);
    for (int t = 0; t < c->n_terms; t++) {
        const struct term *term = &c->terms[t];
        if (term->node != c->my_node || term->n == 1)
            continue;
        for (int i = 0; i < term->n; i++)
            c->rows[i] = staged(c, slot, c->number_of[term->first + i]) + from;
        reduce_sequence(type, term_data(c, term, slot) + from, c->rows, term->n,
                        (to - from) / reduce_type_bytes(type));
    }
}

/* Give every node its share of my terms, get my share of theirs; rows point at them after. */
static int exchange_terms(struct coll *c, size_t n_bytes, int slot, struct hai_err *err) {
    struct peerlink_transfer transfers[COLL_NODES_MAX];
    struct iovec *piece = c->pieces;
    size_t mine_from, mine_to, from, to;
    int n = 0;

    share(n_bytes, c->my_node, c->n_nodes, &mine_from, &mine_to);
    for (int k = 0; k < c->n_nodes; k++) {
        if (k == c->my_node)
            continue;
        struct peerlink_transfer *x = &transfers[n++];
        *x = (struct peerlink_transfer){c->nodes[k].link, c->nodes[k].ranks[0], piece, 0, NULL, 0};
        share(n_bytes, k, c->n_nodes, &from, &to);
        for (int t = 0; t < c->n_terms; t++)
            if (c->terms[t].node == c->my_node)
                x->out[x->n_out++] =
                    (struct iovec){term_data(c, &c->terms[t], slot) + from, to - from};
        x->in = piece += x->n_out;
        for (int t = 0; t < c->n_terms; t++)
            if (c->terms[t].node == k)
                x->in[x->n_in++] = (struct iovec){c->received + (size_t)t * c->received_bytes,
                                                  mine_to - mine_from};
        piece += x->n_in;
    }
    assert(piece <= c->pieces + c->n_pieces);
    for (int t = 0; t < c->n_terms; t++)
        c->rows[t] = c->terms[t].node == c->my_node ? term_data(c, &c->terms[t], slot) + mine_from
                                                    : c->received + (size_t)t * c->received_bytes;
    return peerlink_exchange(transfers, n, err);
}

static int exchange_results(struct coll *c, size_t n_bytes, int slot, struct hai_err *err) {
    struct peerlink_transfer transfers[COLL_NODES_MAX];
    struct iovec *piece = c->pieces;
    size_t from, to;
    int n = 0;

    for (int k = 0; k < c->n_nodes; k++) {
        if (k == c->my_node)
            continue;
        share(n_bytes, c->my_node, c->n_nodes, &from, &to);
        piece[0] = (struct iovec){result(c, slot) + from, to - from};
        share(n_bytes, k, c->n_nodes, &from, &to);
        piece[1] = (struct iovec){result(c, slot) + from, to - from};
        transfers[n++] = (struct peerlink_transfer){
            c->nodes[k].link, c->nodes[k].ranks[0], piece, 1, piece + 1, 1};
        piece += 2;
    }
    return peerlink_exchange(transfers, n, err);
}

/* The node's first rank speaks for it. */
static int sum_between_nodes(struct coll *c, enum reduce_type type, size_t n_bytes, int slot,
                             struct hai_err *err) {
    size_t from, to;
    int r = exchange_terms(c, n_bytes, slot, err);

    if (r < 0)
        return r;
    share(n_bytes, c->my_node, c->n_nodes, &from, &to);
    reduce_tree(type, result(c, slot) + from, c->rows, c->group_start, c->n_groups,
                (to - from) / reduce_type_bytes(type));
    return exchange_results(c, n_bytes, slot, err);
}

static int sum_nodes(struct coll *c, enum reduce_type type, uint8_t *data, size_t n_bytes,
                     struct hai_err *err) {
    int slot = 0, r;

    for (size_t at = 0; at < n_bytes; at += c->chunk_bytes, slot ^= 1) {
        size_t n = MIN(c->chunk_bytes, n_bytes - at);
        memcpy(staged(c, slot, c->me), data + at, n);
        r = shmgroup_barrier(c->shm, err);
        if (r == 0 && c->adds_before) {
            sum_groups(c, type, n, slot);
            r = shmgroup_barrier(c->shm, err);
        }
        if (r == 0 && c->me == 0)
            r = sum_between_nodes(c, type, n, slot, err);
        if (r == 0)
            r = shmgroup_barrier(c->shm, err);
        if (r < 0)
            return r;
        memcpy(data + at, result(c, slot), n);
    }
    return 0;
}

static int sum(struct coll *c, enum reduce_type type, void *data, size_t n, struct hai_err *err) {
    size_t n_bytes = n * reduce_type_bytes(type);

    if (c->world == 1 || !n)
        return 0;
    if (c->broken)
        return hai_fail(err, -ECONNRESET, "an earlier collective failed");
    int r = c->n_nodes == 1 ? sum_local(c, type, data, n_bytes, err)
                            : sum_nodes(c, type, data, n_bytes, err);
    if (r < 0) {
        // Whoever waits for this rank must not: in shared memory, and at the other ends.
        c->broken = true;
        shmgroup_give_up(c->shm, c->rank);
        for (int k = 0; k < c->n_nodes; k++) {
            closep(&c->nodes[k].link);
            c->nodes[k].link = -1;
        }
    }
    return r;
}

int coll_sum_f32(struct coll *c, float *data, size_t n, struct hai_err *err) {
    return sum(c, REDUCE_F32, data, n, err);
}

int coll_sum_f64(struct coll *c, double *data, size_t n, struct hai_err *err) {
    return sum(c, REDUCE_F64, data, n, err);
}

int coll_sum_i64(struct coll *c, int64_t *data, size_t n, struct hai_err *err) {
    return sum(c, REDUCE_I64, data, n, err);
}

/* A sum of whole numbers in which all others are zero: exact, and used too seldom for a path of its
 * own. */
int coll_broadcast(struct coll *c, void *data, size_t n_bytes, int root, struct hai_err *err) {
    int64_t words[512];
    uint8_t *p = data;

    for (size_t at = 0; at < n_bytes; at += sizeof words) {
        size_t n = MIN(sizeof words, n_bytes - at);
        memset(words, 0, sizeof words);
        if (c->rank == root)
            memcpy(words, p + at, n);
        int r = coll_sum_i64(c, words, (n + 7) / 8, err);
        if (r < 0)
            return r;
        memcpy(p + at, words, n);
    }
    return 0;
}

int coll_barrier(struct coll *c, struct hai_err *err) {
    return coll_sum_i64(c, &(int64_t){0}, 1, err);
}
