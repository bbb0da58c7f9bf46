/* bench_limits - the machine's limits as one JSON object, for benches that are no C.
 *
 * usage: bench-limits [THREADS]
 */
#include "kernels/peak.h"
#include "kernels/pool.h"
#include "tests/bench/machine.h"

#include <stdio.h>
#include <sys/mman.h>

enum { SAMPLES = 5, MEMORY_BYTES = 1100 << 20 };

/* The best of the samples: what disturbs can only lower them. */
int main(int argc, char **argv) {
    int n_threads = argc > 1 ? atoi(argv[1]) : 1;
    double read = 0, fma = 0, dot = 0;
    struct k_pool *pool = NULL;
    struct machine_memory m = {.n_bytes = MEMORY_BYTES};
    int r = n_threads > 1 ? pool_new(n_threads, &pool, NULL) : 0;

    m.data = mmap(NULL, m.n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (r < 0 || m.data == MAP_FAILED) {
        fprintf(stderr, "bench-limits: %s\n", strerror(r < 0 ? -r : errno));
        return 1;
    }
    memset(m.data, 1, m.n_bytes);
    for (int i = 0; i < SAMPLES; i++) {
        read = MAX(read, machine_read(pool, &m));
        fma = MAX(fma, k_peak(pool, n_threads, false));
        dot = MAX(dot, k_peak(pool, n_threads, true));
    }
    printf("{\"threads\": %d, \"read\": %.4g, \"fma\": %.4g, \"dot\": %.4g}\n", n_threads, read,
           fma, dot);
    munmap(m.data, m.n_bytes);
    pool_free(pool);
    return 0;
}
