#include "engine/data/dedup.h"
#include "kernels/philox.h"
#include "lib/pure/buf.h"
#include "tests/unit/test.h"

#include <math.h>

enum { PAIRS = TEST_SANITIZED ? 60 : 400, SET = 300 };

static uint64_t element(uint64_t seed, uint32_t set, uint32_t i) {
    struct philox_counter at = philox_at(PHILOX_SAMPLE, set, 0, i);
    uint32_t words[4];

    philox_words(seed, &at, words);
    return (uint64_t)words[0] << 32 | words[1];
}

/* Signatures of two sets that share n_both of SET elements in the union. */
static void make_pair(struct minhash *m, uint32_t number, int n_both, uint16_t *a, uint16_t *b) {
    minhash_begin(m);
    for (int i = 0; i < n_both; i++)
        minhash_add(m, element(1, number, (uint32_t)i));
    for (int i = n_both; i < SET; i += 2)
        minhash_add(m, element(1, number, (uint32_t)i));
    minhash_end(m, a);
    minhash_begin(m);
    for (int i = 0; i < n_both; i++)
        minhash_add(m, element(1, number, (uint32_t)i));
    for (int i = n_both + 1; i < SET; i += 2)
        minhash_add(m, element(1, number, (uint32_t)i));
    minhash_end(m, b);
}

static bool shares_band(const struct minhash_params *p, const uint16_t *a, const uint16_t *b) {
    size_t rows = (size_t)(p->permutations / p->bands);
    bool shared = false;

    for (int i = 0; i < p->bands; i++)
        shared |= !memcmp(a + (size_t)i * rows, b + (size_t)i * rows, rows * sizeof *a);
    return shared;
}

/* On random sets of known similarity: the share of equal places is that similarity, its spread that
 * of independent draws, and candidates and near-duplicates come as often as the formulas say. All
 * within 5 standard deviations. */
TEST(signatures_measure_similarity)
{
    struct minhash_params p = minhash_defaults();
    _cleanup_(minhash_freep) struct minhash *m = minhash_new(&p);
    uint16_t a[MINHASH_PERMUTATIONS_MAX], b[MINHASH_PERMUTATIONS_MAX];

    for (int n_both = 0; n_both <= SET; n_both += 30) {
        double s = (double)n_both / SET, sum = 0, squares = 0;
        int n_candidates = 0, n_near = 0;
        for (uint32_t i = 0; i < PAIRS; i++) {
            make_pair(m, i * 1000 + (uint32_t)n_both, n_both, a, b);
            double share = (double)minhash_agree(m, a, b) / p.permutations;
            bool candidate = shares_band(&p, a, b);
            sum += share;
            squares += (share - s) * (share - s);
            n_candidates += candidate;
            n_near += candidate && minhash_agree(m, a, b) >= minhash_agree_min(&p);
        }
        double chance = s + (1 - s) / 65536; // 16 bits of different minima may be the same
        double variance = chance * (1 - chance) / p.permutations;
        CHECK(fabs(sum / PAIRS - chance) <= 5 * sqrt(variance / PAIRS) + 1e-9, "similarity %g: %g",
              s, sum / PAIRS);
        // The spread of a variance measured on n draws is about sqrt(2 / n) of it, unless next to
        // no places agree or differ.
        bool is_extreme = variance * p.permutations * p.permutations < 5;
        CHECK(is_extreme ||
                  fabs(squares / PAIRS - variance) <= 5 * variance * sqrt(2.0 / PAIRS) + 1e-9,
              "similarity %g: spread %g, expected %g", s, sqrt(squares / PAIRS), sqrt(variance));
        const double want[2] = {minhash_candidate(&p, s), minhash_near(&p, s)};
        const int have[2] = {n_candidates, n_near};
        for (int k = 0; k < 2; k++)
            CHECK(fabs((double)have[k] / PAIRS - want[k]) <=
                      5 * sqrt(want[k] * (1 - want[k]) / PAIRS) + 2.0 / PAIRS,
                  "similarity %g: %d of %d, expected %g", s, have[k], PAIRS, want[k]);
    }
}

/* The curve that docs/data.md prints. */
TEST(curve)
{
    static const struct {
        double similarity, candidate, near;
    } rows[] = {
        {0.5, 0.061, 0.000},
        {0.6, 0.237, 0.000},
        {0.7, 0.613, 0.005},
        {0.8, 0.947, 0.496},
        {0.9, 1.000, 1.000},
        {1.0, 1.000, 1.000},
    };
    struct minhash_params p = minhash_defaults();

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        double s = rows[i].similarity;
        CHECK(fabs(minhash_candidate(&p, s) - rows[i].candidate) < 0.0006, "%g: %.4f", s,
              minhash_candidate(&p, s));
        CHECK(fabs(minhash_near(&p, s) - rows[i].near) < 0.0006, "%g: %.4f", s,
              minhash_near(&p, s));
    }
    p.bands = 128; // one row: any agreement makes a candidate
    p.threshold = 1.0 / 128;
    CHECK(fabs(minhash_near(&p, 0.01) - minhash_candidate(&p, 0.01)) < 1e-12);
}

