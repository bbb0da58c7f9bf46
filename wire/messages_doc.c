#include "wire/messages_doc.h"

#include "wire/messages.h"

static const char *type_text(enum schema_type type) {
    static const char *const texts[SCHEMA_TYPE_COUNT] = {
        [SCHEMA_I64] = "integer",
        [SCHEMA_F64] = "number",
        [SCHEMA_BOOL] = "boolean",
        [SCHEMA_TIME] = "time",
        [SCHEMA_DURATION] = "seconds",
        [SCHEMA_SIZE] = "bytes",
        [SCHEMA_STR] = "text",
        [SCHEMA_BLOB] = "hexadecimal text",
        [SCHEMA_LIST_STR] = "texts",
        [SCHEMA_LIST_I64] = "integers",
        [SCHEMA_LIST_PAIR] = "object of texts",
        [SCHEMA_JSON] = "any value",
    };
    return texts[type];
}

static void add_type(const struct schema_field *f, struct buf *ret) {
    switch (f->type) {
    case SCHEMA_ENUM:
        for (int i = 0; i < f->enums->n_texts; i++)
            buf_printf(ret, "%s`%s`", i ? ", " : "", f->enums->texts[i]);
        break;
    case SCHEMA_SUB:
        buf_printf(ret, "[%s](#%s)", f->sub()->name, f->sub()->name);
        break;
    case SCHEMA_LIST_SUB:
        buf_printf(ret, "list of [%s](#%s)", f->sub()->name, f->sub()->name);
        break;
    default:
        buf_add_str(ret, type_text(f->type));
    }
}

/* Bounds are told where they tell something: not where a number may be anything. */
static void add_bounds(const struct schema_field *f, struct buf *ret) {
    bool is_number = f->type == SCHEMA_I64 || f->type == SCHEMA_SIZE;

    if (is_number && f->max < INT64_MAX - 1)
        buf_printf(ret, "%lld to %lld", (long long)f->min, (long long)f->max);
    else if (is_number)
        buf_printf(ret, "from %lld", (long long)f->min);
    else if (f->type == SCHEMA_DURATION)
        buf_printf(ret, "%lld to %lld s", (long long)(f->min / 1000000),
                   (long long)(f->max / 1000000));
    else if (f->n_max)
        buf_printf(ret, "at most %lld", (long long)f->n_max);
    else if (f->type == SCHEMA_STR || f->type == SCHEMA_BLOB || f->type == SCHEMA_JSON)
        buf_printf(ret, "%lld bytes", (long long)f->max);
}

static void add_default(const struct schema_field *f, struct buf *ret) {
    if (f->def == S_REQUIRED)
        buf_add_str(ret, "required");
    else if (f->def == S_ABSENT)
        buf_add_str(ret, "null");
    else if (f->type == SCHEMA_BOOL)
        buf_add_str(ret, f->def ? "true" : "false");
    else if (f->type == SCHEMA_ENUM)
        buf_printf(ret, "`%s`", f->enums->texts[f->def]);
    else if (f->type == SCHEMA_DURATION)
        buf_printf(ret, "%g", (double)f->def / 1e6);
    else if (f->type < SCHEMA_STR)
        buf_printf(ret, "%lld", (long long)f->def);
}

/* The name a field has in JSON: durations are seconds there. */
static void add_name(const struct schema_field *f, struct buf *ret) {
    size_t n = strlen(f->name);

    if (f->type == SCHEMA_DURATION)
        buf_printf(ret, "`%.*s_s`", (int)n - 3, f->name);
    else
        buf_printf(ret, "`%s`", f->name);
}

void messages_doc(struct buf *ret) {
    int n;
    const struct schema *const *all = messages_all(&n);

    buf_add_str(ret, "# Messages\n\n"
                     "Made from `wire/messages.def`; the test `messages` compares. Times are ISO "
                     "8601 in UTC, what is\nabsent is null, fields are only added.\n");
    for (int i = 0; i < n; i++) {
        buf_printf(ret, "\n## %s\n\n%s.\n\n", all[i]->name, all[i]->doc);
        buf_add_str(ret, "| field | type | bounds | default | meaning |\n|---|---|---|---|---|\n");
        for (int j = 0; j < all[i]->n_fields; j++) {
            const struct schema_field *f = &all[i]->fields[j];
            buf_add_str(ret, "| ");
            add_name(f, ret);
            buf_add_str(ret, " | ");
            add_type(f, ret);
            buf_add_str(ret, " | ");
            add_bounds(f, ret);
            buf_add_str(ret, " | ");
            add_default(f, ret);
            buf_printf(ret, " | %s |\n", f->doc);
        }
    }
}
