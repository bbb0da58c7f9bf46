#include "lib/size.h"

#include <stdio.h>

static const struct {
    const char *text;
    int64_t bytes;
} units[] = {
    {"PiB", INT64_C(1) << 50      },
    {"TiB", INT64_C(1) << 40      },
    {"GiB", INT64_C(1) << 30      },
    {"MiB", INT64_C(1) << 20      },
    {"KiB", INT64_C(1) << 10      },
    {"B",   1                     },
    {"PB",  1000000000000000      },
    {"TB",  INT64_C(1000000000000)},
    {"GB",  1000000000            },
    {"MB",  1000000               },
    {"KB",  1000                  },
};

enum { UNIT_BYTE = 5 }; // units up to this one are written, all are read

static int parse(const char *at, int64_t *ret_bytes) {
    int64_t whole = 0;
    int64_t fraction = 0;
    int64_t scale = 1;
    const char *start = at;

    if (*at == '-')
        return -ERANGE;
    for (; *at >= '0' && *at <= '9'; at++)
        if (__builtin_mul_overflow(whole, 10, &whole) ||
            __builtin_add_overflow(whole, *at - '0', &whole))
            return -ERANGE;
    if (at == start)
        return -EINVAL;
    if (*at == '.')
        for (start = ++at; *at >= '0' && *at <= '9'; at++)
            if (scale < 1000) { // more digits of a PiB would overflow, and nobody writes them
                fraction = fraction * 10 + (*at - '0');
                scale *= 10;
            }
    if (at == start)
        return -EINVAL;
    for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
        if (strcmp(at, units[i].text) != 0)
            continue;
        int64_t bytes;
        if (__builtin_mul_overflow(whole, units[i].bytes, &bytes) ||
            __builtin_add_overflow(bytes, fraction * units[i].bytes / scale, &bytes))
            return -ERANGE;
        *ret_bytes = bytes;
        return 0;
    }
    return -EINVAL;
}

int size_parse(const char *text, int64_t *ret_bytes, struct hai_err *err) {
    int r = parse(text, ret_bytes);

    if (r == -ERANGE)
        return hai_fail(err, r, "'%.60s' is out of range for a size", text);
    if (r < 0)
        return hai_fail(err, r,
                        "'%.60s' is not a size; expected a number with a unit, such as "
                        "512MiB or 80GiB",
                        text);
    return 0;
}

void size_exact(int64_t n_bytes, char ret[static SIZE_TEXT_BYTES]) {
    size_t i = 0;

    assert(n_bytes >= 0);
    while (i < UNIT_BYTE && (n_bytes == 0 || n_bytes % units[i].bytes != 0))
        i++;
    (void)snprintf(ret, SIZE_TEXT_BYTES, "%lld%s", (long long)(n_bytes / units[i].bytes),
                   units[i].text);
}

void size_human(int64_t n_bytes, char ret[static SIZE_TEXT_BYTES]) {
    size_t i = 0;

    assert(n_bytes >= 0);
    while (i < UNIT_BYTE && n_bytes < units[i].bytes)
        i++;
    double value = (double)n_bytes / (double)units[i].bytes;
    int n_decimals = i == UNIT_BYTE || value >= 100 ? 0 : value >= 10 ? 1 : 2;
    (void)snprintf(ret, SIZE_TEXT_BYTES, "%.*f%s", n_decimals, value, units[i].text);
}
