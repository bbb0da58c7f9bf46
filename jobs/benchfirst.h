/* benchfirst.h - the time from exec to a program's first output, with the model's files in memory
 * or not. */
#pragma once
#include "lib/base.h"

/* Ask the kernel to forget the pages of all files of DIR. Returns the share that is in memory
 * still, or a negative errno. */
int benchfirst_forget(const char *dir, double *ret_left, struct hai_err *err);

/* Run a program to its end; ret_s is the time from before fork until it wrote its first byte.
 * -EIO: it failed, or wrote nothing. */
int benchfirst_run(char *const *argv, double *ret_s, struct hai_err *err);
