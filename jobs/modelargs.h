/* modelargs.h - the command-line options that programs reading a model share. */
#pragma once
#include "engine/data/token_list.h"
#include "engine/infer/generate.h"

/* "ref", "cpu", "cuda". Returns 0, or the exit status after a message: cuda is known but not built,
 * which is a failure (1) and no usage error. */
int modelargs_backend(const char *program, const char *text, enum k_backend *ret);

/* "f32" or "bf16"; 0 or the exit status after a message. */
int modelargs_dtype(const char *program, const char *text, enum generate_dtype *ret);

/* "f32", "f16" or "bf16", of keys and values; 0 or the exit status after a message. */
int modelargs_cache_dtype(const char *program, const char *text, enum k_dtype *ret);

/* Threads to compute with: the processors this process may run on, as far as a model takes them. */
int modelargs_threads(void);

/* "1 2 3", with spaces or commas. 0 or the exit status after a message. */
int modelargs_token_ids(const char *program, const char *text, struct token_list *ret);

/* A number of an option; 0 or the exit status after a message. */
int modelargs_number(const char *program, const char *option, const char *text, double low,
                     double high, bool whole, double *ret);
