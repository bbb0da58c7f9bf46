/* grammar.h - output that is held to a JSON Schema: which tokens may come next.
 *
 * A schema becomes nodes (string, number, object, ...); a text in progress is a set of stacks of
 * frames over those nodes, moved byte by byte. A frame may count (items, characters) and remember
 * (which properties are there), so limits cost no states. The mask of a set is found by walking a
 * tree of all tokens' bytes and leaving a branch where no stack goes on. Inside strings, where
 * nearly every token may come, the tokens without quotes and escapes are a mask made once for a
 * tokenizer, and only the others are walked. Masks are remembered by the stacks they belong to.
 *
 * Schemas: draft 2020-12. true, false; type; properties, required, additionalProperties; items,
 * prefixItems, minItems, maxItems; enum, const; anyOf, oneOf (alternatives that exclude each
 * other), allOf (merged); $ref to "#" and "#/...", recursive too, $defs and definitions; minLength,
 * maxLength, pattern (engine/infer/grammar_regex.c says which), format date, time, date-time, uuid,
 * ipv4, email; minimum, maximum, exclusiveMinimum, exclusiveMaximum. Annotations (title,
 * description, default, examples, ...) are passed over. Every other keyword is refused by name
 * and JSON pointer (-ENOTSUP).
 * Without `type`, the types that the other keywords speak of are meant; without any, all are.
 *
 * What comes out is always valid, but not everything valid may come out. Limits that keep a text
 * from never ending or from being unreadable elsewhere:
 *  - White space: after an opening bracket, comma or colon, before a closing bracket and before the
 *    whole, there may be one space, or a line feed and at most GRAMMAR_INDENT_MAX spaces or tabs.
 *  - Properties come in the schema's order, as with OpenAI, others after them; any_order lifts
 * this. No key comes twice. Keys are written without \u and \/ escapes.
 *  - Whole numbers fit in 64 bits. Numbers have at most 18 digits before the point, 30 after it,
 * and an exponent of at most 289; with bounds 15, 9 and no exponent.
 *  - Strings hold no zero character, and the character U+007F as an escape only. Values of enum and
 * const are written without white space and with the shortest escapes.
 *  - Nesting ends at GRAMMAR_DEPTH_MAX: deeper values are not begun, so there is always a way out.
 *
 * Not shared between threads at the same time: a grammar remembers masks for all its texts.
 */
#pragma once
#include "lib/base.h"

enum {
    GRAMMAR_SCHEMA_BYTES_MAX = 256 * 1024,
    GRAMMAR_DEPTH_MAX = 60,        // arrays and objects inside each other; lib/json.h reads 64
    GRAMMAR_NODES_MAX = 20000,     // of a compiled schema
    GRAMMAR_TREE_MAX = 200000,     // JSON values made by merging; long texts count as more
    GRAMMAR_WORK_MAX = 20000000,   // values compared and references followed, up to a second
    GRAMMAR_LISTS_MAX = 1 << 20,   // alternatives and items of all nodes
    GRAMMAR_PROPERTIES_MAX = 1024, // of one object
    GRAMMAR_ANY_ORDER_MAX = 64,    // the same where any order is allowed
    GRAMMAR_EXTRA_MAX = 256,       // other keys in one object of the output
    GRAMMAR_LENGTH_MAX = 1 << 24,  // of minLength, maxLength, minItems, maxItems
    GRAMMAR_STACKS_MAX = 256,      // at once; those beyond are given up, with what they allow
    GRAMMAR_INDENT_MAX = 32,
    GRAMMAR_TOKEN_BYTES_MAX = 256, // longer tokens never come
    GRAMMAR_HISTORY_MAX = 64,      // tokens that can be taken back
};

/* All tokens of a tokenizer, made once. */
struct grammar_vocab;

struct grammar_token {
    const void *bytes; // not needed after the call
    uint32_t n_bytes;  // 0: a control token, never allowed
};

/* tokens   [n_tokens] the bytes of each id
 * end_ids  [n_end_ids] allowed where the text may end; their bytes are not looked at */
struct grammar_vocab *grammar_vocab_new(const struct grammar_token *tokens, int32_t n_tokens,
                                        const int32_t *end_ids, int n_end_ids);
void grammar_vocab_free(struct grammar_vocab *v);
DEFINE_CLEANUP(struct grammar_vocab *, grammar_vocab_free)

/* 64-bit words of a mask: ceil(n_tokens / 64). */
size_t grammar_vocab_words(const struct grammar_vocab *v);

struct grammar_options {
    bool compact;   // no white space at all
    bool any_order; // properties in any order
    bool closed;    // no other properties where additionalProperties is absent
};

struct grammar;

/* Compile a schema; the text "{\"type\": \"object\"}" is JSON mode.
 *
 * vocab  must outlive the grammar; NULL: for texts only, no tokens
 *
 * -EBADMSG: no JSON. -EINVAL: no schema (a keyword has a wrong value), or one that nothing can
 * satisfy. -ENOTSUP: something not built in. -E2BIG: a limit above. err->where is the pointer. */
int grammar_new(const struct grammar_vocab *vocab, const char *schema, size_t n_bytes,
                const struct grammar_options *options, struct grammar **ret, struct hai_err *err);
void grammar_free(struct grammar *g);
DEFINE_CLEANUP(struct grammar *, grammar_free)

/* One text in progress: at most 350 KB, a third of it where a schema is not ambiguous. A step takes
 * memory only where a text is nested deeper than any before, or once in thousands of steps to tidy
 * up; a mask only for the grammar's first ones.
 */
struct grammar_match;
struct grammar_match *grammar_match_new(struct grammar *g); // which must outlive it
void grammar_match_free(struct grammar_match *m);
DEFINE_CLEANUP(struct grammar_match *, grammar_match_free)

/* Back to the empty text. */
void grammar_match_reset(struct grammar_match *m);

/* Make `to` a copy of `from`, history included; both of one grammar. */
void grammar_match_copy(struct grammar_match *to, const struct grammar_match *from);

/* Go on by bytes or by the bytes of a token (an end token: by none). -EINVAL if they are not
 * allowed; nothing has changed then. Each call is one step that grammar_match_back can undo. */
int grammar_match_text(struct grammar_match *m, const void *bytes, size_t n_bytes);
int grammar_match_token(struct grammar_match *m, int32_t id);

/* Take back the last n steps. -EINVAL: more than there were, or than GRAMMAR_HISTORY_MAX. */
int grammar_match_back(struct grammar_match *m, int n);

/* May the text end here? */
bool grammar_match_complete(const struct grammar_match *m);

/* Has it ended: nothing but an end token may come? */
bool grammar_match_closed(const struct grammar_match *m);

/* Set bit id % 64 of word id / 64 for every token that may come next, clear the others. */
void grammar_match_mask(struct grammar_match *m, uint64_t *ret);
