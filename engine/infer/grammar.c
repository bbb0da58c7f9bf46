#include "engine/infer/grammar_impl.h"

enum {
    FRAMES_FIRST = 256,
    FRAMES_TIDY = 4096, // more at the start of a step: those that no set needs are dropped
    POOL = (GRAMMAR_TOKEN_BYTES_MAX + 1) * GRAMMAR_STACKS_MAX, // of a walk's sets, one a byte
};

int grammar_new(const struct grammar_vocab *vocab, const char *schema, size_t n_bytes,
                const struct grammar_options *options, struct grammar **ret, struct hai_err *err) {
    _cleanup_(grammar_freep) struct grammar *g = hai_new(struct grammar);
    _cleanup_(json_freep) struct json *tree = NULL;

    if (n_bytes > GRAMMAR_SCHEMA_BYTES_MAX)
        return hai_fail(err, -E2BIG, "the schema has %zu bytes; expected at most %d", n_bytes,
                        GRAMMAR_SCHEMA_BYTES_MAX);
    int r = json_parse(schema, n_bytes, NULL, &tree, err);
    if (r < 0)
        return r;
    g->vocab = vocab;
    if (options)
        g->options = *options;
    r = grammar_schema_compile(g, tree, err);
    if (r == 0)
        *ret = TAKE_PTR(g);
    return r;
}

void grammar_free(struct grammar *g) {
    if (!g)
        return;
    for (uint32_t i = 0; i < g->n_nodes; i++)
        grammar_regex_free(g->nodes[i].regex);
    free(g->nodes);
    free(g->lists);
    free(g->texts);
    buf_free(&g->bytes);
    for (int i = 0; i < GRAMMAR_MASKS_MAX; i++) {
        free(g->masks[i].key);
        free(g->masks[i].words);
    }
    free(g);
}

struct grammar_match *grammar_match_new(struct grammar *g) {
    struct grammar_match *m = hai_new(struct grammar_match);

    m->g = g;
    m->n_frames_max = FRAMES_FIRST;
    m->frames = hai_new_array(struct grammar_frame, m->n_frames_max);
    m->pool = hai_new_array(uint32_t, POOL);
    grammar_match_reset(m);
    return m;
}

void grammar_match_free(struct grammar_match *m) {
    if (!m)
        return;
    free(m->frames);
    free(m->pool);
    free(m);
}

void grammar_match_reset(struct grammar_match *m) {
    m->n_frames = 1;
    m->n_steps = m->n_undo = 0;
    memset(m->slots, 0, sizeof m->slots);
    m->now.n = 1;
    m->now.ids[0] = grammar_step_intern(m, &(struct grammar_frame){.node = GRAMMAR_ROOT});
}

void grammar_match_copy(struct grammar_match *to, const struct grammar_match *from) {
    struct grammar_frame *frames = to->frames;
    uint32_t *pool = to->pool, n_max = MAX(to->n_frames_max, from->n_frames);

    assert(to->g == from->g);
    if (n_max > to->n_frames_max)
        frames = hai_realloc_array(frames, n_max, sizeof *frames);
    *to = *from;
    to->frames = frames;
    to->n_frames_max = n_max;
    to->pool = pool;
    memcpy(frames, from->frames, from->n_frames * sizeof *frames);
}

static struct grammar_set *past(struct grammar_match *m, uint32_t step) {
    return &m->history[step % GRAMMAR_HISTORY_MAX];
}

static void mark(const struct grammar_match *m, const struct grammar_set *set, uint32_t *numbers) {
    for (uint32_t i = 0; i < set->n; i++)
        for (uint32_t at = set->ids[i]; at && !numbers[at]; at = m->frames[at].parent)
            numbers[at] = 1;
}

static void renumber(struct grammar_set *set, const uint32_t *numbers) {
    for (uint32_t i = 0; i < set->n; i++)
        set->ids[i] = numbers[set->ids[i]];
}

/* Drop the frames that neither the present nor a step that can be undone needs. Parents come before
 * what stands on them, so one pass moves all. */
