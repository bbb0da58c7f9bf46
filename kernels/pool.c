#include "kernels/pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

/* Pieces that a thread has not begun, as two halves: the first one, and one behind the last. The
 * thread takes from the front, so that what it reads next lies behind what it reads now; others
 * that have nothing left take from the back. */
struct range {
    _Alignas(64) atomic_uint_fast64_t pieces;
};

enum {
    SPIN_US = 30, // a thread that has just worked looks for more as long before it sleeps
};

struct worker {
    struct k_pool *pool;
    pthread_t thread;
    int number;
};

struct k_pool {
    struct worker *workers;
    int n_workers; // without the caller
    pthread_mutex_t mutex;
    pthread_cond_t work, done;
    atomic_int_fast64_t generation; // of runs, changed under the mutex
    atomic_int n_busy;              // the same
    bool stop;
    struct range *ranges; // of every thread
    void (*run)(void *arg, int64_t piece, int thread);
    void *arg;
};

static uint64_t range_of(uint64_t first, uint64_t end) {
    return first | end << 32;
}

/* A piece of a range, from its front or its back; -1: it is empty. */
static int64_t take(struct range *range, bool front) {
    uint64_t old = atomic_load(&range->pieces);

    for (;;) {
        uint64_t first = old & UINT32_MAX, end = old >> 32;
        if (first >= end)
            return -1;
        uint64_t left = front ? range_of(first + 1, end) : range_of(first, end - 1);
        if (atomic_compare_exchange_weak(&range->pieces, &old, left))
            return (int64_t)(front ? first : end - 1);
    }
}

static void take_pieces(struct k_pool *pool, int thread) {
    int n = pool->n_workers + 1;

    for (int i = 0; i < n; i++) {
        struct range *range = &pool->ranges[(thread + i) % n];
        for (int64_t piece; (piece = take(range, i == 0)) >= 0;)
            pool->run(pool->arg, piece, thread);
    }
}

static int64_t now_us(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* Wait a little for another run before going to sleep: a token is some hundred runs. */
static void spin_for_run(const struct k_pool *pool, int64_t seen) {
    int64_t end = now_us() + SPIN_US;

    while (atomic_load(&pool->generation) == seen && now_us() < end)
        for (int i = 0; i < 16; i++)
            __builtin_ia32_pause();
}

static void spin_for_end(const struct k_pool *pool) {
    int64_t end = now_us() + SPIN_US;

    while (atomic_load(&pool->n_busy) > 0 && now_us() < end)
        for (int i = 0; i < 16; i++)
            __builtin_ia32_pause();
}

static void *worker_main(void *arg) {
    struct worker *w = arg;
    struct k_pool *pool = w->pool;
    int64_t seen = 0;

    pthread_mutex_lock(&pool->mutex);
    for (;;) {
        while (!pool->stop && pool->generation == seen)
            pthread_cond_wait(&pool->work, &pool->mutex);
        if (pool->stop)
            break;
        seen = pool->generation;
        pthread_mutex_unlock(&pool->mutex);
        take_pieces(pool, w->number);
        pthread_mutex_lock(&pool->mutex);
        if (--pool->n_busy == 0)
            pthread_cond_signal(&pool->done);
        pthread_mutex_unlock(&pool->mutex);
        spin_for_run(pool, seen);
        pthread_mutex_lock(&pool->mutex);
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

/* Signals are the program's own thread's business: one that waits for them must not miss any. */
static int start_workers(struct k_pool *pool, int n) {
    sigset_t all, before;
    int r = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int i = 0; i < n && r == 0; i++) {
        struct worker *w = &pool->workers[i];
        *w = (struct worker){.pool = pool, .number = i + 1};
        r = -pthread_create(&w->thread, NULL, worker_main, w);
        pool->n_workers += r == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return r;
}

int pool_new(int n_threads, struct k_pool **ret, struct hai_err *err) {
    struct k_pool *pool = hai_new(struct k_pool);

    assert(n_threads >= 1);
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->done, NULL);
    pool->workers = hai_new_array(struct worker, (size_t)n_threads);
    pool->ranges = aligned_alloc(64, (size_t)n_threads * sizeof *pool->ranges);
    assert(pool->ranges);
    int r = start_workers(pool, n_threads - 1);
    if (r < 0) {
        pool_free(pool);
        return hai_fail(err, r, "cannot start %d threads: %s", n_threads, strerror(-r));
    }
    *ret = pool;
    return 0;
}

void pool_free(struct k_pool *pool) {
    if (!pool)
        return;
    pthread_mutex_lock(&pool->mutex);
    pool->stop = true;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->mutex);
    for (int i = 0; i < pool->n_workers; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->mutex);
    free(pool->workers);
    free(pool->ranges);
    free(pool);
}

int pool_n_threads(const struct k_pool *pool) {
    return pool ? pool->n_workers + 1 : 1;
}

void pool_run(struct k_pool *pool, int64_t n_pieces,
              void (*run)(void *arg, int64_t piece, int thread), void *arg) {
    if (!pool || pool->n_workers == 0 || n_pieces <= 1) {
        for (int64_t i = 0; i < n_pieces; i++)
            run(arg, i, 0);
        return;
    }
    assert(n_pieces <= UINT32_MAX);
    uint64_t n = (uint64_t)n_pieces, n_threads = (uint64_t)pool->n_workers + 1;
    pthread_mutex_lock(&pool->mutex);
    pool->run = run;
    pool->arg = arg;
    for (uint64_t i = 0; i < n_threads; i++)
        atomic_store(&pool->ranges[i].pieces, range_of(n * i / n_threads, n * (i + 1) / n_threads));
    pool->n_busy = pool->n_workers;
    pool->generation++;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->mutex);
    take_pieces(pool, 0);
    spin_for_end(pool);
    pthread_mutex_lock(&pool->mutex);
    while (pool->n_busy > 0)
        pthread_cond_wait(&pool->done, &pool->mutex);
    pthread_mutex_unlock(&pool->mutex);
}
