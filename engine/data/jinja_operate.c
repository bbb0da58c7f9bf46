#include "engine/data/jinja_operate.h"
#include "engine/data/utf8.h"

#include <math.h>

/* Whole numbers stay whole and within 64 bits; / gives a real one; // and % round down. */
static int integers(struct jinja_run *run, char op, int64_t a, int64_t b, struct jinja_value *ret) {
    int64_t v = 0;
    bool bad = false;

    if (strchr("/i%", op) && (!b || (b == -1 && a == INT64_MIN)))
        return jinja_value_fail(run, -EINVAL, "a division that has no result");
    switch (op) {
    case '+':
        bad = __builtin_add_overflow(a, b, &v);
        break;
    case '-':
        bad = __builtin_sub_overflow(a, b, &v);
        break;
    case '*':
        bad = __builtin_mul_overflow(a, b, &v);
        break;
    case '/':
        *ret = (struct jinja_value){.kind = JINJA_REAL, .real = (double)a / (double)b};
        return 0;
    case 'i':
        v = a / b - (a % b != 0 && (a < 0) != (b < 0));
        break;
    default:
        v = a % b;
        v += v && (v < 0) != (b < 0) ? b : 0;
    }
    *ret = jinja_value_int(v);
    return bad ? jinja_value_fail(run, -EINVAL, "a number that is too large") : 0;
}

static int reals(struct jinja_run *run, char op, double a, double b, struct jinja_value *ret) {
    double v = op == '+'   ? a + b
               : op == '-' ? a - b
               : op == '*' ? a * b
               : op == '/' ? a / b
               : op == 'i' ? floor(a / b)
                           : a - b * floor(a / b);

    if (!isfinite(v))
        return jinja_value_fail(run, -EINVAL, "a division that has no result");
    *ret = (struct jinja_value){.kind = JINJA_REAL, .real = v};
    return 0;
}

static int join_two(struct jinja_run *run, const struct jinja_value *a, const struct jinja_value *b,
                    struct jinja_value *ret) {
    _cleanup_(jinja_value_builder_free) struct jinja_builder text = {0};
    int r = jinja_value_print(run, &text, a);

    if (r == 0)
        r = jinja_value_print(run, &text, b);
    if (r == 0)
        *ret = jinja_value_built(run, &text);
    return r;
}

static int join_lists(struct jinja_run *run, const struct jinja_list *a, const struct jinja_list *b,
                      struct jinja_value *ret) {
    int r = 0;

    *ret = jinja_value_list(run);
    for (size_t i = 0; r == 0 && i < a->n; i++)
        r = jinja_value_append(run, ret->list, a->items[i]);
    for (size_t i = 0; r == 0 && i < b->n; i++)
        r = jinja_value_append(run, ret->list, b->items[i]);
    return r;
}

int jinja_operate(struct jinja_run *run, char op, const struct jinja_value *a,
                  const struct jinja_value *b, struct jinja_value *ret) {
    if (op == '~' || (op == '+' && a->kind == JINJA_STRING && b->kind == JINJA_STRING))
        return join_two(run, a, b, ret);
    if (op == '+' && a->kind == JINJA_LIST && b->kind == JINJA_LIST)
        return join_lists(run, a->list, b->list, ret);
    if (a->kind == JINJA_INT && b->kind == JINJA_INT)
        return integers(run, op, a->integer, b->integer, ret);
    if ((a->kind == JINJA_REAL || a->kind == JINJA_INT) &&
        (b->kind == JINJA_REAL || b->kind == JINJA_INT))
        return reals(run, op, a->kind == JINJA_INT ? (double)a->integer : a->real,
                     b->kind == JINJA_INT ? (double)b->integer : b->real, ret);
    if (a->kind == JINJA_UNDEFINED || b->kind == JINJA_UNDEFINED) {
        const struct jinja_value *v = a->kind == JINJA_UNDEFINED ? a : b;
        return jinja_value_fail(run, -EINVAL, "'%.60s' is undefined",
                                v->name ? v->name : "a value");
    }
    return jinja_value_fail(run, -EINVAL, "'%s' of %s and %s is not built in",
                            op == 'i' ? "//" : (char[]){op, 0}, jinja_value_kind_name(a),
                            jinja_value_kind_name(b));
}

