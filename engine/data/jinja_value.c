#include "engine/data/jinja_value.h"
#include "engine/data/utf8.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

enum { STEP_BYTES = 16 };

int jinja_value_fail(struct jinja_run *run, int r, const char *format, ...) {
    char text[HAI_ERR_TEXT_BYTES];
    va_list ap;

    va_start(ap, format);
    (void)vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    return hai_fail(run->err, r, "%s:%d: %s", run->name, run->line, text);
}

int jinja_value_step(struct jinja_run *run, size_t n_bytes) {
    run->steps += 1 + (int64_t)(n_bytes / STEP_BYTES);
    if (run->steps > JINJA_STEPS_MAX)
        return jinja_value_fail(run, -E2BIG, "the template takes more than %d steps",
                                JINJA_STEPS_MAX);
    if (run->arena.n_bytes + n_bytes > JINJA_BYTES_MAX)
        return jinja_value_fail(run, -E2BIG, "the template needs more than %d bytes",
                                JINJA_BYTES_MAX);
    return 0;
}

void jinja_value_builder_free(struct jinja_builder *b) {
    buf_free(&b->text);
    buf_free(&b->marks);
}

int jinja_value_add(struct jinja_run *run, struct jinja_builder *b, struct jinja_string s) {
    int r = jinja_value_step(run, s.n_bytes + b->text.n_bytes / 1024);

    if (r < 0)
        return r;
    if (b->text.n_bytes + s.n_bytes > JINJA_BYTES_MAX)
        return jinja_value_fail(run, -E2BIG, "a text of more than %d bytes", JINJA_BYTES_MAX);
    buf_add(&b->text, s.text, s.n_bytes);
    if (s.marks)
        buf_add(&b->marks, s.marks, s.n_bytes);
    else if (s.n_bytes)
        memset(buf_extend(&b->marks, s.n_bytes), 0, s.n_bytes);
    return 0;
}

int jinja_value_add_text(struct jinja_run *run, struct jinja_builder *b, const char *text) {
    return jinja_value_add(run, b, jinja_value_text(text).string);
}

static const void *keep(struct jinja_run *run, const void *data, size_t n_bytes) {
    void *to = arena_alloc(&run->arena, n_bytes + 1);

    if (n_bytes)
        memcpy(to, data, n_bytes);
    return to;
}

struct jinja_value jinja_value_built(struct jinja_run *run, const struct jinja_builder *b) {
    size_t n = b->text.n_bytes, n_zero = 0;

    while (n_zero < n && !b->marks.data[n_zero])
        n_zero++;
    return (struct jinja_value){
        .kind = JINJA_STRING,
        .string = {keep(run, b->text.data, n), n_zero < n ? keep(run, b->marks.data, n) : NULL, n}
    };
}

struct jinja_value jinja_value_list(struct jinja_run *run) {
    return (struct jinja_value){.kind = JINJA_LIST,
                                .list = arena_alloc(&run->arena, sizeof(struct jinja_list))};
}

struct jinja_value jinja_value_dict(struct jinja_run *run, enum jinja_kind kind) {
    return (struct jinja_value){.kind = kind,
                                .dict = arena_alloc(&run->arena, sizeof(struct jinja_dict))};
}

/* Room for one more: the old elements are left to the arena. */
static void *grow(struct jinja_run *run, void *items, size_t n, size_t *n_max, size_t size) {
    if (n < *n_max)
        return items;
    *n_max = *n_max ? 2 * *n_max : 4;
    void *to = arena_alloc_array(&run->arena, *n_max, size);
    if (n)
        memcpy(to, items, n * size);
    return to;
}

int jinja_value_append(struct jinja_run *run, struct jinja_list *list, struct jinja_value v) {
    list->items = grow(run, list->items, list->n, &list->n_max, sizeof *list->items);
    list->items[list->n++] = v;
    return jinja_value_step(run, sizeof v);
}

static struct jinja_value *find(const struct jinja_dict *dict, const char *key, size_t n_bytes) {
    for (size_t i = 0; i < dict->n; i++) {
        const struct jinja_value *k = &dict->members[i].key;
        if (k->kind == JINJA_STRING && k->string.n_bytes == n_bytes &&
            !memcmp(k->string.text, key, n_bytes))
            return &dict->members[i].value;
    }
    return NULL;
}

