#include "cli/curves.h"
#include "lib/fileio.h"
#include "lib/json.h"
#include "lib/svg.h"

#include <math.h>
#include <stdio.h>

enum {
    FILE_BYTES_MAX = 1 << 30,
    COLUMNS_MAX = 1000,
    LABEL = 9, // columns of the vertical axis' numbers
};

/* ---- reading ---- */

void curves_free(struct curves *c) {
    for (size_t i = 0; i < c->n; i++)
        free(c->items[i].values);
    *c = (struct curves){0};
}

const struct curve *curves_find(const struct curves *c, const char *name) {
    for (size_t i = 0; i < c->n; i++)
        if (hai_streq(c->items[i].name, name))
            return &c->items[i];
    return NULL;
}

/* The curve of that name, made if there is room for one more. */
static struct curve *find_or_add(struct curves *c, const char *name) {
    struct curve *found = (struct curve *)curves_find(c, name);

    if (found || c->n == CURVES_MAX || strlen(name) >= CURVES_NAME_BYTES)
        return found;
    found = &c->items[c->n++];
    strcpy(found->name, name);
    found->values = hai_new_array(double, c->n_steps);
    for (size_t i = 0; i < c->n_steps; i++)
        found->values[i] = NAN;
    return found;
}

/* One line's values. Members that the line does not have are taken back: it replaces the step. */
static void take_line(struct curves *c, const struct json *line) {
    size_t at = (size_t)(json_as_int(json_get(line, "step")) - c->first_step);

    if (json_get(line, "skipped")) {
        c->n_skipped++;
        return;
    }
    for (size_t i = 0; i < c->n; i++)
        c->items[i].values[at] = NAN;
    for (const struct json *v = json_first(line); v; v = json_next(v)) {
        bool number = json_kind(v) == JSON_KIND_INT || json_kind(v) == JSON_KIND_REAL;
        struct curve *curve =
            number && !hai_streq(json_key(v), "step") ? find_or_add(c, json_key(v)) : NULL;
        if (curve)
            curve->values[at] = json_as_real(v);
    }
}

struct lines {
    const char *at, *end, *name;
    int number;
};

/* The next line as an object with a step: 1, 0 at the end. */
static int next_line(struct lines *l, struct json **ret, struct hai_err *err) {
    struct hai_err reason = {0};
    const struct json *step;

    json_free(TAKE_PTR(*ret));
    if (l->at == l->end)
        return 0;
    const char *feed = memchr(l->at, '\n', (size_t)(l->end - l->at));
    size_t n = (size_t)((feed ? feed : l->end) - l->at);
    int r = json_parse(l->at, n, NULL, ret, &reason);
    l->at += n + (feed != NULL);
    l->number++;
    if (r < 0 && !feed)
        return 0;
    step = r < 0 ? NULL : json_get(*ret, "step");
    if (step && json_kind(step) == JSON_KIND_INT && json_as_int(step) >= 0)
        return 1;
    return hai_fail(err, -EBADMSG, "%s:%d: %s", l->name, l->number,
                    r < 0 ? reason.text : "no line of metrics; expected an object with a step");
}

/* Which steps there are. */
static int find_range(struct lines l, struct curves *ret, struct hai_err *err) {
    _cleanup_(json_freep) struct json *line = NULL;
    int64_t first = INT64_MAX, last = -1;
    int r;

    while ((r = next_line(&l, &line, err)) > 0) {
        int64_t step = json_as_int(json_get(line, "step"));
        first = MIN(first, step);
        last = MAX(last, step);
    }
    if (r < 0)
        return r;
    if (last < 0)
        return hai_fail(err, -ENODATA, "%s: no step is in it yet", l.name);
    if (last - first >= CURVES_STEPS_MAX)
        return hai_fail(err, -EFBIG, "%s: has steps %lld to %lld; expected at most %d of them",
                        l.name, (long long)first, (long long)last, CURVES_STEPS_MAX);
    ret->first_step = first;
    ret->n_steps = (size_t)(last - first + 1);
    return 0;
}

