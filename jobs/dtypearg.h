/* dtypearg.h - --dtype of programs that write a plain model's folder. */
#pragma once
#include "kernels/kernels.h"

/* "f32", "bf16" or "f16"; 0, or the exit status after a message. */
int dtypearg_parse(const char *program, const char *text, enum k_dtype *ret);
