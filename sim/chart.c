#include "sim/chart.h"
#include "lib/fileio.h"
#include "lib/svg.h"
#include "lib/timefmt.h"
#include "sim/figures.h"

#include <stdio.h>

/* In tenths of a pixel. */
enum {
    WIDTH = 9600,
    PANEL_LEFT = 700,
    PANEL_WIDTH = 8600,
    PANEL_HEIGHT = 2200,
    PANEL_FIRST = 700,
    PANEL_NEXT = 2900,
    WAITS_HEIGHT = 4200,
};

enum { WAIT_POINTS = 400 };

static const char *const colors[CHART_RUNS_MAX] = {"#1f6fb2", "#d9622b"};

struct panel {
    const char *title;
    int top, height;
    int64_t max; // of the vertical axis
    const char *unit;
};

static void begin(struct buf *svg, int height, const struct chart_run *runs, size_t n) {
    svg_begin(svg, WIDTH, height);
    for (size_t k = 0; k < n; k++)
        svg_text(svg, PANEL_LEFT + (int64_t)k * 4000, 250, "start", colors[k], runs[k].name);
}

/* A frame with four lines and their values. */
static void add_frame(struct buf *svg, const struct panel *panel) {
    char text[64];

    svg_text(svg, PANEL_LEFT, panel->top - 80, "start", "#222", panel->title);
    for (int i = 0; i <= 4; i++) {
        int64_t y = panel->top + panel->height - (int64_t)panel->height * i / 4;
        svg_line(svg, PANEL_LEFT, y, PANEL_LEFT + PANEL_WIDTH, y, i ? "#ddd" : "#222");
        (void)snprintf(text, sizeof text, "%lld%s", (long long)(panel->max * i / 4), panel->unit);
        svg_text(svg, PANEL_LEFT - 60, y + 40, "end", "#222", text);
    }
}

static int64_t x_at(int64_t part, int64_t whole) {
    return PANEL_LEFT + fixed_div((fixed_wide)part * PANEL_WIDTH, whole);
}

static int64_t y_at(const struct panel *panel, fixed_wide part, fixed_wide whole) {
    return panel->top + panel->height - fixed_div(part * panel->height, whole);
}

/* ---- over time ---- */

static int64_t span_us(const struct chart_run *runs, size_t n) {
    int64_t longest = 1;

    for (size_t k = 0; k < n; k++)
        longest = MAX(longest, runs[k].tally->now_us);
    return longest;
}

static size_t n_pieces(const struct tally *tally) {
    return (size_t)((tally->now_us + tally->piece_us - 1) / tally->piece_us);
}

/* The last piece may be cut short by the end. */
static int64_t piece_us(const struct tally *tally, size_t i) {
    return MIN(tally->piece_us, tally->now_us - (int64_t)i * tally->piece_us);
}

static int64_t queue_max(const struct chart_run *runs, size_t n) {
    int64_t most = 4;

    for (size_t k = 0; k < n; k++)
        for (size_t i = 0; i < n_pieces(runs[k].tally); i++)
            most = MAX(most, runs[k].tally->pieces[i].queue / piece_us(runs[k].tally, i) + 1);
    /* Four steps of 1, 2 or 5 times a power of ten. */
    for (int64_t ten = 1;; ten *= 10)
        for (int64_t step = ten; step <= 5 * ten; step = step == ten ? 2 * ten : step + 3 * ten)
            if (4 * step >= most)
                return 4 * step;
}

static void add_curve(struct buf *svg, const struct chart_run *run, size_t k,
                      const struct panel *panel, int64_t longest_us, bool queue) {
    svg_curve_begin(svg, colors[k]);
    for (size_t i = 0; i < n_pieces(run->tally); i++) {
        const struct tally_piece *piece = &run->tally->pieces[i];
        int64_t us = piece_us(run->tally, i);
        fixed_wide whole =
            queue ? (fixed_wide)us * panel->max : (fixed_wide)us * run->tally->n_gpus;
        svg_curve_point(svg, x_at((int64_t)i * run->tally->piece_us + us / 2, longest_us),
                        y_at(panel, queue ? piece->queue : piece->busy, whole));
    }
    svg_curve_end(svg);
}

static void add_days(struct buf *svg, int64_t longest_us, int64_t y) {
    const int64_t hour_us = INT64_C(3600) * 1000000;
    int64_t step_us = hour_us;
    char text[64];

    while (longest_us / step_us > 10)
        step_us =
            step_us < 24 * hour_us ? (step_us == 6 * hour_us ? 24 : 6) * hour_us : 2 * step_us;
    for (int64_t at_us = 0; at_us <= longest_us; at_us += step_us) {
        int64_t x = x_at(at_us, longest_us);
        svg_line(svg, x, y, x, y + 50, "#222");
        if (step_us < 24 * hour_us)
            (void)snprintf(text, sizeof text, "%lldh", (long long)(at_us / hour_us));
        else
            (void)snprintf(text, sizeof text, "%lldd", (long long)(at_us / hour_us / 24));
        svg_text(svg, x, y + 190, "middle", "#222", text);
    }
}

