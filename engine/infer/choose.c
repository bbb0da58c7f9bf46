#include "engine/infer/choose.h"
#include "kernels/kmath.h"
#include "kernels/philox.h"

#include <math.h>

static int largest(const float *logits, int64_t n_vocab, int32_t *ret, struct hai_err *err) {
    int64_t at = 0;

    for (int64_t i = 0; i < n_vocab; i++) {
        if (isnan(logits[i]))
            return hai_fail(err, -EDOM,
                            "logit of token %lld is not a number; are the weights sound?",
                            (long long)i);
        if (logits[i] > logits[at])
            at = i;
    }
    if (!isfinite(logits[at]))
        return hai_fail(err, -EDOM, "the largest logit is infinite; are the weights sound?");
    *ret = (int32_t)at;
    return 0;
}

int choose_token(const float *logits, int64_t n_vocab, double temperature, uint64_t seed,
                 int64_t position, double *scratch, int32_t *ret, struct hai_err *err) {
    struct philox_counter at =
        philox_at(PHILOX_SAMPLE, (uint32_t)position, (uint32_t)(position >> 32), 0);
    uint32_t words[4];
    double sum = 0;
    int32_t best = 0;
    int r = largest(logits, n_vocab, &best, err);

    if (r < 0)
        return r;
    *ret = best;
    if (temperature <= 0)
        return 0;
    for (int64_t i = 0; i < n_vocab; i++)
        sum += scratch[i] = kmath_exp(((double)logits[i] - (double)logits[best]) / temperature);
    philox_words(seed, &at, words);
    double left = philox_uniform(words[0]) * sum;
    for (int64_t i = 0; i < n_vocab; i++) {
        left -= scratch[i];
        if (left < 0) {
            *ret = (int32_t)i;
            break;
        }
    }
    return 0;
}
