#include "lib/base.h"

#include <stdarg.h>
#include <stdio.h>

static const struct {
    int r;
    const char *code;
} codes[] = {
    {EINVAL,       "invalid"     },
    {ERANGE,       "out_of_range"},
    {ENOENT,       "not_found"   },
    {EEXIST,       "exists"      },
    {EACCES,       "denied"      },
    {EPERM,        "denied"      },
    {ENOTSUP,      "unsupported" },
    {EBADMSG,      "malformed"   },
    {EFBIG,        "too_large"   },
    {E2BIG,        "too_large"   },
    {ENOSPC,       "no_space"    },
    {ETIMEDOUT,    "timeout"     },
    {EAGAIN,       "unavailable" },
    {EIO,          "io"          },
    {ESTALE,       "stale"       },
    {ECONNREFUSED, "no_answer"   },
};

const char *hai_err_code(int r) {
    for (size_t i = 0; i < ARRAY_SIZE(codes); i++)
        if (codes[i].r == -r)
            return codes[i].code;
    return "failed";
}

static void text_set(char *dst, size_t size, const char *src) {
    size_t n = src ? strnlen(src, size - 1) : 0;
    if (n)
        memcpy(dst, src, n);
    dst[n] = 0;
}

/* The caller's arguments may point into err, so the text is made aside first. */
static int fail_v(struct hai_err *err, int r, const char *code, const char *where, const char *hint,
                  const char *format, va_list ap) {
    struct hai_err made = {.r = r};

    if (!err)
        return r;
    (void)vsnprintf(made.text, sizeof made.text, format, ap);
    text_set(made.code, sizeof made.code, code ? code : hai_err_code(r));
    text_set(made.where, sizeof made.where, where);
    text_set(made.hint, sizeof made.hint, hint);
    *err = made;
    return r;
}

int hai_fail(struct hai_err *err, int r, const char *format, ...) {
    va_list ap;

    va_start(ap, format);
    fail_v(err, r, NULL, NULL, NULL, format, ap);
    va_end(ap);
    return r;
}

int hai_fail_at(struct hai_err *err, int r, const char *code, const char *where, const char *hint,
                const char *format, ...) {
    va_list ap;

    va_start(ap, format);
    fail_v(err, r, code, where, hint, format, ap);
    va_end(ap);
    return r;
}

int hai_err_prefix(struct hai_err *err, const char *format, ...) {
    char text[HAI_ERR_TEXT_BYTES];
    va_list ap;

    if (!err)
        return 0;
    va_start(ap, format);
    int n = vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    if (n >= 0 && n < (int)sizeof text)
        text_set(text + n, sizeof text - n, err->text);
    memcpy(err->text, text, sizeof text);
    return err->r;
}

const char *hai_err_text(const struct hai_err *err) {
    if (err->text[0])
        return err->text;
    const char *name = strerrordesc_np(err->r < 0 ? -err->r : err->r);
    return name ? name : "failed";
}

static void *checked(void *p, size_t n_bytes) {
    if (!p && n_bytes) {
        fprintf(stderr, "hai: out of memory (%zu bytes wanted)\n", n_bytes);
        abort();
    }
    return p;
}

void *hai_alloc(size_t n_bytes) {
    return checked(calloc(1, n_bytes ? n_bytes : 1), n_bytes);
}

void *hai_alloc_array(size_t n, size_t size) {
    return checked(calloc(n ? n : 1, size ? size : 1), n);
}

void *hai_realloc_array(void *p, size_t n, size_t size) {
    return checked(reallocarray(p, n ? n : 1, size ? size : 1), n);
}

char *hai_strdup(const char *s) {
    return s ? checked(strdup(s), 1) : NULL;
}

char *hai_strndup(const char *s, size_t n_bytes) {
    return checked(strndup(s, n_bytes), 1);
}

char *hai_asprintf(const char *format, ...) {
    char *text = NULL;
    va_list ap;

    va_start(ap, format);
    int n = vasprintf(&text, format, ap);
    va_end(ap);
    return checked(n < 0 ? NULL : text, 1);
}

void hai_strset(char **dst, const char *src) {
    char *copy = hai_strdup(src);

    free(*dst);
    *dst = copy;
}

bool hai_streq(const char *a, const char *b) {
    if (!a || !b)
        return a == b;
    return strcmp(a, b) == 0;
}

int hai_distance(const char *a, const char *b) {
    enum { LENGTH_MAX = 63 };
    int row[LENGTH_MAX + 1];
    int na = (int)strnlen(a, LENGTH_MAX);
    int nb = (int)strnlen(b, LENGTH_MAX);

    for (int j = 0; j <= nb; j++)
        row[j] = j;
    for (int i = 1; i <= na; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= nb; j++) {
            int above = row[j];
            int best = MIN(above, row[j - 1]) + 1;
            row[j] = MIN(best, diagonal + (a[i - 1] != b[j - 1]));
            diagonal = above;
        }
    }
    return row[nb];
}

bool hai_nearer(const char *word, const char *name, int *best) {
    int distance = hai_distance(word, name);
    int longer = (int)MAX(strlen(word), strlen(name));

    if (distance >= *best || distance >= (int)strlen(name) || distance > MIN((longer + 2) / 3, 3))
        return false;
    // Two letters of a short word are half of it: `lsit` is `list`, but `user` is not `set`.
    if (distance > 1 && word[0] != name[0])
        return false;
    *best = distance;
    return true;
}
