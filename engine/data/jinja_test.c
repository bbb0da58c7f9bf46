#include "engine/data/jinja_test.h"
#include "engine/data/jinja_operate.h"

static int is_defined(const struct jinja_value *v) {
    return v->kind != JINJA_UNDEFINED;
}

static int is_undefined(const struct jinja_value *v) {
    return v->kind == JINJA_UNDEFINED;
}

static int is_none(const struct jinja_value *v) {
    return v->kind == JINJA_NONE;
}

static int is_boolean(const struct jinja_value *v) {
    return v->kind == JINJA_BOOL;
}

static int is_true(const struct jinja_value *v) {
    return v->kind == JINJA_BOOL && v->boolean;
}

static int is_false(const struct jinja_value *v) {
    return v->kind == JINJA_BOOL && !v->boolean;
}

static int is_string(const struct jinja_value *v) {
    return v->kind == JINJA_STRING;
}

static int is_mapping(const struct jinja_value *v) {
    return v->kind == JINJA_DICT;
}

static int is_sequence(const struct jinja_value *v) {
    return v->kind == JINJA_LIST || v->kind == JINJA_DICT || v->kind == JINJA_STRING;
}

static int is_iterable(const struct jinja_value *v) {
    return is_sequence(v) || v->kind == JINJA_UNDEFINED;
}

static int is_integer(const struct jinja_value *v) {
    return v->kind == JINJA_INT;
}

static int is_float(const struct jinja_value *v) {
    return v->kind == JINJA_REAL;
}

static int is_number(const struct jinja_value *v) {
    return v->kind == JINJA_INT || v->kind == JINJA_REAL || v->kind == JINJA_BOOL;
}

static int is_callable(const struct jinja_value *v) {
    return v->kind == JINJA_MACRO;
}

static int is_odd(const struct jinja_value *v) {
    return v->kind == JINJA_INT && v->integer % 2 != 0;
}

static int is_even(const struct jinja_value *v) {
    return v->kind == JINJA_INT && v->integer % 2 == 0;
}

static const struct {
    const char *name;
    int (*test)(const struct jinja_value *v);
} plain[] = {
    {"defined",   is_defined  },
    {"undefined", is_undefined},
    {"none",      is_none     },
    {"boolean",   is_boolean  },
    {"true",      is_true     },
    {"false",     is_false    },
    {"string",    is_string   },
    {"mapping",   is_mapping  },
    {"sequence",  is_sequence },
    {"iterable",  is_iterable },
    {"integer",   is_integer  },
    {"float",     is_float    },
    {"number",    is_number   },
    {"callable",  is_callable },
    {"odd",       is_odd      },
    {"even",      is_even     },
};

/* Tests against another value. */
static const struct {
    const char *name;
    char op;
} against[] = {
    {"equalto",     '='},
    {"eq",          '='},
    {"ne",          '!'},
    {"lt",          '<'},
    {"lessthan",    '<'},
    {"gt",          '>'},
    {"greaterthan", '>'},
    {"le",          'l'},
    {"ge",          'g'},
    {"in",          'i'},
    {"divisibleby", 'd'},
};

static int divides(struct jinja_run *run, const struct jinja_value *a,
                   const struct jinja_value *b) {
    if (a->kind != JINJA_INT || b->kind != JINJA_INT || !b->integer)
        return jinja_value_fail(run, -EINVAL, "'divisibleby' of what is no whole number");
    return b->integer == -1 || a->integer % b->integer == 0;
}

int jinja_test(struct jinja_run *run, const char *name, const struct jinja_value *v,
               const struct jinja_args *args) {
    for (size_t i = 0; i < ARRAY_SIZE(plain); i++)
        if (hai_streq(plain[i].name, name)) {
            if (args->n)
                return jinja_value_fail(run, -EINVAL, "test '%s' takes no argument", name);
            return plain[i].test(v);
        }
    for (size_t i = 0; i < ARRAY_SIZE(against); i++)
        if (hai_streq(against[i].name, name)) {
            if (args->n != 1)
                return jinja_value_fail(run, -EINVAL, "test '%s' takes one argument", name);
            return against[i].op == 'd'
                       ? divides(run, v, &args->values[0])
                       : jinja_operate_compare(run, against[i].op, v, &args->values[0]);
        }
    return jinja_value_fail(run, -ENOTSUP, "test '%s' is not built in", name);
}
