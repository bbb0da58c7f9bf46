/* split.h - one step of a pre-tokenizer: where the pieces that a pattern matches lie.
 *
 * The patterns of published tokenizers are searched for by hand: LLM's six steps through PCRE2
 * leave 4 to 5 MB/s for the whole tokenizer, this 9 to 16; the others gain a half to the double.
 * Recognised are the exact texts of the patterns of V3, Qwen2 and Llama 3, and the shape "one class
 * of characters, one or many, perhaps after a space" that all others have. What characters are in a
 * class PCRE2 says (charclass.h), and it searches for any other pattern, so both ways give the same
 * pieces (tests/unit/test_split.c).
 */
#pragma once
#include "lib/base.h"

struct split;

/* The patterns that are searched for by hand whole. What follows QWEN2_HEAD is the part by which
 * Qwen2's and Llama 3's differ. */
#define SPLIT_V3                                                                                   \
    "[!\"#$%&'()*+,\\-./"                                                                          \
    ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"                 \
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
#define SPLIT_QWEN2_HEAD "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
#define SPLIT_QWEN2_TAIL "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define SPLIT_QWEN2 SPLIT_QWEN2_HEAD SPLIT_QWEN2_TAIL
#define SPLIT_LLAMA3 SPLIT_QWEN2_HEAD "{1,3}" SPLIT_QWEN2_TAIL

/* by_hand false: leave it to PCRE2. -EINVAL: the pattern is wrong. */
int split_new(const char *pattern, bool by_hand, struct split **ret, struct hai_err *err);
void split_free(struct split *s);
DEFINE_CLEANUP(struct split *, split_free)

/* Is this one searched for by hand? */
bool split_by_hand(const struct split *s);

/* The first piece at or after byte `from`, as regex_find: 1 and [*ret_from, *ret_to), not empty; 0:
 * none; -E2BIG: the pattern gave up. text is valid UTF-8. One thread at a time. */
int split_find(struct split *s, const char *text, size_t n_bytes, size_t from, size_t *ret_from,
               size_t *ret_to);
