#include "engine/infer/grammar_impl.h"

typedef struct grammar_match match;
typedef struct grammar_frame frame;
typedef struct grammar_node node_t;

enum { SPACE_NONE, SPACE_ONE, SPACE_LINE }; // SPACE_LINE + n: n blanks after a line feed

static const uint64_t hash_start = 0xcbf29ce484222325u; // FNV-1a, 64 bits

/* ---- frames ---- */

static uint32_t slot_of(const frame *f) {
    uint64_t h = f->data * 0x9E3779B97F4A7C15u ^ f->more * 0xC2B2AE3D27D4EB4Fu;

    h ^= ((uint64_t)f->node << 32 | f->parent) * 0x165667B19E3779F9u;
    h ^= ((uint64_t)f->phase << 40 | (uint64_t)f->space << 32 | f->extra) * 0x27D4EB2F165667C5u;
    h ^= h >> 29;
    return (uint32_t)((h * 0xBF58476D1CE4E5B9u) >> 40) & (GRAMMAR_SLOTS - 1);
}

static bool same_frame(const frame *a, const frame *b) {
    return a->data == b->data && a->more == b->more && a->node == b->node &&
           a->parent == b->parent && a->phase == b->phase && a->space == b->space &&
           a->depth == b->depth && a->extra == b->extra;
}

uint32_t grammar_step_intern(match *m, const frame *f) {
    uint32_t slot = slot_of(f);

    for (uint32_t id = m->slots[slot]; id; id = m->frames[id].next)
        if (same_frame(&m->frames[id], f))
            return id;
    if (m->n_frames == m->n_frames_max) {
        m->n_frames_max *= 2;
        m->frames = hai_realloc_array(m->frames, m->n_frames_max, sizeof *m->frames);
    }
    m->frames[m->n_frames] = *f;
    m->frames[m->n_frames].next = m->slots[slot];
    m->slots[slot] = m->n_frames;
    return m->n_frames++;
}

void grammar_step_drop(match *m, uint32_t n_frames) {
    while (m->n_frames > n_frames) {
        uint32_t slot = slot_of(&m->frames[--m->n_frames]);
        assert(m->slots[slot] == m->n_frames);
        m->slots[slot] = m->frames[m->n_frames].next;
    }
}

void grammar_step_join(uint32_t id, struct grammar_set *ret) {
    for (uint32_t i = 0; i < ret->n; i++)
        if (ret->ids[i] == id)
            return;
    if (ret->n < GRAMMAR_STACKS_MAX)
        ret->ids[ret->n++] = id;
}

void grammar_step_add(match *m, const frame *f, struct grammar_set *ret) {
    grammar_step_join(grammar_step_intern(m, f), ret);
}

/* The frame's value is whole: its container goes on, or the text has ended. */
static void pop(const frame *f, struct grammar_set *ret) {
    grammar_step_join(f->parent, ret);
}

int grammar_step_utf8(int state, uint8_t b) {
    static const struct {
        uint8_t low, high;
        int8_t next;
    } rest[] = {
        {0,    0,    0},
        {0x80, 0xBF, 0},
        {0x80, 0xBF, 1},
        {0x80, 0xBF, 2},
        {0xA0, 0xBF, 1}, // after E0
        {0x80, 0x9F, 1}, // after ED: no surrogates
        {0x90, 0xBF, 2}, // after F0
        {0x80, 0x8F, 2}, // after F4
    };

    if (state)
        return b >= rest[state].low && b <= rest[state].high ? rest[state].next : -1;
    if (b < 0x80)
        return 0;
    if (b < 0xC2 || b > 0xF4)
        return -1;
    if (b < 0xE0)
        return 1;
    if (b < 0xF0)
        return b == 0xE0 ? 4 : b == 0xED ? 5 : 2;
    return b == 0xF0 ? 6 : b == 0xF4 ? 7 : 3;
}

/* ---- strings ---- */

static bool is_escape(uint8_t b) {
    return b && strchr("\"\\/bfnrt", b);
}

