/* Ranks are processes here, as in life: each case forks a world and looks at the exit statuses. */
#include "engine/coll/coll.h"
#include "engine/coll/reduce.h"
#include "tests/unit/test.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    WORLD_MAX = 40,
    SOON_US = 10000000, // on a loaded machine; whoever waits for its time alone waits for 20 s
};

/* Ranks of each node, in order of ranks: "0011" is two nodes of two. */
static const char *const layouts[] = {"0",    "00",   "01",    "0000", "0011",
                                      "0101", "0001", "00112", "0123"};

/* Below the ports that the kernel gives to others between this look and rank 0's. */
static void free_port(char port[8]) {
    static int n_tried;
    int fd = -1;

    while (fd < 0) {
        snprintf(port, 8, "%d", 15000 + (getpid() + 7919 * n_tried++) % 15000);
        fd = peerlink_serve("127.0.0.1", port, NULL);
    }
    close(fd);
}

static struct coll *join(const char *layout, int rank, const char *port, const char *secret) {
    static char node[2];
    struct coll *c = NULL;
    struct hai_err err = {0};

    node[0] = layout[rank];
    struct rendezvous meet = {
        .rank = rank,
        .world = (int)strlen(layout),
        .node = node,
        .master_host = "127.0.0.1",
        .master_port = port,
        .secret = {secret, strlen(secret)},
        .timeout_s = 20
    };
    if (coll_open(&meet, &c, &err) < 0) {
        printf("rank %d: %s\n", rank, err.text);
        exit(9);
    }
    return c;
}

/* Run body(rank) in a process each; returns how many did not exit with 0. */
static int run_world(const char *layout,
                     void (*body)(const char *layout, int rank, const char *port)) {
    char port[8];
    pid_t pids[WORLD_MAX];
    int n_failed = 0, status, world = (int)strlen(layout);

    free_port(port);
    fflush(stdout);
    for (int i = 0; i < world; i++) {
        pids[i] = fork();
        if (pids[i] == 0) {
            alarm(60);
            body(layout, i, port);
            fflush(stdout);
            _exit(test_failed() ? 1 : 0);
        }
    }
    for (int i = 0; i < world; i++)
        n_failed += waitpid(pids[i], &status, 0) < 0 || status;
    return n_failed;
}

/* Numbers whose sum depends on the order of additions. */
static float number(int rank, size_t i) {
    uint32_t x = (uint32_t)(i * 2654435761u + (unsigned)rank * 40503u);
    return (float)(x >> 8) * (rank % 2 ? 1e-3f : -1.7f) + (float)rank;
}

/* The definition, written apart: groups in ascending order, then halves by the largest power of
 * two. */
static float tree_of(const float *sums, int lo, int hi) {
    int half = 1;
    if (hi - lo == 1)
        return sums[lo];
    while (2 * half < hi - lo)
        half *= 2;
    return tree_of(sums, lo, lo + half) + tree_of(sums, lo + half, hi);
}

static float expected(int world, int group, size_t i) {
    float sums[WORLD_MAX];
    int n = 0;

    for (int first = 0; first < world; first += group) {
        float s = number(first, i);
        for (int r = first + 1; r < MIN(first + group, world); r++)
            s += number(r, i);
        sums[n++] = s;
    }
    return tree_of(sums, 0, n);
}

static const size_t sizes[] = {1, 15, 17, 1000, 65536, 70001, 1100003};

/* Every shape on every placement: the bits are those of the definition, on all ranks. */
static void body_sums(const char *layout, int rank, const char *port) {
    _cleanup_(coll_closep) struct coll *c = join(layout, rank, port, "s3cret");
    int world = coll_world(c);
    struct hai_err err = {0};

    for (int group = 1; group <= world; group++) {
        coll_set_group_ranks(c, group);
        for (size_t k = 0; k < ARRAY_SIZE(sizes); k++) {
            size_t n = sizes[k], n_bad = 0;
            _cleanup_free_ float *x = hai_new_array(float, n);
            for (size_t i = 0; i < n; i++)
                x[i] = number(rank, i);
            CHECK_EQ(coll_sum_f32(c, x, n, &err), 0, "%s", err.text);
            for (size_t i = 0; i < n; i++) {
                float wanted = expected(world, group, i);
                n_bad += memcmp(&x[i], &wanted, sizeof wanted) != 0;
            }
            CHECK_EQ(n_bad, 0, "layout %s group %d n %zu", layout, group, n);
        }
    }
}

