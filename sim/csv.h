/* csv.h - comma-separated text with a header line, row by row; every error has its place.
 *
 * What the traces and failure tables need and no more: no quotes. Lines end in LF or CRLF; empty
 * lines are passed over.
 */
#pragma once
#include "lib/base.h"

enum { CSV_COLUMNS_MAX = 64 };

struct csv_field {
    const char *text; // into the data, not zero-terminated
    size_t n_bytes;
};

struct csv {
    const char *file; // named in errors
    const char *at, *end;
    const char *row; // where the row begins
    int line;
    int n_columns;
    struct csv_field header[CSV_COLUMNS_MAX];
    struct csv_field fields[CSV_COLUMNS_MAX];
};

/* Read the header. data and file must stay. -ENODATA: there is none; -EBADMSG: a column without a
 * name or named twice, too many columns. */
int csv_open(struct csv *csv, const void *data, size_t n_bytes, const char *file,
             struct hai_err *err);

/* The number of a column, -1: there is none. */
int csv_column(const struct csv *csv, const char *name);

/* The next row into csv->fields: 1, 0 at the end, or -EBADMSG: not as many fields as columns. */
int csv_next(struct csv *csv, struct hai_err *err);

/* A field as a whole number, or as millionths of a decimal one. -EINVAL, -ERANGE. */
int csv_int(const struct csv *csv, int column, int64_t min, int64_t max, int64_t *ret,
            struct hai_err *err);
int csv_decimal(const struct csv *csv, int column, int64_t min, int64_t max, int64_t *ret,
                struct hai_err *err);

/* Report an error at a field of the row. Returns r. */
int csv_fail(const struct csv *csv, int column, int r, struct hai_err *err, const char *format, ...)
    _printf_(5, 6);