int jinja_value_set(struct jinja_run *run, struct jinja_dict *dict, struct jinja_value key,
                    struct jinja_value v) {
    int r = jinja_value_step(run, sizeof v + dict->n);

    if (r < 0)
        return r;
    if (key.kind != JINJA_STRING)
        return jinja_value_fail(run, -ENOTSUP, "keys of a dict that are no text are not built in");
    struct jinja_value *old = find(dict, key.string.text, key.string.n_bytes);
    if (old) {
        *old = v;
        return 0;
    }
    dict->members = grow(run, dict->members, dict->n, &dict->n_max, sizeof *dict->members);
    dict->members[dict->n++] = (struct jinja_member){key, v};
    return 0;
}

const struct jinja_value *jinja_value_get(const struct jinja_value *v, const char *key,
                                          size_t n_bytes) {
    return v->kind == JINJA_DICT || v->kind == JINJA_NAMESPACE ? find(v->dict, key, n_bytes) : NULL;
}

static struct jinja_value marked(struct jinja_run *run, const char *text, size_t n_bytes,
                                 uint8_t mark) {
    uint8_t *marks = NULL;

    if (mark && n_bytes) {
        marks = arena_alloc(&run->arena, n_bytes);
        memset(marks, mark, n_bytes);
    }
    return (struct jinja_value){
        .kind = JINJA_STRING, .string = {keep(run, text, n_bytes), marks, n_bytes}
    };
}

static int members_from_json(struct jinja_run *run, const struct json *json, uint8_t mark,
                             struct jinja_value *ret) {
    bool is_list = json_kind(json) == JSON_KIND_ARRAY;
    int r = 0;

    if (!is_list && mark && run->mark_of)
        mark = run->mark_of(json, mark);
    *ret = is_list ? jinja_value_list(run) : jinja_value_dict(run, JINJA_DICT);
    for (const struct json *m = json_first(json); m && r == 0; m = json_next(m)) {
        struct jinja_value v;
        r = jinja_value_from_json(run, m, mark, &v);
        if (r == 0)
            r = is_list ? jinja_value_append(run, ret->list, v)
                        : jinja_value_set(run, ret->dict,
                                          marked(run, json_key(m), json_key_bytes(m), mark), v);
    }
    return r;
}

int jinja_value_from_json(struct jinja_run *run, const struct json *json, uint8_t mark,
                          struct jinja_value *ret) {
    switch (json_kind(json)) {
    case JSON_KIND_BOOL:
        *ret = jinja_value_bool(json_as_bool(json));
        return 0;
    case JSON_KIND_INT:
        *ret = jinja_value_int(json_as_int(json));
        return 0;
    case JSON_KIND_REAL:
        *ret = (struct jinja_value){.kind = JINJA_REAL, .real = json_as_real(json)};
        return 0;
    case JSON_KIND_STRING:
        *ret = marked(run, json_as_string(json), json_as_string_bytes(json), mark);
        return jinja_value_step(run, json_as_string_bytes(json));
    case JSON_KIND_ARRAY:
    case JSON_KIND_OBJECT:
        return members_from_json(run, json, mark, ret);
    default:
        *ret = jinja_value_none();
        return 0;
    }
}

bool jinja_value_truth(const struct jinja_value *v) {
    switch (v->kind) {
    case JINJA_BOOL:
        return v->boolean;
    case JINJA_INT:
        return v->integer != 0;
    case JINJA_REAL:
        return v->real != 0;
    case JINJA_STRING:
        return v->string.n_bytes > 0;
    case JINJA_LIST:
        return v->list->n > 0;
    case JINJA_DICT:
        return v->dict->n > 0;
    case JINJA_NAMESPACE:
    case JINJA_MACRO:
        return true;
    default:
        return false;
    }
}

const char *jinja_value_kind_name(const struct jinja_value *v) {
    static const char *const names[JINJA_KIND_COUNT] = {
        [JINJA_UNDEFINED] = "undefined",   [JINJA_NONE] = "none",
        [JINJA_BOOL] = "a boolean",        [JINJA_INT] = "a whole number",
        [JINJA_REAL] = "a number",         [JINJA_STRING] = "text",
        [JINJA_LIST] = "a list",           [JINJA_DICT] = "a dict",
        [JINJA_NAMESPACE] = "a namespace", [JINJA_MACRO] = "a macro",
    };
    return names[v->kind];
}

