/* stepcost.h - how long a step will take: a linear model, fitted to the steps that were.
 *
 *   t = us_step + us_row * n_rows + us_key * n_keys
 *
 * n_rows counts the new tokens of all sequences, n_keys the keys that they look at: a row at
 * position p looks at p + 1. The coefficients solve the weighted least squares of all steps so far
 * (relative errors; a step counts 2 % less with every one that follows), drawn a little towards
 * their last values, in proportion to each column, so that a stream of equal steps does not unlearn
 * what they say nothing about (Levenberg and Marquardt's damping). None falls below 1/64 of where
 * it started.
 *
 * Pure; sums are in double in one order, so the same observations give the same predictions.
 */
#pragma once
#include "lib/base.h"

struct stepcost {
    double us[3];            // of a step, a row, a key
    double us_min[3];        // where each stops
    double sums[3][3], y[3]; // normal equations, decaying
    double error_us;         // how far off predictions have been of late: quick up, slow down
};

/* Start from guesses, all above 0. */
void stepcost_start(struct stepcost *c, double us_step, double us_row, double us_key);

double stepcost_predict(const struct stepcost *c, double n_rows, double n_keys);

/* A step of this size took us, above 0. */
void stepcost_observe(struct stepcost *c, double n_rows, double n_keys, double us);

/* Keys that n rows from position `from` on look at: n * from + n * (n + 1) / 2. */
static inline double stepcost_keys(int64_t from, int64_t n) {
    return (double)n * (double)from + 0.5 * (double)n * (double)(n + 1);
}

/* The most rows from position `from` on, up to n_max, that take us_left on top of a step. */
int64_t stepcost_rows_within(const struct stepcost *c, int64_t from, int64_t n_max, double us_left);
