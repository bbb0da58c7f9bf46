#include "lib/svg.h"

static void tenths(struct buf *svg, int64_t value) {
    buf_printf(svg, "%lld.%lld", (long long)(value / 10), (long long)(value % 10));
}

static void attribute(struct buf *svg, const char *name, int64_t value) {
    buf_printf(svg, " %s=\"", name);
    tenths(svg, value);
    buf_add_str(svg, "\"");
}

void svg_text(struct buf *svg, int64_t x, int64_t y, const char *anchor, const char *color,
              const char *text) {
    buf_add_str(svg, "<text");
    attribute(svg, "x", x);
    attribute(svg, "y", y);
    buf_printf(svg, " text-anchor=\"%s\" fill=\"%s\">", anchor, color);
    for (; *text; text++) {
        if (*text == '<')
            buf_add_str(svg, "&lt;");
        else if (*text == '&')
            buf_add_str(svg, "&amp;");
        else
            buf_add_u8(svg, (uint8_t)((unsigned char)*text < 0x20 ? '?' : *text));
    }
    buf_add_str(svg, "</text>\n");
}

void svg_line(struct buf *svg, int64_t x1, int64_t y1, int64_t x2, int64_t y2, const char *color) {
    buf_add_str(svg, "<line");
    attribute(svg, "x1", x1);
    attribute(svg, "y1", y1);
    attribute(svg, "x2", x2);
    attribute(svg, "y2", y2);
    buf_printf(svg, " stroke=\"%s\"/>\n", color);
}

void svg_rect(struct buf *svg, int64_t x, int64_t y, int64_t width, int64_t height,
              const char *color) {
    buf_add_str(svg, "<rect");
    attribute(svg, "x", x);
    attribute(svg, "y", y);
    attribute(svg, "width", width);
    attribute(svg, "height", height);
    buf_printf(svg, " fill=\"%s\"/>\n", color);
}

void svg_begin(struct buf *svg, int64_t width, int64_t height) {
    buf_printf(svg,
               "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%lld\" height=\"%lld\" "
               "font-family=\"sans-serif\" font-size=\"13\">\n"
               "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
               (long long)(width / 10), (long long)(height / 10));
}

void svg_end(struct buf *svg) {
    buf_add_str(svg, "</svg>\n");
}

void svg_curve_begin(struct buf *svg, const char *color) {
    buf_printf(svg, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\" points=\"", color);
}

void svg_curve_point(struct buf *svg, int64_t x, int64_t y) {
    tenths(svg, x);
    buf_add_str(svg, ",");
    tenths(svg, y);
    buf_add_str(svg, " ");
}

void svg_curve_end(struct buf *svg) {
    buf_add_str(svg, "\"/>\n");
}
