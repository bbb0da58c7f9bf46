/* Numbers, with bounds digit by digit: a digit may come where some number within bounds begins so.
 */
#include "engine/infer/grammar_impl.h"

typedef struct grammar_match match;
typedef struct grammar_frame frame;
typedef struct grammar_node node_t;

static const int64_t real_unit = 1000000000; // numbers with bounds have nine digits after the point
static const int whole_digits_max = 18, fraction_digits_max = 30, exponent_max = 289;

/* Does [from, to] of magnitudes meet the bounds, for this sign? */
static bool meets(const node_t *node, bool negative, __int128 from, __int128 to) {
    __int128 low = negative ? -node->high : node->low, high = negative ? -node->low : node->high;

    return from <= high && to >= low;
}

/* Can a number with the digits of v before the point be completed within bounds? */
static bool whole_leads(const node_t *node, bool negative, uint64_t v, int64_t unit) {
    __int128 from = v, to = (__int128)v + 1, most = negative ? -node->low : node->high;

    if (v == 0)
        return meets(node, negative, 0, unit - 1);
    for (; from * unit <= most; from *= 10, to *= 10)
        if (meets(node, negative, from * unit, to * unit - 1))
            return true;
    return false;
}

/* The magnitude so far, in units; more: digits after the point in the low 8 bits, their value
 * above.
 */
static __int128 magnitude(const frame *f, int64_t unit) {
    __int128 x = (__int128)f->data * unit;

    return unit == 1 ? x : x + (int64_t)(f->more >> 8);
}

bool grammar_number_ends(const match *m, const frame *f) {
    const node_t *node = &m->g->nodes[f->node];

    if (f->phase != GRAMMAR_PHASE_ZERO && f->phase != GRAMMAR_PHASE_DIGITS &&
        f->phase != GRAMMAR_PHASE_FRACTION && f->phase != GRAMMAR_PHASE_E_DIGITS)
        return false;
    if (node->kind == GRAMMAR_KIND_NUMBER)
        return true;
    __int128 x = magnitude(f, node->kind == GRAMMAR_KIND_WHOLE ? 1 : real_unit);
    return meets(node, f->space, x, x);
}

/* A digit after the point, with bounds; at most 9. */
static bool fraction_digit(const node_t *node, frame *f, int digit) {
    int n = (int)(f->more & 0xFF);
    int64_t step = real_unit;

    if (n >= 9)
        return false;
    for (int i = 0; i <= n; i++)
        step /= 10;
    f->more = (((f->more >> 8) + (uint64_t)(digit * step)) << 8) | (uint64_t)(n + 1);
    __int128 x = magnitude(f, real_unit);
    return meets(node, f->space, x, x + step - 1);
}

/* Numbers with bounds. data: digits before the point; space: 1 if negative. Returns whether the
 * byte belongs to the number. */
static bool feed_bounded(match *m, frame *f, uint8_t byte, struct grammar_set *ret) {
    const node_t *node = &m->g->nodes[f->node];
    int64_t unit = node->kind == GRAMMAR_KIND_WHOLE ? 1 : real_unit;
    bool digit = byte >= '0' && byte <= '9', leads = false;

    if (f->phase == GRAMMAR_PHASE_START && byte == '-') {
        f->phase = GRAMMAR_PHASE_MINUS;
        f->space = 1;
        leads = node->low < 0;
    } else if (digit && (f->phase == GRAMMAR_PHASE_START || f->phase == GRAMMAR_PHASE_MINUS)) {
        f->phase = byte == '0' ? GRAMMAR_PHASE_ZERO : GRAMMAR_PHASE_DIGITS;
        f->data = (uint64_t)(byte - '0');
        leads = whole_leads(node, f->space, f->data, unit);
    } else if (digit && f->phase == GRAMMAR_PHASE_DIGITS) {
        if (f->data > (UINT64_MAX - 9) / 10)
            return true;
        f->data = f->data * 10 + (uint64_t)(byte - '0');
        leads = whole_leads(node, f->space, f->data, unit);
    } else if (byte == '.' && unit > 1 &&
               (f->phase == GRAMMAR_PHASE_ZERO || f->phase == GRAMMAR_PHASE_DIGITS)) {
        f->phase = GRAMMAR_PHASE_POINT;
        leads = meets(node, f->space, (__int128)f->data * unit, (__int128)(f->data + 1) * unit - 1);
    } else if (digit && (f->phase == GRAMMAR_PHASE_POINT || f->phase == GRAMMAR_PHASE_FRACTION)) {
        f->phase = GRAMMAR_PHASE_FRACTION;
        leads = fraction_digit(node, f, byte - '0');
    } else {
        return false;
    }
    if (leads)
        grammar_step_add(m, f, ret);
    return true;
}

/* The next phase of a number without bounds, or -1. data: digits, or the exponent's value. */
static int number_phase(frame *f, uint8_t byte) {
    bool digit = byte >= '0' && byte <= '9';

    switch (f->phase) {
    case GRAMMAR_PHASE_START:
        if (byte == '-')
            return GRAMMAR_PHASE_MINUS;
        __attribute__((fallthrough));
    case GRAMMAR_PHASE_MINUS:
        f->data = 1;
        return !digit ? -1 : byte == '0' ? GRAMMAR_PHASE_ZERO : GRAMMAR_PHASE_DIGITS;
    case GRAMMAR_PHASE_DIGITS:
        if (digit)
            return (int)++f->data <= whole_digits_max ? GRAMMAR_PHASE_DIGITS : -1;
        __attribute__((fallthrough));
    case GRAMMAR_PHASE_ZERO:
        f->data = 0;
        return byte == '.'                  ? GRAMMAR_PHASE_POINT
               : byte == 'e' || byte == 'E' ? GRAMMAR_PHASE_E
                                            : -1;
    case GRAMMAR_PHASE_POINT:
        f->data = 1;
        return digit ? GRAMMAR_PHASE_FRACTION : -1;
    case GRAMMAR_PHASE_FRACTION:
        if (digit)
            return (int)++f->data <= fraction_digits_max ? GRAMMAR_PHASE_FRACTION : -1;
        f->data = 0;
        return byte == 'e' || byte == 'E' ? GRAMMAR_PHASE_E : -1;
    case GRAMMAR_PHASE_E:
        if (byte == '+' || byte == '-')
            return GRAMMAR_PHASE_E_SIGN;
        __attribute__((fallthrough));
    case GRAMMAR_PHASE_E_SIGN:
    case GRAMMAR_PHASE_E_DIGITS:
        if (!digit)
            return -1;
        // Leading zeros count too: at most three digits, so none go on for ever.
        f->more++;
        f->data = f->data * 10 + (uint64_t)(byte - '0');
        return (int)f->data <= exponent_max && f->more <= 3 ? GRAMMAR_PHASE_E_DIGITS : -1;
    default:
        return -1;
    }
}

void grammar_number_feed(match *m, frame *f, uint8_t byte, struct grammar_set *ret) {
    const frame before = *f;
    bool taken = false;

    if (m->g->nodes[f->node].kind == GRAMMAR_KIND_NUMBER) {
        int phase = number_phase(f, byte);
        if (phase >= 0) {
            f->phase = (uint8_t)phase;
            grammar_step_add(m, f, ret);
            taken = true;
        }
    } else {
        taken = feed_bounded(m, f, byte, ret);
    }
    // A number ends where something else begins: the container takes that.
    if (!taken && grammar_number_ends(m, &before) && before.parent)
        grammar_step_feed(m, before.parent, byte, ret);
}
