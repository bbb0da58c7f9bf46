#include "jobs/jobexit.h"

#include <stdarg.h>
#include <stdio.h>

int jobexit_report(const char *program, const struct hai_err *err) {
    static const int files[] = {EINVAL, EBADMSG, ENOENT, ENOTSUP, EFBIG,  E2BIG,
                                ERANGE, ENODATA, ESTALE, ENOTDIR, EISDIR, EEXIST};

    fprintf(stderr, "%s: %s%s%s\n", program, err->where, err->where[0] ? ": " : "",
            hai_err_text(err));
    for (size_t i = 0; i < ARRAY_SIZE(files); i++)
        if (err->r == -files[i])
            return JOBEXIT_USAGE;
    return JOBEXIT_FAILED;
}

int jobexit_usage(const char *program, const char *format, ...) {
    va_list ap;

    fprintf(stderr, "%s: ", program);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fprintf(stderr, "\n%s --help says more\n", program);
    return JOBEXIT_USAGE;
}
