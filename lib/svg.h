/* svg.h - pictures of lines and words as SVG. Coordinates are whole tenths of a pixel, so that the
 * same numbers make the same bytes everywhere.
 */
#pragma once
#include "lib/pure/buf.h"

/* A white page; svg_end closes it. */
void svg_begin(struct buf *svg, int64_t width, int64_t height);
void svg_end(struct buf *svg);

/* anchor: start, middle or end. What the text means to XML is taken out of it. */
void svg_text(struct buf *svg, int64_t x, int64_t y, const char *anchor, const char *color,
              const char *text);
void svg_line(struct buf *svg, int64_t x1, int64_t y1, int64_t x2, int64_t y2, const char *color);
void svg_rect(struct buf *svg, int64_t x, int64_t y, int64_t width, int64_t height,
              const char *color);

/* A line through many points. */
void svg_curve_begin(struct buf *svg, const char *color);
void svg_curve_point(struct buf *svg, int64_t x, int64_t y);
void svg_curve_end(struct buf *svg);
