/* jinja_filter.h - what `x|NAME` and the methods of dicts and lists do. */
#pragma once
#include "engine/data/jinja_args.h"

/* -ENOTSUP: a filter that is not built in. */
int jinja_filter(struct jinja_run *run, const char *name, const struct jinja_value *v,
                 const struct jinja_args *args, struct jinja_value *ret);

/* The method of this name of a dict, or NULL. */
const struct jinja_builtin *jinja_filter_dict_method(const char *name);
