#include "engine/data/packing.h"
#include "engine/data/sampler.h"
#include "kernels/philox.h"
#include "lib/digest.h"

#include <math.h>

struct source {
    struct shardset *set;
    uint64_t key;      // of its orders
    int64_t first, n;  // its slots of a cycle, before they are put in order
    int64_t n_windows; // of an epoch
    int64_t first_draw;
    double weight;
};

struct packing {
    struct source *sources;
    int n_sources;
    uint64_t key, seed; // key: of the order of slots
    int64_t stride, n_window;
};

void packing_close(struct packing *p) {
    if (!p)
        return;
    for (int i = 0; i < p->n_sources; i++)
        shardset_close(p->sources[i].set);
    free(p->sources);
    free(p);
}

static uint64_t key_of(uint64_t seed, uint32_t number) {
    struct philox_counter at = philox_at(PHILOX_PACKING, 0, 0, number);
    uint32_t words[4];

    philox_words(seed, &at, words);
    return (uint64_t)words[0] << 32 | words[1];
}

/* Slots by weight: whole ones first, the rest to the largest remainders (of equal ones to the first
 * source), so that no share is off by a whole slot. */
static int share_slots(struct packing *p, struct hai_err *err) {
    _cleanup_free_ double *rest = hai_new_array(double, (size_t)p->n_sources);
    int64_t left = PACKING_CYCLE, first = 0;
    double sum = 0;

    for (int i = 0; i < p->n_sources; i++)
        sum += p->sources[i].weight;
    for (int i = 0; i < p->n_sources; i++) {
        double slots = p->sources[i].weight / sum * PACKING_CYCLE;
        p->sources[i].n = (int64_t)floor(slots);
        rest[i] = slots - floor(slots);
        left -= p->sources[i].n;
    }
    for (; left > 0; left--) {
        int most = 0;
        for (int i = 1; i < p->n_sources; i++)
            most = rest[i] > rest[most] ? i : most;
        p->sources[most].n++;
        rest[most] = -1;
    }
    for (int i = 0; i < p->n_sources; i++) {
        struct source *s = &p->sources[i];
        s->first = first;
        first += s->n;
        if (!s->n)
            return hai_fail(err, -EINVAL,
                            "%s: weight is %g of %g; expected at least one of %d samples",
                            shardset_dir(s->set), s->weight, sum, PACKING_CYCLE);
    }
    return 0;
}

static int open_source(struct packing *p, const struct packing_spec *spec, struct hai_err *err) {
    const struct packing_source *from = &spec->sources[p->n_sources];
    struct source *s = &p->sources[p->n_sources];

    if (!(from->weight > 0) || isinf(from->weight))
        return hai_fail(err, -EINVAL, "%s: weight is %g; expected a number above 0", from->dir,
                        from->weight);
    int r = shardset_open(from->dir, spec->direct, &s->set, err);
    if (r < 0)
        return r;
    s->weight = from->weight;
    p->n_sources++;
    s->key = key_of(spec->seed, (uint32_t)(from->number ? from->number : p->n_sources));
    s->first_draw = from->first_draw;
    const struct shards_vocabulary *have = shardset_vocabulary(s->set);
    const struct shards_vocabulary *want =
        spec->vocabulary ? spec->vocabulary : shardset_vocabulary(p->sources[0].set);
    if (have->digest != want->digest || have->n != want->n)
        return hai_fail(err, -EMEDIUMTYPE,
                        "%s: its vocabulary of %d ids is another one; expected that of %d ids",
                        from->dir, have->n, want->n);
    int64_t n = shardset_n_tokens(s->set);
    if (n < spec->n_window)
        return hai_fail(err, -EINVAL, "%s: %jd tokens; expected at least %jd, one sample",
                        from->dir, (intmax_t)n, (intmax_t)spec->n_window);
    s->n_windows = (n + spec->stride - 1) / spec->stride;
    return 0;
}

int packing_open(const struct packing_spec *spec, struct packing **ret, struct hai_err *err) {
    _cleanup_(packing_closep) struct packing *p = hai_new(struct packing);
    int r = 0;

    assert(spec->n_sources >= 1);
    assert(spec->n_sources <= PACKING_SOURCES_MAX);
    assert(spec->stride >= 1);
    assert(spec->n_window >= spec->stride);
    assert(spec->n_window < INT32_MAX);
    p->sources = hai_new_array(struct source, (size_t)spec->n_sources);
    p->seed = spec->seed;
    p->key = key_of(spec->seed, 0);
    p->stride = spec->stride;
    p->n_window = spec->n_window;
    while (r == 0 && p->n_sources < spec->n_sources)
        r = open_source(p, spec, err);
    if (r == 0)
        r = share_slots(p, err);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(p);
    return 0;
}

