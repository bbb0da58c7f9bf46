#include "engine/data/jinja.h"
#include "engine/data/jinja_filter.h"
#include "engine/data/jinja_operate.h"
#include "engine/data/jinja_parse.h"
#include "engine/data/jinja_test.h"
#include "engine/data/jinja_text.h"

#include <time.h>

struct jinja {
    struct arena arena;
    char *name;
    struct jinja_node *statements;
};

struct variable {
    const char *name;
    struct jinja_value value;
    struct variable *next;
};

struct scope {
    struct scope *parent;
    struct variable *variables;
};

struct renderer {
    struct jinja_run run;
    struct scope root, *scope;
    struct jinja_builder *out;
};

/* How a statement ended. */
enum { NEXT = 0, BREAK = 1, CONTINUE = 2 };

static int eval(struct renderer *x, const struct jinja_node *node, struct jinja_value *ret);
static int execute(struct renderer *x, const struct jinja_node *list);

int jinja_new(const char *text, size_t n_bytes, const char *name, struct jinja **ret,
              struct hai_err *err) {
    _cleanup_(jinja_freep) struct jinja *j = hai_new(struct jinja);

    j->name = hai_strdup(name);
    int r = jinja_parse(text, n_bytes, j->name, &j->arena, &j->statements, err);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(j);
    return 0;
}

void jinja_free(struct jinja *j) {
    if (!j)
        return;
    arena_free(&j->arena);
    free(j->name);
    free(j);
}

static struct variable *variable_in(struct scope *scope, const char *name) {
    for (struct variable *v = scope->variables; v; v = v->next)
        if (hai_streq(v->name, name))
            return v;
    return NULL;
}

static struct variable *variable_find(struct renderer *x, const char *name) {
    for (struct scope *s = x->scope; s; s = s->parent) {
        struct variable *v = variable_in(s, name);
        if (v)
            return v;
    }
    return NULL;
}

static void variable_set(struct renderer *x, const char *name, struct jinja_value value) {
    struct variable *v = variable_in(x->scope, name);

    if (!v) {
        v = arena_alloc(&x->run.arena, sizeof *v);
        v->name = name;
        v->next = x->scope->variables;
        x->scope->variables = v;
    }
    v->value = value;
}

/* An expression that prints, as text. */
static int capture(struct renderer *x, const struct jinja_node *list, struct jinja_value *ret) {
    _cleanup_(jinja_value_builder_free) struct jinja_builder b = {0};
    struct jinja_builder *out = x->out;

    x->out = &b;
    int r = execute(x, list);
    x->out = out;
    if (r >= 0)
        *ret = jinja_value_built(&x->run, &b);
    return r;
}

static int eval_arguments(struct renderer *x, const struct jinja_node *list,
                          struct jinja_args *ret) {
    int r = 0;

    ret->n = 0;
    for (; r == 0 && list; list = list->next) {
        if (ret->n == JINJA_ARGS_MAX)
            return jinja_value_fail(&x->run, -E2BIG, "more than %d arguments", JINJA_ARGS_MAX);
        ret->keywords[ret->n] = list->keyword;
        r = eval(x, list->a, &ret->values[ret->n++]);
    }
    return r;
}

/* Give a macro's parameters their values in the scope that is entered. */
static int bind(struct renderer *x, const struct jinja_node *macro, const struct jinja_args *args) {
    size_t at = 0, n_used = 0;
    int r = 0;

    for (const struct jinja_node *p = macro->targets; r == 0 && p; p = p->next, at++) {
        const struct jinja_value *given = NULL;
        for (size_t i = 0; i < args->n; i++)
            if (args->keywords[i] ? hai_streq(args->keywords[i], p->name) : i == at) {
                given = &args->values[i];
                n_used++;
            }
        struct jinja_value v = jinja_value_undefined(p->name);
        if (!given && p->a)
            r = eval(x, p->a, &v);
        variable_set(x, p->name, given ? *given : v);
    }
    if (r == 0 && n_used != args->n)
        r = jinja_value_fail(&x->run, -EINVAL, "macro '%s' is given arguments that it has not",
                             macro->name);
    return r;
}

static int call_macro(struct renderer *x, const struct jinja_node *macro,
                      const struct jinja_args *args, struct jinja_value *ret) {
    struct scope scope = {&x->root, NULL}, *outer = x->scope;

    x->scope = &scope;
    int r = bind(x, macro, args);
    if (r == 0)
        r = capture(x, macro->list, ret);
    x->scope = outer;
    return r;
}