bool jinja_value_is(const struct jinja_value *v, const char *text) {
    return v->kind == JINJA_STRING && v->string.n_bytes == strlen(text) &&
           !memcmp(v->string.text, text, v->string.n_bytes);
}

static bool is_number(const struct jinja_value *v) {
    return v->kind == JINJA_BOOL || v->kind == JINJA_INT || v->kind == JINJA_REAL;
}

static double number_of(const struct jinja_value *v) {
    return v->kind == JINJA_BOOL ? v->boolean : v->kind == JINJA_INT ? (double)v->integer : v->real;
}

static int compare_numbers(const struct jinja_value *a, const struct jinja_value *b) {
    if (a->kind == JINJA_INT && b->kind == JINJA_INT)
        return (a->integer > b->integer) - (a->integer < b->integer);
    double x = number_of(a), y = number_of(b);
    return (x > y) - (x < y);
}

static int compare_strings(struct jinja_string a, struct jinja_string b) {
    size_t n = MIN(a.n_bytes, b.n_bytes);
    int c = n ? memcmp(a.text, b.text, n) : 0;

    return c ? c : (a.n_bytes > b.n_bytes) - (a.n_bytes < b.n_bytes);
}

static int equal_lists(struct jinja_run *run, const struct jinja_list *a,
                       const struct jinja_list *b) {
    int r = a->n == b->n;

    for (size_t i = 0; r == 1 && i < a->n; i++)
        r = jinja_value_equal(run, &a->items[i], &b->items[i]);
    return r;
}

static int equal_dicts(struct jinja_run *run, const struct jinja_dict *a,
                       const struct jinja_dict *b) {
    int r = a->n == b->n;

    for (size_t i = 0; r == 1 && i < a->n; i++) {
        const struct jinja_string *key = &a->members[i].key.string;
        const struct jinja_value *other = find(b, key->text, key->n_bytes);
        r = other ? jinja_value_equal(run, &a->members[i].value, other) : 0;
    }
    return r;
}

int jinja_value_equal(struct jinja_run *run, const struct jinja_value *a,
                      const struct jinja_value *b) {
    int r = jinja_value_step(run, a->kind == JINJA_STRING ? a->string.n_bytes : 0);

    if (r == 0 && run->depth >= JINJA_DEPTH_MAX)
        r = jinja_value_fail(run, -E2BIG, "values are nested too deep");
    if (r < 0)
        return r;
    if (is_number(a) && is_number(b))
        return compare_numbers(a, b) == 0;
    if (a->kind != b->kind)
        return 0;
    run->depth++;
    r = a->kind == JINJA_STRING      ? compare_strings(a->string, b->string) == 0
        : a->kind == JINJA_LIST      ? equal_lists(run, a->list, b->list)
        : a->kind == JINJA_DICT      ? equal_dicts(run, a->dict, b->dict)
        : a->kind == JINJA_NAMESPACE ? a->dict == b->dict
        : a->kind == JINJA_MACRO     ? a->macro == b->macro
                                     : 1;
    run->depth--;
    return r;
}

int jinja_value_compare(struct jinja_run *run, const struct jinja_value *a,
                        const struct jinja_value *b, int *ret) {
    if (is_number(a) && is_number(b))
        *ret = compare_numbers(a, b);
    else if (a->kind == JINJA_STRING && b->kind == JINJA_STRING)
        *ret = compare_strings(a->string, b->string);
    else
        return jinja_value_fail(run, -EINVAL, "%s and %s have no order", jinja_value_kind_name(a),
                                jinja_value_kind_name(b));
    return jinja_value_step(run, 0);
}

int jinja_value_contains(struct jinja_run *run, const struct jinja_value *whole,
                         const struct jinja_value *part) {
    int r = 0;

    switch (whole->kind) {
    case JINJA_STRING:
        if (part->kind != JINJA_STRING)
            break;
        r = jinja_value_step(run, whole->string.n_bytes);
        return r < 0 ? r
                     : !part->string.n_bytes ||
                           memmem(whole->string.text, whole->string.n_bytes, part->string.text,
                                  part->string.n_bytes) != NULL;
    case JINJA_LIST:
        for (size_t i = 0; r == 0 && i < whole->list->n; i++)
            r = jinja_value_equal(run, &whole->list->items[i], part);
        return r;
    case JINJA_DICT:
        return part->kind == JINJA_STRING &&
               find(whole->dict, part->string.text, part->string.n_bytes) != NULL;
    case JINJA_UNDEFINED:
        return 0;
    default:
        break;
    }
    return jinja_value_fail(run, -EINVAL, "'in' looks for %s in %s", jinja_value_kind_name(part),
                            jinja_value_kind_name(whole));
}

