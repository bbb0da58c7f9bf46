/* What follows from all nodes of a grammar together. */
#include "engine/infer/grammar_impl.h"

static int fail(struct hai_err *err, int r, const char *text) {
    return hai_fail_at(err, r, NULL, "/", NULL, "schema, /: %s", text);
}

/* Alternatives that lead back to themselves without a byte between. */
static bool loops(const struct grammar *g, uint32_t id, uint8_t *colour) {
    const struct grammar_node *node = &g->nodes[id];

    if (node->kind != GRAMMAR_KIND_ALT || colour[id] == 2)
        return false;
    if (colour[id] == 1)
        return true;
    colour[id] = 1;
    for (uint32_t i = 0; i < node->n; i++)
        if (loops(g, g->lists[node->first + i], colour))
            return true;
    colour[id] = 2;
    return false;
}

struct flattening {
    uint8_t *done;  // [n_nodes]
    uint32_t *seen; // [n_nodes] the last alternatives that held it
    uint32_t *ids;  // [n_nodes] those being made
    int64_t *work;
    struct hai_err *err;
};

/* Alternatives among alternatives become one list without doubles: a few lines of references can
 * otherwise name more ways than a step could ever try. */
static int flatten(struct grammar *g, uint32_t id, struct flattening *f) {
    uint32_t first = g->nodes[id].first, n = g->nodes[id].n, n_flat = 0;
    int r = 0;

    if (g->nodes[id].kind != GRAMMAR_KIND_ALT || f->done[id])
        return 0;
    f->done[id] = 1;
    for (uint32_t i = 0; i < n && r == 0; i++)
        r = flatten(g, g->lists[first + i], f);
    if (r < 0)
        return r;
    for (uint32_t i = 0; i < n; i++) {
        const struct grammar_node *node = &g->nodes[g->lists[first + i]];
        bool inner = node->kind == GRAMMAR_KIND_ALT;
        if (inner && n == 1) { // a reference: nothing to copy
            g->nodes[id].first = node->first;
            g->nodes[id].n = node->n;
            return 0;
        }
        for (uint32_t k = 0; k < (inner ? node->n : 1); k++) {
            uint32_t leaf = g->lists[inner ? node->first + k : first + i];
            if (f->seen[leaf] != id)
                f->ids[n_flat++] = leaf;
            f->seen[leaf] = id;
            --*f->work;
        }
    }
    if (*f->work < 0 || g->n_lists + n_flat > GRAMMAR_LISTS_MAX)
        return fail(f->err, -E2BIG, "alternatives of alternatives become too many");
    g->nodes[id].first = grammar_schema_add_list(g, f->ids, n_flat);
    g->nodes[id].n = n_flat;
    return 0;
}

static int flatten_all(struct grammar *g, int64_t *work, struct hai_err *err) {
    size_t n = g->n_nodes;
    _cleanup_free_ uint8_t *done = hai_new_array(uint8_t, n);
    _cleanup_free_ uint32_t *seen = hai_new_array(uint32_t, n), *ids = hai_new_array(uint32_t, n);
    struct flattening f = {done, seen, ids, work, err};
    int r = 0;

    for (uint32_t i = 0; i < n && r == 0; i++)
        r = flatten(g, i, &f);
    return r;
}

static uint32_t height_of(const struct grammar *g, const struct grammar_node *node) {
    uint32_t height = 0;

    switch (node->kind) {
    case GRAMMAR_KIND_NONE:
        return GRAMMAR_HEIGHT_NONE;
    case GRAMMAR_KIND_LITERALS:
        return node->height;
    case GRAMMAR_KIND_ROOT:
    case GRAMMAR_KIND_ALT:
        height = GRAMMAR_HEIGHT_NONE;
        for (uint32_t i = 0; i < node->n; i++)
            height = MIN(height, (uint32_t)g->nodes[g->lists[node->first + i]].height);
        return height;
    case GRAMMAR_KIND_OBJECT:
        for (uint32_t i = 0; i < node->n; i++)
            if (g->texts[node->first + i].required)
                height = MAX(height, (uint32_t)g->nodes[g->texts[node->first + i].node].height);
        break;
    case GRAMMAR_KIND_ARRAY:
        for (uint32_t i = 0; i < MIN(node->n, node->min); i++)
            height = MAX(height, (uint32_t)g->nodes[g->lists[node->first + i]].height);
        if (node->min > node->n)
            height = MAX(height, (uint32_t)g->nodes[node->rest].height);
        break;
    default:
        return 0;
    }
    return height + 1 > GRAMMAR_DEPTH_MAX ? (uint32_t)GRAMMAR_HEIGHT_NONE : height + 1;
}

/* Heights from below: what nothing of finite height satisfies stays out of reach. */
static void find_heights(struct grammar *g) {
    bool more = true;

    for (uint32_t i = 0; i < g->n_nodes; i++)
        if (g->nodes[i].kind != GRAMMAR_KIND_LITERALS)
            g->nodes[i].height = GRAMMAR_HEIGHT_NONE;
    while (more) {
        more = false;
        for (uint32_t i = 0; i < g->n_nodes; i++) {
            uint16_t height = (uint16_t)height_of(g, &g->nodes[i]);
            more |= height != g->nodes[i].height;
            g->nodes[i].height = height;
        }
    }
}

int grammar_finish(struct grammar *g, uint32_t root, int64_t *work, struct hai_err *err) {
    _cleanup_free_ uint8_t *colour = hai_new_array(uint8_t, g->n_nodes);

    g->nodes[GRAMMAR_ROOT].first = grammar_schema_add_list(g, &root, 1);
    g->nodes[GRAMMAR_ROOT].n = 1;
    for (uint32_t i = 0; i < g->n_nodes; i++)
        if (loops(g, i, colour))
            return fail(err, -EINVAL, "a reference leads back to itself");
    int r = flatten_all(g, work, err);
    if (r < 0)
        return r;
    find_heights(g);
    if (g->nodes[GRAMMAR_ROOT].height == GRAMMAR_HEIGHT_NONE)
        return fail(err, -EINVAL, "no value satisfies it");
    return 0;
}
