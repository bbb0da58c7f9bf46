/* chart.h - replays as pictures: use and queue over time, and the distribution of waits.
 *
 * Plain SVG, drawn from integers, the same bytes everywhere.
 */
#pragma once
#include "sim/tally.h"

enum { CHART_RUNS_MAX = 2 };

struct chart_run {
    const char *name;
    const struct tally *tally;
    const struct trace *trace;
};

/* Write time.svg and waits.svg into a folder, which is made if needed. */
int chart_write(const char *dir, const struct chart_run *runs, size_t n, struct hai_err *err);