static void string_char(match *m, frame *f, struct grammar_set *ret) {
    const node_t *node = &m->g->nodes[f->node];

    // Without an upper bound only the way to the lower one is counted.
    if (node->max != UINT32_MAX || f->data < node->min)
        f->data++;
    f->phase = GRAMMAR_PHASE_BODY;
    f->more = 0;
    grammar_step_add(m, f, ret);
}

static int hex_digit(uint8_t b) {
    if (b >= '0' && b <= '9')
        return b - '0';
    b |= 0x20;
    return b >= 'a' && b <= 'f' ? b - 'a' + 10 : -1;
}

/* A digit of \uXXXX: no zero character, and the halves of pairs only together. */
static void string_hex(match *m, frame *f, uint8_t byte, struct grammar_set *ret) {
    bool second = f->phase >= GRAMMAR_PHASE_PAIR_HEX;
    int at = f->phase - (second ? GRAMMAR_PHASE_PAIR_HEX : GRAMMAR_PHASE_HEX);
    int digit = hex_digit(byte);

    if (digit < 0)
        return;
    f->more = f->more << 4 | (uint64_t)digit;
    if (second ? (at == 0 && digit != 0xD) || (at == 1 && digit < 0xC)
               : at == 1 && f->more >= 0xDC && f->more <= 0xDF)
        return;
    if (at < 3) {
        f->phase++;
        grammar_step_add(m, f, ret);
    } else if (!second && f->more >= 0xD800 && f->more <= 0xDBFF) {
        f->phase = GRAMMAR_PHASE_PAIR;
        f->more = 0;
        grammar_step_add(m, f, ret);
    } else if (f->more) {
        string_char(m, f, ret);
    }
}

static void feed_body(match *m, frame *f, uint8_t byte, struct grammar_set *ret) {
    const node_t *node = &m->g->nodes[f->node];
    int state = f->space;

    if (state == 0 && byte == '"') {
        if (f->data >= node->min)
            pop(f, ret);
        return;
    }
    if (byte < 0x20 || byte == 0x7f || (state == 0 && f->data >= node->max))
        return;
    if (state == 0 && byte == '\\') {
        f->phase = GRAMMAR_PHASE_ESCAPE;
        grammar_step_add(m, f, ret);
        return;
    }
    int next = grammar_step_utf8(state, byte);
    if (next < 0)
        return;
    f->space = (uint8_t)next;
    if (state == 0)
        string_char(m, f, ret);
    else
        grammar_step_add(m, f, ret);
}

static void feed_string(match *m, frame *f, uint8_t byte, struct grammar_set *ret) {
    switch (f->phase) {
    case GRAMMAR_PHASE_START:
        if (byte != '"')
            return;
        f->phase = GRAMMAR_PHASE_BODY;
        grammar_step_add(m, f, ret);
        return;
    case GRAMMAR_PHASE_BODY:
        feed_body(m, f, byte, ret);
        return;
    case GRAMMAR_PHASE_ESCAPE:
        if (byte == 'u') {
            f->phase = GRAMMAR_PHASE_HEX;
            grammar_step_add(m, f, ret);
        } else if (is_escape(byte)) {
            string_char(m, f, ret);
        }
        return;
    case GRAMMAR_PHASE_PAIR:
        if (byte != '\\')
            return;
        f->phase = GRAMMAR_PHASE_PAIR_U;
        grammar_step_add(m, f, ret);
        return;
    case GRAMMAR_PHASE_PAIR_U:
        if (byte != 'u')
            return;
        f->phase = GRAMMAR_PHASE_PAIR_HEX;
        grammar_step_add(m, f, ret);
        return;
    default:
        string_hex(m, f, byte, ret);
    }
}

