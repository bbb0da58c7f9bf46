/* progress.h - one line on a terminal's stderr that says how far a program is. Nothing where stderr
 * is no terminal: files and pipes get the final line of a program only.
 */
#pragma once
#include "lib/base.h"

struct progress {
    bool off;
    int64_t last_us; // when something was printed
    int n_printed;   // characters on the line
};

/* quiet: never print. */
void progress_start(struct progress *p, bool quiet);

/* Replace the line, at most five times a second. */
void progress_say(struct progress *p, const char *format, ...) _printf_(2, 3);

/* Take the line away, before anything else is printed. */
void progress_clear(struct progress *p);
