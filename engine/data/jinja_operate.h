/* jinja_operate.h - operators on values, as Python has them: a + b, a < b, a[b], a[b:c:d].
 *
 * Whole numbers stay within 64 bits or fail; kinds that do not go together fail with their names.
 */
#pragma once
#include "engine/data/jinja_value.h"

/* op is one of jinja_ast.h's JINJA_BINARY. */
int jinja_operate(struct jinja_run *run, char op, const struct jinja_value *a,
                  const struct jinja_value *b, struct jinja_value *ret);

/* op is one of JINJA_COMPARE. 1 or 0. */
int jinja_operate_compare(struct jinja_run *run, char op, const struct jinja_value *a,
                          const struct jinja_value *b);

/* An element that is not there is undefined, no failure. whole is not undefined. */
int jinja_operate_item(struct jinja_run *run, const struct jinja_value *whole,
                       const struct jinja_value *key, struct jinja_value *ret);

struct jinja_slice {
    bool has_from, has_to;
    int64_t from, to, step;
};

/* Bounds count from the end where negative and are cut to what is there. */
int jinja_operate_slice(struct jinja_run *run, const struct jinja_value *whole,
                        const struct jinja_slice *slice, struct jinja_value *ret);
