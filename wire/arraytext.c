#include "wire/arraytext.h"

/* A whole number up to max; moves *at behind it. */
static int number(const char **at, int64_t max, int64_t *ret) {
    int64_t value = 0;
    const char *start = *at;

    for (; **at >= '0' && **at <= '9'; (*at)++) {
        value = value * 10 + (**at - '0');
        if (value > max)
            return -EINVAL;
    }
    if (*at == start)
        return -EINVAL;
    *ret = value;
    return 0;
}

/* N, N-M or N-M:STEP; the last index becomes one that the steps reach. */
static int range(const char **at, struct arraytext_range *ret) {
    struct arraytext_range r = {.step = 1};

    if (number(at, ARRAY_INDEX_MAX, &r.first) < 0)
        return -EINVAL;
    r.last = r.first;
    if (**at == '-') {
        ++*at;
        if (number(at, ARRAY_INDEX_MAX, &r.last) < 0 || r.last < r.first)
            return -EINVAL;
        if (**at == ':') {
            ++*at;
            if (number(at, ARRAY_INDEX_MAX, &r.step) < 0 || r.step < 1)
                return -EINVAL;
        }
    }
    r.last -= (r.last - r.first) % r.step;
    *ret = r;
    return 0;
}

int arraytext_parse(const char *text, struct arraytext *ret) {
    struct arraytext all = {.n_ranges = 0};
    int64_t last = -1;

    do {
        struct arraytext_range *r = &all.ranges[all.n_ranges];
        if (all.n_ranges == ARRAY_RANGES_MAX || range(&text, r) < 0 || r->first <= last)
            return -EINVAL;
        last = r->last;
        all.n += (r->last - r->first) / r->step + 1;
        all.n_ranges++;
    } while (*text == ',' && text++);
    if (*text == '%') {
        text++;
        if (number(&text, ARRAY_MAX, &all.cap) < 0 || all.cap < 1)
            return -EINVAL;
    }
    if (*text || all.n > ARRAY_MAX)
        return -EINVAL;
    *ret = all;
    return 0;
}