int jinja_value_items(struct jinja_run *run, const struct jinja_value *v, struct jinja_value *ret) {
    struct jinja_value list = jinja_value_list(run);
    int r = 0;
    uint32_t c;

    switch (v->kind) {
    case JINJA_LIST:
        *ret = *v;
        return 0;
    case JINJA_DICT:
        for (size_t i = 0; r == 0 && i < v->dict->n; i++)
            r = jinja_value_append(run, list.list, v->dict->members[i].key);
        break;
    case JINJA_STRING:
        for (size_t at = 0, to; r == 0 && at < v->string.n_bytes; at = to) {
            to = at + utf8_next(v->string.text + at, &c);
            r = jinja_value_append(run, list.list, jinja_value_part(v->string, at, to));
        }
        break;
    case JINJA_UNDEFINED:
        break;
    default:
        return jinja_value_fail(run, -EINVAL, "%s cannot be walked", jinja_value_kind_name(v));
    }
    *ret = list;
    return r;
}

/* As Python writes a number: the fewest digits that read back the same. */
static void real_text(double v, char ret[40]) {
    if (!isfinite(v)) {
        strcpy(ret, isnan(v) ? "nan" : v < 0 ? "-inf" : "inf");
        return;
    }
    for (int digits = 1; digits <= 17; digits++) {
        (void)snprintf(ret, 32, "%.*g", digits, v);
        if (strtod(ret, NULL) == v)
            break;
    }
    double size = fabs(v);
    if (size >= 1e16 || (size && size < 1e-4))
        return;
    if (strchr(ret, 'e'))
        (void)snprintf(ret, 40, "%.0f", v);
    if (!strchr(ret, '.'))
        strcat(ret, ".0");
}

static int add_number(struct jinja_run *run, struct jinja_builder *b, const struct jinja_value *v) {
    char text[40];

    if (v->kind == JINJA_INT)
        (void)snprintf(text, sizeof text, "%lld", (long long)v->integer);
    else
        real_text(v->real, text);
    return jinja_value_add_text(run, b, text);
}

/* A text in quotes, with what must not stand there as it is replaced by `escape`. */
static int add_quoted(struct jinja_run *run, struct jinja_builder *b, struct jinja_string s,
                      char quote, bool json) {
    static const char names[] = {['\b'] = 'b', ['\f'] = 'f', ['\n'] = 'n',  ['\r'] = 'r',
                                 ['\t'] = 't', ['"'] = '"',  ['\''] = '\'', ['\\'] = '\\'};
    char quotes[] = {quote, 0};
    int r = jinja_value_add_text(run, b, quotes);
    size_t done = 0;

    for (size_t at = 0; r == 0 && at < s.n_bytes; at++) {
        uint8_t c = (uint8_t)s.text[at];
        if (c >= 0x20 && c != (uint8_t)quote && c != '\\' && (json || c != 0x7F))
            continue;
        char escaped[8] = {'\\', c < sizeof names ? names[c] : 0};
        if (!escaped[1] || (!json && (c == '\b' || c == '\f')))
            (void)snprintf(escaped, sizeof escaped, json ? "\\u%04x" : "\\x%02x", c);
        r = jinja_value_add(run, b, jinja_value_part(s, done, at).string);
        if (r == 0)
            r = jinja_value_add_text(run, b, escaped);
        done = at + 1;
    }
    if (r == 0)
        r = jinja_value_add(run, b, jinja_value_part(s, done, s.n_bytes).string);
    return r < 0 ? r : jinja_value_add_text(run, b, quotes);
}

/* How a list or dict is written. */
struct layout {
    bool json, sorted;
    int indent; // negative: one line
};

static int add_value(struct jinja_run *run, struct jinja_builder *b, const struct jinja_value *v,
                     const struct layout *l, int level);

