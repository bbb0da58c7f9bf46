/* jobexit.h - how the programs that run on nodes end: one line on stderr, a status as
 * docs/scripts.md says.
 */
#pragma once
#include "lib/base.h"

enum {
    JOBEXIT_DONE = 0,
    JOBEXIT_FAILED = 1,
    JOBEXIT_USAGE = 2, // bad command line or file
};

/* Print "PROGRAM: WHERE: TEXT" and return the status for this failure: 2 where a file or flag has
 * to be mended, 1 where something else went wrong. */
int jobexit_report(const char *program, const struct hai_err *err);

/* Print a usage error; returns 2. */
int jobexit_usage(const char *program, const char *format, ...) _printf_(2, 3);
