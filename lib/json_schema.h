/* json_schema.h - JSON and YAML trees into structs and back, by the descriptions of
 * lib/pure/schema.h.
 *
 * Two forms differ in how numbers with units look:
 *   wire  JSON between programs: `time_limit_us` is "time_limit_s": 259200, sizes are numbers
 *   file  job and cluster files: `time_limit: 3d`, `memory: 80GiB`; a bare number is an error
 * Times are ISO 8601 in both. Absent is null, and null is absent. A tree of bad fields gives all of
 * its errors, not the first only.
 */
#pragma once
#include "lib/json.h"
#include "lib/pure/schema.h"

enum json_schema_form { JSON_SCHEMA_WIRE, JSON_SCHEMA_FILE };

enum {
    JSON_SCHEMA_IGNORE_UNKNOWN = 1, // reports between versions: fields are only added
};

enum { JSON_SCHEMA_ERRORS_MAX = 16 };

/* Everything wrong with one tree, in the order of the text. Start from {0}. */
struct json_schema_errors {
    int n; // counts on after the array is full
    struct hai_err items[JSON_SCHEMA_ERRORS_MAX];
};

/* Decode into ret, whose old content is not looked at; release it with schema_free.
 *
 * file    for positions ("bad.yaml:8:11"); where a tree has none, err->where is the field's path
 * errors  receives all errors; may be NULL
 *
 * Checks types, bounds, lengths, required fields, names of enums, unknown fields (with the nearest
 * known name). Returns 0 or, with ret untouched and err the first error: -EINVAL, -ERANGE.
 */
int json_schema_decode(const struct schema *schema, const struct json *tree,
                       enum json_schema_form form, int flags, const char *file, void *ret,
                       struct json_schema_errors *errors, struct hai_err *err);

/* Append one error that the caller found, with the position of a value of the tree (or, if key is
 * set, of its key). Returns r. For rules between fields, which schemas do not know. */
int json_schema_error(struct json_schema_errors *errors, const struct json *at, bool key,
                      const char *file, int r, const char *code, const char *hint,
                      const char *format, ...) _printf_(8, 9);

/* Parse and decode one JSON body of the wire form. */
int json_schema_parse(const struct schema *schema, const void *text, size_t n_bytes, int flags,
                      void *ret, struct hai_err *err);

/* Append a struct as one line of JSON, wire form; absent fields are null. */
void json_schema_dump(const struct schema *schema, const void *value, struct buf *ret);

/* The name of a field in a form: `time_limit_us` -> "time_limit_s" or "time_limit". ret has room
 * for strlen(field->name) + 1 bytes. */
void json_schema_name(const struct schema_field *field, enum json_schema_form form, char *ret);
