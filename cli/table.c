#include "cli/table.h"

#include <stdarg.h>
#include <stdio.h>

struct table {
    const char *const *headings;
    int n_columns;
    char **cells;
    size_t n_cells;
};

struct table *table_new(const char *const *headings, int n_columns) {
    struct table *table = hai_new(struct table);

    table->headings = headings;
    table->n_columns = n_columns;
    return table;
}

void table_free(struct table *table) {
    if (!table)
        return;
    for (size_t i = 0; i < table->n_cells; i++)
        free(table->cells[i]);
    free(table->cells);
    free(table);
}

static void add_cell(struct table *table, char *text) {
    if ((table->n_cells & (table->n_cells - 1)) == 0)
        table->cells = hai_realloc_array(table->cells, table->n_cells ? 2 * table->n_cells : 1,
                                         sizeof *table->cells);
    for (char *at = text; *at; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            *at = '?';
    table->cells[table->n_cells++] = text;
}

void table_add_text(struct table *table, const char *text) {
    add_cell(table, hai_strdup(text && text[0] ? text : "-"));
}

void table_add(struct table *table, const char *format, ...) {
    char *text = NULL;
    va_list ap;

    va_start(ap, format);
    int n = vasprintf(&text, format, ap);
    va_end(ap);
    if (n < 0)
        abort(); // only when memory runs out
    add_cell(table, text);
}

/* Characters, not bytes: continuation bytes of UTF-8 do not count. */
static int width_of(const char *text) {
    int n = 0;

    for (; *text; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

static const char *color_of(const char *state) {
    static const struct {
        const char *state, *code;
    } colors[] = {
        {"running",    "\033[32m"},
        {"ready",      "\033[32m"},
        {"succeeded",  "\033[32m"},
        {"failed",     "\033[31m"},
        {"timed_out",  "\033[31m"},
        {"lost",       "\033[31m"},
        {"recovering", "\033[33m"},
        {"drained",    "\033[33m"},
        {"draining",   "\033[33m"},
        {"queued",     "\033[36m"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(colors); i++)
        if (strcmp(colors[i].state, state) == 0)
            return colors[i].code;
    return NULL;
}

static void print_cell(const char *text, int width, bool right, bool last, const char *color,
                       struct buf *ret) {
    int pad = width - width_of(text);

    if (right)
        buf_printf(ret, "%*s", pad, "");
    buf_printf(ret, "%s%s%s", color ? color : "", text, color ? "\033[0m" : "");
    if (!right && !last)
        buf_printf(ret, "%*s", pad, "");
    buf_add_str(ret, last ? "\n" : "  ");
}

void table_print(const struct table *table, bool color, struct buf *ret) {
    _cleanup_free_ int *widths = hai_new_array(int, (size_t)table->n_columns);
    int n = table->n_columns;

    for (int c = 0; c < n; c++)
        widths[c] = width_of(table->headings[c]) - (table->headings[c][0] == '>');
    for (size_t i = 0; i < table->n_cells; i++)
        widths[i % (size_t)n] = MAX(widths[i % (size_t)n], width_of(table->cells[i]));
    for (int c = 0; c < n; c++) {
        bool right = table->headings[c][0] == '>';
        print_cell(table->headings[c] + right, widths[c], right, c + 1 == n, NULL, ret);
    }
    for (size_t i = 0; i < table->n_cells; i++) {
        int c = (int)(i % (size_t)n);
        bool state = color && strcmp(table->headings[c], "STATE") == 0;
        print_cell(table->cells[i], widths[c], table->headings[c][0] == '>', c + 1 == n,
                   state ? color_of(table->cells[i]) : NULL, ret);
    }
}
