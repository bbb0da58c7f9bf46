/* jinja_text.h - what templates do with text: methods of Python's str, and the filters like them.
 *
 * Case is changed in ASCII only, and other letters are refused there.
 */
#pragma once
#include "engine/data/jinja_args.h"

/* The method of this name, or NULL. */
const struct jinja_builtin *jinja_text_method(const char *name);

/* Take characters off the ends: white space, or any of `chars` where that is not NULL. */
struct jinja_value jinja_text_strip(struct jinja_string s, const struct jinja_string *chars,
                                    bool left, bool right);