/* data: state of the automaton. */
static void feed_pattern(match *m, frame *f, uint8_t byte, struct grammar_set *ret) {
    static const char from[] = "\"\\bfnrt", to[] = "\"\\\b\f\n\r\t";
    const struct grammar_regex *regex = m->g->nodes[f->node].regex;

    if (f->phase == GRAMMAR_PHASE_START) {
        if (byte != '"')
            return;
        f->phase = GRAMMAR_PHASE_BODY;
    } else if (f->phase == GRAMMAR_PHASE_BODY && byte == '"') {
        if (regex->accepts[f->data])
            pop(f, ret);
        return;
    } else if (f->phase == GRAMMAR_PHASE_BODY && byte == '\\') {
        if (!regex->escapes[f->data])
            return;
        f->phase = GRAMMAR_PHASE_ESCAPE;
    } else {
        if (f->phase == GRAMMAR_PHASE_ESCAPE) {
            const char *at = byte ? strchr(from, byte) : NULL;
            if (!at)
                return;
            byte = (uint8_t)to[at - from];
        } else if (byte < 0x20) {
            return;
        }
        uint16_t next = regex->next[f->data * 256 + byte];
        if (next == GRAMMAR_REGEX_DEAD)
            return;
        f->phase = GRAMMAR_PHASE_BODY;
        f->data = next;
    }
    grammar_step_add(m, f, ret);
}

/* ---- sets of texts ---- */

static uint8_t text_byte(const match *m, uint32_t text, uint64_t at) {
    const struct grammar_text *t = &m->g->texts[text];

    return at < t->n_bytes ? m->g->bytes.data[t->from + at] : 0;
}

/* Of texts[low, high), ascending and with the same first `at` bytes, those with `byte` next. */
static void narrow(const match *m, uint32_t *low, uint32_t *high, uint64_t at, uint8_t byte) {
    uint32_t from = *low, to = *high;

    while (from < to) { // the first whose next byte is not below
        uint32_t mid = from + (to - from) / 2;
        if (at >= m->g->texts[mid].n_bytes || text_byte(m, mid, at) < byte)
            from = mid + 1;
        else
            to = mid;
    }
    *low = from;
    to = *high;
    while (from < to) { // the first whose next byte is above
        uint32_t mid = from + (to - from) / 2;
        if (text_byte(m, mid, at) <= byte)
            from = mid + 1;
        else
            to = mid;
    }
    *high = from;
}

/* data: the texts in question (low, high), relative to the node's first; more: bytes so far. */
static void feed_literals(match *m, frame *f, uint8_t byte, struct grammar_set *ret) {
    const node_t *node = &m->g->nodes[f->node];
    uint32_t low = node->first, high = node->first + node->n;

    if (f->more > 0) {
        low = node->first + (uint32_t)(f->data >> 32);
        high = node->first + (uint32_t)f->data;
    }
    narrow(m, &low, &high, f->more, byte);
    if (low == high)
        return;
    f->more++;
    if (m->g->texts[low].n_bytes == f->more) {
        pop(f, ret);
        low++;
    }
    if (low == high)
        return;
    f->data = (uint64_t)(low - node->first) << 32 | (high - node->first);
    grammar_step_add(m, f, ret);
}

/* ---- containers ---- */

static bool fits(const match *m, uint32_t node, uint32_t depth) {
    return m->g->nodes[node].height + depth <= GRAMMAR_DEPTH_MAX;
}

/* A value that holds no others. Returns whether the frame is of one. */
static bool feed_leaf(match *m, frame *f, uint8_t byte, struct grammar_set *ret) {
    switch (m->g->nodes[f->node].kind) {
    case GRAMMAR_KIND_LITERALS:
        feed_literals(m, f, byte, ret);
        return true;
    case GRAMMAR_KIND_STRING:
        feed_string(m, f, byte, ret);
        return true;
    case GRAMMAR_KIND_PATTERN:
        feed_pattern(m, f, byte, ret);
        return true;
    case GRAMMAR_KIND_WHOLE:
    case GRAMMAR_KIND_BOUNDED:
    case GRAMMAR_KIND_NUMBER:
        grammar_number_feed(m, f, byte, ret);
        return true;
    default:
        return false;
    }
}

