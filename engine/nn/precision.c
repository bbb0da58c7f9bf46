#include "engine/nn/precision.h"

#include <stdio.h>

static const char *const kinds[] = {
#define X(name, text) text,
    PRECISIONS(X)
#undef X
};

static const struct {
    const char *text;
    enum k_dtype forward, gradient;
} formats[] = {
#define X(name, text, forward, gradient) {text, forward, gradient},
    PRECISION_FORMATS(X)
#undef X
};

static const struct {
    const char *text;
    enum k_sum sum;
} sums[] = {
#define X(text, sum) {text, sum},
    PRECISION_SUMS(X)
#undef X
};

enum k_dtype precision_kept(const struct precision *p, enum precision_role role) {
    if (p->kind == PRECISION_F32)
        return K_F32;
    if (role == PRECISION_ACTIVATED)
        return K_DTYPE_COUNT;
    if (p->kind == PRECISION_BF16 || role == PRECISION_CORE)
        return K_BF16;
    return role == PRECISION_ATTENDED ? K_E5M6 : formats[p->format].forward;
}

bool precision_power_of_two(enum precision_role role) {
    return role == PRECISION_DISPATCHED || role == PRECISION_ATTENDED;
}

enum k_dtype precision_gradient(const struct precision *p, enum k_dtype weight) {
    return weight == K_BF16 ? K_BF16 : formats[p->format].gradient;
}

enum k_dtype precision_weight(const struct precision *p, bool may_fp8) {
    if (p->kind == PRECISION_F32)
        return K_F32;
    return p->kind == PRECISION_FP8 && may_fp8 ? formats[p->format].forward : K_BF16;
}

int precision_parse(const char *text) {
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
        if (hai_streq(text, kinds[i]))
            return (int)i;
    return -EINVAL;
}

int precision_format_parse(const char *text) {
    for (size_t i = 0; i < ARRAY_SIZE(formats); i++)
        if (hai_streq(text, formats[i].text))
            return (int)i;
    return -EINVAL;
}

int precision_sum_parse(const char *text) {
    for (size_t i = 0; i < ARRAY_SIZE(sums); i++)
        if (hai_streq(text, sums[i].text))
            return (int)sums[i].sum;
    return -EINVAL;
}

void precision_name(const struct precision *p, char ret[PRECISION_NAME_BYTES]) {
    bool fp8 = p->kind == PRECISION_FP8, plain = p->sum == K_SUM_F32;

    (void)snprintf(ret, PRECISION_NAME_BYTES, "%s%s%s%s%s", kinds[p->kind], fp8 ? " " : "",
                   fp8 ? formats[p->format].text : "", fp8 && !plain ? " " : "",
                   fp8 && !plain ? sums[p->sum].text : "");
}
