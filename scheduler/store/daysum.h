/* daysum.h - adding up the rows of GPU time of a day that is over, a part in each transaction.
 *
 * `usage` has a row for every attempt of a day, 100,000 and more on a large cluster: adding them up
 * at once would keep everybody waiting. Sums are collected in memory and written when all rows were
 * read; they count for queries once the day is in `ledger`, which the caller writes last. A restart
 * begins the day again, which gives the same.
 */
#pragma once
#include "scheduler/store/db.h"

struct daysum;

struct daysum *daysum_new(void);
void daysum_free(struct daysum *sum); // NULL is fine
DEFINE_CLEANUP(struct daysum *, daysum_free)

/* Go on inside the caller's transaction: read about n_max rows of the day or write about n_max
 * sums. All rows of the day must be in the table. Returns 1 when the last sum was written (then
 * another day may follow), 0 when there is more to do, or a negative error. */
int daysum_step(struct daysum *sum, struct db *db, int64_t day, int64_t n_max, struct hai_err *err);

/* The transaction was not committed: begin the day again. */
void daysum_again(struct daysum *sum);
