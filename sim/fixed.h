/* fixed.h - fractions in whole numbers: millionths in int64, sums in 128 bits.
 *
 * Pure. The simulator has no floating point, so that what it prints is the same, byte for byte,
 * whatever compiler and machine it was built for.
 */
#pragma once
#include "lib/base.h"

#define FIXED_ONE INT64_C(1000000)

typedef __int128 fixed_wide;

/* Read a decimal number such as "6.5" or "-0.25" as millionths; digits beyond the sixth place are
 * cut. Returns 0, -EINVAL: no number, or -ERANGE: beyond int64. */
int fixed_parse(const char *text, size_t n_bytes, int64_t *ret);

enum { FIXED_TEXT_BYTES = 32 };

/* Millionths with this number of places (0 to 6), rounded half away from zero. */
void fixed_text(int64_t value, int places, char ret[static FIXED_TEXT_BYTES]);

/* a / b rounded to nearest; 0 where b is 0. Values are not negative. */
int64_t fixed_div(fixed_wide a, fixed_wide b);

/* a / b in millionths; 0 where b is 0. */
int64_t fixed_ratio(fixed_wide a, fixed_wide b);

enum { FIXED_LOG2_BITS = 32 };

/* Logarithm to base 2 of a number from 1, in units of 2^-32: by squaring, a bit of the result at a
 * time (Knuth, The Art of Computer Programming, 1.2.2, exercise 25). */
uint64_t fixed_log2(uint64_t value);
