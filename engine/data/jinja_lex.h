/* jinja_lex.h - a template's text as tokens, with white space cut as the tags ask for.
 *
 * As transformers sets up Jinja: trim_blocks and lstrip_blocks on, one line feed at the end of the
 * template dropped.
 */
#pragma once
#include "lib/base.h"
#include "lib/pure/arena.h"

enum jinja_token_kind {
    JINJA_TOKEN_TEXT,      // between tags
    JINJA_TOKEN_PRINT,     // {{
    JINJA_TOKEN_PRINT_END, // }}
    JINJA_TOKEN_BLOCK,     // {%
    JINJA_TOKEN_BLOCK_END, // %}
    JINJA_TOKEN_NAME,
    JINJA_TOKEN_STRING, // escapes resolved
    JINJA_TOKEN_INT,
    JINJA_TOKEN_REAL,
    JINJA_TOKEN_OPERATOR, // one or two characters
    JINJA_TOKEN_END,
};

struct jinja_token {
    enum jinja_token_kind kind;
    int line;
    const char *text; // in the arena, zero-terminated
    size_t n_bytes;
};

enum { JINJA_TOKENS_MAX = 1 << 18, JINJA_TEMPLATE_BYTES_MAX = 1 << 20 };

/* Tokens, the last of which is JINJA_TOKEN_END, in the arena. text is UTF-8. Returns how many;
 * -EBADMSG: bad syntax; -E2BIG. name is for errors. */
int jinja_lex(const char *text, size_t n_bytes, const char *name, struct arena *arena,
              struct jinja_token **ret, struct hai_err *err);
