/* inout.h - the files that a program reads lines from and writes lines to.
 *
 * One must not be the other: opening it for writing would empty it, and what is appended to it
 * would be read again without end. Devices and pipes may be both.
 */
#pragma once
#include "lib/base.h"

#include <stdio.h>

/* Open a file for reading; "-" is stdin. */
int inout_open_in(const char *path, FILE **ret, struct hai_err *err);

/* -EINVAL: path is the same file as `in`, by device and inode. "-" is stdout, NULL nothing. */
int inout_check(FILE *in, const char *in_path, const char *path, struct hai_err *err);

/* Open a file for writing and empty it; "-" is stdout. */
int inout_open_out(const char *path, FILE **ret, struct hai_err *err);
