/* base.h - what every file of hai starts from: macros, cleanup attributes, errors with context.
 *
 * Pure: the cores include it. It leaves memory pools, buffers and encodings to lib/pure/.
 */
#pragma once
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define STR_(x) #x
#define STR(x) STR_(x)
#define CONCAT_(a, b) a##b
#define CONCAT(a, b) CONCAT_(a, b)

#define MIN(a, b)                                                                                  \
    ({                                                                                             \
        __typeof__(a) min_a_ = (a);                                                                \
        __typeof__(b) min_b_ = (b);                                                                \
        min_a_ < min_b_ ? min_a_ : min_b_;                                                         \
    })
#define MAX(a, b)                                                                                  \
    ({                                                                                             \
        __typeof__(a) max_a_ = (a);                                                                \
        __typeof__(b) max_b_ = (b);                                                                \
        max_a_ > max_b_ ? max_a_ : max_b_;                                                         \
    })

#define _cleanup_(f) __attribute__((cleanup(f)))
#define _cleanup_free_ _cleanup_(hai_freep)
#define _printf_(a, b) __attribute__((format(printf, a, b)))
#define _unused_ __attribute__((unused))

/* Hand an owning pointer over: the value leaves, the variable becomes NULL. */
#define TAKE_PTR(p)                                                                                \
    ({                                                                                             \
        __typeof__(p) taken_ = (p);                                                                \
        (p) = NULL;                                                                                \
        taken_;                                                                                    \
    })

/* Hand an owning descriptor over: the number leaves, the variable becomes -1. */
#define TAKE_FD(fd)                                                                                \
    ({                                                                                             \
        int taken_ = (fd);                                                                         \
        (fd) = -1;                                                                                 \
        taken_;                                                                                    \
    })

/* Define NAMEp() for _cleanup_: calls FUNC on the variable unless it is NULL. */
#define DEFINE_CLEANUP(type, func)                                                                 \
    static inline void func##p(type *p) {                                                          \
        if (*p)                                                                                    \
            func(*p);                                                                              \
    }

static inline void hai_freep(void *p) {
    free(*(void **)p);
}

/* Longest texts of an error, terminating zero included. */
enum {
    HAI_ERR_CODE_BYTES = 32,
    HAI_ERR_WHERE_BYTES = 256,
    HAI_ERR_TEXT_BYTES = 512,
    HAI_ERR_HINT_BYTES = 192,
};

/* Why something failed, for a person. Start from {0}; the first failure is kept until cleared.
 *
 * code   a word for programs, e.g. "unknown_field"; hai_fail fills it from the errno value
 * where  file:line:column, flag or field; may be empty
 * text   the sentence: field, value, what was expected
 * hint   what to do about it; may be empty
 */
struct hai_err {
    int r;
    char code[HAI_ERR_CODE_BYTES];
    char where[HAI_ERR_WHERE_BYTES];
    char text[HAI_ERR_TEXT_BYTES];
    char hint[HAI_ERR_HINT_BYTES];
};

/* Record a failure and return r (a negative errno), so that `return hai_fail(...)` is one line.
 * err may be NULL. Overwrites what err held before. */
int hai_fail(struct hai_err *err, int r, const char *format, ...) _printf_(3, 4);

/* The same with code, where and hint; any of the three may be NULL for "none". */
int hai_fail_at(struct hai_err *err, int r, const char *code, const char *where, const char *hint,
                const char *format, ...) _printf_(6, 7);

/* Put a prefix before err->text ("job 12: " + text); truncates. err may be NULL. Returns err->r. */
int hai_err_prefix(struct hai_err *err, const char *format, ...) _printf_(2, 3);

/* The text of an error, never NULL: falls back to the name of the errno value. */
const char *hai_err_text(const struct hai_err *err);

/* The word for an errno value (EINVAL -> "invalid"); "failed" if there is none. */
const char *hai_err_code(int r);

/* malloc family that never returns NULL: ends the process with a line on stderr. Sizes that come
 * from outside are checked against a limit first, so running out means the machine is at fault. */
void *hai_alloc(size_t n_bytes);              // zeroed
void *hai_alloc_array(size_t n, size_t size); // zeroed, overflow checked
void *hai_realloc_array(void *p, size_t n, size_t size);
char *hai_strdup(const char *s); // NULL gives NULL
char *hai_strndup(const char *s, size_t n_bytes);
char *hai_asprintf(const char *format, ...) _printf_(1, 2);

#define hai_new(type) ((type *)hai_alloc(sizeof(type)))
#define hai_new_array(type, n) ((type *)hai_alloc_array((n), sizeof(type)))

/* Replace an owned string: frees *dst, stores a copy of src (NULL allowed). */
void hai_strset(char **dst, const char *src);

/* Equal, with NULL equal to NULL only. */
bool hai_streq(const char *a, const char *b);

/* Edit distance of two words, for "did you mean"; at most 63 bytes each are looked at. */
int hai_distance(const char *a, const char *b);

/* Whether `word` may be `name` mistyped, and nearer than *best (start with INT_MAX), which then
 * becomes their distance. Words far apart for their length are not proposed: that would mislead. */
bool hai_nearer(const char *word, const char *name, int *best);
