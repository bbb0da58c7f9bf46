/* jinja_test.h - what `x is NAME` and the filters select and reject ask. */
#pragma once
#include "engine/data/jinja_args.h"

/* 1 or 0. -ENOTSUP: a test that is not built in. */
int jinja_test(struct jinja_run *run, const char *name, const struct jinja_value *v,
               const struct jinja_args *args);
