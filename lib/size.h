/* size.h - sizes in bytes as people write them: `80GiB`, `512MiB`, `1500B`. */
#pragma once
#include "lib/base.h"

enum { SIZE_TEXT_BYTES = 32 };

/* Units B, KiB, MiB, GiB, TiB, PiB and KB, MB, GB, TB, PB (powers of 1000); a fraction is allowed
 * (`1.5GiB`) and cut to a byte. -EINVAL: no size, also a bare number; -ERANGE: negative or beyond
 * int64. */
int size_parse(const char *text, int64_t *ret_bytes, struct hai_err *err);

/* Exactly, in the largest binary unit that divides it: `80GiB`, `1500B`. Reads back the same. */
void size_exact(int64_t n_bytes, char ret[static SIZE_TEXT_BYTES]);

/* For people, three digits: `1.50GiB`, `80.0GiB`, `999B`. */
void size_human(int64_t n_bytes, char ret[static SIZE_TEXT_BYTES]);