static int add_break(struct jinja_run *run, struct jinja_builder *b, const struct layout *l,
                     int level) {
    int r = l->indent < 0 ? 0 : jinja_value_add_text(run, b, "\n");

    for (int i = 0; r == 0 && l->indent > 0 && i < l->indent * level; i++)
        r = jinja_value_add_text(run, b, " ");
    return r;
}

static int by_key(const void *a, const void *b) {
    return compare_strings((*(const struct jinja_member *const *)a)->key.string,
                           (*(const struct jinja_member *const *)b)->key.string);
}

static int add_members(struct jinja_run *run, struct jinja_builder *b, const struct jinja_value *v,
                       const struct layout *l, int level) {
    bool is_list = v->kind == JINJA_LIST, is_tuple = is_list && v->list->is_tuple && !l->json;
    size_t n = is_list ? v->list->n : v->dict->n;
    int r = jinja_value_add_text(run, b, is_tuple ? "(" : is_list ? "[" : "{");
    _cleanup_free_ const struct jinja_member **order =
        hai_new_array(const struct jinja_member *, n);

    for (size_t i = 0; !is_list && i < n; i++)
        order[i] = &v->dict->members[i];
    if (!is_list && l->sorted && n)
        qsort(order, n, sizeof *order, by_key);
    for (size_t i = 0; r == 0 && i < n; i++) {
        if (i)
            r = jinja_value_add_text(run, b, l->indent < 0 ? ", " : ",");
        if (r == 0)
            r = add_break(run, b, l, level + 1);
        if (r == 0 && !is_list) {
            r = add_value(run, b, &order[i]->key, l, level + 1);
            if (r == 0)
                r = jinja_value_add_text(run, b, ": ");
        }
        if (r == 0)
            r = add_value(run, b, is_list ? &v->list->items[i] : &order[i]->value, l, level + 1);
    }
    if (r == 0 && n)
        r = add_break(run, b, l, level);
    if (r < 0)
        return r;
    return jinja_value_add_text(run, b, is_tuple ? (n == 1 ? ",)" : ")") : is_list ? "]" : "}");
}

static int add_value(struct jinja_run *run, struct jinja_builder *b, const struct jinja_value *v,
                     const struct layout *l, int level) {
    static const char *const words[2][3] = {
        {"None", "False", "True"},
        {"null", "false", "true"}
    };

    if (run->depth + level > JINJA_DEPTH_MAX)
        return jinja_value_fail(run, -E2BIG, "values are nested too deep");
    switch (v->kind) {
    case JINJA_NONE:
        return jinja_value_add_text(run, b, words[l->json][0]);
    case JINJA_BOOL:
        return jinja_value_add_text(run, b, words[l->json][v->boolean ? 2 : 1]);
    case JINJA_INT:
    case JINJA_REAL:
        return add_number(run, b, v);
    case JINJA_STRING: {
        bool has_quote = memchr(v->string.text, '\'', v->string.n_bytes);
        bool has_both = has_quote && memchr(v->string.text, '"', v->string.n_bytes);
        return add_quoted(run, b, v->string, l->json || (has_quote && !has_both) ? '"' : '\'',
                          l->json);
    }
    case JINJA_LIST:
    case JINJA_DICT:
        return add_members(run, b, v, l, level);
    default:
        return jinja_value_fail(run, -EINVAL, "%s cannot be written", jinja_value_kind_name(v));
    }
}

int jinja_value_print(struct jinja_run *run, struct jinja_builder *b, const struct jinja_value *v) {
    static const struct layout layout = {.indent = -1};

    if (v->kind == JINJA_UNDEFINED)
        return 0;
    if (v->kind == JINJA_STRING)
        return jinja_value_add(run, b, v->string);
    return add_value(run, b, v, &layout, 0);
}

int jinja_value_json(struct jinja_run *run, struct jinja_builder *b, const struct jinja_value *v,
                     int indent, bool sorted) {
    const struct layout layout = {.json = true, .sorted = sorted, .indent = indent};

    return add_value(run, b, v, &layout, 0);
}

size_t jinja_value_length(struct jinja_string s) {
    size_t n = 0;

    for (size_t i = 0; i < s.n_bytes; i++)
        n += ((uint8_t)s.text[i] & 0xC0) != 0x80;
    return n;
}