static void tidy(struct grammar_match *m) {
    _cleanup_free_ uint32_t *numbers = hai_new_array(uint32_t, m->n_frames);
    uint32_t n = 1, n_old = m->n_frames;

    mark(m, &m->now, numbers);
    for (uint32_t i = 1; i <= m->n_undo; i++)
        mark(m, past(m, m->n_steps - i), numbers);
    memset(m->slots, 0, sizeof m->slots);
    m->n_frames = 1;
    numbers[0] = 0;
    for (uint32_t i = 1; i < n_old; i++) {
        if (!numbers[i])
            continue;
        struct grammar_frame f = m->frames[i];
        f.parent = numbers[f.parent];
        numbers[i] = grammar_step_intern(m, &f);
        assert(numbers[i] == n);
        n++;
    }
    renumber(&m->now, numbers);
    for (uint32_t i = 1; i <= m->n_undo; i++)
        renumber(past(m, m->n_steps - i), numbers);
}

/* Move all stacks of a set by one byte. */
static void step(struct grammar_match *m, const uint32_t *ids, uint32_t n, uint8_t byte,
                 struct grammar_set *ret) {
    ret->n = 0;
    for (uint32_t i = 0; i < n; i++)
        grammar_step_feed(m, ids[i], byte, ret);
}

/* What one stack becomes by some bytes is added to ret: nothing, if they are not allowed. */
static void lead(struct grammar_match *m, uint32_t id, const uint8_t *bytes, size_t n_bytes,
                 struct grammar_set *ret) {
    struct grammar_set sets[2] = {
        {.n = 1, .ids = {id}}
    };
    uint32_t n_frames = m->n_frames;
    int at = 0;

    for (size_t i = 0; sets[at].n > 0 && i < n_bytes; i++, at = !at)
        step(m, sets[at].ids, sets[at].n, bytes[i], &sets[!at]);
    if (sets[at].n == 0)
        grammar_step_drop(m, n_frames);
    for (uint32_t i = 0; i < sets[at].n; i++)
        grammar_step_join(sets[at].ids[i], ret);
}

/* Each stack goes alone, as in a mask: all together, they could crowd out the only one that the
 * last byte leads on, and the step would refuse what the mask allows. */
int grammar_match_text(struct grammar_match *m, const void *bytes, size_t n_bytes) {
    struct grammar_set moved = {0};

    if (m->n_frames > FRAMES_TIDY)
        tidy(m);
    for (uint32_t i = 0; i < m->now.n; i++)
        lead(m, m->now.ids[i], bytes, n_bytes, &moved);
    if (moved.n == 0)
        return -EINVAL;
    *past(m, m->n_steps++) = m->now;
    m->n_undo = MIN(m->n_undo + 1, (uint32_t)GRAMMAR_HISTORY_MAX);
    m->now = moved;
    return 0;
}

int grammar_match_token(struct grammar_match *m, int32_t id) {
    const struct grammar_vocab *v = m->g->vocab;

    assert(v);
    if (id < 0 || id >= v->n_tokens)
        return -EINVAL;
    if (v->is_end[id])
        return grammar_match_complete(m) ? grammar_match_text(m, NULL, 0) : -EINVAL;
    if (v->from[id + 1] == v->from[id])
        return -EINVAL;
    return grammar_match_text(m, v->bytes + v->from[id], v->from[id + 1] - v->from[id]);
}

int grammar_match_back(struct grammar_match *m, int n) {
    if (n < 0 || (uint32_t)n > m->n_undo)
        return -EINVAL;
    if (n == 0)
        return 0;
    m->n_steps -= (uint32_t)n;
    m->n_undo -= (uint32_t)n;
    m->now = *past(m, m->n_steps);
    return 0;
}

bool grammar_match_complete(const struct grammar_match *m) {
    for (uint32_t i = 0; i < m->now.n; i++)
        if (grammar_step_ends(m, m->now.ids[i]))
            return true;
    return false;
}

bool grammar_match_closed(const struct grammar_match *m) {
    return m->now.n == 1 && m->now.ids[0] == 0;
}

/* ---- masks ---- */

static void allow(const struct grammar_vocab *v, int32_t id, uint64_t *words) {
    for (; id >= 0; id = v->same[id])
        words[id / 64] |= UINT64_C(1) << (id % 64);
}

static void walk(struct grammar_match *m, uint32_t from, uint32_t to, uint32_t *ids, uint32_t n,
                 uint64_t *words);

/* Allow the token of a node of the tree and those below, as far as the set ids[0..n) goes. What is
 * behind the ids in the pool is overwritten. */