/* Begin a value below a frame (0: none), inside `depth` containers, with its first byte. */
static void enter(match *m, uint32_t id, uint32_t parent, uint16_t depth, uint8_t byte,
                  struct grammar_set *ret) {
    const node_t *node = &m->g->nodes[id];

    if (!fits(m, id, depth))
        return;
    frame f = {.node = id, .parent = parent, .depth = depth};
    switch (node->kind) {
    case GRAMMAR_KIND_ALT:
        for (uint32_t i = 0; i < node->n; i++)
            enter(m, m->g->lists[node->first + i], parent, depth, byte, ret);
        return;
    case GRAMMAR_KIND_OBJECT:
    case GRAMMAR_KIND_ARRAY:
        if (byte != (node->kind == GRAMMAR_KIND_OBJECT ? '{' : '['))
            return;
        f.phase = GRAMMAR_PHASE_FIRST;
        f.depth++;
        grammar_step_add(m, &f, ret);
        return;
    default: // what nothing satisfies has no byte to begin with
        (void)feed_leaf(m, &f, byte, ret);
    }
}

/* White space where there may be some. Returns whether the byte is such. */
static bool feed_space(match *m, frame *f, uint8_t byte, struct grammar_set *ret) {
    if (m->g->options.compact)
        return false;
    if (f->space == SPACE_NONE && byte == ' ')
        f->space = SPACE_ONE;
    else if (f->space == SPACE_NONE && byte == '\n')
        f->space = SPACE_LINE;
    else if (f->space >= SPACE_LINE && f->space < SPACE_LINE + GRAMMAR_INDENT_MAX &&
             (byte == ' ' || byte == '\t'))
        f->space++;
    else
        return false;
    grammar_step_add(m, f, ret);
    return true;
}

/* The node of the item that would come next, GRAMMAR_NONE if none may. data: items so far. */
static uint32_t next_item(const match *m, const frame *f) {
    const node_t *node = &m->g->nodes[f->node];
    uint32_t item = f->data < node->n ? m->g->lists[node->first + f->data] : node->rest;

    return f->data < node->max && fits(m, item, f->depth) ? item : GRAMMAR_NONE;
}

static void feed_array(match *m, frame *f, uint8_t byte, struct grammar_set *ret) {
    const node_t *node = &m->g->nodes[f->node];
    bool complete = f->data >= node->min;

    if (f->phase == GRAMMAR_PHASE_AFTER) {
        if (byte == ',' && f->space == SPACE_NONE && next_item(m, f)) {
            f->phase = GRAMMAR_PHASE_NEXT;
            grammar_step_add(m, f, ret);
        } else if (byte == ']' && complete) {
            pop(f, ret);
        } else if (complete) {
            feed_space(m, f, byte, ret);
        }
        return;
    }
    if (feed_space(m, f, byte, ret))
        return;
    if (f->phase == GRAMMAR_PHASE_FIRST && byte == ']') {
        if (complete)
            pop(f, ret);
        return;
    }
    uint32_t item = next_item(m, f);
    if (!item)
        return;
    f->phase = GRAMMAR_PHASE_AFTER;
    f->space = SPACE_NONE;
    // Items are counted as far as the count decides anything.
    if (node->max != UINT32_MAX || f->data < MAX(node->min, node->n))
        f->data++;
    uint32_t above = grammar_step_intern(m, f);
    enter(m, item, above, f->depth, byte, ret);
}

/* Of an object: data is the order from which keys may come, or with any_order the keys there are.
 */
static bool object_complete(const match *m, const frame *f) {
    const node_t *node = &m->g->nodes[f->node];

    if (m->g->options.any_order)
        return (f->data & node->required) == node->required;
    return m->g->lists[node->required_first + f->data] == node->n;
}

/* May this key (a text of the node) come next? */
static bool key_allowed(const match *m, const frame *f, const struct grammar_text *key) {
    const node_t *node = &m->g->nodes[f->node];

    if (!fits(m, key->node, f->depth))
        return false;
    if (m->g->options.any_order)
        return !(f->data >> key->order & 1);
    return key->order >= f->data && key->order <= m->g->lists[node->required_first + f->data];
}

static bool other_allowed(const match *m, const frame *f) {
    const node_t *node = &m->g->nodes[f->node];

    return node->rest && f->extra < GRAMMAR_EXTRA_MAX && fits(m, node->rest, f->depth) &&
           (m->g->options.any_order || object_complete(m, f));
}

static bool any_key_allowed(const match *m, const frame *f, uint32_t low, uint32_t high) {
    for (uint32_t i = low; i < high; i++)
        if (key_allowed(m, f, &m->g->texts[i]))
            return true;
    return false;
}

