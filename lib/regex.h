/* regex.h - regular expressions over UTF-8, as tokenizer.json files write them.
 *
 * Patterns mean what they mean to the Rust tokenizers (Oniguruma, Ruby syntax): Unicode classes,
 * `\s` is White_Space, `^` and `$` hold at every line. PCRE2 behind it.
 */
#pragma once
#include "lib/base.h"

struct regex;

/* -EINVAL: the pattern is wrong; err has the place and PCRE2's reason. */
int regex_new(const char *pattern, struct regex **ret, struct hai_err *err);
void regex_free(struct regex *re);
DEFINE_CLEANUP(struct regex *, regex_free)

/* The first match at or after byte `from`. text must be valid UTF-8 and from a character's start:
 * the caller has checked that. Returns 1 and the bytes [*ret_from, *ret_to), which may be none; 0
 * if there is no match; -E2BIG if the pattern needs too many steps on this text. */
int regex_find(struct regex *re, const char *text, size_t n_bytes, size_t from, size_t *ret_from,
               size_t *ret_to);
