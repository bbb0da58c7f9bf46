/* sample_rows.h - the loops of sample.h over whole rows, for the registers this machine has.
 *
 * Every element goes through the same additions, products and divisions on all of them, and sums
 * have one order (eight side by side), so the bits are the same.
 */
#pragma once
#include "lib/base.h"

enum { SAMPLE_ROWS_BLOCK = 64 };

struct sample_rows {
    const char *name;

    /* The largest of every SAMPLE_ROWS_BLOCK values, the last block short. Returns whether any
     * value is NaN; the maxima mean nothing then. */
    bool (*block_maxima)(const float *x, int64_t n, float *ret);

    /* exp((x - largest) / temperature) of each, x at most largest, with the bits of kmath_exp. */
    void (*weigh)(const float *x, int64_t n, double largest, double temperature, double *ret);

    double (*sum)(const double *x, int64_t n);
};

/* The widest that this machine can run. */
const struct sample_rows *sample_rows_best(void);

/* All that this machine can run, for tests: at 0 the plain ones; NULL past the last. */
const struct sample_rows *sample_rows_at(int i);