static void walk_one(struct grammar_match *m, uint32_t node, uint32_t *ids, uint32_t n,
                     uint64_t *words) {
    const struct grammar_vocab *v = m->g->vocab;
    uint32_t n_frames = m->n_frames, *next = ids + n;
    struct grammar_set moved;

    step(m, ids, n, v->byte[node], &moved);
    if (moved.n) {
        if (v->token[node] >= 0)
            allow(v, v->token[node], words);
        assert(moved.n <= (size_t)(m->pool + POOL - next));
        memcpy(next, moved.ids, moved.n * sizeof *next);
        walk(m, node + 1, v->end[node], next, moved.n, words);
    }
    grammar_step_drop(m, n_frames);
}

/* The same for the siblings in [from, to). */
static void walk(struct grammar_match *m, uint32_t from, uint32_t to, uint32_t *ids, uint32_t n,
                 uint64_t *words) {
    for (uint32_t i = from; i < to; i = m->g->vocab->end[i])
        walk_one(m, i, ids, n, words);
}

/* The characters that still fit in a string, or -1 if the frame is none between two of them.
 * Strings without bound and keys have room for any token. */
static int64_t room_in_string(const struct grammar_match *m, const struct grammar_frame *f) {
    const struct grammar_node *node = &m->g->nodes[f->node];

    if (f->space)
        return -1;
    if (node->kind == GRAMMAR_KIND_OBJECT)
        return f->phase == GRAMMAR_PHASE_OTHER ? INT32_MAX : -1;
    if (node->kind != GRAMMAR_KIND_STRING || f->phase != GRAMMAR_PHASE_BODY)
        return -1;
    return node->max == UINT32_MAX ? INT32_MAX : (int64_t)(node->max - f->data);
}

/* Tokens of plain characters, as many as there is room for. */
static void allow_plain(const struct grammar_vocab *v, int64_t room, uint64_t *words) {
    const uint64_t *plain = v->plain[MIN(room, (int64_t)GRAMMAR_LONG_CHARS)];

    for (size_t i = 0; i < v->n_words; i++)
        words[i] |= plain[i];
    // Those of more characters than there are masks for; few.
    for (int32_t i = 0;
         room >= GRAMMAR_LONG_CHARS && room < GRAMMAR_TOKEN_BYTES_MAX && i < v->n_long; i++)
        if (v->long_chars[i] > room)
            words[v->long_tokens[i] / 64] &= ~(UINT64_C(1) << (v->long_tokens[i] % 64));
}

/* A stack whose top is inside a string, beside the tokens of plain characters: for each way to a
 * quote or backslash the stack is led there, and what follows is walked. */
static void allow_string(struct grammar_match *m, uint32_t id, uint64_t *words) {
    const struct grammar_vocab *v = m->g->vocab;
    const struct grammar_frame f = m->frames[id];
    const struct grammar_node *node = &m->g->nodes[f.node];
    // Nothing is counted: plain characters leave the stack as it is.
    bool still =
        node->kind == GRAMMAR_KIND_STRING && node->max == UINT32_MAX && f.data >= node->min;

    for (uint32_t i = 0; i < v->n_specials; i++) {
        const struct grammar_special *s = &v->specials[i];
        uint32_t n_frames = m->n_frames, at = id;
        struct grammar_set moved;
        for (uint32_t k = 0; at && !still && k < s->n_prefix; k++) {
            step(m, &at, 1, v->bytes[s->prefix + k], &moved);
            at = moved.n ? moved.ids[0] : 0; // inside a string there is one way only
        }
        m->pool[0] = at;
        if (at)
            walk_one(m, s->node, m->pool, 1, words);
        grammar_step_drop(m, n_frames);
    }
}

/* A stack inside a string with a pattern: the automaton goes through the tree by itself, and what
 * follows a quote or backslash is walked. */
static void walk_pattern(struct grammar_match *m, uint32_t from, uint32_t to,
                         struct grammar_frame *f, uint64_t *words) {
    const struct grammar_vocab *v = m->g->vocab;
    const uint16_t *next = m->g->nodes[f->node].regex->next + f->data * 256;
    uint64_t state = f->data;

    for (uint32_t i = from; i < to; i = v->end[i]) {
        uint8_t byte = v->byte[i];
        if (byte == '"' || byte == '\\') {
            uint32_t n_frames = m->n_frames;
            m->pool[0] = grammar_step_intern(m, f);
            walk_one(m, i, m->pool, 1, words);
            grammar_step_drop(m, n_frames);
        } else if (byte >= 0x20 && next[byte] != GRAMMAR_REGEX_DEAD) {
            if (v->token[i] >= 0)
                allow(v, v->token[i], words);
            f->data = next[byte];
            walk_pattern(m, i + 1, v->end[i], f, words);
            f->data = state;
        }
    }
}

