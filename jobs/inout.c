#include "jobs/inout.h"

#include <sys/stat.h>
#include <unistd.h>

static int opened(FILE *file, const char *path, FILE **ret, struct hai_err *err) {
    if (!file)
        return hai_fail(err, -errno, "%s: %m", path);
    *ret = file;
    return 0;
}

int inout_open_in(const char *path, FILE **ret, struct hai_err *err) {
    return opened(hai_streq(path, "-") ? stdin : fopen(path, "re"), path, ret, err);
}

int inout_open_out(const char *path, FILE **ret, struct hai_err *err) {
    return opened(hai_streq(path, "-") ? stdout : fopen(path, "we"), path, ret, err);
}

int inout_check(FILE *in, const char *in_path, const char *path, struct hai_err *err) {
    struct stat from, to;

    if (!path || fstat(fileno(in), &from) < 0 || !S_ISREG(from.st_mode))
        return 0;
    if ((hai_streq(path, "-") ? fstat(STDOUT_FILENO, &to) : stat(path, &to)) < 0)
        return 0; // not there yet, or opening it will say what is wrong
    if (from.st_dev != to.st_dev || from.st_ino != to.st_ino)
        return 0;
    return hai_fail(err, -EINVAL, "%s is the same file as the input, %s; expected another one",
                    hai_streq(path, "-") ? "stdout" : path,
                    hai_streq(in_path, "-") ? "stdin" : in_path);
}
