#include "engine/train/schedule.h"
#include "kernels/kmath.h"

static const char *const kinds[] = {"constant", "cosine", "multi_step", "wsd"};

int schedule_kind_parse(const char *text) {
    for (int i = 0; i < SCHEDULE_KIND_COUNT; i++)
        if (hai_streq(text, kinds[i]))
            return i;
    return -EINVAL;
}

static double cosine(const struct schedule *s, int64_t step) {
    static const double pi = 3.14159265358979323846;
    double sine, cos_value, p = 1;

    if (s->steps > s->warmup)
        p = (double)(step - s->warmup) / (double)(s->steps - s->warmup);
    kmath_sincos(pi * MIN(p, 1.0), &sine, &cos_value);
    return s->final + (1 - s->final) * 0.5 * (1 + cos_value);
}

static double multi_step(const struct schedule *s, int64_t step) {
    double rate = 1;

    // A step counts as past a mark when the steps before it reach the mark.
    for (int i = 0; i < s->n_at; i++)
        if ((double)(step - 1) >= s->at[i] * (double)s->steps)
            rate *= s->factor;
    return rate;
}

static double wsd(const struct schedule *s, int64_t step) {
    double from = (double)s->steps * (1 - s->decay), length = (double)s->steps - from;

    if ((double)step <= from || length <= 0)
        return 1;
    return 1 - (1 - s->final) * MIN(((double)step - from) / length, 1.0);
}

double schedule_rate(const struct schedule *s, int64_t step) {
    double part = 1;

    if (step < s->warmup)
        return s->rate * (double)step / (double)s->warmup;
    if (s->kind == SCHEDULE_COSINE)
        part = cosine(s, step);
    else if (s->kind == SCHEDULE_MULTI_STEP)
        part = multi_step(s, step);
    else if (s->kind == SCHEDULE_WSD)
        part = wsd(s, step);
    return s->rate * part;
}
