#include "jobs/writeprogress.h"
#include "jobs/jobstop.h"
#include "lib/timefmt.h"

#include <stdio.h>
#include <unistd.h>

enum { SHOW_US = 200000 };

struct writeprogress writeprogress_begin(void) {
    return (struct writeprogress){.shown = isatty(STDERR_FILENO),
                                  .begun_us = timefmt_monotonic_us()};
}

double writeprogress_seconds(const struct writeprogress *p) {
    return (double)MAX(timefmt_monotonic_us() - p->begun_us, (int64_t)1) * 1e-6;
}

int writeprogress_show(void *userdata, int64_t n_done, int64_t n_all) {
    struct writeprogress *p = userdata;
    int64_t now = timefmt_monotonic_us();

    if (!p->shown || (now - p->last_us < SHOW_US && n_done < n_all))
        return jobstop_look();
    p->last_us = now;
    fprintf(stderr, "\r%5.1f %%  %.2f of %.2f GB written, %.0f MB/s ",
            100 * (double)n_done / (double)MAX(n_all, (int64_t)1), (double)n_done * 1e-9,
            (double)n_all * 1e-9, (double)n_done * 1e-6 / writeprogress_seconds(p));
    if (n_done == n_all)
        fputc('\n', stderr);
    return jobstop_look();
}
