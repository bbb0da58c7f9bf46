/* schema.h - descriptions of structs, from which their encodings are made.
 *
 * A .def file lists structs field by field (wire/messages.def, scheduler/core/entries.def).
 * Included once with the field macros of SCHEMA_STRUCTS it declares the structs, included once with
 * those of schema_tables.h it defines one `const struct schema *NAME_schema(void)` for each. Two
 * codecs read the descriptions: lib/pure/tlv.h (log entries, canonical state) and lib/json_schema.h
 * (wire, files).
 *
 * Pure. Decoded structs own their strings and lists: schema_free() releases the content.
 *
 * Field kinds of a .def file (name first, documentation last):
 *   F_I64(name, min, max, def, doc)      int64_t
 *   F_F64(name, def, doc)                double, wire only: tlv.h refuses it; S_ABSENT is NaN
 *   F_BOOL(name, def, doc)               bool
 *   F_ENUM(name, type, def, doc)         enum type (made by DEFINE_ENUM)
 *   F_TIME(name, def, doc)               int64_t microseconds since 1970; JSON: ISO 8601, UTC
 *   F_DURATION(name, min, max, def, doc) int64_t microseconds, C name ends in _us; JSON: the name
 *                                        with _s for _us and seconds; job files: no suffix, `90s`
 *   F_SIZE(name, min, max, def, doc)     int64_t bytes, name ends in _bytes; job files: `80GiB`
 *   F_STR(name, bytes_max, def, doc)     char *, def is S_REQUIRED (not empty) or S_ABSENT (NULL)
 *   F_BLOB(name, bytes_max, doc)         struct schema_blob; JSON: hexadecimal
 *   F_SUB(name, type, doc)               struct type, inline; left out of JSON input: all defaults
 *   F_LIST(name, type, n_max, doc)       SCHEMA_LIST(struct type)
 *   F_STRS(name, bytes_max, n_max, doc)  SCHEMA_LIST(char *)
 *   F_I64S(name, min, max, n_max, doc)   SCHEMA_LIST(int64_t)
 *   F_MAP(name, bytes_max, n_max, doc)   SCHEMA_LIST(struct schema_pair); JSON: an object of texts
 *   F_JSON(name, bytes_max, doc)         char *, the text of any JSON value; NULL = absent; wire
 * only def of numbers: a value, S_REQUIRED, or S_ABSENT (then the field holds S_ABSENT; JSON null).
 * Tags are positions from 1: fields are only added at the end, never moved or given a new meaning.
 */
#pragma once
#include "lib/base.h"

#define S_ABSENT INT64_MIN
#define S_REQUIRED INT64_MAX

enum schema_type {
    SCHEMA_I64,
    SCHEMA_F64,
    SCHEMA_BOOL,
    SCHEMA_ENUM,
    SCHEMA_TIME,
    SCHEMA_DURATION,
    SCHEMA_SIZE,
    SCHEMA_STR,
    SCHEMA_BLOB,
    SCHEMA_SUB,
    SCHEMA_LIST_SUB,
    SCHEMA_LIST_STR,
    SCHEMA_LIST_I64,
    SCHEMA_LIST_PAIR,
    SCHEMA_JSON,
    SCHEMA_TYPE_COUNT,
};

struct schema_enum {
    const char *name;
    const char *const *texts;
    int n_texts;
};

struct schema_blob {
    uint8_t *data;
    size_t n_bytes;
};

struct schema_pair {
    char *key;
    char *value;
};

/* A list of any element type; all have the layout of struct schema_list. */
#define SCHEMA_LIST(type)                                                                          \
    struct {                                                                                       \
        type *items;                                                                               \
        size_t n;                                                                                  \
    }

struct schema_list {
    void *items;
    size_t n;
};

/* One field. min and max bound the number, the bytes of a text (of one text in a list) or of a
 * blob; n_max the length of a list. */
struct schema_field {
    const char *name;
    const char *doc;
    enum schema_type type;
    size_t offset;
    int64_t min;
    int64_t max;
    int64_t def;
    int64_t n_max;
    const struct schema_enum *enums;
    const struct schema *(*sub)(void);
};

struct schema {
    const char *name;
    const char *doc;
    size_t n_bytes; // sizeof the struct
    const struct schema_field *fields;
    int n_fields;
};

/* An enum, its text forms and `NAME_enum` from one list macro: LIST(X) with X(SUFFIX, "text"). */
#define DEFINE_ENUM_VALUE_(prefix, suffix, text) prefix##_##suffix,
#define DECLARE_ENUM(type, prefix, list)                                                           \
    enum type { list(prefix, DEFINE_ENUM_VALUE_) prefix##_COUNT };                                 \
    extern const struct schema_enum type##_enum;                                                   \
    const char *type##_text(enum type value) /* ";" at the use */
#define DEFINE_ENUM_TEXT_(prefix, suffix, text) text,
#define DEFINE_ENUM(type, prefix, list)                                                            \
    static const char *const type##_texts[] = {list(prefix, DEFINE_ENUM_TEXT_)};                   \
    const struct schema_enum type##_enum = {#type, type##_texts, prefix##_COUNT};                  \
    const char *type##_text(enum type value) {                                                     \
        return schema_enum_text(&type##_enum, value);                                              \
    }                                                                                              \
    _Static_assert(prefix##_COUNT > 0, #type)

/* The text of a value, "?" outside the list. */
const char *schema_enum_text(const struct schema_enum *e, int value);

/* The value of a text, or -EINVAL. */
int schema_enum_parse(const struct schema_enum *e, const char *text);

/* Fill a struct with its defaults; required fields are 0 or NULL. */
void schema_init(const struct schema *schema, void *value);

/* Release what a struct owns and set it to zero; the struct itself is the caller's. NULL is fine.
 */
void schema_free(const struct schema *schema, void *value);

/* Deep copy into dst, whose old content is not looked at. */
void schema_copy(const struct schema *schema, void *dst, const void *src);

/* Check required fields and bounds. err names the field by its path ("resources.nodes"), its value
 * and what is expected. Returns 0, -EINVAL or -ERANGE. */
int schema_check(const struct schema *schema, const void *value, struct hai_err *err);

/* Bytes of one element of a list field. */
size_t schema_item_bytes(const struct schema_field *field);

/* Append one zeroed element to a list whose elements have item_bytes; returns its address. Elements
 * grow in powers of two, so adding one by one is cheap. */
void *schema_list_add(void *list, size_t item_bytes);
#define LIST_ADD(list) ((__typeof__((list)->items))schema_list_add((list), sizeof *(list)->items))
