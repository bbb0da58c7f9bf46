#include "kernels/formats.h"

static float as_float(uint32_t bits) {
    float f;

    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint32_t as_bits(float x) {
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    return bits;
}

float k_from_bf16(uint16_t bits) {
    return as_float((uint32_t)bits << 16);
}

/* A format of n_exponent exponent and n_fraction fraction bits: finite values alone. Numbers below
 * its normal ones are fraction * 2^(2 - bias - n_fraction - 1), exact in float32. */
static float widen(uint32_t bits, int n_exponent, int n_fraction) {
    int bias = (1 << (n_exponent - 1)) - 1;
    uint32_t sign = (bits >> (n_exponent + n_fraction) & 1) << 31;
    uint32_t exponent = bits >> n_fraction & ((1u << n_exponent) - 1);
    uint32_t fraction = bits & ((1u << n_fraction) - 1);

    if (exponent)
        return as_float(sign | (exponent + (uint32_t)(127 - bias)) << 23 |
                        fraction << (23 - n_fraction));
    float f = (float)fraction * as_float((uint32_t)(127 + 1 - bias - n_fraction) << 23);
    return sign ? -f : f;
}

float k_from_f16(uint16_t bits) {
    if ((bits & 0x7c00) == 0x7c00)
        return as_float((uint32_t)(bits & 0x8000) << 16 | 0x7f800000 |
                        (uint32_t)(bits & 0x3ff) << 13);
    return widen(bits, 5, 10);
}

float k_from_e4m3(uint8_t bits) {
    return (bits & 0x7f) == 0x7f ? as_float((uint32_t)(bits & 0x80) << 24 | 0x7fc00000)
                                 : widen(bits, 4, 3);
}

float k_from_e5m2(uint8_t bits) {
    return k_from_f16((uint16_t)(bits << 8));
}

float k_from_e5m6(uint16_t bits) {
    return k_from_f16((uint16_t)(bits << 4));
}

uint16_t k_to_bf16(float x) {
    uint32_t bits = as_bits(x);

    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* |x|, no NaN, as exponent and fraction of a narrow format; may come out above its largest. */
static uint32_t narrow(uint32_t magnitude, int n_exponent, int n_fraction) {
    magnitude = MIN(magnitude, 0x47800000u); /* 65,536: above every format's largest */
    int bias = (1 << (n_exponent - 1)) - 1, drop = 23 - n_fraction;
    int exponent = (int)(magnitude >> 23) - 127 + bias;

    if (exponent >= 1) {
        uint32_t half = (1u << (drop - 1)) - 1 + (magnitude >> drop & 1);
        return ((magnitude + half) >> drop) - ((uint32_t)(127 - bias) << n_fraction);
    }
    /* Below the normal numbers: the spacing is fixed. Adding a number whose last place is that
     * spacing rounds as wanted. */
    float large = as_float((uint32_t)(127 + 1 - bias - n_fraction + 23) << 23);
    return as_bits(as_float(magnitude) + large) - as_bits(large);
}

uint16_t k_to_f16(float x) {
    uint32_t bits = as_bits(x), magnitude = bits & 0x7fffffff, sign = bits >> 16 & 0x8000;

    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    return (uint16_t)(sign | MIN(narrow(magnitude, 5, 10), 0x7c00u));
}

uint8_t k_to_e4m3(float x) {
    uint32_t bits = as_bits(x), magnitude = bits & 0x7fffffff, sign = bits >> 24 & 0x80;

    if (magnitude > 0x7f800000)
        return (uint8_t)(sign | 0x7f);
    return (uint8_t)(sign | MIN(narrow(magnitude, 4, 3), 0x7eu));
}

uint8_t k_to_e5m2(float x) {
    uint32_t bits = as_bits(x), magnitude = bits & 0x7fffffff, sign = bits >> 24 & 0x80;

    if (magnitude > 0x7f800000)
        return (uint8_t)(sign | 0x7e);
    return (uint8_t)(sign | MIN(narrow(magnitude, 5, 2), 0x7bu));
}

uint16_t k_to_e5m6(float x) {
    uint32_t bits = as_bits(x), magnitude = bits & 0x7fffffff, sign = bits >> 20 & 0x800;

    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e0);
    return (uint16_t)(sign | MIN(narrow(magnitude, 5, 6), 0x7bfu));
}
