/* jinja_value.h - the values that a template computes with, and the limits that it runs under.
 *
 * All of a run's values lie in one arena and end with it. Texts remember who wrote each byte: 0 the
 * template, else the values given to it. Cutting and joining keep that, so the renderer can tell a
 * marker that the template wrote from one that a user typed.
 */
#pragma once
#include "lib/base.h"
#include "lib/json.h"
#include "lib/pure/arena.h"
#include "lib/pure/buf.h"

enum jinja_kind {
    JINJA_UNDEFINED,
    JINJA_NONE,
    JINJA_BOOL,
    JINJA_INT,
    JINJA_REAL,
    JINJA_STRING,
    JINJA_LIST,
    JINJA_DICT,
    JINJA_NAMESPACE, // a dict whose members may be set
    JINJA_MACRO,
    JINJA_KIND_COUNT,
};

struct jinja_string {
    const char *text;
    const uint8_t *marks; // one for each byte; NULL: all 0
    size_t n_bytes;
};

struct jinja_value {
    enum jinja_kind kind;
    union {
        bool boolean;
        int64_t integer;
        double real;
        struct jinja_string string;
        struct jinja_list *list;
        struct jinja_dict *dict;
        const struct jinja_node *macro;
        const char *name; // JINJA_UNDEFINED: what was looked for, or NULL
    };
};

struct jinja_list {
    struct jinja_value *items;
    size_t n, n_max;
    bool is_tuple; // is written (a, b) instead of [a, b], no more
};

struct jinja_member {
    struct jinja_value key, value;
};

struct jinja_dict {
    struct jinja_member *members;
    size_t n, n_max;
};

enum {
    JINJA_STEPS_MAX = 20 << 20,  // nodes evaluated, and one for each 16 bytes of text made
    JINJA_BYTES_MAX = 256 << 20, // of all values of a run
    JINJA_DEPTH_MAX = 200,       // expressions, statements, values inside each other
};

/* One rendering. */
struct jinja_run {
    struct arena arena;
    int64_t steps;
    int depth;
    int line;         // of the template, for errors
    const char *name; // of the template
    int64_t now_s;    // what time it is for strftime_now; negative: refused
    uint8_t (*mark_of)(const struct json *object, uint8_t mark); // of jinja_input
    struct hai_err *err;
};

/* Fail with the template's name and line before the text. */
int jinja_value_fail(struct jinja_run *run, int r, const char *format, ...) _printf_(3, 4);

/* Count work. -E2BIG: too much. */
int jinja_value_step(struct jinja_run *run, size_t n_bytes);

/* Text under construction. */
struct jinja_builder {
    struct buf text, marks; // marks are as many as text
};

void jinja_value_builder_free(struct jinja_builder *b);
int jinja_value_add(struct jinja_run *run, struct jinja_builder *b, struct jinja_string s);
int jinja_value_add_text(struct jinja_run *run, struct jinja_builder *b, const char *text);
struct jinja_value jinja_value_built(struct jinja_run *run, const struct jinja_builder *b);

static inline struct jinja_value jinja_value_none(void) {
    return (struct jinja_value){.kind = JINJA_NONE};
}

static inline struct jinja_value jinja_value_undefined(const char *name) {
    return (struct jinja_value){.kind = JINJA_UNDEFINED, .name = name};
}

static inline struct jinja_value jinja_value_bool(bool v) {
    return (struct jinja_value){.kind = JINJA_BOOL, .boolean = v};
}

static inline struct jinja_value jinja_value_int(int64_t v) {
    return (struct jinja_value){.kind = JINJA_INT, .integer = v};
}

static inline struct jinja_value jinja_value_text(const char *text) { // not copied
    return (struct jinja_value){
        .kind = JINJA_STRING, .string = {text, NULL, strlen(text)}
    };
}

/* A part of a text, in bytes. */
static inline struct jinja_value jinja_value_part(struct jinja_string s, size_t from, size_t to) {
    return (struct jinja_value){
        .kind = JINJA_STRING,
        .string = {s.text + from, s.marks ? s.marks + from : NULL, to - from}
    };
}

struct jinja_value jinja_value_list(struct jinja_run *run);
struct jinja_value jinja_value_dict(struct jinja_run *run, enum jinja_kind kind);
int jinja_value_append(struct jinja_run *run, struct jinja_list *list, struct jinja_value v);
int jinja_value_set(struct jinja_run *run, struct jinja_dict *dict, struct jinja_value key,
                    struct jinja_value v);

/* The member of a dict or namespace, or NULL. */
const struct jinja_value *jinja_value_get(const struct jinja_value *v, const char *key,
                                          size_t n_bytes);

/* JSON as a value; its texts bear `mark`, or what mark_of says of the object around them. */
int jinja_value_from_json(struct jinja_run *run, const struct json *json, uint8_t mark,
                          struct jinja_value *ret);

bool jinja_value_truth(const struct jinja_value *v);
const char *jinja_value_kind_name(const struct jinja_value *v);
bool jinja_value_is(const struct jinja_value *v, const char *text); // that text?

/* 1 equal, 0 not; -E2BIG. */
int jinja_value_equal(struct jinja_run *run, const struct jinja_value *a,
                      const struct jinja_value *b);

/* Sign of a - b for numbers or for texts. -EINVAL: other kinds. */
int jinja_value_compare(struct jinja_run *run, const struct jinja_value *a,
                        const struct jinja_value *b, int *ret);

/* Does `in` hold? 1 or 0. */
int jinja_value_contains(struct jinja_run *run, const struct jinja_value *whole,
                         const struct jinja_value *part);

/* What can be walked as a list: items, keys, characters. */
int jinja_value_items(struct jinja_run *run, const struct jinja_value *v, struct jinja_value *ret);

/* As Python's str(): texts as they are, the rest as repr(). */
int jinja_value_print(struct jinja_run *run, struct jinja_builder *b, const struct jinja_value *v);

/* As Python's json.dumps with ensure_ascii=False; indent negative: on one line. */
int jinja_value_json(struct jinja_run *run, struct jinja_builder *b, const struct jinja_value *v,
                     int indent, bool sorted);

/* Characters of a text. */
size_t jinja_value_length(struct jinja_string s);
