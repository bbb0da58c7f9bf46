/* grammar_impl.h - what the parts of grammar.h share: nodes, frames, the tree of tokens.
 */
#pragma once
#include "engine/infer/grammar.h"
#include "lib/json.h"
#include "lib/pure/buf.h"

enum {
    GRAMMAR_NONE = 0, // the node that nothing satisfies
    GRAMMAR_ROOT = 1, // white space, then the schema's node
    GRAMMAR_ANY = 2,  // any JSON value
    GRAMMAR_STRING_ANY = 3,
    GRAMMAR_NODES_FIRST = 4,
    GRAMMAR_HEIGHT_NONE = 0xFFFF, // of a node that cannot be satisfied
    GRAMMAR_LONG_CHARS = 32,      // tokens of more characters are listed one by one
};

enum grammar_kind {
    GRAMMAR_KIND_NONE,
    GRAMMAR_KIND_ROOT,     // lists[first]: the schema's node
    GRAMMAR_KIND_ALT,      // any of lists[first..first + n); in the end none of them is another
    GRAMMAR_KIND_LITERALS, // one of texts[first..first + n), ascending by bytes
    GRAMMAR_KIND_STRING,   // min to max characters
    GRAMMAR_KIND_PATTERN,  // a string that the automaton `regex` accepts
    GRAMMAR_KIND_WHOLE,    // low to high
    GRAMMAR_KIND_BOUNDED,  // low to high in units of 1e-9
    GRAMMAR_KIND_NUMBER,   // without bounds
    GRAMMAR_KIND_OBJECT,   // texts[first..first + n): keys, ascending; rest: node of other keys
    GRAMMAR_KIND_ARRAY,    // lists[first..first + n): first items; rest: node of the others
};

/* A key (its text ends in a quote, so none begins another) or a literal. */
struct grammar_text {
    uint32_t from, n_bytes; // in grammar.bytes
    uint32_t node;          // of a key: its value's
    uint32_t order;         // of a key: its place in the schema
    bool required;
};

struct grammar_node {
    enum grammar_kind kind;
    uint32_t first, n, rest;
    uint32_t min, max;       // characters or items
    __int128 low, high;      // of numbers
    uint16_t height;         // containers inside each other, at least, in what satisfies it
    uint32_t required_first; // lists[i]: the first required key at order i or later, else n
    uint64_t required;       // keys by order, where any order is allowed
    struct grammar_regex *regex;
};

/* A deterministic automaton over the UTF-8 bytes of a string's characters. */
struct grammar_regex {
    int n_states;   // 0 begins; 0 states: nothing matches
    uint16_t *next; // [n_states, 256], GRAMMAR_REGEX_DEAD: no
    bool *accepts;  // [n_states]
    bool *escapes;  // [n_states] does an escape lead on?
};

enum {
    GRAMMAR_REGEX_STATES_MAX = 2000,
    GRAMMAR_REGEX_NODES_MAX = 20000,
    GRAMMAR_REGEX_DEAD = 0xFFFF,
    GRAMMAR_REGEX_WORK_MAX = 40000000, // about a fifth of a second
};

/* Compile a pattern. work: steps that are left to all patterns of a schema, lowered by those taken.
 * -ENOTSUP: a construct outside the subset; -E2BIG: too many states, or too much work. */
int grammar_regex_new(const char *pattern, int64_t *work, struct grammar_regex **ret,
                      struct hai_err *err);
void grammar_regex_free(struct grammar_regex *r);
DEFINE_CLEANUP(struct grammar_regex *, grammar_regex_free)

/* The pattern of a format, or NULL. */
const char *grammar_regex_format(const char *name);

/* The tree of all tokens, in preorder: the children of node i are i + 1, end[i + 1], ... up to
 * end[i]. */
struct grammar_vocab {
    int32_t n_tokens;
    size_t n_words;
    uint32_t n_nodes;
    uint8_t *byte;                           // [n_nodes]
    uint32_t *end;                           // [n_nodes] the node after the subtree
    int32_t *token;                          // [n_nodes] a token that ends here, or -1
    int32_t *same;                           // [n_tokens] another with the same bytes, or -1
    uint8_t *bytes;                          // of all tokens
    uint32_t *from;                          // [n_tokens + 1] in bytes
    bool *is_end;                            // [n_tokens]
    uint64_t *plain[GRAMMAR_LONG_CHARS + 1]; // tokens of string characters only, at most so many
    int32_t *long_tokens;                    // plain ones of more characters
    uint16_t *long_chars;
    int32_t n_long;
    /* Where the first quote or backslash of a token is, after plain characters only. */
    struct grammar_special {
        uint32_t node, prefix, n_prefix; // bytes before it: in `bytes`
    } * specials;
    uint32_t n_specials;
};

struct grammar_mask {
    uint32_t *key;
    uint32_t n_key;
    uint64_t *words;
};

enum { GRAMMAR_MASKS_MAX = 64, GRAMMAR_KEY_MAX = 1024 };

struct grammar {
    const struct grammar_vocab *vocab;
    struct grammar_options options;
    struct grammar_node *nodes;
    uint32_t n_nodes, n_nodes_max;
    uint32_t *lists;
    uint32_t n_lists, n_lists_max;
    struct grammar_text *texts;
    uint32_t n_texts, n_texts_max;
    struct buf bytes;
    struct grammar_mask masks[GRAMMAR_MASKS_MAX]; // the oldest is replaced
    uint32_t n_masks;
};