TEST(sums_have_one_order)
{
    for (size_t i = 0; i < ARRAY_SIZE(layouts); i++)
        CHECK_EQ(run_world(layouts[i], body_sums), 0, "%s", layouts[i]);
}

/* One node of many ranks beside many of one: the lists for the network are longest on it. */
static void body_uneven(const char *layout, int rank, const char *port) {
    _cleanup_(coll_closep) struct coll *c = join(layout, rank, port, "");
    struct hai_err err = {0};
    float x[100], wanted[100];
    int n_bad = 0;

    for (size_t i = 0; i < ARRAY_SIZE(x); i++) {
        x[i] = number(rank, i);
        wanted[i] = expected(coll_world(c), 1, i);
    }
    CHECK_EQ(coll_sum_f32(c, x, ARRAY_SIZE(x), &err), 0, "%s", err.text);
    for (size_t i = 0; i < ARRAY_SIZE(x); i++)
        n_bad += memcmp(&x[i], &wanted[i], sizeof *x) != 0;
    CHECK_EQ(n_bad, 0);
}

TEST(uneven_nodes)
{ CHECK_EQ(run_world("0000000000000000000abcdefghijklmnopqrs", body_uneven), 0); }

static void body_others(const char *layout, int rank, const char *port) {
    _cleanup_(coll_closep) struct coll *c = join(layout, rank, port, "");
    int world = coll_world(c), n = world * (world - 1) / 2;
    int64_t whole[3] = {rank, INT64_MAX / 8 + rank, -rank};
    double real[2] = {rank, 0.5};
    char text[5001];
    struct hai_err err = {0};

    CHECK_EQ(coll_sum_i64(c, whole, 3, &err), 0);
    CHECK_EQ(whole[0], n);
    CHECK_EQ(whole[1], INT64_MAX / 8 * world + n);
    CHECK_EQ(whole[2], -n);
    CHECK_EQ(coll_sum_f64(c, real, 2, &err), 0);
    CHECK(real[0] == n && real[1] == 0.5 * world);
    for (int root = 0; root < world; root++) {
        memset(text, rank, sizeof text);
        CHECK_EQ(coll_broadcast(c, text, sizeof text, root, &err), 0);
        CHECK(text[0] == root && text[2500] == root && text[5000] == root);
    }
    CHECK_EQ(coll_barrier(c, &err), 0);
    CHECK_EQ(coll_rank(c), rank);
}

TEST(other_types)
{
    for (size_t i = 0; i < ARRAY_SIZE(layouts); i++)
        CHECK_EQ(run_world(layouts[i], body_others), 0, "%s", layouts[i]);
}

static int victim;

/* The victim is killed between two sums: the others hear of it, soon, and stay failed. */
static void body_death(const char *layout, int rank, const char *port) {
    struct coll *c = join(layout, rank, port, "s3cret");
    _cleanup_free_ float *x = hai_new_array(float, 300000);
    struct hai_err err = {0};

    CHECK_EQ(coll_sum_f32(c, x, 300000, &err), 0);
    if (rank == victim)
        raise(SIGKILL);
    int64_t from_us = peerlink_now_us();
    CHECK_EQ(coll_sum_f32(c, x, 300000, &err), -ECONNRESET);
    CHECK(err.text[0]);
    CHECK(peerlink_now_us() - from_us < SOON_US, "%d us", (int)(peerlink_now_us() - from_us));
    CHECK_EQ(coll_barrier(c, &err), -ECONNRESET);
    coll_close(c);
}

TEST(a_dead_peer_is_an_error)
{
    // The first rank of a node speaks for it; another one is missed by its own node first.
    for (size_t i = 1; i < ARRAY_SIZE(layouts); i++)
        for (victim = 0; victim < (int)strlen(layouts[i]); victim++)
            CHECK_EQ(run_world(layouts[i], body_death), 1, "%s, rank %d", layouts[i], victim);
}