static int call_range(struct renderer *x, const struct jinja_args *args, struct jinja_value *ret) {
    int64_t from = 0, to = 0, step = 1;
    int r = 0;

    for (size_t i = 0; i < args->n; i++)
        if (args->values[i].kind != JINJA_INT || args->keywords[i])
            return jinja_value_fail(&x->run, -EINVAL, "'range' takes whole numbers");
    if (args->n < 1 || args->n > 3)
        return jinja_value_fail(&x->run, -EINVAL, "'range' takes one to three numbers");
    to = args->values[args->n > 1].integer;
    from = args->n > 1 ? args->values[0].integer : 0;
    step = args->n > 2 ? args->values[2].integer : 1;
    if (!step)
        return jinja_value_fail(&x->run, -EINVAL, "'range' with steps of 0");
    *ret = jinja_value_list(&x->run);
    for (int64_t i = from; r == 0 && (step > 0 ? i < to : i > to);) {
        r = jinja_value_append(&x->run, ret->list, jinja_value_int(i));
        if (__builtin_add_overflow(i, step, &i))
            break;
    }
    return r;
}

static int call_dict(struct renderer *x, const struct jinja_args *args, enum jinja_kind kind,
                     struct jinja_value *ret) {
    int r = 0;

    *ret = jinja_value_dict(&x->run, kind);
    for (size_t i = 0; r == 0 && i < args->n; i++) {
        const struct jinja_value *v = &args->values[i];
        if (args->keywords[i])
            r = jinja_value_set(&x->run, ret->dict, jinja_value_text(args->keywords[i]), *v);
        else if (v->kind != JINJA_DICT)
            return jinja_value_fail(&x->run, -EINVAL, "'dict' and 'namespace' take name=value");
        for (size_t j = 0; !args->keywords[i] && r == 0 && j < v->dict->n; j++)
            r = jinja_value_set(&x->run, ret->dict, v->dict->members[j].key,
                                v->dict->members[j].value);
    }
    return r;
}

static int call_raise(struct renderer *x, const struct jinja_args *args) {
    struct jinja_string why = {"", NULL, 0};

    if (args->n)
        (void)jinja_args_string(&x->run, "raise_exception", &args->values[0], &why);
    return jinja_value_fail(&x->run, -EINVAL, "the template says: %.*s",
                            (int)MIN(why.n_bytes, (size_t)300), why.text);
}

static int call_time(struct renderer *x, const struct jinja_args *args, struct jinja_value *ret) {
    char text[256], format[64];
    time_t now = (time_t)x->run.now_s;
    struct jinja_string s = {0};
    struct tm tm;

    if (x->run.now_s < 0)
        return jinja_value_fail(&x->run, -ENOTSUP, "'strftime_now': no time is given");
    int r = args->n == 1 ? jinja_args_string(&x->run, "strftime_now", &args->values[0], &s) : 0;
    if (r < 0 || !s.text || s.n_bytes >= sizeof format)
        return jinja_value_fail(&x->run, -EINVAL, "'strftime_now' takes one short text");
    memcpy(format, s.text, s.n_bytes);
    format[s.n_bytes] = 0;
    gmtime_r(&now, &tm);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    size_t n = strftime(text, sizeof text, format, &tm);
#pragma GCC diagnostic pop
    *ret = jinja_value_text(arena_strndup(&x->run.arena, text, n));
    return 0;
}

static int call_named(struct renderer *x, const char *name, const struct jinja_args *args,
                      struct jinja_value *ret) {
    if (hai_streq(name, "range"))
        return call_range(x, args, ret);
    if (hai_streq(name, "namespace"))
        return call_dict(x, args, JINJA_NAMESPACE, ret);
    if (hai_streq(name, "dict"))
        return call_dict(x, args, JINJA_DICT, ret);
    if (hai_streq(name, "raise_exception"))
        return call_raise(x, args);
    if (hai_streq(name, "strftime_now"))
        return call_time(x, args, ret);
    return jinja_value_fail(&x->run, -ENOTSUP, "function '%.60s' is not built in", name);
}

static bool is_function(const struct renderer *x, const char *name) {
    static const char *const names[] = {"range", "namespace", "dict", "raise_exception"};

    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (hai_streq(name, names[i]))
            return true;
    return hai_streq(name, "strftime_now") && x->run.now_s >= 0;
}

