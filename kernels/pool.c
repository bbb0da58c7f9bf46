#include "kernels/pool.h"

#include <pthread.h>
#include <stdatomic.h>

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
    int64_t generation; // of runs, under the mutex
    int n_busy;
    bool stop;
    atomic_int_fast64_t next;
    int64_t n_pieces;
    void (*run)(void *arg, int64_t piece, int thread);
    void *arg;
};

static void take_pieces(struct k_pool *pool, int thread) {
    for (;;) {
        int64_t piece = atomic_fetch_add(&pool->next, 1);
        if (piece >= pool->n_pieces)
            return;
        pool->run(pool->arg, piece, thread);
    }
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
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

int pool_new(int n_threads, struct k_pool **ret, struct hai_err *err) {
    struct k_pool *pool = hai_new(struct k_pool);

    assert(n_threads >= 1);
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->done, NULL);
    pool->workers = hai_new_array(struct worker, (size_t)n_threads);
    for (int i = 0; i < n_threads - 1; i++) {
        struct worker *w = &pool->workers[i];
        *w = (struct worker){.pool = pool, .number = i + 1};
        int r = pthread_create(&w->thread, NULL, worker_main, w);
        if (r) {
            pool_free(pool);
            return hai_fail(err, -r, "cannot start %d threads: %s", n_threads, strerror(r));
        }
        pool->n_workers++;
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
    pthread_mutex_lock(&pool->mutex);
    pool->run = run;
    pool->arg = arg;
    pool->n_pieces = n_pieces;
    atomic_store(&pool->next, 0);
    pool->n_busy = pool->n_workers;
    pool->generation++;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->mutex);
    take_pieces(pool, 0);
    pthread_mutex_lock(&pool->mutex);
    while (pool->n_busy > 0)
        pthread_cond_wait(&pool->done, &pool->mutex);
    pthread_mutex_unlock(&pool->mutex);
}
