/* pool.h - threads that the CPU operators spread their pieces over.
 *
 * A run hands out pieces 0 .. n-1 to the caller's thread and the pool's; which thread takes which
 * piece never reaches a result, because pieces are cut by shape and write to places of their own.
 * Nothing is allocated during a run; the lock is taken twice, to start and to end it.
 */
#pragma once
#include "lib/base.h"

struct k_pool;

/* n_threads counts the caller's. */
int pool_new(int n_threads, struct k_pool **ret, struct hai_err *err);
void pool_free(struct k_pool *pool);           // NULL is accepted
int pool_n_threads(const struct k_pool *pool); // 1 for NULL

/* Call run(arg, piece, thread) once for every piece, thread from 0 to n_threads - 1; return when
 * all are done. pool NULL: in order, here. */
void pool_run(struct k_pool *pool, int64_t n_pieces,
              void (*run)(void *arg, int64_t piece, int thread), void *arg);
