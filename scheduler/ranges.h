/* ranges.h - names of nodes written short: `gpu[0001-1250]`, `a[1-2],b7`, `r[1-4]n[01-16]`. */
#pragma once
#include "lib/pure/schema.h"

/* Append the names that a text stands for to a list of char *, in order. Zeros in front count: 01
 * and 1 are different names. -EINVAL: bad form; -ERANGE: more than n_max names in the list. */
int ranges_expand(const char *text, size_t n_max, struct schema_list *ret, struct hai_err *err);
