/* writeprogress.h - one line on a terminal while a large file is written, and an end to it where
 * jobstop.h has noted a signal. */
#pragma once
#include "lib/base.h"

struct writeprogress {
    bool shown;
    int64_t begun_us, last_us;
};

struct writeprogress writeprogress_begin(void);

/* userdata: a struct writeprogress. Shown at most five times a second, and at the end. -EINTR: a
 * signal has come. */
int writeprogress_show(void *userdata, int64_t n_done, int64_t n_all);
double writeprogress_seconds(const struct writeprogress *p);
