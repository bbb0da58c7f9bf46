/* choose.h - the next token from a row of logits. */
#pragma once
#include "lib/base.h"

/* temperature 0: the token of the largest logit, the lowest of equals. Else a draw from
 * softmax(logits / temperature) with the random number of (seed, position), so a continuation does
 * not depend on how it came about. -EDOM: no logit is a number to choose by.
 *
 * scratch  [n_vocab], overwritten
 */
int choose_token(const float *logits, int64_t n_vocab, double temperature, uint64_t seed,
                 int64_t position, double *scratch, int32_t *ret, struct hai_err *err);