static int undefined(struct renderer *x, const struct jinja_value *v, const char *wanted) {
    return jinja_value_fail(&x->run, -EINVAL, "'%.60s' is undefined; its '%.60s' is asked for",
                            v->name ? v->name : "a value", wanted);
}

static int eval_call(struct renderer *x, const struct jinja_node *node, struct jinja_value *ret) {
    const struct jinja_node *callee = node->a;
    struct jinja_args args;
    struct jinja_value self;
    int r = eval_arguments(x, node->list, &args);

    if (r < 0)
        return r;
    if (callee->type == JINJA_NAME && !variable_find(x, callee->name))
        return call_named(x, callee->name, &args, ret);
    if (callee->type == JINJA_ATTRIBUTE) {
        r = eval(x, callee->a, &self);
        if (r < 0)
            return r;
        if (self.kind == JINJA_UNDEFINED)
            return undefined(x, &self, callee->name);
        const struct jinja_builtin *method =
            self.kind == JINJA_STRING ? jinja_text_method(callee->name)
            : self.kind == JINJA_DICT ? jinja_filter_dict_method(callee->name)
                                      : NULL;
        if (!method)
            return jinja_value_fail(&x->run, -ENOTSUP, "method '%.60s' of %s is not built in",
                                    callee->name, jinja_value_kind_name(&self));
        return jinja_args_call(&x->run, "method", method, &self, &args, ret);
    }
    r = eval(x, callee, &self);
    if (r == 0 && (self.kind != JINJA_MACRO || !self.macro))
        return jinja_value_fail(&x->run, -EINVAL, "%s cannot be called",
                                jinja_value_kind_name(&self));
    return r < 0 ? r : call_macro(x, self.macro, &args, ret);
}

static int eval_item(struct renderer *x, const struct jinja_node *node, struct jinja_value *ret) {
    struct jinja_value whole, key;
    int r = eval(x, node->a, &whole);

    if (r == 0)
        r = eval(x, node->b, &key);
    if (r < 0)
        return r;
    if (whole.kind == JINJA_UNDEFINED)
        return undefined(x, &whole, key.kind == JINJA_STRING ? key.string.text : "element");
    return jinja_operate_item(&x->run, &whole, &key, ret);
}

static int eval_bound(struct renderer *x, const struct jinja_node *node, bool *ret_given,
                      int64_t *ret) {
    struct jinja_value v = jinja_value_none();
    int r = node ? eval(x, node, &v) : 0;

    *ret_given = v.kind != JINJA_NONE;
    if (r == 0 && *ret_given && v.kind != JINJA_INT)
        return jinja_value_fail(&x->run, -EINVAL, "a slice by %s", jinja_value_kind_name(&v));
    if (*ret_given)
        *ret = v.integer;
    return r;
}

static int eval_slice(struct renderer *x, const struct jinja_node *node, struct jinja_value *ret) {
    struct jinja_slice slice = {.step = 1};
    struct jinja_value whole;
    bool has_step;
    int r = eval(x, node->a, &whole);

    if (r == 0)
        r = eval_bound(x, node->b, &slice.has_from, &slice.from);
    if (r == 0)
        r = eval_bound(x, node->c, &slice.has_to, &slice.to);
    if (r == 0)
        r = eval_bound(x, node->d, &has_step, &slice.step);
    return r < 0 ? r : jinja_operate_slice(&x->run, &whole, &slice, ret);
}

static int eval_binary(struct renderer *x, const struct jinja_node *node, struct jinja_value *ret) {
    struct jinja_value a, b;
    int r = eval(x, node->a, &a);

    if (r == 0)
        r = eval(x, node->b, &b);
    return r < 0 ? r : jinja_operate(&x->run, node->op, &a, &b, ret);
}

static int eval_compare(struct renderer *x, const struct jinja_node *node,
                        struct jinja_value *ret) {
    struct jinja_value a, b;
    int r = eval(x, node->a, &a), holds = 1;

    for (const struct jinja_node *side = node->list; r == 0 && holds && side; side = side->next) {
        r = eval(x, side->b, &b);
        if (r == 0)
            r = holds = jinja_operate_compare(&x->run, side->op, &a, &b);
        r = MIN(r, 0);
        a = b;
    }
    *ret = jinja_value_bool(holds > 0);
    return r;
}

