#include "sim/fixed.h"

#include <stdio.h>

static int add_digit(int64_t *value, int digit) {
    if (__builtin_mul_overflow(*value, 10, value) || __builtin_add_overflow(*value, digit, value))
        return -ERANGE;
    return 0;
}

int fixed_parse(const char *text, size_t n_bytes, int64_t *ret) {
    bool minus = n_bytes && text[0] == '-';
    int64_t value = 0;
    int places = -1; // -1: before the point
    size_t n_digits = 0;

    for (size_t i = minus; i < n_bytes; i++) {
        if (text[i] == '.' && places < 0) {
            places = 0;
            continue;
        }
        if (text[i] < '0' || text[i] > '9')
            return -EINVAL;
        n_digits++;
        if (places == 6)
            continue;
        if (add_digit(&value, text[i] - '0') < 0)
            return -ERANGE;
        places += places >= 0;
    }
    if (!n_digits)
        return -EINVAL;
    for (places = MAX(places, 0); places < 6; places++)
        if (add_digit(&value, 0) < 0)
            return -ERANGE;
    *ret = minus ? -value : value;
    return 0;
}

void fixed_text(int64_t value, int places, char ret[static FIXED_TEXT_BYTES]) {
    static const int64_t units[] = {1000000, 100000, 10000, 1000, 100, 10, 1};
    uint64_t n = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;

    assert(places >= 0);
    assert(places <= 6);
    uint64_t unit = (uint64_t)units[places];
    n = n / unit + (n % unit * 2 >= unit);
    uint64_t below = FIXED_ONE / unit;
    const char *sign = value < 0 && n ? "-" : "";
    if (places)
        (void)snprintf(ret, FIXED_TEXT_BYTES, "%s%llu.%0*llu", sign,
                       (unsigned long long)(n / below), places, (unsigned long long)(n % below));
    else
        (void)snprintf(ret, FIXED_TEXT_BYTES, "%s%llu", sign, (unsigned long long)n);
}

int64_t fixed_div(fixed_wide a, fixed_wide b) {
    if (!b)
        return 0;
    return (int64_t)((a + b / 2) / b);
}

int64_t fixed_ratio(fixed_wide a, fixed_wide b) {
    return fixed_div(a * FIXED_ONE, b);
}

uint64_t fixed_log2(uint64_t value) {
    assert(value);
    int whole = 63 - __builtin_clzll(value);
    uint64_t x = value << (63 - whole); // in [1, 2), one is 2^63
    uint64_t r = (uint64_t)whole << FIXED_LOG2_BITS;

    for (int bit = FIXED_LOG2_BITS - 1; bit >= 0; bit--) {
        unsigned __int128 square = (unsigned __int128)x * x >> 63;
        if (square >> 64) {
            r |= UINT64_C(1) << bit;
            square >>= 1;
        }
        x = (uint64_t)square;
    }
    return r;
}
