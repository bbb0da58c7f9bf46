/* jsonpick.h - some members of a JSON object, whatever the others hold.
 *
 * Published configuration files have numbers beyond 64 bits (model_max_length) and grow members
 * that we do not know; lib/json.h refuses the former as a whole. Syntax is checked throughout.
 */
#pragma once
#include "lib/json.h"

/* Read the members named (ended by NULL) into an object. -EBADMSG: bad syntax, no object, or one
 * of these twice. path is for errors. */
int jsonpick(const void *text, size_t n_bytes, const char *path, const char *const *names,
             struct json **ret, struct hai_err *err);
