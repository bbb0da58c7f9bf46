#include "engine/data/minhash.h"
#include "kernels/philox.h"
#include "lib/digest.h"
#include "lib/pure/buf.h"

#include <math.h>

struct minhash {
    struct minhash_params params;
    uint64_t flip[MINHASH_PERMUTATIONS_MAX], factor[MINHASH_PERMUTATIONS_MAX];
    uint32_t least[MINHASH_PERMUTATIONS_MAX];
    struct buf words;                    // of the text being read, one space apart
    size_t word_at[MINHASH_SHINGLE_MAX]; // where the last words begin in it, as a ring
};

struct minhash_params minhash_defaults(void) {
    return (struct minhash_params){
        .shingle = 5, .permutations = 128, .bands = 16, .threshold = 0.8};
}

int minhash_check(const struct minhash_params *p, struct hai_err *err) {
    if (p->shingle < 1 || p->shingle > MINHASH_SHINGLE_MAX)
        return hai_fail(err, -EINVAL, "shingle is %d; expected 1 to %d", p->shingle,
                        MINHASH_SHINGLE_MAX);
    if (p->permutations < 1 || p->permutations > MINHASH_PERMUTATIONS_MAX)
        return hai_fail(err, -EINVAL, "permutations is %d; expected 1 to %d", p->permutations,
                        MINHASH_PERMUTATIONS_MAX);
    if (p->bands < 1 || p->permutations % p->bands)
        return hai_fail(err, -EINVAL, "bands is %d; expected a divisor of the %d permutations",
                        p->bands, p->permutations);
    if (!(p->threshold > 0 && p->threshold <= 1))
        return hai_fail(err, -EINVAL, "threshold is %g; expected above 0, at most 1", p->threshold);
    return 0;
}

/* Permutation i: the upper half of (x ^ flip) * factor, factor odd. On hashed shingles as good as
 * a random one, and without the division of the textbook's modulus a prime. */
struct minhash *minhash_new(const struct minhash_params *params) {
    struct minhash *m = hai_new(struct minhash);

    assert(minhash_check(params, NULL) == 0);
    m->params = *params;
    for (int i = 0; i < params->permutations; i++) {
        struct philox_counter at = philox_at(PHILOX_MINHASH, 0, 0, (uint32_t)i);
        uint32_t words[4];
        philox_words(params->seed, &at, words);
        m->flip[i] = (uint64_t)words[0] << 32 | words[1];
        m->factor[i] = ((uint64_t)words[2] << 32 | words[3]) | 1;
    }
    minhash_begin(m);
    return m;
}

void minhash_free(struct minhash *m) {
    if (!m)
        return;
    buf_free(&m->words);
    free(m);
}

const struct minhash_params *minhash_params(const struct minhash *m) {
    return &m->params;
}

void minhash_begin(struct minhash *m) {
    for (int i = 0; i < m->params.permutations; i++)
        m->least[i] = UINT32_MAX;
}

void minhash_add(struct minhash *m, uint64_t shingle) {
    int n = m->params.permutations;

    for (int i = 0; i < n; i++) {
        uint32_t v = (uint32_t)(((shingle ^ m->flip[i]) * m->factor[i]) >> 32);
        m->least[i] = v < m->least[i] ? v : m->least[i];
    }
}

/* The low half: the upper bits of a minimum are zeros, the more the larger the set. */
void minhash_end(const struct minhash *m, uint16_t *ret) {
    for (int i = 0; i < m->params.permutations; i++)
        ret[i] = (uint16_t)m->least[i];
}

static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static char lower(char c) {
    return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

static void add_bytes(struct minhash *m, const char *text, size_t n_bytes) {
    size_t length = MIN((size_t)m->params.shingle, n_bytes);

    for (size_t i = 0; length && i + length <= n_bytes; i++)
        minhash_add(m, digest_xxh3(text + i, length));
}

/* The words are copied one space apart, so that the layout of a page does not count. Each word that
 * ends closes the shingle of the words before it. */
static void add_words(struct minhash *m, const char *text, size_t n_bytes) {
    size_t n_ring = (size_t)m->params.shingle, n_words = 0;

    buf_clear(&m->words);
    for (size_t i = 0; i < n_bytes;) {
        while (i < n_bytes && is_space(text[i]))
            i++;
        if (i == n_bytes)
            break;
        if (n_words)
            buf_add_u8(&m->words, ' ');
        m->word_at[n_words++ % n_ring] = m->words.n_bytes;
        while (i < n_bytes && !is_space(text[i]))
            buf_add_u8(&m->words, (uint8_t)lower(text[i++]));
        size_t from = n_words >= n_ring ? m->word_at[n_words % n_ring] : 0;
        if (n_words >= n_ring)
            minhash_add(m, digest_xxh3(m->words.data + from, m->words.n_bytes - from));
    }
    if (n_words && n_words < n_ring)
        minhash_add(m, digest_xxh3(m->words.data, m->words.n_bytes));
}

void minhash_add_text(struct minhash *m, const char *text, size_t n_bytes) {
    if (m->params.bytes)
        add_bytes(m, text, n_bytes);
    else
        add_words(m, text, n_bytes);
}

int minhash_agree(const struct minhash *m, const uint16_t *a, const uint16_t *b) {
    int n = 0;

    for (int i = 0; i < m->params.permutations; i++)
        n += a[i] == b[i];
    return n;
}

/* Rounded up, with 0.8 of 10 places being 8 whatever the last digit of 0.8 is. */
int minhash_agree_min(const struct minhash_params *p) {
    return (int)ceil(p->threshold * p->permutations - 1e-9);
}

double minhash_candidate(const struct minhash_params *p, double s) {
    return 1 - pow(1 - pow(s, p->permutations / p->bands), p->bands);
}

/* Of all ways to agree in enough places, without those in which no band agrees as a whole: the
 * number of places is binomial with all bands, and a sum of bands cut below their full length. */
double minhash_near(const struct minhash_params *p, double s) {
    double all[MINHASH_PERMUTATIONS_MAX + 1] = {1}, none[MINHASH_PERMUTATIONS_MAX + 1] = {1};
    double band[MINHASH_PERMUTATIONS_MAX + 1], sum = 0;
    int rows = p->permutations / p->bands;

    for (int k = 0; k <= rows; k++) // binomial, without factorials that overflow
        band[k] = exp(lgamma(rows + 1) - lgamma(k + 1) - lgamma(rows - k + 1)) * pow(s, k) *
                  pow(1 - s, rows - k);
    for (int b = 0; b < p->bands; b++)
        for (int at = (b + 1) * rows; at >= 0; at--) {
            double with = 0, without = 0;
            for (int k = MAX(0, at - b * rows); k <= MIN(rows, at); k++) {
                with += all[at - k] * band[k];
                without += k < rows ? none[at - k] * band[k] : 0;
            }
            all[at] = with;
            none[at] = without;
        }
    for (int at = minhash_agree_min(p); at <= p->permutations; at++)
        sum += all[at] - none[at];
    return MIN(MAX(sum, 0.0), 1.0);
}
