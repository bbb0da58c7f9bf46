/* hopper14.h - sums of products of 8-bit floats as Hopper's tensor cores make them (enum k_sum).
 */
#pragma once
#include "kernels/kernels.h"

/* A sum on its way: the accumulator of the tensor core, and what has been promoted out of it. */
struct hopper14 {
    enum k_sum sum; // one of the two HOPPER14
    float accumulator;
    float total;
};

/* Add n <= K_BLOCK products of codes made wide, all of which share `scale`. */
void hopper14_add(struct hopper14 *h, const float *a, const float *b, int n, float scale);

float hopper14_result(const struct hopper14 *h);
