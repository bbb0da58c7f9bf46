#include "engine/train/spikes.h"

#include <math.h>
#include <stdio.h>

/* Places in the state before the two windows. */
enum { AT_N, AT_IN_ROW, AT_BACKS, AT_VALUES };

enum { FIRST_MIN = 8 };

static const float SPREAD_OF_MEDIAN = 0.001f, DEVIATION = 1.4826f;

struct spikes {
    struct spikes_rule rule;
    float *state;  // AT_..., then [window] losses and [window] norms, each a ring
    float *sorted; // [window]
    char text[200];
};

struct spikes *spikes_new(const struct spikes_rule *rule) {
    assert(rule->window >= 0 && rule->window <= SPIKES_WINDOW_MAX);
    struct spikes *s = hai_new(struct spikes);

    s->rule = *rule;
    s->state = hai_new_array(float, AT_VALUES + 2 * (size_t)rule->window);
    s->sorted = hai_new_array(float, (size_t)rule->window);
    return s;
}

void spikes_free(struct spikes *s) {
    if (!s)
        return;
    free(s->state);
    free(s->sorted);
    free(s);
}

float *spikes_state(struct spikes *s, size_t *ret_n) {
    *ret_n = AT_VALUES + 2 * (size_t)s->rule.window;
    return s->state;
}

int64_t spikes_backs(const struct spikes *s) {
    return (int64_t)s->state[AT_BACKS];
}

void spikes_set_backs(struct spikes *s, int64_t backs) {
    s->state[AT_BACKS] = (float)backs;
}

const char *spikes_text(const struct spikes *s) {
    return s->text;
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* The upper one of the two in the middle. */
static float median(float *values, int64_t n) {
    qsort(values, (size_t)n, sizeof *values, by_value);
    return values[n / 2];
}

/* The least value that is a spike; infinite while too few are known. */
static float limit(const struct spikes *s, const float *values, int64_t n, double factor,
                   float *ret_median) {
    if (factor <= 0 || n < MAX(s->rule.window / 4, (int64_t)FIRST_MIN))
        return INFINITY;
    memcpy(s->sorted, values, (size_t)n * sizeof *values);
    float m = *ret_median = median(s->sorted, n);
    for (int64_t i = 0; i < n; i++)
        s->sorted[i] = fabsf(s->sorted[i] - m);
    float spread = MAX(DEVIATION * median(s->sorted, n), SPREAD_OF_MEDIAN * fabsf(m));
    return m + (float)factor * spread;
}

/* Says so in the text. */
static bool is_spike(struct spikes *s, const char *name, double value, const float *values,
                     double factor) {
    int64_t n = MIN((int64_t)s->state[AT_N], s->rule.window);
    float m = 0, above = limit(s, values, n, factor, &m);

    if (isfinite(value) && !((float)value > above))
        return false;
    snprintf(s->text, sizeof s->text,
             isfinite(above) ? "%s %.4g, median %.4g, limit %.4g" : "%s %g", name, value, (double)m,
             (double)above);
    return true;
}

enum spikes_verdict spikes_judge(struct spikes *s, double loss, double norm) {
    float *losses = s->state + AT_VALUES, *norms = losses + s->rule.window;

    s->text[0] = 0;
    if (is_spike(s, "loss", loss, losses, s->rule.loss) ||
        is_spike(s, "gradient norm", norm, norms, s->rule.norm)) {
        s->state[AT_IN_ROW]++;
        if (s->state[AT_IN_ROW] <= (float)s->rule.patience)
            return SPIKES_SKIP;
        s->state[AT_BACKS]++;
        return s->state[AT_BACKS] <= (float)s->rule.backs ? SPIKES_BACK : SPIKES_STOP;
    }
    s->state[AT_IN_ROW] = 0;
    if (!s->rule.window)
        return SPIKES_FINE;
    // Counts up to two windows and then stays between them: a float holds no long run.
    int64_t n = (int64_t)s->state[AT_N];
    losses[n % s->rule.window] = (float)loss;
    norms[n % s->rule.window] = (float)norm;
    s->state[AT_N] = (float)(n + 1 < 2 * s->rule.window ? n + 1 : s->rule.window);
    return SPIKES_FINE;
}
