#include "storage/fileahead.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PIECE_BYTES = 8 << 20 }; // between two looks at whether to stop

struct fileahead {
    struct fileahead_range *ranges; // owned
    int n;
    atomic_bool stop;
    pthread_t thread;
};

static void *read_all(void *arg) {
    struct fileahead *a = arg;

    for (int i = 0; i < a->n; i++)
        for (size_t at = 0; at < a->ranges[i].n_bytes && !atomic_load(&a->stop);
             at += PIECE_BYTES) {
            char *from = (char *)(uintptr_t)a->ranges[i].bytes + at;
            (void)madvise(from, MIN(a->ranges[i].n_bytes - at, (size_t)PIECE_BYTES), MADV_WILLNEED);
        }
    return NULL;
}

static bool fits(const struct fileahead_range *ranges, int n) {
    double memory = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE), all = 0;

    for (int i = 0; i < n; i++)
        all += (double)ranges[i].n_bytes;
    return all <= 0.75 * memory;
}

struct fileahead *fileahead_new(const struct fileahead_range *ranges, int n) {
    struct fileahead *a;
    sigset_t all, before;

    if (!fits(ranges, n))
        return NULL;
    a = hai_new(struct fileahead);
    a->ranges = hai_new_array(struct fileahead_range, (size_t)n);
    memcpy(a->ranges, ranges, (size_t)n * sizeof *ranges);
    a->n = n;
    sigfillset(&all); // signals are for the program's own threads
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&a->thread, NULL, read_all, a);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r == 0)
        return a;
    free(a->ranges);
    free(a);
    return NULL;
}

void fileahead_free(struct fileahead *a) {
    if (!a)
        return;
    atomic_store(&a->stop, true);
    (void)pthread_join(a->thread, NULL);
    free(a->ranges);
    free(a);
}
