#include "kernels/rope.h"

#include "kernels/kmath.h"

static const double two_pi = 6.283185307179586;

/* The dimension (in pairs) that turns `rotations` times within the original length. */
static double yarn_dimension(const struct rope_rule *rule, int64_t d, double rotations) {
    return (double)d * kmath_log(rule->original_position / (rotations * two_pi)) /
           (2 * kmath_log(rule->theta));
}

static double floor_of(double x) {
    double n = (double)(int64_t)x;

    return n > x ? n - 1 : n;
}

static double yarn_frequency(const struct rope_rule *rule, int64_t d, int64_t pair, double plain) {
    double low = floor_of(yarn_dimension(rule, d, rule->beta_fast));
    double high = -floor_of(-yarn_dimension(rule, d, rule->beta_slow));

    low = MAX(low, 0.0);
    high = MIN(high, (double)(d - 1));
    if (low == high)
        high += 0.001; /* as the published code does, against a division by zero */
    double ramp = ((double)pair - low) / (high - low);
    ramp = MIN(MAX(ramp, 0.0), 1.0);
    return plain / rule->factor * ramp + plain * (1 - ramp);
}

static double llama3_frequency(const struct rope_rule *rule, double plain) {
    double wavelength = two_pi / plain, original = rule->original_position;

    if (wavelength < original / rule->high_freq_factor)
        return plain;
    if (wavelength > original / rule->low_freq_factor)
        return plain / rule->factor;
    double smooth = (original / wavelength - rule->low_freq_factor) /
                    (rule->high_freq_factor - rule->low_freq_factor);
    return (1 - smooth) * plain / rule->factor + smooth * plain;
}

static double frequency(const struct rope_rule *rule, int64_t d, int64_t pair) {
    double plain = kmath_pow(rule->theta, -2 * (double)pair / (double)d);

    switch (rule->scaling) {
    case ROPE_PLAIN:
        return plain;
    case ROPE_LINEAR:
        return plain / rule->factor;
    case ROPE_LLAMA3:
        return llama3_frequency(rule, plain);
    case ROPE_YARN:
        return yarn_frequency(rule, d, pair, plain);
    }
    return plain;
}

void rope_table(const struct rope_rule *rule, int64_t d, int64_t n_positions, float *cosine,
                float *sine) {
    double amplitude = rule->scaling == ROPE_YARN ? rule->attention_factor : 1;
    int64_t half = d / 2;

    assert(d > 0 && d % 2 == 0);
    for (int64_t i = 0; i < half; i++) {
        double f = frequency(rule, d, i);
        for (int64_t t = 0; t < n_positions; t++) {
            double s, c;
            kmath_sincos((double)t * f, &s, &c);
            cosine[t * half + i] = (float)(c * amplitude);
            sine[t * half + i] = (float)(s * amplitude);
        }
    }
}