/* Whoever does not know the secret is turned away, and the others still meet. */
static void body_stranger(const char *layout, int rank, const char *port) {
    struct hai_err err = {0};

    if (rank < 2) {
        _cleanup_(coll_closep) struct coll *c = join("01", rank, port, "s3cret");
        CHECK_EQ(coll_barrier(c, &err), 0, "%s", err.text);
        return;
    }
    _cleanup_free_ char *address = hai_asprintf("127.0.0.1:%s", port);
    uint8_t nonce[PEERLINK_NONCE_BYTES] = "rendezvous";
    int fd = peerlink_connect(address, 1, 0, nonce, &(struct peerlink_secret){"guess", 5},
                              peerlink_now_us() + 5000000, &err);
    CHECK(fd < 0);
}

TEST(strangers_are_turned_away)
{ CHECK_EQ(run_world("012", body_stranger), 0); }

static int meeting[2]; // a pipe: a byte tells the silent one that the others have met

/* Connections that say nothing keep nobody waiting, however many there are. */
static void body_silent(const char *layout, int rank, const char *port) {
    enum { SILENT = 200 };
    int64_t begin_us = peerlink_now_us();
    struct hai_err err = {0};
    int fds[SILENT];
    char byte;

    if (rank == 2) { // rank 1 waits for it, below
        for (int i = 0; i < SILENT; i++) {
            fds[i] = peerlink_dial("127.0.0.1", port, begin_us + 60 * INT64_C(1000000), &err);
            CHECK(fds[i] >= 0, "%s", err.text);
        }
        CHECK_EQ(read(meeting[0], &byte, 1), 1);
        return;
    }
    if (rank == 1)
        sleep(1);
    _cleanup_(coll_closep) struct coll *c = join("01", rank, port, "s3cret");
    CHECK_EQ(coll_barrier(c, &err), 0, "%s", err.text);
    CHECK(peerlink_now_us() - begin_us < SOON_US, "%d ms",
          (int)((peerlink_now_us() - begin_us) / 1000));
    CHECK(rank == 0 || write(meeting[1], "", 1) == 1);
}

TEST(who_is_silent_keeps_nobody_waiting)
{
    CHECK_EQ(pipe2(meeting, O_CLOEXEC), 0);
    CHECK_EQ(run_world("012", body_silent), 0);
    close(meeting[0]);
    close(meeting[1]);
}

/* The kernel gives callers one port after another, of one parity first: among so many calls one is
 * given the very port that it calls. */
TEST(nobody_meets_itself)
{
    char port[8];
    int n_met = 0;

    for (int i = 0; i < 120000; i++) {
        snprintf(port, sizeof port, "%d", 40000 + i / 60000);
        int fd = peerlink_dial("127.0.0.1", port, peerlink_now_us() + 40000, NULL);
        n_met += fd >= 0;
        if (fd >= 0)
            close(fd);
    }
    CHECK_EQ(n_met, 0);
}

TEST(environment)
{
    static const struct {
        const char *rank, *world, *port;
        int r;
        const char *says;
    } cases[] = {
        {NULL, NULL, NULL,    0,       NULL             },
        {"1",  "2",  "29500", 0,       NULL             },
        {"2",  "2",  "29500", -EINVAL, "RANK is '2'"    },
        {NULL, "2",  "29500", -EINVAL, "RANK is not set"},
        {"0",  "x",  "29500", -EINVAL, "WORLD_SIZE"     },
        {"0",  "2",  NULL,    -EINVAL, "MASTER_PORT"    },
        {"0",  "2",  "70000", -EINVAL, "70000"          },
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct rendezvous meet;
        struct hai_err err = {0};
        const char *const names[] = {"RANK", "WORLD_SIZE", "MASTER_PORT"};
        const char *const values[] = {cases[i].rank, cases[i].world, cases[i].port};
        for (int k = 0; k < 3; k++)
            values[k] ? setenv(names[k], values[k], 1) : unsetenv(names[k]);
        setenv("MASTER_ADDR", "127.0.0.1", 1);
        CHECK_EQ(rendezvous_from_env(&meet, &err), cases[i].r, "%zu: %s", i, err.text);
        if (cases[i].says)
            CHECK(strstr(err.text, cases[i].says), "%s", err.text);
    }
}