/* A quote that begins a key: one of the schema's, or another. Both remember which of the schema's
 * keys begin with what is written (more: low and high, relative, and bytes so far). */
static void begin_key(match *m, frame *f, struct grammar_set *ret) {
    const node_t *node = &m->g->nodes[f->node];

    f->phase = GRAMMAR_PHASE_NAMED;
    f->space = SPACE_NONE;
    frame key = {.node = f->node,
                 .parent = grammar_step_intern(m, f),
                 .phase = GRAMMAR_PHASE_KEY,
                 .more = (uint64_t)node->n << 32,
                 .depth = f->depth};
    if (any_key_allowed(m, f, node->first, node->first + node->n))
        grammar_step_add(m, &key, ret);
    if (other_allowed(m, f)) {
        key.phase = GRAMMAR_PHASE_OTHER;
        key.data = hash_start;
        grammar_step_add(m, &key, ret);
    }
}

/* The byte after those of a key frame; afterwards low and high are the keys that still agree. */
static void narrow_key(const match *m, frame *f, uint8_t byte, uint32_t *low, uint32_t *high) {
    const node_t *node = &m->g->nodes[f->node];

    *low = node->first + (uint32_t)(f->more >> 48);
    *high = node->first + (uint32_t)(f->more >> 32 & 0xFFFF);
    uint32_t at = (uint32_t)f->more;
    if (*low < *high)
        narrow(m, low, high, at, byte);
    if (*low >= *high)
        *low = *high = node->first;
    // Without such keys the place is of no more interest.
    f->more = (uint64_t)(*low - node->first) << 48 | (uint64_t)(*high - node->first) << 32;
    if (*low < *high)
        f->more |= at + 1;
}

static void feed_key(match *m, frame *f, uint8_t byte, struct grammar_set *ret) {
    frame object = m->frames[f->parent];
    uint32_t low, high;

    narrow_key(m, f, byte, &low, &high);
    if (!any_key_allowed(m, &object, low, high))
        return;
    if (m->g->texts[low].n_bytes == (uint32_t)f->more) {
        object.phase = GRAMMAR_PHASE_COLON;
        object.more = low - m->g->nodes[f->node].first;
        grammar_step_add(m, &object, ret);
        return;
    }
    grammar_step_add(m, f, ret);
}

/* The end of a key that is none of the schema's: unless the object has it already. */
static void end_other(match *m, const frame *f, struct grammar_set *ret) {
    frame object = m->frames[f->parent];
    const node_t *node = &m->g->nodes[f->node];

    for (uint32_t at = object.parent; at && m->frames[at].phase == GRAMMAR_PHASE_USED;
         at = m->frames[at].parent)
        if (m->frames[at].data == f->data)
            return;
    frame used = {.node = f->node,
                  .parent = object.parent,
                  .phase = GRAMMAR_PHASE_USED,
                  .data = f->data,
                  .depth = f->depth};
    object.parent = grammar_step_intern(m, &used);
    object.phase = GRAMMAR_PHASE_COLON;
    object.more = node->n;
    object.extra++;
    if (!m->g->options.any_order)
        object.data = node->n;
    grammar_step_add(m, &object, ret);
}

static void feed_other(match *m, frame *f, uint8_t byte, struct grammar_set *ret) {
    bool escape = f->phase == GRAMMAR_PHASE_OTHER_ESCAPE, ends = !escape && byte == '"';
    uint32_t low, high;

    // One spelling a key, the one that the schema's keys have.
    if (escape ? !is_escape(byte) || byte == '/' : byte < 0x20 || byte == 0x7f)
        return;
    int next = escape ? 0 : grammar_step_utf8(f->space, byte);
    if (next < 0)
        return;
    narrow_key(m, f, byte, &low, &high);
    if (ends) {
        // Keys of the schema end in the quote, so one that agrees is the same.
        if (low == high)
            end_other(m, f, ret);
        return;
    }
    f->data = (f->data ^ byte) * 0x100000001b3u;
    f->space = (uint8_t)next;
    f->phase = !escape && byte == '\\' ? GRAMMAR_PHASE_OTHER_ESCAPE : GRAMMAR_PHASE_OTHER;
    grammar_step_add(m, f, ret);
}

