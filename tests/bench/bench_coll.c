/* bench-coll - time of coll_sum_f32 between processes of this machine.
 *
 *   bench-coll RANKS [NODES]      one line a size: one buffer / median time, in GB/s
 *
 * Ranks are forked here; NODES > 1 puts TCP over the loopback between them.
 */
#include "engine/coll/coll.h"

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { REPEATS = 21, WARM_UP = 3 };

static int compare(const void *a, const void *b) {
    const int64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static int run(int rank, int world, int nodes, const char *port) {
    char node[16];
    struct coll *c = NULL;
    struct hai_err err = {0};
    size_t n_max = 64 << 20 >> 2;

    snprintf(node, sizeof node, "%d", rank * nodes / world);
    struct rendezvous meet = {.rank = rank,
                              .world = world,
                              .node = node,
                              .master_host = "127.0.0.1",
                              .master_port = port,
                              .timeout_s = 20};
    int r = coll_open(&meet, &c, &err);
    float *x = hai_new_array(float, n_max);
    for (size_t n = 256; r == 0 && n <= n_max; n *= 4) {
        int64_t us[REPEATS];
        for (int i = -WARM_UP; r == 0 && i < REPEATS; i++) {
            for (size_t k = 0; k < n; k += 1024)
                x[k] = 1;
            r = coll_barrier(c, &err);
            int64_t from_us = peerlink_now_us();
            if (r == 0)
                r = coll_sum_f32(c, x, n, &err);
            if (i >= 0)
                us[i] = peerlink_now_us() - from_us;
        }
        qsort(us, REPEATS, sizeof *us, compare);
        if (rank == 0 && r == 0)
            printf("%9zu bytes  median %8lld us (%lld to %lld)  %6.2f GB/s\n", n * 4,
                   (long long)us[REPEATS / 2], (long long)us[0], (long long)us[REPEATS - 1],
                   (double)n * 4e-3 / (double)MAX(us[REPEATS / 2], (int64_t)1));
    }
    if (r < 0)
        fprintf(stderr, "bench-coll: rank %d: %s\n", rank, err.text);
    coll_close(c);
    free(x);
    return r < 0;
}

int main(int argc, char **argv) {
    int world = argc > 1 ? atoi(argv[1]) : 2, nodes = argc > 2 ? atoi(argv[2]) : 1, status;
    struct peerlink_listener l;
    char port[8];

    if (world < 1 || nodes < 1 || nodes > world || peerlink_listen("127.0.0.1", &l, NULL) < 0) {
        fprintf(stderr, "bench-coll: expected RANKS [NODES], NODES at most RANKS\n");
        return 2;
    }
    snprintf(port, sizeof port, "%s", strrchr(l.address, ':') + 1);
    peerlink_listener_close(&l);
    printf("%d ranks, %d nodes, %ld processors, %d repetitions\n", world, nodes,
           sysconf(_SC_NPROCESSORS_ONLN), REPEATS);
    fflush(stdout);
    for (int i = 1; i < world; i++)
        if (fork() == 0)
            return run(i, world, nodes, port);
    int failed = run(0, world, nodes, port);
    while (wait(&status) > 0)
        failed |= status != 0;
    return failed;
}