int jinja_operate_compare(struct jinja_run *run, char op, const struct jinja_value *a,
                          const struct jinja_value *b) {
    int order = 0, r;

    if (op == '=' || op == '!') {
        r = jinja_value_equal(run, a, b);
        return r < 0 ? r : (op == '=') == r;
    }
    if (op == 'i' || op == 'n') {
        r = jinja_value_contains(run, b, a);
        return r < 0 ? r : (op == 'i') == r;
    }
    r = jinja_value_compare(run, a, b, &order);
    return r < 0       ? r
           : op == '<' ? order < 0
           : op == '>' ? order > 0
           : op == 'l' ? order <= 0
                       : order >= 0;
}

/* Byte of a text's character; negative ones count from the end; outside: an end. */
static size_t character_at(struct jinja_string s, int64_t index) {
    size_t at = 0;
    uint32_t c;

    for (; index > 0 && at < s.n_bytes; index--)
        at += utf8_next(s.text + at, &c);
    return at;
}

static int64_t size_of(const struct jinja_value *v) {
    return v->kind == JINJA_STRING ? (int64_t)jinja_value_length(v->string)
           : v->kind == JINJA_LIST ? (int64_t)v->list->n
                                   : 0;
}

int jinja_operate_item(struct jinja_run *run, const struct jinja_value *whole,
                       const struct jinja_value *key, struct jinja_value *ret) {
    if (key->kind == JINJA_STRING) {
        const struct jinja_string s = key->string;
        const struct jinja_value *v = jinja_value_get(whole, s.text, s.n_bytes);
        *ret = v ? *v
                 : jinja_value_undefined(
                       arena_strndup(&run->arena, s.text, MIN(s.n_bytes, (size_t)60)));
        return 0;
    }
    int64_t n = size_of(whole), i = key->kind == JINJA_INT ? key->integer : n;
    *ret = jinja_value_undefined("an element");
    i = i < 0 && i >= -n ? i + n : i;
    if (i < 0 || i >= n)
        return 0;
    if (whole->kind == JINJA_LIST) {
        *ret = whole->list->items[i];
        return 0;
    }
    struct jinja_string rest = whole->string;
    rest = jinja_value_part(rest, character_at(rest, i), rest.n_bytes).string;
    *ret = jinja_value_part(rest, 0, character_at(rest, 1));
    return jinja_value_step(run, whole->string.n_bytes);
}

int jinja_operate_slice(struct jinja_run *run, const struct jinja_value *whole,
                        const struct jinja_slice *slice, struct jinja_value *ret) {
    _cleanup_(jinja_value_builder_free) struct jinja_builder b = {0};
    int64_t step = slice->step, n = size_of(whole), from = slice->from, to = slice->to;
    int64_t low = step > 0 ? 0 : -1, high = step > 0 ? n : n - 1;
    struct jinja_value items;

    if (whole->kind != JINJA_STRING && whole->kind != JINJA_LIST)
        return jinja_value_fail(run, -EINVAL, "a slice of %s", jinja_value_kind_name(whole));
    if (!step || step == INT64_MIN)
        return jinja_value_fail(run, -EINVAL, "a slice with this step");
    from = !slice->has_from ? (step > 0 ? low : high)
                            : MIN(MAX(from < 0 ? from + n : from, low), high);
    to = !slice->has_to ? (step > 0 ? high : low) : MIN(MAX(to < 0 ? to + n : to, low), high);
    if (whole->kind == JINJA_STRING && step == 1) {
        struct jinja_string rest = whole->string;
        rest = jinja_value_part(rest, character_at(rest, from), rest.n_bytes).string;
        *ret = jinja_value_part(rest, 0, character_at(rest, to - from));
        return jinja_value_step(run, whole->string.n_bytes);
    }
    int r = jinja_value_items(run, whole, &items);
    *ret = jinja_value_list(run);
    step = MIN(MAX(step, -n - 1), n + 1); // further is out as well
    for (int64_t i = from; r == 0 && (step > 0 ? i < to : i > to); i += step)
        r = whole->kind == JINJA_LIST ? jinja_value_append(run, ret->list, items.list->items[i])
                                      : jinja_value_add(run, &b, items.list->items[i].string);
    if (r == 0 && whole->kind == JINJA_STRING)
        *ret = jinja_value_built(run, &b);
    return r;
}
