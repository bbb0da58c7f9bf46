/* The peer of bench_coll.c: MPI_Allreduce of the same sizes, printed in the same form. Built by
 * coll_vs_mpi.py with mpicc; no part of hai's own build. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { REPEATS = 21, WARM_UP = 3 };

static int compare(const void *a, const void *b) {
    const double *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

int main(int argc, char **argv) {
    size_t n_max = 64 << 20 >> 2;
    int rank;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    float *x = calloc(n_max, sizeof *x);
    for (size_t n = 256; n <= n_max; n *= 4) {
        double s[REPEATS];
        for (int i = -WARM_UP; i < REPEATS; i++) {
            for (size_t k = 0; k < n; k += 1024)
                x[k] = 1;
            MPI_Barrier(MPI_COMM_WORLD);
            double from = MPI_Wtime();
            MPI_Allreduce(MPI_IN_PLACE, x, (int)n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
            if (i >= 0)
                s[i] = MPI_Wtime() - from;
        }
        qsort(s, REPEATS, sizeof *s, compare);
        if (rank == 0)
            printf("%9zu bytes  median %8.0f us (%.0f to %.0f)  %6.2f GB/s\n", n * 4,
                   s[REPEATS / 2] * 1e6, s[0] * 1e6, s[REPEATS - 1] * 1e6,
                   (double)n * 4e-9 / s[REPEATS / 2]);
    }
    free(x);
    MPI_Finalize();
    return 0;
}