static void draw_time(struct buf *svg, const struct chart_run *runs, size_t n) {
    struct panel use = {"GPUs in use", PANEL_FIRST, PANEL_HEIGHT, 100, " %"};
    struct panel queue = {"waiting jobs", PANEL_FIRST + PANEL_NEXT, PANEL_HEIGHT,
                          queue_max(runs, n), ""};
    int64_t longest_us = span_us(runs, n);

    begin(svg, PANEL_FIRST + PANEL_NEXT + PANEL_HEIGHT + 400, runs, n);
    add_frame(svg, &use);
    add_frame(svg, &queue);
    for (size_t k = 0; k < n; k++) {
        add_curve(svg, &runs[k], k, &use, longest_us, false);
        add_curve(svg, &runs[k], k, &queue, longest_us, true);
    }
    add_days(svg, longest_us, use.top + use.height);
    add_days(svg, longest_us, queue.top + queue.height);
    svg_end(svg);
}

/* ---- waits ---- */

/* The logarithmic axis: log2(1 + seconds). */
static int64_t log_of(int64_t us) {
    return (int64_t)fixed_log2((uint64_t)us / 1000000 + 1);
}

static void add_ticks(struct buf *svg, int64_t max_log, int64_t y) {
    static const struct {
        const char *text;
        int64_t s;
    } ticks[] = {
        {"0",   0      },
        {"10s", 10     },
        {"1m",  60     },
        {"10m", 600    },
        {"1h",  3600   },
        {"6h",  21600  },
        {"1d",  86400  },
        {"4d",  345600 },
        {"15d", 1296000},
        {"60d", 5184000},
    };

    for (size_t i = 0; i < ARRAY_SIZE(ticks); i++) {
        int64_t at = log_of(ticks[i].s * 1000000);
        if (at > max_log)
            break;
        svg_line(svg, x_at(at, max_log), y, x_at(at, max_log), y + 50, "#222");
        svg_text(svg, x_at(at, max_log), y + 190, "middle", "#222", ticks[i].text);
    }
}

static void draw_waits(struct buf *svg, const struct chart_run *runs, size_t n) {
    struct panel panel = {"jobs that had started after at most this wait", PANEL_FIRST,
                          WAITS_HEIGHT, 100, " %"};
    int64_t *waits[CHART_RUNS_MAX];
    size_t n_waits[CHART_RUNS_MAX];
    int64_t max_log = log_of(60000000);

    begin(svg, PANEL_FIRST + WAITS_HEIGHT + 400, runs, n);
    add_frame(svg, &panel);
    for (size_t k = 0; k < n; k++) {
        n_waits[k] = figures_waits(runs[k].tally, runs[k].trace, &waits[k]);
        if (n_waits[k])
            max_log = MAX(max_log, log_of(waits[k][n_waits[k] - 1]));
    }
    for (size_t k = 0; k < n; k++) {
        svg_curve_begin(svg, colors[k]);
        for (size_t i = 0; i <= WAIT_POINTS && n_waits[k]; i++) {
            size_t at = i * (n_waits[k] - 1) / WAIT_POINTS;
            svg_curve_point(svg, x_at(log_of(waits[k][at]), max_log),
                            y_at(&panel, (fixed_wide)at + 1, (fixed_wide)n_waits[k]));
        }
        svg_curve_end(svg);
        free(waits[k]);
    }
    add_ticks(svg, max_log, panel.top + panel.height);
    svg_end(svg);
}

static int write_one(const char *dir, const char *name, const struct buf *svg,
                     struct hai_err *err) {
    _cleanup_free_ char *path = hai_asprintf("%s/%s", dir, name);

    return fileio_replace(path, svg->data, svg->n_bytes, 0644, err);
}

int chart_write(const char *dir, const struct chart_run *runs, size_t n, struct hai_err *err) {
    _cleanup_(buf_free) struct buf over_time = {0};
    _cleanup_(buf_free) struct buf waits = {0};

    assert(n <= CHART_RUNS_MAX);
    draw_time(&over_time, runs, n);
    draw_waits(&waits, runs, n);
    int r = fileio_mkdir_p(dir, 0755, err);
    if (r == 0)
        r = write_one(dir, "time.svg", &over_time, err);
    if (r == 0)
        r = write_one(dir, "waits.svg", &waits, err);
    return r;
}
