#include "engine/data/jinja_args.h"

static int place_of(const struct jinja_builtin *f, const char *keyword) {
    for (int i = 0; i < JINJA_PARAMETERS_MAX && f->parameters[i]; i++)
        if (hai_streq(f->parameters[i], keyword))
            return i;
    return -1;
}

int jinja_args_call(struct jinja_run *run, const char *what, const struct jinja_builtin *f,
                    const struct jinja_value *self, const struct jinja_args *args,
                    struct jinja_value *ret) {
    struct jinja_value bound[JINJA_PARAMETERS_MAX];
    int n_parameters = 0;

    memset(bound, 0, sizeof bound);
    while (n_parameters < JINJA_PARAMETERS_MAX && f->parameters[n_parameters])
        n_parameters++;
    for (size_t i = 0; i < args->n; i++) {
        int at = args->keywords[i] ? place_of(f, args->keywords[i]) : (int)i;
        if (at < 0)
            return jinja_value_fail(run, -ENOTSUP, "%s '%s' has no argument '%s' here", what,
                                    f->name, args->keywords[i]);
        if (at >= n_parameters)
            return jinja_value_fail(run, -EINVAL, "%s '%s' takes at most %d arguments", what,
                                    f->name, n_parameters);
        bound[at] = args->values[i];
    }
    for (int i = 0; i < f->n_needed; i++)
        if (bound[i].kind == JINJA_UNDEFINED)
            return jinja_value_fail(run, -EINVAL, "%s '%s' needs its argument '%s'", what, f->name,
                                    f->parameters[i]);
    return f->call(run, self, bound, ret);
}

const struct jinja_builtin *jinja_args_find(const struct jinja_builtin *table, size_t n,
                                            const char *name) {
    for (size_t i = 0; i < n; i++)
        if (hai_streq(table[i].name, name))
            return &table[i];
    return NULL;
}

int jinja_args_int(struct jinja_run *run, const char *name, const struct jinja_value *v,
                   int64_t *ret) {
    if (v->kind == JINJA_UNDEFINED || v->kind == JINJA_NONE)
        return 0;
    if (v->kind != JINJA_INT)
        return jinja_value_fail(run, -EINVAL, "'%s' is given %s; expected a whole number", name,
                                jinja_value_kind_name(v));
    *ret = v->integer;
    return 0;
}

int jinja_args_string(struct jinja_run *run, const char *name, const struct jinja_value *v,
                      struct jinja_string *ret) {
    if (v->kind == JINJA_UNDEFINED || v->kind == JINJA_NONE)
        return 0;
    if (v->kind != JINJA_STRING)
        return jinja_value_fail(run, -EINVAL, "'%s' is given %s; expected text", name,
                                jinja_value_kind_name(v));
    *ret = v->string;
    return 0;
}
