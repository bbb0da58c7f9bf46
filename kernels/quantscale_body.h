/* quantscale_body.h - errors and codes of a group under given scales, for one target.
 *
 * Included without guard by quantscale.c, with SCALE_TARGET (a function attribute) and
 * SCALE_PATH(name) set.
 */

/* The scales largest / divisor of LANES outputs as float16, their values and 1 / value (0 for 0).
 */
SCALE_TARGET static void SCALE_PATH(candidates)(const float *largest, float divisor, uint16_t *bits,
                                                float *value, float *inverse) {
    floats wanted = *(const floats *)(const void *)largest / divisor, by, one = 1 - (floats){0};

    TO_F16(wanted, bits, by);
    *(floats *)(void *)value = by;
    ints there = by != 0;
    *(floats *)(void *)inverse = (floats)((ints)(one / by) & there);
}

/* Weighted squared errors of all outputs of a panel, each summed over inputs in ascending order. */
SCALE_TARGET static void SCALE_PATH(errors)(const float *w, const double *exact,
                                            const double *importance, const float *scale,
                                            const float *inverse, float low, float high,
                                            double *ret) {
    const floats *by = (const void *)inverse, *scales = (const void *)scale;
    doubles scale_0 = WIDEN(scales[0]), scale_1 = WIDEN(scales[1]), sum_0 = {0}, sum_1 = {0};

    for (int k = 0; k < GROUP; k++) {
        const floats *x = (const void *)(w + k * PANEL);
        const doubles *wide = (const void *)(exact + k * PANEL);
        floats q_0, q_1;
        NEAREST(x[0], by[0], low, high, q_0);
        NEAREST(x[1], by[1], low, high, q_1);
        doubles d_0 = wide[0] - WIDEN(q_0) * scale_0, d_1 = wide[1] - WIDEN(q_1) * scale_1;
        sum_0 += d_0 * d_0 * importance[k];
        sum_1 += d_1 * d_1 * importance[k];
    }
    memcpy(ret, &sum_0, sizeof sum_0);
    memcpy(ret + LANES, &sum_1, sizeof sum_1);
}

SCALE_TARGET static void SCALE_PATH(codes)(const float *w, const float *inverse, float low,
                                           float high, int8_t *ret) {
    const floats by = *(const floats *)(const void *)inverse;

    for (int k = 0; k < GROUP; k++) {
        floats x = *(const floats *)(const void *)(w + k * PANEL), q;
        NEAREST(x, by, low, high, q);
        bytes code = __builtin_convertvector(q, bytes);
        memcpy(ret + k * PANEL, &code, sizeof code);
    }
}
