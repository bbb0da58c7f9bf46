/* sample_rows_body.h - what sample_rows.c compiles once for each width of registers.
 *
 * Included without guard, with ROW_TARGET (a function attribute) and ROW(name) set.
 */

/* The largest of the lanes. */
ROW_TARGET static inline float ROW(largest_lane)(const floats *x) {
    floats_8 low, high;
    floats_4 a, b;

    memcpy(&low, x, sizeof low);
    memcpy(&high, (const char *)x + sizeof low, sizeof high);
    ints_8 more = high > low;
    low = (floats_8)(((ints_8)high & more) | ((ints_8)low & ~more));
    memcpy(&a, &low, sizeof a);
    memcpy(&b, (const char *)&low + sizeof a, sizeof b);
    ints_4 most = b > a;
    a = (floats_4)(((ints_4)b & most) | ((ints_4)a & ~most));
    float first = a[0] > a[1] ? a[0] : a[1], second = a[2] > a[3] ? a[2] : a[3];
    return first > second ? first : second;
}

ROW_TARGET static bool ROW(block_maxima)(const float *x, int64_t n, float *ret) {
    ints bad = {0};
    int rest_bad = 0;
    int64_t from = 0;

    for (; from + SAMPLE_ROWS_BLOCK <= n; from += SAMPLE_ROWS_BLOCK) {
        floats all;
        memcpy(&all, x + from, sizeof all);
        bad |= all != all;
        for (int i = LANES; i < SAMPLE_ROWS_BLOCK; i += LANES) {
            floats v;
            memcpy(&v, x + from + i, sizeof v);
            bad |= v != v;
            ints more = v > all;
            all = (floats)(((ints)v & more) | ((ints)all & ~more));
        }
        ret[from / SAMPLE_ROWS_BLOCK] = ROW(largest_lane)(&all);
    }
    if (from < n)
        ret[from / SAMPLE_ROWS_BLOCK] = -INFINITY;
    for (int64_t i = from; i < n; i++) {
        float *most = &ret[from / SAMPLE_ROWS_BLOCK];
        *most = x[i] > *most ? x[i] : *most;
        rest_bad |= x[i] != x[i];
    }
    for (int l = 0; l < LANES; l++)
        rest_bad |= bad[l];
    return rest_bad != 0;
}

/* kmath_exp's operations side by side; in a piece where some result is no normal number, kmath_exp
 * itself for those. */
ROW_TARGET static void ROW(weigh)(const float *x, int64_t n, double largest, double temperature,
                                  double *ret) {
    for (int64_t from = 0; from < n; from += WEIGH_PIECE) {
        int64_t to = MIN(from + WEIGH_PIECE, n), at = from;
        flags small = {0};
        for (; at + WEIGH <= to; at += WEIGH) {
            floats_8 v;
            memcpy(&v, x + at, sizeof v);
            doubles t = (__builtin_convertvector(v, doubles) - largest) / temperature;
            small |= t < -708.0;
            doubles k = t * 0x1.71547652b82fep+0 + 0x1.8p52; // its low bits are the whole number
            doubles whole = k - 0x1.8p52;
            doubles r = (t - whole * 0x1.62e42feep-1) - whole * 0x1.a39ef35793c76p-33;
            doubles p = r * 0 + 1.0 / 6227020800;
            for (size_t c = 0; c < ARRAY_SIZE(coefficients); c++)
                p = p * r + coefficients[c];
            p = 1 + (r + r * r * p);
            p *= (doubles)(((quads)k + 1023) << 52);
            memcpy(ret + at, &p, sizeof p);
        }
        int64_t any = 0;
        for (int l = 0; l < WEIGH; l++)
            any |= small[l];
        for (int64_t i = any ? from : at; i < to; i++) {
            double t = ((double)x[i] - largest) / temperature;
            if (i >= at || t < -708)
                ret[i] = t < -745.2 ? 0 : kmath_exp(t);
        }
    }
}

ROW_TARGET static double ROW(sum)(const double *x, int64_t n) {
    doubles sums = {0};
    double all = 0;
    int64_t at = 0;

    for (; at + WEIGH <= n; at += WEIGH) {
        doubles v;
        memcpy(&v, x + at, sizeof v);
        sums += v;
    }
    for (; at < n; at++)
        all += x[at];
    for (int l = 0; l < WEIGH; l++)
        all += sums[l];
    return all;
}
