/* jinja_args.h - the arguments of a call, and which of a function's parameters each one is. */
#pragma once
#include "engine/data/jinja_value.h"

enum { JINJA_ARGS_MAX = 16, JINJA_PARAMETERS_MAX = 4 };

struct jinja_args {
    struct jinja_value values[JINJA_ARGS_MAX];
    const char *keywords[JINJA_ARGS_MAX]; // NULL: by place
    size_t n;
};

/* A function that is built in. */
struct jinja_builtin {
    const char *name;
    int (*call)(struct jinja_run *run, const struct jinja_value *self,
                const struct jinja_value *args, struct jinja_value *ret);
    const char *parameters[JINJA_PARAMETERS_MAX]; // ended by NULL unless all are used
    int n_needed;
};

/* Give parameters their arguments and call. Parameters without an argument are undefined. what is
 * "filter", "test", ...: for errors. */
int jinja_args_call(struct jinja_run *run, const char *what, const struct jinja_builtin *f,
                    const struct jinja_value *self, const struct jinja_args *args,
                    struct jinja_value *ret);

/* The function of this name in a table, or NULL. */
const struct jinja_builtin *jinja_args_find(const struct jinja_builtin *table, size_t n,
                                            const char *name);

/* Arguments of one kind; -EINVAL names the function. An undefined one leaves *ret. */
int jinja_args_int(struct jinja_run *run, const char *name, const struct jinja_value *v,
                   int64_t *ret);
int jinja_args_string(struct jinja_run *run, const char *name, const struct jinja_value *v,
                      struct jinja_string *ret);
