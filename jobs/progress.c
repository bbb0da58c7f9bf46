#include "jobs/progress.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { EVERY_US = 200000 };

void progress_start(struct progress *p, bool quiet) {
    *p = (struct progress){.off = quiet || !isatty(STDERR_FILENO)};
}

void progress_say(struct progress *p, const char *format, ...) {
    struct timespec t;
    va_list ap;

    if (p->off)
        return;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    int64_t now_us = (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
    if (p->n_printed && now_us - p->last_us < EVERY_US)
        return;
    p->last_us = now_us;
    fputc('\r', stderr);
    va_start(ap, format);
    int n = vfprintf(stderr, format, ap);
    va_end(ap);
    fprintf(stderr, "%*s", MAX(p->n_printed - n, 0), "");
    p->n_printed = MAX(n, 1);
    fflush(stderr);
}

void progress_clear(struct progress *p) {
    if (p->n_printed)
        fprintf(stderr, "\r%*s\r", p->n_printed, "");
    p->n_printed = 0;
}