/* The same in numbers of all bits on every machine; another seed gives another signature. */
TEST(signatures_are_fixed)
{
    static const char text[] = "the quick brown fox jumps over the lazy dog again and again";
    struct minhash_params p = minhash_defaults();
    uint16_t a[128], b[128];

    _cleanup_(minhash_freep) struct minhash *m = minhash_new(&p);
    minhash_add_text(m, text, strlen(text));
    minhash_end(m, a);
    minhash_begin(m);
    static const char same[] = "  The quick\tbrown fox\r\n\n jumps OVER the lazy dog again and "
                               "again\n";
    minhash_add_text(m, same, strlen(same));
    minhash_end(m, b);
    CHECK_EQ(minhash_agree(m, a, b), 128);
    CHECK_EQ(a[0], 41664);
    CHECK_EQ(a[127], 60803);
    p.seed = 1;
    _cleanup_(minhash_freep) struct minhash *other = minhash_new(&p);
    minhash_add_text(other, text, strlen(text));
    minhash_end(other, b);
    CHECK(minhash_agree(m, a, b) < 3);
    // Shorter than a shingle: the whole is one.
    minhash_begin(m);
    minhash_add_text(m, "two words", 9);
    minhash_end(m, a);
    minhash_begin(m);
    minhash_add_text(m, "two  words", 10);
    minhash_end(m, b);
    CHECK_EQ(minhash_agree(m, a, b), 128);
    p.bytes = true;
    p.shingle = 8;
    _cleanup_(minhash_freep) struct minhash *bytes = minhash_new(&p);
    minhash_add_text(bytes, text, strlen(text));
    minhash_end(bytes, a);
    minhash_begin(bytes);
    for (size_t i = 0; i + 8 <= strlen(text); i++)
        minhash_add_text(bytes, text + i, 8);
    minhash_end(bytes, b);
    CHECK_EQ(minhash_agree(bytes, a, b), 128);
}

static const struct {
    struct minhash_params params;
    const char *says;
} bad[] = {
    {{.shingle = 0, .permutations = 8, .bands = 2, .threshold = 1},
     "shingle is 0; expected 1 to 64"                                                             },
    {{.shingle = 1, .permutations = 999, .bands = 3, .threshold = 1}, "permutations is 999"       },
    {{.shingle = 1, .permutations = 8, .bands = 3, .threshold = 1},   "bands is 3; expected a div"},
    {{.shingle = 1, .permutations = 8, .bands = 2, .threshold = 0},   "threshold is 0; expected"  },
};

TEST(parameters)
{
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct hai_err err = {0};
        CHECK_EQ(minhash_check(&bad[i].params, &err), -EINVAL);
        CHECK(strstr(err.text, bad[i].says), "%s", err.text);
    }
}

static int ask(struct dedup *d, const char *text, int64_t *ret_of) {
    struct hai_err err = {0};

    dedup_begin(d);
    dedup_add(d, text, strlen(text));
    return dedup_end(d, ret_of, &err);
}

/* A page of n words, of which every `nth` is another in version v. */
static char *page(uint32_t number, int n, int nth, uint32_t v) {
    _cleanup_(buf_free) struct buf b = {0};

    for (int i = 0; i < n; i++)
        buf_printf(&b, "w%llx ",
                   (unsigned long long)(element(9, number, (uint32_t)i) >> 32) +
                       (nth && i % nth == nth - 1 ? v : 0));
    return hai_strdup(buf_cstr(&b));
}

TEST(duplicates_are_found)
{
    struct minhash_params p = minhash_defaults();
    _cleanup_(dedup_freep) struct dedup *d = NULL;
    struct hai_err err = {0};
    int64_t of = -1;

    CHECK_EQ(dedup_new(&p, true, 10 << 20, &d, &err), 0, "%s", err.text);
    CHECK(dedup_n_documents_max(d) > 10000 && dedup_n_documents_max(d) < 60000, "%d",
          (int)dedup_n_documents_max(d));
    for (uint32_t i = 0; i < 50; i++) {
        _cleanup_free_ char *first = page(i, 1000, 0, 0);
        CHECK_EQ(ask(d, first, &of), DEDUP_NEW);
        CHECK_EQ(of, i);
    }
    for (uint32_t i = 0; i < 50; i++) {
        _cleanup_free_ char *same = page(i, 1000, 0, 0);
        // One word of 100: 5 of 100 shingles differ, similarity 95 / 105 = 0.90.
        _cleanup_free_ char *alike = page(i, 1000, 100, 1);
        // One of 10: every second shingle, similarity 1 / 3.
        _cleanup_free_ char *unlike = page(i, 1000, 10, 1 + i);
        CHECK_EQ(ask(d, same, &of), DEDUP_EXACT);
        CHECK_EQ(of, i);
        CHECK_EQ(ask(d, alike, &of), DEDUP_NEAR);
        CHECK_EQ(of, i);
        CHECK_EQ(ask(d, unlike, &of), DEDUP_NEW);
        CHECK_EQ(of, 50 + i);
    }
}

TEST(memory_for_duplicates_ends)
{
    struct minhash_params p = minhash_defaults();
    struct dedup *d = NULL;
    struct hai_err err = {0};
    int64_t of;
    char text[16];

    CHECK_EQ(dedup_new(&p, true, 100, &d, &err), -EINVAL);
    CHECK(strstr(err.text, "100 bytes; expected at least"), "%s", err.text);
    CHECK_EQ(dedup_new(&p, false, 2000, &d, &err), 0);
    int64_t n = dedup_n_documents_max(d);
    CHECK(n >= 64 && n <= 128, "%d", (int)n);
    for (int64_t i = 0; i < n; i++) {
        snprintf(text, sizeof text, "%d", (int)i);
        CHECK_EQ(ask(d, text, &of), DEDUP_NEW);
    }
    CHECK_EQ(ask(d, "7", &of), DEDUP_EXACT);
    CHECK_EQ(of, 7);
    CHECK_EQ(ask(d, "more", &of), -EFBIG);
    CHECK_EQ(ask(d, "more", &of), -EFBIG);
    dedup_free(d);
}
