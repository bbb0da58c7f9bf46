/* jinja_parse.h - a template's tokens as a tree; what is not built in is refused by name and line.
 *
 * The grammar is Jinja's (its documentation, "Template Designer"), without inheritance, includes,
 * call and filter blocks.
 */
#pragma once
#include "engine/data/jinja_ast.h"

/* The statements of a template, linked by `next` (NULL: none), in the arena. -EBADMSG: bad syntax;
 * -ENOTSUP: something that is not built in; -E2BIG. */
int jinja_parse(const char *text, size_t n_bytes, const char *name, struct arena *arena,
                struct jinja_node **ret, struct hai_err *err);
