#include "engine/infer/stepcost.h"

#include <math.h>

static const double KEPT = 0.98, DAMPING = 0.05, FLOOR = 1.0 / 64;
static const double ERROR_UP = 0.25, ERROR_DOWN = 1.0 / 32;

void stepcost_start(struct stepcost *c, double us_step, double us_row, double us_key) {
    const double us[3] = {us_step, us_row, us_key};

    *c = (struct stepcost){0};
    for (int i = 0; i < 3; i++) {
        assert(us[i] > 0);
        c->us[i] = us[i];
        c->us_min[i] = us[i] * FLOOR;
    }
}

double stepcost_predict(const struct stepcost *c, double n_rows, double n_keys) {
    return c->us[0] + c->us[1] * n_rows + c->us[2] * n_keys;
}

static double determinant(double a[3][3]) {
    return a[0][0] * (a[1][1] * a[2][2] - a[1][2] * a[2][1]) -
           a[0][1] * (a[1][0] * a[2][2] - a[1][2] * a[2][0]) +
           a[0][2] * (a[1][0] * a[2][1] - a[1][1] * a[2][0]);
}

/* Solve the damped normal equations, each unknown in units of its column's length, so that numbers
 * of very different size do not cost digits. */
static void solve(struct stepcost *c) {
    double a[3][3], b[3], length[3];

    for (int i = 0; i < 3; i++)
        length[i] = c->sums[i][i] > 0 ? sqrt(c->sums[i][i]) : 1;
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 3; j++)
            a[i][j] = c->sums[i][j] / (length[i] * length[j]);
        a[i][i] = 1 + DAMPING;
        b[i] = c->y[i] / length[i] + DAMPING * c->us[i] * length[i];
        if (c->sums[i][i] == 0)
            b[i] = a[i][i] * c->us[i];
    }
    double whole = determinant(a); // at least DAMPING^3
    for (int i = 0; i < 3; i++) {
        double column[3][3];
        memcpy(column, a, sizeof a);
        for (int j = 0; j < 3; j++)
            column[j][i] = b[j];
        double us = determinant(column) / whole / length[i];
        c->us[i] = MAX(us, c->us_min[i]);
    }
}

void stepcost_observe(struct stepcost *c, double n_rows, double n_keys, double us) {
    const double x[3] = {1 / us, n_rows / us, n_keys / us};
    double off = us - stepcost_predict(c, n_rows, n_keys);

    assert(us > 0);
    off = off < 0 ? -off : off;
    c->error_us += (off - c->error_us) * (off > c->error_us ? ERROR_UP : ERROR_DOWN);
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 3; j++)
            c->sums[i][j] = KEPT * c->sums[i][j] + x[i] * x[j];
        c->y[i] = KEPT * c->y[i] + x[i];
    }
    solve(c);
}

int64_t stepcost_rows_within(const struct stepcost *c, int64_t from, int64_t n_max,
                             double us_left) {
    int64_t low = 0, high = n_max, n = n_max; // all of them first: mostly they fit

    for (; low < high; n = high - (high - low) / 2) {
        if (c->us[1] * (double)n + c->us[2] * stepcost_keys(from, n) <= us_left)
            low = n;
        else
            high = n - 1;
    }
    return low;
}