static int eval_logic(struct renderer *x, const struct jinja_node *node, struct jinja_value *ret) {
    int r = eval(x, node->a, ret);
    bool truth = r == 0 && jinja_value_truth(ret);

    switch (node->type) {
    case JINJA_NOT:
        *ret = jinja_value_bool(!truth);
        return r;
    case JINJA_AND:
    case JINJA_OR:
        return r == 0 && truth == (node->type == JINJA_AND) ? eval(x, node->b, ret) : r;
    default:
        if (r < 0)
            return r;
        if (truth)
            return eval(x, node->b, ret);
        *ret = jinja_value_undefined(NULL);
        return node->c ? eval(x, node->c, ret) : 0;
    }
}

static int eval_sign(struct renderer *x, const struct jinja_node *node, struct jinja_value *ret) {
    static const struct jinja_value zero = {.kind = JINJA_INT};
    struct jinja_value v;
    int r = eval(x, node->a, &v);

    if (r < 0)
        return r;
    if (v.kind != JINJA_INT && v.kind != JINJA_REAL)
        return jinja_value_fail(&x->run, -EINVAL, "the sign of %s", jinja_value_kind_name(&v));
    *ret = v;
    if (node->type == JINJA_PLUS)
        return 0;
    if (v.kind == JINJA_INT)
        return jinja_operate(&x->run, '-', &zero, &v, ret);
    ret->real = -v.real;
    return 0;
}

static int eval_list(struct renderer *x, const struct jinja_node *node, struct jinja_value *ret) {
    struct jinja_value v, key;
    int r = 0;

    *ret = node->type == JINJA_LIST_OF ? jinja_value_list(&x->run)
                                       : jinja_value_dict(&x->run, JINJA_DICT);
    if (node->type == JINJA_LIST_OF)
        ret->list->is_tuple = node->flag;
    for (const struct jinja_node *e = node->list; r == 0 && e; e = e->next) {
        r = eval(x, e, &v);
        if (r == 0 && node->type == JINJA_LIST_OF)
            r = jinja_value_append(&x->run, ret->list, v);
        else if (r == 0) {
            key = v;
            e = e->next;
            r = eval(x, e, &v);
            if (r == 0)
                r = jinja_value_set(&x->run, ret->dict, key, v);
        }
    }
    return r;
}

static int eval_attribute(struct renderer *x, const struct jinja_node *node,
                          struct jinja_value *ret) {
    struct jinja_value whole;
    int r = eval(x, node->a, &whole);

    if (r < 0)
        return r;
    if (whole.kind == JINJA_UNDEFINED)
        return undefined(x, &whole, node->name);
    const struct jinja_value *v = jinja_value_get(&whole, node->name, strlen(node->name));
    *ret = v ? *v : jinja_value_undefined(node->name);
    return 0;
}

/* A filter or a test; both take arguments. */
static int eval_piped(struct renderer *x, const struct jinja_node *node, struct jinja_value *ret) {
    struct jinja_value v;
    struct jinja_args args;
    int r = eval(x, node->a, &v);

    if (r == 0)
        r = eval_arguments(x, node->list, &args);
    if (r < 0)
        return r;
    if (node->type == JINJA_FILTER)
        return jinja_filter(&x->run, node->name, &v, &args, ret);
    r = jinja_test(&x->run, node->name, &v, &args);
    *ret = jinja_value_bool((r > 0) != node->flag);
    return MIN(r, 0);
}

static int eval_name(struct renderer *x, const struct jinja_node *node, struct jinja_value *ret) {
    const struct variable *v = variable_find(x, node->name);

    *ret = v                            ? v->value
           : is_function(x, node->name) ? (struct jinja_value){.kind = JINJA_MACRO}
                                        : jinja_value_undefined(node->name);
    return 0;
}

static int eval_inner(struct renderer *x, const struct jinja_node *node, struct jinja_value *ret) {
    switch (node->type) {
    case JINJA_CONSTANT:
        *ret = node->value;
        return 0;
    case JINJA_NAME:
        return eval_name(x, node, ret);
    case JINJA_LIST_OF:
    case JINJA_DICT_OF:
        return eval_list(x, node, ret);
    case JINJA_ATTRIBUTE:
        return eval_attribute(x, node, ret);
    case JINJA_ITEM:
        return eval_item(x, node, ret);
    case JINJA_SLICE:
        return eval_slice(x, node, ret);
    case JINJA_CALL:
        return eval_call(x, node, ret);
    case JINJA_FILTER:
    case JINJA_TEST:
        return eval_piped(x, node, ret);
    case JINJA_NEGATE:
    case JINJA_PLUS:
        return eval_sign(x, node, ret);
    case JINJA_NOT:
    case JINJA_AND:
    case JINJA_OR:
    case JINJA_CONDITION:
        return eval_logic(x, node, ret);
    case JINJA_BINARY:
        return eval_binary(x, node, ret);
    default:
        assert(node->type == JINJA_COMPARE);
        return eval_compare(x, node, ret);
    }
}