int64_t packing_n_window(const struct packing *p) {
    return p->n_window;
}

const struct shardset *packing_source(const struct packing *p, int source) {
    assert(source >= 0);
    assert(source < p->n_sources);
    return p->sources[source].set;
}

uint64_t packing_digest(const struct packing *p) {
    _cleanup_(buf_free) struct buf b = {0};

    buf_add_u64(&b, p->seed);
    buf_add_u64(&b, (uint64_t)p->stride);
    buf_add_u64(&b, (uint64_t)p->n_window);
    for (int i = 0; i < p->n_sources; i++) {
        buf_add_u64(&b, shardset_digest(p->sources[i].set));
        buf_add_u64(&b, (uint64_t)p->sources[i].n);
        buf_add_u64(&b, p->sources[i].key);
        buf_add_u64(&b, (uint64_t)p->sources[i].first_draw);
    }
    return digest_xxh3(b.data, b.n_bytes);
}

/* The slot of a sample among those of its cycle, before they are put in order. */
static int64_t slot_of(const struct packing *p, int64_t index) {
    return sampler_permute(p->key, index / PACKING_CYCLE, index % PACKING_CYCLE, PACKING_CYCLE);
}

static int source_of(const struct packing *p, int64_t slot) {
    int low = 0, high = p->n_sources;

    while (high - low > 1) {
        int middle = low + (high - low) / 2;
        if (p->sources[middle].first <= slot)
            low = middle;
        else
            high = middle;
    }
    return low;
}

struct packing_place packing_find(const struct packing *p, int64_t index) {
    assert(index >= 0);
    int64_t slot = slot_of(p, index);
    struct packing_place place = {.source = source_of(p, slot)};
    const struct source *s = &p->sources[place.source];
    place.draw = s->first_draw + index / PACKING_CYCLE * s->n + (slot - s->first);
    place.epoch = place.draw / s->n_windows;
    int64_t window = sampler_permute(s->key, place.epoch, place.draw % s->n_windows, s->n_windows);
    int64_t shift = sampler_shift(s->key, place.epoch, p->stride);
    place.first = (shift + window * p->stride) % shardset_n_tokens(s->set);
    return place;
}

int64_t packing_epoch(const struct packing *p, int source) {
    assert(source >= 0);
    assert(source < p->n_sources);
    return p->sources[source].n_windows;
}

double packing_share(const struct packing *p, int source) {
    assert(source >= 0);
    assert(source < p->n_sources);
    return (double)p->sources[source].n / PACKING_CYCLE;
}

void packing_count(const struct packing *p, int64_t from, int64_t to, int64_t *ret) {
    int64_t whole = to / PACKING_CYCLE - (from + PACKING_CYCLE - 1) / PACKING_CYCLE;

    assert(from >= 0);
    assert(to >= from);
    for (int i = 0; i < p->n_sources; i++)
        ret[i] = MAX(whole, INT64_C(0)) * p->sources[i].n;
    for (int64_t i = from; i < to; i++) {
        if (whole > 0 && i % PACKING_CYCLE == 0 && i + PACKING_CYCLE <= to) {
            i += whole * PACKING_CYCLE - 1;
            continue;
        }
        ret[source_of(p, slot_of(p, i))]++;
    }
}

int64_t packing_next_draw(const struct packing *p, int source, int64_t n_samples) {
    assert(source >= 0);
    assert(source < p->n_sources);
    const struct source *s = &p->sources[source];
    return s->first_draw + (n_samples + PACKING_CYCLE - 1) / PACKING_CYCLE * s->n;
}

size_t packing_room(const struct packing *p) {
    size_t most = 0;

    for (int i = 0; i < p->n_sources; i++)
        most = MAX(most, shardset_room(p->sources[i].set, p->n_window));
    return most;
}

int packing_read(const struct packing *p, int64_t index, void *room, int32_t *ret_ids,
                 int32_t *ret_seq_start, int *ret_n_seqs, struct hai_err *err) {
    struct packing_place place = packing_find(p, index);
    // The marks fill their place from behind: an entry is written after its mark was read.
    uint8_t *marks = (uint8_t *)(ret_seq_start + p->n_window + 1) - p->n_window;
    int n = 0;
    int r = shardset_read(p->sources[place.source].set, place.first, p->n_window, room, ret_ids,
                          marks, err);

    if (r < 0)
        return r;
    ret_seq_start[n++] = 0;
    for (int64_t i = 1; i < p->n_window; i++)
        if (marks[i])
            ret_seq_start[n++] = (int32_t)i;
    ret_seq_start[n] = (int32_t)p->n_window;
    *ret_n_seqs = n;
    return 0;
}
