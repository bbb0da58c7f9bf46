#include "sim/csv.h"
#include "sim/fixed.h"

#include <stdarg.h>
#include <stdio.h>

enum { CSV_SHOWN_MAX = 40 }; // bytes of a bad field that an error shows

static void where_text(const struct csv *csv, const char *at,
                       char ret[static HAI_ERR_WHERE_BYTES]) {
    (void)snprintf(ret, HAI_ERR_WHERE_BYTES, "%s:%d:%d", csv->file, csv->line,
                   (int)(at - csv->row) + 1);
}

int csv_fail(const struct csv *csv, int column, int r, struct hai_err *err, const char *format,
             ...) {
    char text[HAI_ERR_TEXT_BYTES], where[HAI_ERR_WHERE_BYTES];
    va_list ap;

    va_start(ap, format);
    (void)vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    where_text(csv, csv->fields[column].text, where);
    return hai_fail_at(err, r, NULL, where, NULL, "%s", text);
}

/* The bytes that a message may show: printable ones, not too many. */
static void shown(const struct csv_field *field, char ret[static CSV_SHOWN_MAX + 1]) {
    size_t n = MIN(field->n_bytes, (size_t)CSV_SHOWN_MAX);

    for (size_t i = 0; i < n; i++)
        ret[i] = (char)(field->text[i] < 0x20 || field->text[i] > 0x7e ? '?' : field->text[i]);
    ret[n] = 0;
}

/* Take the next line that is not empty; false at the end. */
static bool next_line(struct csv *csv, const char **ret_end) {
    while (csv->at < csv->end) {
        const char *feed = memchr(csv->at, '\n', (size_t)(csv->end - csv->at));
        const char *end = feed ? feed : csv->end;
        csv->row = csv->at;
        csv->at = feed ? feed + 1 : csv->end;
        csv->line++;
        if (end > csv->row && end[-1] == '\r')
            end--;
        if (end > csv->row) {
            *ret_end = end;
            return true;
        }
    }
    return false;
}

/* Split the line; returns the number of fields, at most one more than there is room for. */
static int split(struct csv *csv, const char *end) {
    const char *at = csv->row;
    int n = 0;

    for (;;) {
        const char *comma = memchr(at, ',', (size_t)(end - at));
        const char *stop = comma ? comma : end;
        if (n == CSV_COLUMNS_MAX)
            return n + 1;
        csv->fields[n++] = (struct csv_field){at, (size_t)(stop - at)};
        if (!comma)
            return n;
        at = comma + 1;
    }
}

static bool same(const struct csv_field *a, const char *text, size_t n_bytes) {
    return a->n_bytes == n_bytes && !memcmp(a->text, text, n_bytes);
}

int csv_open(struct csv *csv, const void *data, size_t n_bytes, const char *file,
             struct hai_err *err) {
    const char *end;

    *csv = (struct csv){
        .file = file ? file : "input", .at = data, .end = (const char *)data + n_bytes};
    if (!n_bytes || !next_line(csv, &end))
        return hai_fail_at(err, -ENODATA, NULL, csv->file, NULL,
                           "is empty; expected a line with the names of the columns");
    csv->n_columns = split(csv, end);
    if (csv->n_columns > CSV_COLUMNS_MAX)
        return csv_fail(csv, 0, -EBADMSG, err, "more than %d columns", CSV_COLUMNS_MAX);
    for (int i = 0; i < csv->n_columns; i++) {
        const struct csv_field *field = &csv->fields[i];
        if (!field->n_bytes)
            return csv_fail(csv, i, -EBADMSG, err, "column %d has no name", i + 1);
        for (int k = 0; k < i; k++)
            if (same(&csv->header[k], field->text, field->n_bytes))
                return csv_fail(csv, i, -EBADMSG, err, "column %d has the name of column %d", i + 1,
                                k + 1);
        csv->header[i] = *field;
    }
    return 0;
}

int csv_column(const struct csv *csv, const char *name) {
    for (int i = 0; i < csv->n_columns; i++)
        if (same(&csv->header[i], name, strlen(name)))
            return i;
    return -1;
}

int csv_next(struct csv *csv, struct hai_err *err) {
    const char *end;

    if (!next_line(csv, &end))
        return 0;
    int n = split(csv, end);
    if (n != csv->n_columns)
        return csv_fail(csv, MIN(n, csv->n_columns) - 1, -EBADMSG, err,
                        "the line has %s%d field%s; expected %d",
                        n > CSV_COLUMNS_MAX ? "over " : "", MIN(n, (int)CSV_COLUMNS_MAX),
                        n == 1 ? "" : "s", csv->n_columns);
    return 1;
}

static void header_text(const struct csv *csv, int column, char ret[static CSV_SHOWN_MAX + 1]) {
    shown(&csv->header[column], ret);
}

static int decimal(const struct csv *csv, int column, int64_t min, int64_t max, bool whole,
                   int64_t *ret, struct hai_err *err) {
    const struct csv_field *field = &csv->fields[column];
    char text[CSV_SHOWN_MAX + 1], name[CSV_SHOWN_MAX + 1];
    char low[FIXED_TEXT_BYTES], high[FIXED_TEXT_BYTES];
    int64_t value;

    int r = fixed_parse(field->text, field->n_bytes, &value);
    if (r == 0 && whole && value % FIXED_ONE)
        r = -EINVAL;
    if (r == 0 && (value < min || value > max))
        r = -ERANGE;
    if (r == 0) {
        *ret = value;
        return 0;
    }
    shown(field, text);
    header_text(csv, column, name);
    if (r == -EINVAL)
        return csv_fail(csv, column, r, err, "%s is '%s'; expected a %snumber", name, text,
                        whole ? "whole " : "");
    fixed_text(min, 0, low);
    fixed_text(max, 0, high);
    return csv_fail(csv, column, r, err, "%s is %s; expected %s to %s", name, text, low, high);
}

int csv_int(const struct csv *csv, int column, int64_t min, int64_t max, int64_t *ret,
            struct hai_err *err) {
    int64_t value;

    assert(min >= INT64_MIN / FIXED_ONE);
    assert(max <= INT64_MAX / FIXED_ONE);
    int r = decimal(csv, column, min * FIXED_ONE, max * FIXED_ONE, true, &value, err);
    if (r == 0)
        *ret = value / FIXED_ONE;
    return r;
}

int csv_decimal(const struct csv *csv, int column, int64_t min, int64_t max, int64_t *ret,
                struct hai_err *err) {
    return decimal(csv, column, min, max, false, ret, err);
}
