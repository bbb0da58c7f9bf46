#include "lib/regex.h"
#include "lib/pure/buf.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

struct regex {
    pcre2_code *code;
    pcre2_match_data *match;
};

/* White_Space of Unicode. PCRE2's own \s also takes U+180E, which lost the property in Unicode 6.3.
 */
#define SPACE "\\p{Z}\\t-\\r\\x{85}"

/* Rewrite \s and \S. Inside brackets \S cannot be spelled so and is left as PCRE2 has it. */
static void translate(const char *pattern, struct buf *ret) {
    bool in_class = false;

    for (const char *p = pattern; *p; p++) {
        if (*p == '\\' && p[1]) {
            p++;
            if (*p == 's')
                buf_add_str(ret, in_class ? SPACE : "[" SPACE "]");
            else if (*p == 'S' && !in_class)
                buf_add_str(ret, "[^" SPACE "]");
            else
                buf_printf(ret, "\\%c", *p);
            continue;
        }
        if (*p == '[')
            in_class = true;
        else if (*p == ']')
            in_class = false;
        buf_add_u8(ret, (uint8_t)*p);
    }
}

int regex_new(const char *pattern, struct regex **ret, struct hai_err *err) {
    _cleanup_(buf_free) struct buf text = {0};
    int number;
    PCRE2_SIZE at;
    PCRE2_UCHAR why[128];

    translate(pattern, &text);
    pcre2_code *code = pcre2_compile(text.data, text.n_bytes,
                                     PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &number, &at, NULL);
    if (!code) {
        pcre2_get_error_message(number, why, sizeof why);
        return hai_fail(err, -EINVAL, "pattern '%.200s', byte %zu: %s", pattern, (size_t)at,
                        (const char *)why);
    }
    struct regex *re = hai_new(struct regex);
    pcre2_jit_compile(code,
                      PCRE2_JIT_COMPLETE); // without it the interpreter runs: slower, the same
    *re = (struct regex){code, pcre2_match_data_create_from_pattern(code, NULL)};
    if (!re->match)
        abort();
    *ret = re;
    return 0;
}

void regex_free(struct regex *re) {
    if (!re)
        return;
    pcre2_match_data_free(re->match);
    pcre2_code_free(re->code);
    free(re);
}

int regex_find(struct regex *re, const char *text, size_t n_bytes, size_t from, size_t *ret_from,
               size_t *ret_to) {
    int r =
        pcre2_match(re->code, (PCRE2_SPTR)text, n_bytes, from, PCRE2_NO_UTF_CHECK, re->match, NULL);

    if (r == PCRE2_ERROR_NOMATCH)
        return 0;
    if (r < 0)
        return -E2BIG;
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(re->match);
    *ret_from = ends[0];
    *ret_to = ends[1];
    return 1;
}
