/* table.h - rows of text in columns, as every list of `hai` shows them.
 *
 * Columns are as wide as their widest cell, two spaces apart; the last one is not padded. A column
 * whose heading starts with `>` is set to the right (numbers).
 */
#pragma once
#include "lib/pure/buf.h"

struct table;

struct table *table_new(const char *const *headings, int n_columns);
void table_free(struct table *table);
DEFINE_CLEANUP(struct table *, table_free)

/* Fill the next cell; NULL or "" gives `-`. Cells come row by row. Control characters are shown as
 * `?`, since names and messages come from others. */
void table_add(struct table *table, const char *format, ...) _printf_(2, 3);
void table_add_text(struct table *table, const char *text);

/* Append heading and rows. color: `\033[...m` codes by the words of the column named STATE. */
void table_print(const struct table *table, bool color, struct buf *ret);
