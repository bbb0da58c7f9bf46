/* npy.h - write an array as NumPy's .npy file (format 1.0). */
#pragma once
#include "lib/base.h"
#include <stdio.h>

/* The header of a little-endian float32 array [n_rows, n_columns] in C order; rows follow. */
int npy_write_header(FILE *f, int64_t n_rows, int64_t n_columns);