/* Parts of a frame's place in its node. */
enum grammar_phase {
    GRAMMAR_PHASE_START,
    GRAMMAR_PHASE_BODY,
    GRAMMAR_PHASE_ESCAPE,
    GRAMMAR_PHASE_HEX,      // 4 phases
    GRAMMAR_PHASE_PAIR = 7, // "\" of the second half
    GRAMMAR_PHASE_PAIR_U,
    GRAMMAR_PHASE_PAIR_HEX, // 4 phases
    GRAMMAR_PHASE_FIRST = 13,
    GRAMMAR_PHASE_NAMED, // an object below the key being written
    GRAMMAR_PHASE_COLON,
    GRAMMAR_PHASE_VALUE,
    GRAMMAR_PHASE_AFTER,
    GRAMMAR_PHASE_NEXT,
    GRAMMAR_PHASE_KEY,
    GRAMMAR_PHASE_OTHER, // a key that is none of the schema's
    GRAMMAR_PHASE_OTHER_ESCAPE,
    GRAMMAR_PHASE_USED, // below an object: a key it has, by its hash
    GRAMMAR_PHASE_MINUS,
    GRAMMAR_PHASE_ZERO,
    GRAMMAR_PHASE_DIGITS,
    GRAMMAR_PHASE_POINT,
    GRAMMAR_PHASE_FRACTION,
    GRAMMAR_PHASE_E,
    GRAMMAR_PHASE_E_SIGN,
    GRAMMAR_PHASE_E_DIGITS,
};

struct grammar_frame {
    uint64_t data, more;
    uint32_t node, parent; // parent 0: the text ends with this frame
    uint8_t phase, space;  // space: white space so far, or bytes of a character
    uint16_t depth;        // containers around and with it
    uint32_t extra;        // of an object: other keys
    uint32_t next;         // frames of the same hash
};

/* Stacks by their top frames, without doubles; 0 is the empty stack: a text that has ended. */
struct grammar_set {
    uint32_t n;
    uint32_t ids[GRAMMAR_STACKS_MAX];
};

enum { GRAMMAR_SLOTS = 1024 };

/* Frames are interned, so equal stacks have equal numbers; the newest can be dropped again. */
struct grammar_match {
    struct grammar *g;
    struct grammar_frame *frames; // [1..n_frames)
    uint32_t n_frames, n_frames_max;
    uint32_t slots[GRAMMAR_SLOTS];
    struct grammar_set now;
    struct grammar_set history[GRAMMAR_HISTORY_MAX]; // sets before the last steps, a ring
    uint32_t n_steps; // ever; the last min(n_steps, GRAMMAR_HISTORY_MAX) can be undone
    uint32_t n_undo;
    uint32_t *pool; // the sets of a walk, one a byte, one after the other
};

/* grammar_step.c: frames and how bytes move them. */
uint32_t grammar_step_intern(struct grammar_match *m, const struct grammar_frame *frame);
void grammar_step_join(uint32_t id, struct grammar_set *ret); // once, and while there is room
void grammar_step_add(struct grammar_match *m, const struct grammar_frame *frame,
                      struct grammar_set *ret);                     // interned and joined
void grammar_step_drop(struct grammar_match *m, uint32_t n_frames); // those from n_frames on
void grammar_step_feed(struct grammar_match *m, uint32_t id, uint8_t byte, struct grammar_set *ret);
bool grammar_step_ends(const struct grammar_match *m, uint32_t id); // may the text end with it?
int grammar_step_utf8(int state, uint8_t byte); // 0: between characters; -1: no UTF-8

/* grammar_number.c: one byte more of a number, or of what is around it if the number ends there;
 * may it end? */
void grammar_number_feed(struct grammar_match *m, struct grammar_frame *f, uint8_t byte,
                         struct grammar_set *ret);
bool grammar_number_ends(const struct grammar_match *m, const struct grammar_frame *f);

/* grammar_schema.c, grammar_check.c, grammar_merge.c: from JSON to nodes. */
int grammar_schema_compile(struct grammar *g, const struct json *schema, struct hai_err *err);
uint32_t grammar_schema_add_list(struct grammar *g, const uint32_t *values, uint32_t n);
int grammar_check_schema(const struct json *schema, struct hai_err *err);
const struct json *grammar_check_resolve(const struct json *root, const char *ref,
                                         int64_t *work); // lowered by the values passed
bool grammar_check_is_annotation(const char *keyword);   // or a place for definitions

/* grammar_finish.c: the root, alternatives without others inside, heights. work: as of trees. */
int grammar_finish(struct grammar *g, uint32_t root, int64_t *work, struct hai_err *err);

/* Trees made on the way, freed together. */
struct grammar_trees {
    const struct json *root;
    struct json **made;
    size_t n_made, n_made_max, n_values;
    int64_t work; // what is left of GRAMMAR_WORK_MAX; below 0, answers may be wrong
};
void grammar_merge_free(struct grammar_trees *t);
bool grammar_merge_contains(struct grammar_trees *t, const struct json *array,
                            const struct json *value);

/* A schema without some keywords. */
struct json *grammar_merge_without(struct grammar_trees *t, const struct json *schema,
                                   const char *keyword);
/* What both accept. */
int grammar_merge_both(struct grammar_trees *t, const struct json *a, const struct json *b,
                       const char *pointer, int depth, const struct json **ret,
                       struct hai_err *err);
/* Is it certain that no value satisfies both? */
bool grammar_merge_disjoint(struct grammar_trees *t, const struct json *a, const struct json *b,
                            int depth);
/* The types a schema speaks of, as bits 1 << json_kind (both kinds of numbers: JSON_KIND_REAL). */
unsigned grammar_merge_types(const struct json *schema);
