/* json.h - trees of values read from JSON or YAML, and JSON text written from them.
 *
 * One node type serves both readers (json_parse here, yaml.h), so what decodes a job file does not
 * care which it was. Nodes from YAML know line and column of value and key; nodes from JSON text
 * have 0 there (jansson reports positions of syntax errors only). Objects keep their order.
 * Decoding a tree into structs is json_schema.h's business.
 * Names keep clear of jansson's (json_string, json_real, ...), which share the prefix and the
 * linker's name space.
 *
 * Ownership: a tree belongs to its root; json_free(root) frees all. Adding a child hands it over.
 */
#pragma once
#include "lib/base.h"
#include "lib/pure/buf.h"

struct json;

enum json_kind {
    JSON_KIND_NULL,
    JSON_KIND_BOOL,
    JSON_KIND_INT,
    JSON_KIND_REAL,
    JSON_KIND_STRING,
    JSON_KIND_ARRAY,
    JSON_KIND_OBJECT,
    JSON_KIND_COUNT,
};

enum {
    JSON_DEPTH_MAX = 64,        // arrays and objects inside each other
    JSON_BYTES_MAX = 256 << 20, // of one text; callers with a smaller limit check it first
};

/* Read one JSON text.
 *
 * file  named in errors ("file:line:column" in err->where); NULL for text without a file
 *
 * Refuses, with -EBADMSG: bad syntax, invalid UTF-8, a key twice in one object, NaN and Infinity,
 * whole numbers beyond int64, zero bytes in strings, text after the value. -EFBIG: too long or too
 * deep.
 */
int json_parse(const void *text, size_t n_bytes, const char *file, struct json **ret,
               struct hai_err *err);

void json_free(struct json *value); // a root; NULL is accepted
DEFINE_CLEANUP(struct json *, json_free)

/* Look at values. The getters of one type assert it, except json_as_real, which takes JSON_KIND_INT
 * as well. Texts belong to the tree, are zero-terminated and hold no other zero byte. */
enum json_kind json_kind(const struct json *value);
const char *json_kind_name(enum json_kind type); // "a whole number", "text", ...: for messages
bool json_as_bool(const struct json *value);
int64_t json_as_int(const struct json *value);
double json_as_real(const struct json *value);
const char *json_as_string(const struct json *value);
size_t json_as_string_bytes(const struct json *value);
size_t json_count(const struct json *value); // elements or members; else, also for NULL, 0

/* The member with this key, or NULL: also when value is NULL or no object. Constant time in large
 * objects, which is why it may touch an index inside a const tree. */
struct json *json_get(const struct json *value, const char *key);

/* The same for a string member; fallback when absent or of another type. For replies of our own
 * programs and for tests; files written by people go through json_schema.h. */
const char *json_get_string(const struct json *value, const char *key, const char *fallback);
int64_t json_get_int(const struct json *value, const char *key, int64_t fallback);
bool json_get_bool(const struct json *value, const char *key, bool fallback);

/* Walk an array or object in order:  for (v = json_first(o); v; v = json_next(v)) json_key(v) */
struct json *json_first(const struct json *value); // NULL when empty, no container or NULL
struct json *json_next(const struct json *value);
const char *json_key(const struct json *value); // NULL outside objects
size_t json_key_bytes(const struct json *value);

/* Line and column from 1, columns in characters; 0 when not known. */
int json_line(const struct json *value);
int json_column(const struct json *value);
int json_key_line(const struct json *value);
int json_key_column(const struct json *value);
void json_set_position(struct json *value, int line, int column);
void json_set_key_position(struct json *value, int line, int column);

/* How a plain YAML scalar was written ("1.10" of the number 1.1), for fields that take any scalar
 * as text. A text is its own source; NULL for anything else. */
const char *json_source(const struct json *value);
void json_set_source(struct json *value, const char *source);

/* Build values. Strings are copied; they must be UTF-8 without zero bytes. NULL gives null. */
struct json *json_new_null(void);
struct json *json_new_bool(bool value);
struct json *json_new_int(int64_t value);
struct json *json_new_real(double value); // NaN and infinities become null: JSON has none
struct json *json_new_string(const char *s);
struct json *json_new_string_n(const char *s, size_t n_bytes);
struct json *json_new_array(void);
struct json *json_new_object(void);

/* Hand a value over to an array or, under a new key, to an object; return that value. json_add
 * asserts that the key is new; json_try_add returns NULL, and takes nothing, when it is there. */
struct json *json_append(struct json *array, struct json *value);
struct json *json_add(struct json *object, const char *key, struct json *value);
struct json *json_try_add(struct json *object, const char *key, size_t n_bytes, struct json *value);
void json_add_string(struct json *object, const char *key, const char *s);
void json_add_int(struct json *object, const char *key, int64_t value);
void json_add_real(struct json *object, const char *key, double value);
void json_add_bool(struct json *object, const char *key, bool value);

/* Append a value as JSON. indent 0: one line without spaces; else the spaces of one level, with a
 * line feed at the end. Reals are written with the fewest digits that read back the same. */
void json_dump(const struct json *value, int indent, struct buf *ret);

/* Is it UTF-8, so that it is a JSON string as it is? */
bool json_is_text(const char *s, size_t n_bytes);

/* Append pieces of JSON without a tree, for replies written straight from structs. */
void json_dump_string(const char *s, size_t n_bytes, struct buf *ret); // bad UTF-8: U+FFFD
void json_dump_int(int64_t value, struct buf *ret);
void json_dump_real(double value, struct buf *ret);