static int eval(struct renderer *x, const struct jinja_node *node, struct jinja_value *ret) {
    int r = jinja_value_step(&x->run, 0);

    x->run.line = node->line;
    if (r == 0 && ++x->run.depth > JINJA_DEPTH_MAX)
        r = jinja_value_fail(&x->run, -E2BIG, "nested too deep");
    if (r == 0)
        r = eval_inner(x, node, ret);
    x->run.depth--;
    return r;
}

/* One name takes the value, several take the elements of a list. */
static int assign(struct renderer *x, const struct jinja_node *targets,
                  const struct jinja_value *v) {
    size_t n = 0;

    if (!targets->next) {
        variable_set(x, targets->name, *v);
        return 0;
    }
    for (const struct jinja_node *t = targets; t; t = t->next, n++)
        if (v->kind == JINJA_LIST && n < v->list->n)
            variable_set(x, t->name, v->list->items[n]);
    if (v->kind != JINJA_LIST || n != v->list->n)
        return jinja_value_fail(&x->run, -EINVAL,
                                "%zu names for a value that is no list of so many", n);
    return 0;
}

enum {
    LOOP_INDEX,
    LOOP_INDEX0,
    LOOP_FIRST,
    LOOP_LAST,
    LOOP_LENGTH,
    LOOP_REVINDEX,
    LOOP_REVINDEX0,
    LOOP_PREVIOUS,
    LOOP_NEXT,
    LOOP_COUNT
};

static int loop_make(struct renderer *x, struct jinja_value *ret) {
    static const char *const names[LOOP_COUNT] = {"index",     "index0",   "first",
                                                  "last",      "length",   "revindex",
                                                  "revindex0", "previtem", "nextitem"};
    int r = 0;

    *ret = jinja_value_dict(&x->run, JINJA_DICT);
    for (int i = 0; r == 0 && i < LOOP_COUNT; i++)
        r = jinja_value_set(&x->run, ret->dict, jinja_value_text(names[i]), jinja_value_none());
    return r;
}

static void loop_set(struct jinja_dict *loop, const struct jinja_list *items, size_t i) {
    const int64_t at = (int64_t)i, n = (int64_t)items->n;
    const struct jinja_value none = jinja_value_undefined("a neighbour in the loop");
    const struct jinja_value values[LOOP_COUNT] = {
        [LOOP_INDEX] = jinja_value_int(at + 1),
        [LOOP_INDEX0] = jinja_value_int(at),
        [LOOP_FIRST] = jinja_value_bool(!i),
        [LOOP_LAST] = jinja_value_bool(at + 1 == n),
        [LOOP_LENGTH] = jinja_value_int(n),
        [LOOP_REVINDEX] = jinja_value_int(n - at),
        [LOOP_REVINDEX0] = jinja_value_int(n - at - 1),
        [LOOP_PREVIOUS] = i ? items->items[i - 1] : none,
        [LOOP_NEXT] = at + 1 < n ? items->items[i + 1] : none,
    };

    for (int j = 0; j < LOOP_COUNT; j++)
        loop->members[j].value = values[j];
}

/* The items for which the loop's condition holds. */
static int loop_choose(struct renderer *x, const struct jinja_node *node,
                       struct jinja_value *items) {
    struct jinja_value chosen = jinja_value_list(&x->run), truth;
    int r = 0;

    for (size_t i = 0; r == 0 && i < items->list->n; i++) {
        struct scope scope = {x->scope, NULL};
        x->scope = &scope;
        r = assign(x, node->targets, &items->list->items[i]);
        if (r == 0)
            r = eval(x, node->b, &truth);
        x->scope = scope.parent;
        if (r == 0 && jinja_value_truth(&truth))
            r = jinja_value_append(&x->run, chosen.list, items->list->items[i]);
    }
    *items = chosen;
    return r;
}