static void allow_stack(struct grammar_match *m, uint32_t id, uint64_t *words) {
    struct grammar_frame f = m->frames[id];

    if (!id)
        return;
    if (room_in_string(m, &f) >= 0) {
        allow_string(m, id, words);
    } else if (m->g->nodes[f.node].kind == GRAMMAR_KIND_PATTERN && f.phase == GRAMMAR_PHASE_BODY) {
        walk_pattern(m, 0, m->g->vocab->n_nodes, &f, words);
    } else {
        m->pool[0] = id;
        walk(m, 0, m->g->vocab->n_nodes, m->pool, 1, words);
    }
}

/* What a set is, apart from its numbers: the frames of all its stacks. Returns the length, or 0 if
 * it is too long to remember, or will not come again (a key of the text's own). */
static uint32_t key_of(const struct grammar_match *m, uint32_t *ret) {
    uint32_t n = 0;

    for (uint32_t i = 0; i < m->now.n; i++) {
        if (n == GRAMMAR_KEY_MAX)
            return 0;
        for (uint32_t at = m->now.ids[i]; at; at = m->frames[at].parent) {
            const struct grammar_frame *f = &m->frames[at];
            if (n + 8 > GRAMMAR_KEY_MAX || f->phase == GRAMMAR_PHASE_OTHER)
                return 0;
            ret[n++] = f->node;
            ret[n++] = (uint32_t)f->phase << 24 | (uint32_t)f->space << 16 | f->depth;
            ret[n++] = f->extra;
            ret[n++] = (uint32_t)f->data;
            ret[n++] = (uint32_t)(f->data >> 32);
            ret[n++] = (uint32_t)f->more;
            ret[n++] = (uint32_t)(f->more >> 32);
        }
        ret[n++] = UINT32_MAX;
    }
    return n;
}

static const uint64_t *remembered(const struct grammar *g, const uint32_t *key, uint32_t n) {
    for (uint32_t i = 0; n && i < MIN(g->n_masks, (uint32_t)GRAMMAR_MASKS_MAX); i++)
        if (g->masks[i].n_key == n && !memcmp(g->masks[i].key, key, n * sizeof *key))
            return g->masks[i].words;
    return NULL;
}

static void remember(struct grammar *g, const uint32_t *key, uint32_t n, const uint64_t *words) {
    struct grammar_mask *mask = &g->masks[g->n_masks++ % GRAMMAR_MASKS_MAX];

    if (g->n_masks == 2 * GRAMMAR_MASKS_MAX)
        g->n_masks = GRAMMAR_MASKS_MAX;
    if (!mask->words) {
        mask->words = hai_new_array(uint64_t, g->vocab->n_words);
        mask->key = hai_new_array(uint32_t, GRAMMAR_KEY_MAX);
    }
    mask->n_key = n;
    memcpy(mask->key, key, n * sizeof *key);
    memcpy(mask->words, words, g->vocab->n_words * sizeof *words);
}

void grammar_match_mask(struct grammar_match *m, uint64_t *ret) {
    const struct grammar_vocab *v = m->g->vocab;
    uint32_t key[GRAMMAR_KEY_MAX], n_key = key_of(m, key);
    int64_t room = -1;

    assert(v);
    const uint64_t *known = remembered(m->g, key, n_key);
    if (known) {
        memcpy(ret, known, v->n_words * sizeof *ret);
        return;
    }
    memset(ret, 0, v->n_words * sizeof *ret);
    // More room allows all that less allows.
    for (uint32_t i = 0; i < m->now.n; i++)
        if (m->now.ids[i])
            room = MAX(room, room_in_string(m, &m->frames[m->now.ids[i]]));
    if (room > 0)
        allow_plain(v, room, ret);
    for (uint32_t i = 0; i < m->now.n; i++)
        allow_stack(m, m->now.ids[i], ret);
    if (grammar_match_complete(m))
        for (int32_t id = 0; id < v->n_tokens; id++)
            if (v->is_end[id])
                ret[id / 64] |= UINT64_C(1) << (id % 64);
    if (n_key)
        remember(m->g, key, n_key, ret);
}