int curves_parse(const char *text, size_t n_bytes, const char *name, struct curves *ret,
                 struct hai_err *err) {
    struct lines l = {text, text + n_bytes, name, 0};
    _cleanup_(json_freep) struct json *line = NULL;
    struct curves c = {0};
    int r = find_range(l, &c, err);

    while (r == 0 && next_line(&l, &line, err) > 0)
        take_line(&c, line);
    if (r == 0)
        *ret = c;
    return r;
}

int curves_read(const char *path, struct curves *ret, struct hai_err *err) {
    _cleanup_(buf_free) struct buf text = {0};
    int r = fileio_read_file(path, FILE_BYTES_MAX, &text, err);

    return r < 0 ? r : curves_parse(buf_cstr(&text), text.n_bytes, path, ret, err);
}

/* ---- what both pictures share ---- */

struct range {
    double low, high;
};

/* The mean of the steps that fall into column x of n; NaN: none is there. */
static double column(const struct curves *c, const struct curve *curve, size_t x, size_t n) {
    size_t from = x * c->n_steps / n, to = MAX((x + 1) * c->n_steps / n, from + 1);
    double sum = 0;
    size_t n_there = 0;

    for (size_t i = from; i < to && i < c->n_steps; i++)
        if (isfinite(curve->values[i])) {
            sum += curve->values[i];
            n_there++;
        }
    return n_there ? sum / (double)n_there : NAN;
}

/* Of n columns; a flat curve lies in the middle. */
static struct range range_of(const struct curves *c, const struct curve *curve, size_t n) {
    struct range r = {INFINITY, -INFINITY};

    for (size_t x = 0; x < n; x++) {
        double v = column(c, curve, x, n);
        r.low = v < r.low ? v : r.low;
        r.high = v > r.high ? v : r.high;
    }
    if (!(r.low <= r.high))
        return (struct range){0, 1};
    if (r.high - r.low > 1e-9 * fabs(r.high))
        return r;
    double half = r.high != 0 ? fabs(r.high) / 2 : 0.5;
    return (struct range){r.low - half, r.high + half};
}

static double last_value(const struct curves *c, const struct curve *curve) {
    for (size_t i = c->n_steps; i-- > 0;)
        if (isfinite(curve->values[i]))
            return curve->values[i];
    return NAN;
}

/* ---- in the terminal ---- */

/* The dots of a braille place: bit of row (from above) and column. U+2800 and up. */
static const uint8_t dots[4][2] = {
    {0x01, 0x08},
    {0x02, 0x10},
    {0x04, 0x20},
    {0x40, 0x80},
};

static void add_braille(struct buf *b, uint8_t bits) {
    buf_add_u8(b, 0xe2);
    buf_add_u8(b, (uint8_t)(0xa0 | bits >> 6));
    buf_add_u8(b, (uint8_t)(0x80 | (bits & 0x3f)));
}

/* Set the points of a curve, joined from one column to the next. place: [rows][columns] bits. */
static void plot(const struct curves *c, const struct curve *curve, struct range range, int columns,
                 int rows, bool braille, uint8_t *place) {
    int wide = braille ? 2 : 1, high = braille ? 4 : 1, before = -1;
    int n_x = columns * wide, n_y = rows * high;

    for (int x = 0; x < n_x; x++) {
        double v = column(c, curve, (size_t)x, (size_t)n_x);
        if (!isfinite(v)) {
            before = -1;
            continue;
        }
        int y = (int)((range.high - v) / (range.high - range.low) * (n_y - 1) + 0.5);
        int from = before < 0 ? y : y > before ? before + 1 : y < before ? before - 1 : y;
        for (int k = MIN(from, y); k <= MAX(from, y); k++)
            place[k / high * columns + x / wide] |= dots[k % high][x % wide];
        before = y;
    }
}

