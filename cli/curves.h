/* curves.h - the metrics of a training run as curves, for the terminal or as SVG.
 *
 * A metrics file has a JSON object a line (docs/training.md). A member that is a number makes a
 * curve; a step that is there again, after a restart, counts as it was the last time. Steps whose
 * batch was passed over are no points of the curves, but their number is kept.
 */
#pragma once
#include "lib/pure/buf.h"

enum { CURVES_MAX = 64, CURVES_NAME_BYTES = 48, CURVES_STEPS_MAX = 100 * 1000 * 1000 };

struct curve {
    char name[CURVES_NAME_BYTES]; // the member's
    double *values;               // [n_steps of curves]; NaN: not there
};

struct curves {
    int64_t first_step;
    size_t n_steps; // from the first to the last
    struct curve items[CURVES_MAX];
    size_t n;
    size_t n_skipped; // batches passed over
};

/* Read a file. -EBADMSG with file and line: a line is no object with a step; the last may be cut
 * off, for a run may be writing it. -ENODATA: no step is in it. */
int curves_read(const char *path, struct curves *ret, struct hai_err *err);

/* The same of a text; name is for errors. */
int curves_parse(const char *text, size_t n_bytes, const char *name, struct curves *ret,
                 struct hai_err *err);
void curves_free(struct curves *c);

/* A curve by name, or NULL. */
const struct curve *curves_find(const struct curves *c, const char *name);

/* Draw one curve with its axes, so many columns and rows in all (at least 30 and 5), into text;
 * braille: with eight dots a place, else with '*'. */
void curves_text(const struct curves *c, const struct curve *curve, int columns, int rows,
                 bool braille, struct buf *ret);

/* Those curves below each other as one SVG; title: what run it is. */
void curves_svg(const struct curves *c, const struct curve *const *curves, size_t n,
                const char *title, struct buf *ret);
