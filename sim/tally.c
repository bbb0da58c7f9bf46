#include "sim/tally.h"

static int descending(const void *pa, const void *pb) {
    const int64_t *a = pa, *b = pb;

    return *a > *b ? -1 : *a < *b;
}

static void count_fewest(struct tally *t, const int64_t *leaf_nodes, size_t n_leaves) {
    _cleanup_free_ int64_t *sizes = hai_new_array(int64_t, n_leaves);
    int64_t room = 0;
    size_t n = 0;

    memcpy(sizes, leaf_nodes, n_leaves * sizeof *sizes);
    qsort(sizes, n_leaves, sizeof *sizes, descending);
    for (int64_t nodes = 1; nodes <= t->n_nodes; nodes++) {
        if (nodes > room)
            room += sizes[n++];
        t->fewest[nodes] = (int64_t)n;
    }
}

void tally_init(struct tally *t, const struct trace *trace, int64_t gpus_per_node, int64_t n_nodes,
                const int64_t *leaf_nodes, size_t n_leaves) {
    *t = (struct tally){
        .n_nodes = n_nodes,
        .gpus_per_node = gpus_per_node,
        .n_gpus = n_nodes * gpus_per_node,
        .fewest = hai_new_array(int64_t, (size_t)n_nodes + 1),
        .last_us = trace_last_us(trace),
        .held = hai_new_array(int32_t, (size_t)n_nodes),
        .out = hai_new_array(bool, (size_t)n_nodes),
        .n_free = hai_new_array(int64_t, (size_t)gpus_per_node + 1),
        .small = hai_new_array(int64_t, (size_t)gpus_per_node + 1),
        .large = hai_new_array(int64_t, (size_t)n_nodes + 1),
        .large_from = n_nodes + 1,
        .piece_us = FIXED_ONE,
        .jobs = hai_new_array(struct tally_job, trace->n),
        .n_jobs = trace->n,
    };
    t->n_free[gpus_per_node] = n_nodes;
    count_fewest(t, leaf_nodes, n_leaves);
    for (size_t i = 0; i < trace->n; i++)
        t->jobs[i].start_us = -1;
}

void tally_free(struct tally *t) {
    free(t->fewest);
    free(t->held);
    free(t->out);
    free(t->n_free);
    free(t->small);
    free(t->large);
    free(t->jobs);
    *t = (struct tally){0};
}

/* ---- time ---- */

/* GPUs of the smallest waiting job of one node; 0: none waits. */
static int64_t smallest_small(const struct tally *t) {
    for (int64_t g = 1; g <= t->gpus_per_node; g++)
        if (t->small[g])
            return g;
    return 0;
}

/* Nodes of the smallest waiting job of whole nodes; 0: none waits. */
static int64_t smallest_large(struct tally *t) {
    while (t->large_from <= t->n_nodes && !t->large[t->large_from])
        t->large_from++;
    return t->large_from <= t->n_nodes ? t->large_from : 0;
}

static int64_t most_free(const struct tally *t) {
    int64_t g = t->gpus_per_node;

    while (g > 0 && !t->n_free[g])
        g--;
    return g;
}

static void span_add(struct tally *t, struct tally_span *span, int64_t us) {
    int64_t idle = t->n_gpus - t->busy - t->down;
    int64_t small = smallest_small(t), large = smallest_large(t);
    bool wanted = (small && small <= idle) || (large && large * t->gpus_per_node <= idle);
    bool fits = (small && small <= most_free(t)) || (large && large <= t->n_free[t->gpus_per_node]);

    span->length_us += us;
    span->busy += (fixed_wide)t->busy * us;
    span->down += (fixed_wide)t->down * us;
    span->idle += (fixed_wide)idle * us;
    span->demand += (fixed_wide)MIN(t->n_gpus, t->busy + t->waiting_gpus) * us;
    if (wanted)
        span->idle_wanted += (fixed_wide)idle * us;
    if (wanted && fits)
        span->idle_wanted_fitting += (fixed_wide)idle * us;
}

/* Pieces twice as long: two become one. */
static void widen(struct tally *t) {
    for (size_t i = 0; i < TALLY_PIECES; i++) {
        const struct tally_piece zero = {0};
        const struct tally_piece *a = 2 * i < TALLY_PIECES ? &t->pieces[2 * i] : &zero;
        const struct tally_piece *b = 2 * i < TALLY_PIECES ? &t->pieces[2 * i + 1] : &zero;
        t->pieces[i] = (struct tally_piece){a->busy + b->busy, a->down + b->down,
                                            a->waiting + b->waiting, a->queue + b->queue};
    }
    t->piece_us *= 2;
}

static void pieces_add(struct tally *t, int64_t until_us) {
    while (until_us > t->piece_us * TALLY_PIECES)
        widen(t);
    for (int64_t from_us = t->now_us; from_us < until_us;) {
        int64_t i = from_us / t->piece_us;
        int64_t us = MIN(until_us, (i + 1) * t->piece_us) - from_us;
        struct tally_piece *piece = &t->pieces[i];
        piece->busy += t->busy * us;
        piece->down += t->down * us;
        piece->waiting += t->waiting_gpus * us;
        piece->queue += t->waiting_jobs * us;
        from_us += us;
    }
}

void tally_to(struct tally *t, int64_t now_us) {
    assert(now_us >= t->now_us);
    if (now_us == t->now_us)
        return;
    int64_t within = MIN(now_us, t->last_us) - MIN(t->now_us, t->last_us);
    if (within)
        span_add(t, &t->submitting, within);
    span_add(t, &t->whole, now_us - t->now_us);
    pieces_add(t, now_us);
    t->now_us = now_us;
}

/* ---- changes ---- */

void tally_node(struct tally *t, int64_t node, int64_t held, bool out) {
    if (t->out[node]) {
        t->down -= t->gpus_per_node;
    } else {
        t->busy -= t->held[node];
        t->n_free[t->gpus_per_node - t->held[node]]--;
    }
    t->held[node] = (int32_t)held;
    t->out[node] = out;
    if (out) {
        t->down += t->gpus_per_node;
    } else {
        t->busy += held;
        t->n_free[t->gpus_per_node - held]++;
    }
}

void tally_wait(struct tally *t, const struct trace_job *job, int by) {
    int64_t gpus = trace_gpus(job, t->gpus_per_node);

    t->waiting_jobs += by;
    t->waiting_gpus += by * gpus;
    if (gpus <= t->gpus_per_node) {
        t->small[gpus] += by;
        return;
    }
    int64_t nodes = gpus / t->gpus_per_node;
    t->large[nodes] += by;
    t->large_from = MIN(t->large_from, nodes);
}

void tally_gang(struct tally *t, int64_t n_nodes, int64_t n_leaves, const int64_t *nodes_in,
                size_t n_zones, int64_t n_across) {
    int64_t inside = 0, pairs = n_nodes * (n_nodes - 1);

    for (size_t z = 0; z < n_zones; z++)
        inside += nodes_in[z] * (nodes_in[z] - 1);
    t->gangs++;
    t->gangs_fewest += n_leaves == t->fewest[n_nodes];
    t->gangs_across += inside < pairs;
    t->leaf_ratio += fixed_ratio(n_leaves, t->fewest[n_nodes]);
    t->pairs_across += fixed_ratio(pairs - inside, pairs);
    t->across_max = MAX(t->across_max, n_across);
}