void curves_text(const struct curves *c, const struct curve *curve, int columns, int rows,
                 bool braille, struct buf *ret) {
    int width = MIN(MAX(columns, 30), (int)COLUMNS_MAX) - LABEL - 1, height = MAX(rows, 5) - 2;
    struct range range = range_of(c, curve, (size_t)(width * (braille ? 2 : 1)));
    _cleanup_free_ uint8_t *place = hai_new_array(uint8_t, (size_t)width * (size_t)height);
    char first[32], last[32];

    plot(c, curve, range, width, height, braille, place);
    buf_printf(ret, "%s, last %.5g\n", curve->name, last_value(c, curve));
    for (int y = 0; y < height; y++) {
        if (y == 0 || y == height - 1 || y == height / 2)
            buf_printf(ret, "%*.4g", LABEL - 1,
                       range.high - (range.high - range.low) * y / (height - 1));
        else
            buf_printf(ret, "%*s", LABEL - 1, "");
        buf_add_str(ret, " |");
        for (int x = 0; x < width; x++) {
            uint8_t bits = place[y * width + x];
            if (braille && bits)
                add_braille(ret, bits);
            else
                buf_add_u8(ret, bits ? '*' : ' ');
        }
        while (ret->n_bytes && ret->data[ret->n_bytes - 1] == ' ')
            ret->n_bytes--;
        buf_add_u8(ret, '\n');
    }
    snprintf(first, sizeof first, "%lld", (long long)c->first_step);
    snprintf(last, sizeof last, "%lld", (long long)c->first_step + (long long)c->n_steps - 1);
    buf_printf(ret, "%*s%s%*s\n", LABEL + 1, "", first, width - (int)strlen(first), last);
}

/* ---- as SVG, in tenths of a pixel ---- */

enum {
    SVG_WIDTH = 9600,
    SVG_LEFT = 1000,
    SVG_PANEL = 8300,
    SVG_HEIGHT = 2000,
    SVG_FIRST = 800,
    SVG_NEXT = 2700,
    SVG_POINTS = 830,
};

static void add_axes(struct buf *svg, const struct curves *c, const struct curve *curve,
                     struct range range, int64_t top) {
    char text[64];

    svg_text(svg, SVG_LEFT, top - 80, "start", "#222", curve->name);
    for (int i = 0; i <= 4; i++) {
        int64_t y = top + SVG_HEIGHT - SVG_HEIGHT * i / 4, x = SVG_LEFT + SVG_PANEL * i / 4;
        svg_line(svg, SVG_LEFT, y, SVG_LEFT + SVG_PANEL, y, i ? "#ddd" : "#222");
        snprintf(text, sizeof text, "%.4g", range.low + (range.high - range.low) * i / 4);
        svg_text(svg, SVG_LEFT - 60, y + 40, "end", "#222", text);
        snprintf(text, sizeof text, "%lld",
                 (long long)c->first_step + (long long)(c->n_steps - 1) * i / 4);
        svg_text(svg, x, top + SVG_HEIGHT + 190, "middle", "#222", text);
    }
}

static void add_curve(struct buf *svg, const struct curves *c, const struct curve *curve,
                      struct range range, int64_t top) {
    size_t n = MIN(c->n_steps, (size_t)SVG_POINTS);
    bool open = false;

    for (size_t x = 0; x < n; x++) {
        double v = column(c, curve, x, n);
        if (open && !isfinite(v))
            svg_curve_end(svg);
        if (!open && isfinite(v))
            svg_curve_begin(svg, "#1f6fb2");
        open = isfinite(v);
        if (open)
            svg_curve_point(
                svg, SVG_LEFT + (int64_t)(x * SVG_PANEL / MAX(n - 1, (size_t)1)),
                top + (int64_t)((range.high - v) / (range.high - range.low) * SVG_HEIGHT));
    }
    if (open)
        svg_curve_end(svg);
}

void curves_svg(const struct curves *c, const struct curve *const *curves, size_t n,
                const char *title, struct buf *ret) {
    svg_begin(ret, SVG_WIDTH, SVG_FIRST + (int64_t)n * SVG_NEXT);
    svg_text(ret, SVG_LEFT, 280, "start", "#222", title);
    for (size_t i = 0; i < n; i++) {
        int64_t top = SVG_FIRST + (int64_t)i * SVG_NEXT;
        struct range range = range_of(c, curves[i], MIN(c->n_steps, (size_t)SVG_POINTS));
        add_axes(ret, c, curves[i], range, top);
        add_curve(ret, c, curves[i], range, top);
    }
    svg_end(ret);
}
