#include "kernels/hopper14.h"

enum {
    GROUP = 32, // products that one instruction adds
    BITS = 14,  // that a number keeps of itself after it has been shifted
};

static int32_t magnitude(float x) {
    int32_t bits;

    memcpy(&bits, &x, sizeof bits);
    return bits & 0x7fffffff;
}

static float power_of_two(int exponent) {
    int32_t bits = (exponent + 127) << 23;
    float x;

    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Infinities and NaN, which there is nothing to shift to. */
static float add_plain(float sum, const float *products, int n) {
    for (int i = 0; i < n; i++)
        sum += products[i];
    return sum;
}

/* All shifted to the largest exponent and cut there. A group whose numbers are all below 2^-113
 * counts as zero: the last place that it keeps is none of float32's normal numbers. */
static float add_group(float accumulator, const float *products, int n) {
    int32_t largest = magnitude(accumulator);

    for (int i = 0; i < n; i++)
        largest = MAX(largest, magnitude(products[i]));
    int exponent = (largest >> 23) - 127 - (BITS - 1);
    if (largest >= 0x7f800000)
        return add_plain(accumulator, products, n);
    if (exponent < -126)
        return 0;
    float up = power_of_two(-exponent);
    int32_t sum = (int32_t)(accumulator * up);
    for (int i = 0; i < n; i++)
        sum += (int32_t)(products[i] * up);
    return (float)sum * power_of_two(exponent);
}

void hopper14_add(struct hopper14 *h, const float *a, const float *b, int n, float scale) {
    bool promoted = h->sum == K_SUM_HOPPER14_PROMOTED;
    float products[K_BLOCK];

    assert(n <= K_BLOCK);
    for (int i = 0; i < n; i++)
        products[i] = a[i] * b[i] * (promoted ? 1 : scale);
    for (int i = 0; i < n; i += GROUP)
        h->accumulator = add_group(h->accumulator, products + i, MIN(n - i, (int)GROUP));
    if (!promoted)
        return;
    h->total = (float)((double)scale * (double)h->accumulator + (double)h->total);
    h->accumulator = 0;
}

float hopper14_result(const struct hopper14 *h) {
    return h->sum == K_SUM_HOPPER14_PROMOTED ? h->total : h->accumulator;
}
