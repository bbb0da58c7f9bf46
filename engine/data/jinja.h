/* jinja.h - chat templates: the part of Jinja that published ones use, strictly.
 *
 * A template comes with a model, from outside: a run is bounded in steps, memory and nesting, so a
 * hostile one ends with an error. What is not built in is refused by name and line. Every byte of
 * the result is marked by who wrote it (jinja_value.h). Meaning as transformers sets it up: Jinja's
 * documentation, trim_blocks, lstrip_blocks, loop controls, its tojson.
 */
#pragma once
#include "lib/json.h"
#include "lib/pure/buf.h"

struct jinja;

/* Read a template; name is for errors. -EBADMSG, -ENOTSUP, -E2BIG. */
int jinja_new(const char *text, size_t n_bytes, const char *name, struct jinja **ret,
              struct hai_err *err);
void jinja_free(struct jinja *j);
DEFINE_CLEANUP(struct jinja *, jinja_free)

struct jinja_input {
    const struct json *values; // an object: variables from outside
    uint8_t mark;              // of their texts, not 0
    uint8_t (*mark_of)(const struct json *object, uint8_t mark); // of those in an object; or NULL
    const struct json *trusted; // the same, as if the template had written them; NULL: none
    int64_t now_s;              // seconds since 1970 for strftime_now, UTC; negative: refused
};

/* Append what the template makes of the input, and a mark for each byte: 0 where the template
 * wrote it, else that of the value it came from. -EINVAL: the template asks for what cannot be, or
 * says raise_exception. On failure ret and ret_marks are as they were. */
int jinja_render(const struct jinja *j, const struct jinja_input *input, struct buf *ret,
                 struct buf *ret_marks, struct hai_err *err);
