#include "tests/bench/machine.h"
#include "kernels/pool.h"

#include <time.h>

enum { PIECE_BYTES = 1 << 20 };

static double now_s(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void read_piece(void *arg, int64_t piece, int thread) {
    const struct machine_memory *m = arg;
    const char *p = m->data + (m->at + (size_t)piece * PIECE_BYTES) % (m->n_bytes - PIECE_BYTES);

    for (size_t i = 0; i < PIECE_BYTES; i += 64)
        __asm__ volatile("vmovdqu %0, %%ymm0\n\tvmovdqu %1, %%ymm1"
                         :
                         : "m"(p[i]), "m"(p[i + 32])
                         : "xmm0", "xmm1");
}

double machine_read(struct k_pool *pool, struct machine_memory *memory) {
    double start = now_s();

    pool_run(pool, MACHINE_READ_BYTES / PIECE_BYTES, read_piece, memory);
    memory->at = (memory->at + MACHINE_READ_BYTES) % memory->n_bytes;
    return MACHINE_READ_BYTES / (now_s() - start);
}