/* A value begins: the object moves on behind it, and the value stands above. */
static void feed_value(match *m, frame *f, uint8_t byte, struct grammar_set *ret) {
    const node_t *node = &m->g->nodes[f->node];
    uint32_t value = node->rest;

    if (feed_space(m, f, byte, ret))
        return;
    if (f->more < node->n) {
        const struct grammar_text *key = &m->g->texts[node->first + f->more];
        value = key->node;
        f->data = m->g->options.any_order ? f->data | UINT64_C(1) << key->order : key->order + 1;
    }
    f->phase = GRAMMAR_PHASE_AFTER;
    f->space = SPACE_NONE;
    f->more = 0;
    uint32_t above = grammar_step_intern(m, f);
    enter(m, value, above, f->depth, byte, ret);
}

/* '}': below the object are the other keys that it has. */
static void pop_object(match *m, frame *f, struct grammar_set *ret) {
    while (f->parent && m->frames[f->parent].phase == GRAMMAR_PHASE_USED)
        f->parent = m->frames[f->parent].parent;
    pop(f, ret);
}

static void feed_object(match *m, frame *f, uint8_t byte, struct grammar_set *ret) {
    const node_t *node = &m->g->nodes[f->node];
    bool complete;

    switch (f->phase) {
    case GRAMMAR_PHASE_FIRST:
        if (byte == '}' && object_complete(m, f))
            pop_object(m, f, ret);
        __attribute__((fallthrough));
    case GRAMMAR_PHASE_NEXT:
        if (byte == '"')
            begin_key(m, f, ret);
        else
            feed_space(m, f, byte, ret);
        return;
    case GRAMMAR_PHASE_KEY:
        feed_key(m, f, byte, ret);
        return;
    case GRAMMAR_PHASE_OTHER:
    case GRAMMAR_PHASE_OTHER_ESCAPE:
        feed_other(m, f, byte, ret);
        return;
    case GRAMMAR_PHASE_COLON:
        if (byte != ':')
            return;
        f->phase = GRAMMAR_PHASE_VALUE;
        grammar_step_add(m, f, ret);
        return;
    case GRAMMAR_PHASE_VALUE:
        feed_value(m, f, byte, ret);
        return;
    default:
        complete = object_complete(m, f);
        if (byte == '}' && complete) {
            pop_object(m, f, ret);
        } else if (byte == ',' && f->space == SPACE_NONE &&
                   (other_allowed(m, f) ||
                    any_key_allowed(m, f, node->first, node->first + node->n))) {
            f->phase = GRAMMAR_PHASE_NEXT;
            grammar_step_add(m, f, ret);
        } else if (complete) {
            feed_space(m, f, byte, ret);
        }
    }
}

void grammar_step_feed(match *m, uint32_t id, uint8_t byte, struct grammar_set *ret) {
    if (!id)
        return;
    frame f = m->frames[id];
    switch (m->g->nodes[f.node].kind) {
    case GRAMMAR_KIND_ROOT:
        if (!feed_space(m, &f, byte, ret))
            enter(m, m->g->lists[m->g->nodes[f.node].first], 0, 0, byte, ret);
        return;
    case GRAMMAR_KIND_OBJECT:
        feed_object(m, &f, byte, ret);
        return;
    case GRAMMAR_KIND_ARRAY:
        feed_array(m, &f, byte, ret);
        return;
    default: {
        bool leaf = feed_leaf(m, &f, byte, ret);
        assert(leaf); // alternatives and what nothing satisfies have no frames
        (void)leaf;
    }
    }
}

bool grammar_step_ends(const match *m, uint32_t id) {
    const frame *f = &m->frames[id];

    if (!id)
        return true;
    switch (m->g->nodes[f->node].kind) {
    case GRAMMAR_KIND_WHOLE:
    case GRAMMAR_KIND_BOUNDED:
    case GRAMMAR_KIND_NUMBER:
        return !f->parent && grammar_number_ends(m, f);
    default:
        return false;
    }
}
