/* Pieces of a run over threads; also under the thread sanitizer (suite `threads`). */
#include "kernels/pool.h"
#include "tests/unit/test.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

enum { PIECES_MAX = 1000 };

/* What pieces write to, without a lock: the end of the run is what orders it. */
struct work {
    int64_t done[PIECES_MAX]; // by piece: how often
    int64_t by_thread[4][8];  // by thread: pieces
    int64_t run;              // its number, which every piece must see
    bool uneven;
    atomic_int n_wrong;
};

static void one_piece(void *arg, int64_t piece, int thread) {
    struct work *w = arg;

    // The first pieces take long, so that others are taken from the back of their range.
    for (volatile int i = 0; w->uneven && piece < 4 && i < 20000;)
        i = i + 1;
    w->done[piece] += w->run;
    w->by_thread[thread][0]++;
}

static void check_run(struct k_pool *pool, struct work *w, int64_t n) {
    int64_t sum = 0;

    memset(w->done, 0, sizeof w->done);
    memset(w->by_thread, 0, sizeof w->by_thread);
    w->run++;
    pool_run(pool, n, one_piece, w);
    for (int64_t i = 0; i < PIECES_MAX; i++)
        CHECK_EQ(w->done[i], i < n ? w->run : 0, "piece %lld of %lld", (long long)i, (long long)n);
    for (size_t i = 0; i < ARRAY_SIZE(w->by_thread); i++)
        sum += w->by_thread[i][0];
    CHECK_EQ(sum, n);
}

TEST(each_piece_once)
{
    static const int64_t pieces[] = {0, 1, 2, 3, 7, 64, 1000};

    for (int n_threads = 1; n_threads <= 4; n_threads++) {
        struct k_pool *pool = NULL;
        struct hai_err err = {0};
        struct work w = {.uneven = n_threads % 2};
        CHECK_EQ(pool_new(n_threads, &pool, &err), 0, "%s", err.text);
        CHECK_EQ(pool_n_threads(pool), n_threads);
        for (int round = 0; round < 200; round++)
            check_run(pool, &w, pieces[round % (int)ARRAY_SIZE(pieces)]);
        pool_free(pool);
    }
}

/* A run that follows at once, one that follows when the threads sleep, and none at all. */
TEST(threads_sleep_and_wake)
{
    for (int round = 0; round < 30; round++) {
        struct k_pool *pool = NULL;
        struct hai_err err = {0};
        struct work w = {0};
        CHECK_EQ(pool_new(2, &pool, &err), 0, "%s", err.text);
        for (int i = 0; i < round % 3; i++) {
            const struct timespec pause = {.tv_nsec = i * 1000000};
            nanosleep(&pause, NULL);
            check_run(pool, &w, 16);
        }
        pool_free(pool);
    }
}

static void piece_without_pool(void *arg, int64_t piece, int thread) {
    int64_t *next = arg;

    CHECK_EQ(thread, 0);
    CHECK_EQ(piece, *next, "in order");
    ++*next;
}

TEST(no_pool)
{
    int64_t next = 0;

    pool_run(NULL, 5, piece_without_pool, &next);
    CHECK_EQ(next, 5);
    CHECK_EQ(pool_n_threads(NULL), 1);
    pool_free(NULL);
}

static void look_at_signals(void *arg, int64_t piece, int thread) {
    struct work *w = arg;
    sigset_t blocked;

    (void)piece;
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    if (sigismember(&blocked, SIGINT) != (thread > 0))
        atomic_fetch_add(&w->n_wrong, 1);
}

TEST(signals_are_for_the_callers_thread)
{
    struct k_pool *pool = NULL;
    struct hai_err err = {0};
    struct work w = {0};

    CHECK_EQ(pool_new(4, &pool, &err), 0, "%s", err.text);
    pool_run(pool, PIECES_MAX, look_at_signals, &w);
    CHECK_EQ(w.n_wrong, 0);
    pool_free(pool);
}