static int execute_for(struct renderer *x, const struct jinja_node *node) {
    struct jinja_value v, items, loop;
    int r = eval(x, node->a, &v);

    if (r == 0)
        r = jinja_value_items(&x->run, &v, &items);
    if (r == 0 && node->b)
        r = loop_choose(x, node, &items);
    if (r == 0)
        r = loop_make(x, &loop);
    if (r == 0 && !items.list->n)
        return execute(x, node->other);
    for (size_t i = 0; r >= 0 && r != BREAK && i < items.list->n; i++) {
        struct scope scope = {x->scope, NULL};
        x->scope = &scope;
        loop_set(loop.dict, items.list, i);
        variable_set(x, "loop", loop);
        r = jinja_value_step(&x->run, 0);
        if (r == 0)
            r = assign(x, node->targets, &items.list->items[i]);
        if (r == 0)
            r = execute(x, node->list);
        x->scope = scope.parent;
    }
    return MIN(r, 0);
}

static int execute_set(struct renderer *x, const struct jinja_node *node) {
    struct jinja_value v, whole;
    int r = node->a ? eval(x, node->a, &v) : capture(x, node->list, &v);

    if (r < 0)
        return r;
    if (node->type == JINJA_SET)
        return assign(x, node->targets, &v);
    r = eval(x, node->b, &whole);
    if (r == 0 && whole.kind != JINJA_NAMESPACE)
        return jinja_value_fail(&x->run, -EINVAL, "only a namespace's members can be set");
    return r < 0 ? r : jinja_value_set(&x->run, whole.dict, jinja_value_text(node->name), v);
}

static int execute_one(struct renderer *x, const struct jinja_node *node) {
    struct jinja_value v;
    int r;

    switch (node->type) {
    case JINJA_TEXT:
        return jinja_value_add(&x->run, x->out, node->value.string);
    case JINJA_PRINT:
        r = eval(x, node->a, &v);
        return r < 0 ? r : jinja_value_print(&x->run, x->out, &v);
    case JINJA_IF:
        r = eval(x, node->a, &v);
        return r < 0 ? r : execute(x, jinja_value_truth(&v) ? node->list : node->other);
    case JINJA_FOR:
        return execute_for(x, node);
    case JINJA_SET:
    case JINJA_SET_MEMBER:
        return execute_set(x, node);
    case JINJA_MACRO_DEF:
        variable_set(x, node->name, (struct jinja_value){.kind = JINJA_MACRO, .macro = node});
        return 0;
    case JINJA_BREAK:
        return BREAK;
    case JINJA_CONTINUE:
        return CONTINUE;
    default:
        assert(node->type == JINJA_GROUP);
        return execute(x, node->list);
    }
}

static int execute(struct renderer *x, const struct jinja_node *list) {
    int r = NEXT;

    if (++x->run.depth > JINJA_DEPTH_MAX)
        r = jinja_value_fail(&x->run, -E2BIG, "nested too deep");
    for (; r == NEXT && list; list = list->next) {
        x->run.line = list->line;
        r = jinja_value_step(&x->run, 0);
        if (r == 0)
            r = execute_one(x, list);
    }
    x->run.depth--;
    return r;
}

static int set_values(struct renderer *x, const struct json *values, uint8_t mark) {
    int r = 0;

    for (const struct json *m = json_first(values); r == 0 && m; m = json_next(m)) {
        struct jinja_value v;
        r = jinja_value_from_json(&x->run, m, mark, &v);
        if (r == 0)
            variable_set(x, json_key(m), v);
    }
    return r;
}

int jinja_render(const struct jinja *j, const struct jinja_input *input, struct buf *ret,
                 struct buf *ret_marks, struct hai_err *err) {
    _cleanup_(jinja_value_builder_free) struct jinja_builder out = {0};
    struct renderer x = {
        .run = {.name = j->name,
                .line = 1,
                .now_s = input->now_s,
                .mark_of = input->mark_of,
                .err = err},
        .out = &out
    };
    int r;

    x.scope = &x.root;
    r = set_values(&x, input->values, input->mark);
    if (r == 0)
        r = set_values(&x, input->trusted, 0);
    if (r == 0)
        r = execute(&x, j->statements);
    if (r == 0) {
        buf_add(ret, out.text.data, out.text.n_bytes);
        buf_add(ret_marks, out.marks.data, out.marks.n_bytes);
    }
    arena_free(&x.run.arena);
    return r;
}
