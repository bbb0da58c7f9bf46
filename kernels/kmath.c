#include "kernels/kmath.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

/* ln 2 and pi/2 in parts whose products with the small integers used here are exact. */
static const double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
static const double half_pi_1 = 0x1.921fb544p+0, half_pi_2 = 0x1.0b4611a6p-34,
                    half_pi_3 = 0x1.3198a2e037073p-69;

static double from_bits(uint64_t bits) {
    double x;

    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Nearest integer, halves to even; |x| < 2^51. */
static double nearest(double x) {
    volatile double shifted = x + 0x1.8p52;

    return shifted - 0x1.8p52;
}

/* 2^n, n from -1022 to 1023. */
static double power_of_two(int n) {
    return from_bits((uint64_t)(n + 1023) << 52);
}

double kmath_exp(double x) {
    if (x != x)
        return x;
    if (x > 709.782712893384)
        return INFINITY;
    if (x < -745.2)
        return 0;
    double n = nearest(x * 0x1.71547652b82fep+0);
    double r = (x - n * ln2_high) - n * ln2_low;
    /* Taylor series; |r| < 0.347, so the term of degree 14 is below 1e-17. */
    double p = 1.0 / 6227020800;
    static const double inverse_factorial[] = {
        1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
        1.0 / 720,       1.0 / 120,      1.0 / 24,      1.0 / 6,      0.5};
    for (unsigned i = 0; i < sizeof inverse_factorial / sizeof *inverse_factorial; i++)
        p = p * r + inverse_factorial[i];
    p = 1 + (r + r * r * p);
    int e = (int)n;
    if (e > 1023) /* 2^1024 is not a number of its own */
        return p * 2 * power_of_two(e - 1);
    if (e < -1022) /* subnormal result: rounded once, by the last product */
        return p * power_of_two(e + 100) * power_of_two(-100);
    return p * power_of_two(e);
}

double kmath_log(double x) {
    uint64_t bits;

    if (x != x || x < 0)
        return NAN;
    if (x == 0)
        return -INFINITY;
    if (isinf(x))
        return x;
    memcpy(&bits, &x, sizeof bits);
    int e = (int)(bits >> 52) - 1023;
    double m = from_bits((bits & 0xfffffffffffffull) | 0x3ff0000000000000ull);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        e++;
    }
    /* log m = 2 atanh(s), s = (m - 1) / (m + 1), |s| < 0.172: the term of s^23 is below 1e-18. */
    double s = (m - 1) / (m + 1), z = s * s, p = 0;
    for (int k = 21; k >= 3; k -= 2)
        p = (p + 1.0 / k) * z;
    double r = 2 * s + 2 * s * p;
    return e * ln2_high + (r + e * ln2_low);
}

void kmath_sincos(double x, double *ret_sin, double *ret_cos) {
    double n = nearest(x * 0x1.45f306dc9c883p-1);
    double r = ((x - n * half_pi_1) - n * half_pi_2) - n * half_pi_3;
    double z = r * r;
    /* Taylor series; |r| < 0.786. */
    double s = -1.0 / 121645100408832000, c = 1.0 / 2432902008176640000;
    static const double sin_terms[] = {
        1.0 / 355687428096000, -1.0 / 1307674368000, 1.0 / 6227020800, -1.0 / 39916800,
        1.0 / 362880,          -1.0 / 5040,          1.0 / 120,        -1.0 / 6};
    static const double cos_terms[] = {-1.0 / 6402373705728000,
                                       1.0 / 20922789888000,
                                       -1.0 / 87178291200,
                                       1.0 / 479001600,
                                       -1.0 / 3628800,
                                       1.0 / 40320,
                                       -1.0 / 720,
                                       1.0 / 24,
                                       -0.5};
    for (unsigned i = 0; i < sizeof sin_terms / sizeof *sin_terms; i++)
        s = s * z + sin_terms[i];
    for (unsigned i = 0; i < sizeof cos_terms / sizeof *cos_terms; i++)
        c = c * z + cos_terms[i];
    s = r + r * z * s;
    c = 1 + z * c;
    switch ((int64_t)n & 3) {
    case 0:
        *ret_sin = s, *ret_cos = c;
        break;
    case 1:
        *ret_sin = c, *ret_cos = -s;
        break;
    case 2:
        *ret_sin = -s, *ret_cos = -c;
        break;
    default:
        *ret_sin = -c, *ret_cos = s;
    }
}

double kmath_pow(double x, double y) {
    return kmath_exp(y * kmath_log(x));
}

double kmath_tanh(double x) {
    double size = x < 0 ? -x : x;

    if (size > 20)
        return x < 0 ? -1 : 1;
    if (size > 0.6) {
        double e = kmath_exp(2 * size);
        return x < 0 ? 2 / (e + 1) - 1 : 1 - 2 / (e + 1);
    }
    /* Lambert's continued fraction x / (1 + x^2 / (3 + x^2 / (5 + ...))); NaN comes here. */
    double bottom = 21;
    for (int odd = 19; odd > 0; odd -= 2)
        bottom = odd + x * x / bottom;
    return x / bottom;
}

/* Below 3 the series 2 / sqrt(pi) exp(-x^2) sum of 2^n x^(2n+1) / (1 3 5 ... (2n+1)), whose terms
 * have one sign; above, Laplace's continued fraction of its rest (Abramowitz and Stegun, 7.1.6 and
 * 7.1.14). */
double kmath_erf(double x) {
    double size = x < 0 ? -x : x, square = x * x;

    if (size > 6)
        return x < 0 ? -1 : 1;
    if (size > 3) {
        double bottom = size;
        for (int n = 60; n > 0; n--)
            bottom = size + n / 2.0 / bottom;
        double rest = kmath_exp(-square) / (1.7724538509055160 * bottom);
        return x < 0 ? rest - 1 : 1 - rest;
    }
    double term = x, sum = x;
    for (int n = 1; n < 70; n++) {
        term *= 2 * square / (2 * n + 1);
        sum += term;
    }
    return 1.1283791670955126 * kmath_exp(-square) * sum;
}

double kmath_sqrt(double x) {
    return __builtin_sqrt(x); /* one instruction under -fno-math-errno, no call */
}
