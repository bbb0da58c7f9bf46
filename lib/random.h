/* random.h - bytes from the kernel, for secrets, tokens and names. Never used by the cores. */
#pragma once
#include "lib/base.h"

enum { RANDOM_TOKEN_BYTES = 65 };

/* Cannot fail after boot; ends the process if the kernel has no generator. */
void random_bytes(void *ret, size_t n_bytes);
uint64_t random_u64(void);

/* 256 random bits as 64 lower-case hexadecimal digits and a zero. */
void random_token(char ret[static RANDOM_TOKEN_BYTES]);
