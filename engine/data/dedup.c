#include "engine/data/dedup.h"
#include "lib/digest.h"

#include <inttypes.h>

static const uint32_t NOBODY = 0; // documents are numbered from 1 in the tables, which begin as 0

struct dedup {
    struct minhash *minhash; // NULL: exact duplicates only
    struct digest *digest;   // of the document that is being read
    int64_t n, n_max;
    uint64_t *exact;       // [n_max] digests
    uint32_t *exact_slots; // [n_slots] open addressing
    uint64_t n_slots;      // a power of two above n_max
    uint16_t *signatures;  // [n_max, permutations]
    uint32_t *heads;       // [bands, n_heads] of chains of documents that may share a band
    uint64_t n_heads;      // a power of two
    uint32_t *next;        // [n_max, bands]
    uint16_t *signature;   // [permutations] of the document that is being read
};

static uint64_t power_of_two(uint64_t at_least) {
    uint64_t n = 1;

    while (n < at_least)
        n *= 2;
    return n;
}

/* What n documents take. */
static double bytes_of(const struct minhash_params *p, bool near, int64_t n) {
    double exact = 8.0 * (double)n + 4.0 * (double)power_of_two(2 * (uint64_t)n);

    if (!near)
        return exact;
    return exact + (2.0 * p->permutations + 4.0 * p->bands) * (double)n +
           4.0 * p->bands * (double)power_of_two((uint64_t)n);
}

int dedup_new(const struct minhash_params *params, bool near, int64_t n_bytes_max,
              struct dedup **ret, struct hai_err *err) {
    int64_t low = 0, high = UINT32_MAX - 1; // low fits

    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (bytes_of(params, near, middle) <= (double)n_bytes_max)
            low = middle;
        else
            high = middle;
    }
    if (!low)
        return hai_fail(err, -EINVAL,
                        "memory for duplicates is %" PRId64 " bytes; expected at least %.0f",
                        n_bytes_max, bytes_of(params, near, 1));
    struct dedup *d = hai_new(struct dedup);
    d->n_max = low;
    d->exact = hai_new_array(uint64_t, (size_t)low);
    d->n_slots = power_of_two(2 * (uint64_t)low);
    d->exact_slots = hai_new_array(uint32_t, d->n_slots);
    if (near) {
        d->minhash = minhash_new(params);
        d->signatures = hai_alloc_array((size_t)low, (size_t)params->permutations * 2);
        d->n_heads = power_of_two((uint64_t)low);
        d->heads = hai_alloc_array((size_t)params->bands, d->n_heads * 4);
        d->next = hai_alloc_array((size_t)low, (size_t)params->bands * 4);
        d->signature = hai_new_array(uint16_t, (size_t)params->permutations);
    }
    *ret = d;
    return 0;
}

void dedup_free(struct dedup *d) {
    if (!d)
        return;
    minhash_free(d->minhash);
    digest_free(d->digest);
    free(d->exact);
    free(d->exact_slots);
    free(d->signatures);
    free(d->heads);
    free(d->next);
    free(d->signature);
    free(d);
}

int64_t dedup_n_documents_max(const struct dedup *d) {
    return d->n_max;
}

void dedup_begin(struct dedup *d) {
    digest_free(d->digest);
    d->digest = digest_new(DIGEST_XXH3);
    if (d->minhash)
        minhash_begin(d->minhash);
}

void dedup_add(struct dedup *d, const char *text, size_t n_bytes) {
    digest_add(d->digest, text, n_bytes);
    if (d->minhash)
        minhash_add_text(d->minhash, text, n_bytes);
}

/* The slot of a digest: its own, or the free one where it belongs. */
static uint32_t *slot_of(const struct dedup *d, uint64_t digest) {
    uint64_t i = digest & (d->n_slots - 1);

    while (d->exact_slots[i] != NOBODY && d->exact[d->exact_slots[i] - 1] != digest)
        i = (i + 1) & (d->n_slots - 1);
    return &d->exact_slots[i];
}

static uint32_t *head_of(const struct dedup *d, int band) {
    const struct minhash_params *p = minhash_params(d->minhash);
    size_t rows = (size_t)(p->permutations / p->bands);
    uint64_t hash = digest_xxh3(d->signature + (size_t)band * rows, rows * sizeof(uint16_t));

    return &d->heads[(uint64_t)band * d->n_heads + (hash & (d->n_heads - 1))];
}

/* The document with which it shares a band and enough places; 0: none. Of several the one that
 * agrees in the most places, of these the first: no accident of hashing decides. */
static uint32_t find_near(const struct dedup *d) {
    const struct minhash_params *p = minhash_params(d->minhash);
    size_t n_places = (size_t)p->permutations, rows = n_places / (size_t)p->bands;
    int most = minhash_agree_min(p) - 1;
    uint32_t found = NOBODY;

    for (int band = 0; band < p->bands; band++) {
        size_t at = (size_t)band * rows;
        for (uint32_t i = *head_of(d, band); i != NOBODY;
             i = d->next[(size_t)(i - 1) * (size_t)p->bands + (size_t)band]) {
            const uint16_t *other = d->signatures + (i - 1) * n_places;
            // A chain holds bands of other hashes, too.
            if (memcmp(other + at, d->signature + at, rows * sizeof *other) != 0)
                continue;
            int agree = minhash_agree(d->minhash, other, d->signature);
            if (agree > most || (agree == most && found != NOBODY && i < found)) {
                most = agree;
                found = i;
            }
        }
    }
    return found;
}

static void remember(struct dedup *d, uint64_t digest, uint32_t *slot) {
    uint32_t number = (uint32_t)++d->n;

    d->exact[number - 1] = digest;
    *slot = number;
    if (!d->minhash)
        return;
    const struct minhash_params *p = minhash_params(d->minhash);
    size_t n_places = (size_t)p->permutations;
    memcpy(d->signatures + (number - 1) * n_places, d->signature, n_places * 2);
    for (int band = 0; band < p->bands; band++) {
        uint32_t *head = head_of(d, band);
        d->next[(size_t)(number - 1) * (size_t)p->bands + (size_t)band] = *head;
        *head = number;
    }
}

int dedup_end(struct dedup *d, int64_t *ret_of, struct hai_err *err) {
    uint64_t digest = digest_end_xxh3(d->digest);
    uint32_t *slot = slot_of(d, digest);

    if (*slot != NOBODY) {
        *ret_of = *slot - 1;
        return DEDUP_EXACT;
    }
    if (d->minhash) {
        minhash_end(d->minhash, d->signature);
        uint32_t found = find_near(d);
        if (found != NOBODY) {
            *ret_of = found - 1;
            return DEDUP_NEAR;
        }
    }
    if (d->n == d->n_max)
        return hai_fail(err, -EFBIG,
                        "duplicates are looked for in %" PRId64
                        " documents at most; expected a larger --dedup-memory",
                        d->n_max);
    *ret_of = d->n;
    remember(d, digest, slot);
    return DEDUP_NEW;
}
