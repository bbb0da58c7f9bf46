#include "engine/infer/sample.h"
#include "engine/infer/sample_rows.h"
#include "kernels/kmath.h"
#include "kernels/philox.h"
#include "tests/unit/test.h"

#include <math.h>

static const int64_t sizes[] = {1, 2, 63, 64, 65, 200, 1000, 5000};

static double uniform(uint64_t seed, uint32_t i) {
    struct philox_counter at = philox_at(PHILOX_INIT, 77, i, 0);
    uint32_t words[4];

    philox_words(seed, &at, words);
    return philox_uniform(words[0]);
}

/* Logits with many equal ones where `steps` is not 0. */
static void fill(float *x, int64_t n, uint64_t seed, int steps) {
    for (int64_t i = 0; i < n; i++) {
        double v = 12 * uniform(seed, (uint32_t)i) - 4;
        x[i] = (float)(steps ? floor(v * steps) / steps : v);
    }
}

/* The draw as first defined: one pass, ids ascending. What is recorded was drawn so. */
static int32_t plain_draw(const float *x, int64_t n, double temperature, uint64_t seed,
                          int64_t position) {
    _cleanup_free_ double *w = hai_new_array(double, (size_t)n);
    struct philox_counter at =
        philox_at(PHILOX_SAMPLE, (uint32_t)position, (uint32_t)(position >> 32), 0);
    uint32_t words[4];
    int64_t best = 0;
    double sum = 0;

    for (int64_t i = 0; i < n; i++)
        if (x[i] > x[best])
            best = i;
    for (int64_t i = 0; i < n; i++)
        sum += w[i] = kmath_exp(((double)x[i] - (double)x[best]) / temperature);
    philox_words(seed, &at, words);
    double left = philox_uniform(words[0]) * sum;
    for (int64_t i = 0; i < n; i++)
        if ((left -= w[i]) < 0)
            return (int32_t)i;
    return (int32_t)best;
}

static int32_t choose(struct sample_space *s, const float *x, const struct sample_options *o,
                      int64_t position) {
    struct sample_result result = {.id = -1};
    struct hai_err err = {0};

    CHECK_EQ(sample_token(s, x, o, NULL, NULL, position, &result, &err), 0, "%s", err.text);
    return result.id;
}

TEST(plain_temperature_keeps_its_bits)
{
    static const double temperatures[] = {0.01, 0.3, 1, 1.5, 100};

    for (size_t c = 0; c < ARRAY_SIZE(sizes); c++) {
        int64_t n = sizes[c];
        _cleanup_free_ float *x = hai_new_array(float, (size_t)n);
        _cleanup_(sample_space_freep) struct sample_space *s = sample_space_new(n);
        for (size_t t = 0; t < ARRAY_SIZE(temperatures); t++)
            for (int64_t position = 0; position < 40; position++) {
                struct sample_options o = sample_defaults();
                o.temperature = temperatures[t];
                o.seed = 5 + c;
                fill(x, n, (uint64_t)position, position % 2 ? 8 : 0);
                int32_t wanted = plain_draw(x, n, o.temperature, o.seed, position << 30);
                CHECK_EQ(choose(s, x, &o, position << 30), wanted, "%lld at %g", (long long)n,
                         o.temperature);
                // Rules that keep everything change nothing.
                o.top_k = (int32_t)n;
                o.top_p = 1;
                CHECK_EQ(choose(s, x, &o, position << 30), wanted, "%lld", (long long)n);
            }
    }
}

/* Every width of registers has the same bits, and weights are kmath_exp's. */
TEST(rows_of_every_width)
{
    enum { N = 1003 };
    static float x[N], maxima[2][N];
    static double weights[2][N];
    const struct sample_rows *plain = sample_rows_at(0), *rows;

    for (int i = 0; (rows = sample_rows_at(i)); i++)
        for (int64_t n = 1; n <= N; n += n < 150 ? 1 : 97)
            for (int round = 0; round < 4; round++) {
                fill(x, n, (uint64_t)(n + round), 0);
                x[0] = round == 1 ? -INFINITY : round == 2 ? -900 : x[0];
                CHECK(!plain->block_maxima(x, n, maxima[0]));
                CHECK(!rows->block_maxima(x, n, maxima[1]));
                size_t n_blocks = (size_t)(n + SAMPLE_ROWS_BLOCK - 1) / SAMPLE_ROWS_BLOCK;
                CHECK(!memcmp(maxima[0], maxima[1], n_blocks * sizeof(float)), "%s", rows->name);
                rows->weigh(x, n, 9, 1.0 + 0.2 * round, weights[0]);
                for (int64_t j = 0; j < n; j++)
                    weights[1][j] = kmath_exp(((double)x[j] - 9) / (1.0 + 0.2 * round));
                CHECK(!memcmp(weights[0], weights[1], (size_t)n * sizeof(double)), "%s",
                      rows->name);
                CHECK(rows->sum(weights[0], n) == plain->sum(weights[0], n), "%s", rows->name);
                x[(n - 1) * round / 4] = NAN;
                CHECK(rows->block_maxima(x, n, maxima[1]), "%s: NaN", rows->name);
            }
}

struct ranked {
    double weight;
    float logit;
    int32_t id;
};

static int by_rank(const void *a, const void *b) {
    const struct ranked *x = a, *y = b;

    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

static int by_id(const void *a, const void *b) {
    const struct ranked *x = a, *y = b;

    return (x->id > y->id) - (x->id < y->id);
}

/* The rules one after another on a row that is sorted as a whole. Returns -1 where rounding decides
 * the share of top_p. */
static int32_t slow_draw(const float *x, int64_t n, const struct sample_options *o,
                         int64_t position) {
    _cleanup_free_ struct ranked *all = hai_new_array(struct ranked, (size_t)n);
    struct philox_counter at =
        philox_at(PHILOX_SAMPLE, (uint32_t)position, (uint32_t)(position >> 32), 0);
    double total = 0, sum = 0;
    uint32_t words[4];
    int64_t kept = n;

    for (int64_t i = 0; i < n; i++)
        all[i] = (struct ranked){0, x[i], (int32_t)i};
    qsort(all, (size_t)n, sizeof *all, by_rank);
    for (int64_t i = 0; i < n; i++)
        all[i].weight = kmath_exp(((double)all[i].logit - (double)all[0].logit) / o->temperature);
    while (kept > 1 && all[kept - 1].weight < o->min_p)
        kept--;
    if (o->top_k)
        kept = MIN(kept, (int64_t)o->top_k);
    for (int64_t i = 0; i < kept; i++)
        total += all[i].weight;
    if (o->top_p < 1)
        for (int64_t i = 0; i < kept; i++) {
            sum += all[i].weight;
            if (fabs(sum - o->top_p * total) < 1e-9 * total)
                return -1;
            if (sum >= o->top_p * total)
                kept = i + 1;
        }
    qsort(all, (size_t)kept, sizeof *all, by_id);
    sum = 0;
    for (int64_t i = 0; i < kept; i++)
        sum += all[i].weight;
    philox_words(o->seed, &at, words);
    double left = philox_uniform(words[0]) * sum;
    for (int64_t i = 0; i < kept; i++)
        if ((left -= all[i].weight) < 0)
            return all[i].id;
    return all[0].id;
}

TEST(filters_as_a_full_sort_has_them)
{
    static const struct {
        double temperature, top_p, min_p;
        int32_t top_k;
    } cases[] = {
        {1,    1,     0,    1   },
        {1,    1,     0,    7   },
        {2,    1,     0,    300 },
        {1,    0.5,   0,    0   },
        {1,    0.95,  0,    0   },
        {5,    0.999, 0,    0   },
        {1,    1e-6,  0,    0   },
        {1,    1,     0.1,  0   },
        {3,    1,     1e-3, 0   },
        {1,    1,     1,    0   },
        {0.7,  0.9,   0.02, 40  },
        {1.3,  0.8,   0.05, 2000},
        {1000, 0.9,   0,    0   },
        {0.01, 0.9,   0,    0   },
    };
    int n_checked = 0;

    for (size_t c = 0; c < ARRAY_SIZE(cases); c++)
        for (size_t z = 0; z < ARRAY_SIZE(sizes); z++) {
            int64_t n = sizes[z];
            _cleanup_free_ float *x = hai_new_array(float, (size_t)n);
            _cleanup_(sample_space_freep) struct sample_space *s = sample_space_new(n);
            struct sample_options o = sample_defaults();
            o.temperature = cases[c].temperature;
            o.top_p = cases[c].top_p;
            o.min_p = cases[c].min_p;
            o.top_k = cases[c].top_k;
            for (int64_t position = 0; position < 60; position++) {
                // Rows of all kinds: smooth, in steps, two values, ascending.
                fill(x, n, (uint64_t)position, position % 3 ? (int)(position % 3) : 0);
                for (int64_t i = 0; position % 10 == 9 && i < n; i++)
                    x[i] = (float)i * 0.01F;
                int32_t wanted = slow_draw(x, n, &o, position);
                n_checked += wanted >= 0;
                if (wanted >= 0)
                    CHECK_EQ(choose(s, x, &o, position), wanted, "case %zu, %lld, %lld", c,
                             (long long)n, (long long)position);
            }
        }
    CHECK(n_checked > 6000, "%d", n_checked);
}

TEST(greedy_and_errors)
{
    static const float row[4] = {1, 3, 3, -1}, broken[4] = {1, NAN, 3, -1};
    static const float infinite[4] = {1, INFINITY}, out[4] = {-INFINITY, 2, 1, -INFINITY};
    static const float none[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    static const uint64_t nothing = 0xf0, third = 4;
    _cleanup_(sample_space_freep) struct sample_space *s = sample_space_new(4);
    struct sample_options o = sample_defaults();
    struct sample_result result;
    struct hai_err err = {0};

    CHECK_EQ(choose(s, row, &o, 0), 1);
    CHECK_EQ(choose(s, out, &o, 0), 1);
    CHECK_EQ(sample_token(s, row, &o, NULL, &third, 0, &result, &err), 0);
    CHECK_EQ(result.id, 2);
    for (int i = 0; i < 2; i++, o.temperature = 1) {
        CHECK_EQ(sample_token(s, broken, &o, NULL, NULL, 0, &result, &err), -EDOM);
        CHECK(strstr(err.text, "token 1"), "%s", err.text);
        CHECK_EQ(sample_token(s, broken, &o, NULL, &third, 0, &result, &err), -EDOM);
        CHECK_EQ(sample_token(s, infinite, &o, NULL, NULL, 0, &result, &err), -EDOM);
        CHECK_EQ(sample_token(s, none, &o, NULL, NULL, 0, &result, &err), -EDOM);
        CHECK_EQ(sample_token(s, row, &o, NULL, &nothing, 0, &result, &err), -EDOM);
        CHECK_STR(err.text, "no token is left to choose from");
    }
    for (int64_t at = 0; at < 200; at++) {
        int32_t id = choose(s, out, &o, at);
        CHECK(id == 1 || id == 2, "%d", id);
    }
}

/* Steps 2 to 5 by their formulas, in their order. */
TEST(rules_in_order)
{
    static const float row[6] = {2, 1.5F, -1, 0.5F, 4, 3};
    static const int32_t prompt[] = {0, 2, 2}, output[] = {1, 1, 2};
    const struct sample_bias biases[] = {
        {0, 1.0F     },
        {2, 0.25F    },
        {5, -INFINITY}
    };
    const uint64_t mask = 0x2f;
    _cleanup_(sample_space_freep) struct sample_space *s = sample_space_new(6);
    _cleanup_(sample_history_freep) struct sample_history *h = sample_history_new(16);
    struct sample_options o = sample_defaults();
    double expected[6] = {3 / 1.5, 1.5 / 1.5 - 2 * 0.25 - 0.5, -0.75 * 1.5 - 0.25 - 0.5, 0.5, 0, 0};
    double sum = 0;
    int n[6] = {0};

    sample_history_add_prompt(h, prompt, 3);
    for (int i = 0; i < 3; i++)
        sample_history_add(h, output[i]);
    o.biases = biases;
    o.n_biases = 3;
    o.repeat_penalty = 1.5;
    o.frequency_penalty = 0.25;
    o.presence_penalty = 0.5;
    o.temperature = 1;
    o.n_logprobs = 2;
    for (int i = 0; i < 4; i++)
        sum += expected[i] = exp(expected[i]);
    for (int64_t at = 0; at < 20000; at++) {
        struct sample_result result;
        struct hai_err err = {0};
        CHECK_EQ(sample_token(s, row, &o, h, &mask, at, &result, &err), 0, "%s", err.text);
        n[result.id]++;
        // Of the row as the model gave it, whatever the rules.
        CHECK_EQ(result.n_top, 2);
        CHECK_EQ(result.top[0].id, 4);
        CHECK_EQ(result.top[1].id, 5);
    }
    CHECK_EQ(n[4] + n[5], 0);
    for (int i = 0; i < 4; i++) {
        double q = expected[i] / sum;
        CHECK(fabs(n[i] - 20000 * q) < 5 * sqrt(20000 * q * (1 - q)), "token %d: %d", i, n[i]);
    }
}

TEST(logprobs)
{
    for (size_t z = 0; z < ARRAY_SIZE(sizes); z++) {
        int64_t n = sizes[z];
        _cleanup_free_ float *x = hai_new_array(float, (size_t)n);
        _cleanup_free_ struct ranked *all = hai_new_array(struct ranked, (size_t)n);
        _cleanup_(sample_space_freep) struct sample_space *s = sample_space_new(n);
        struct sample_options o = sample_defaults();
        struct sample_result result;
        struct hai_err err = {0};
        double sum = 0;
        o.n_logprobs = 20;
        o.temperature = 0.5;
        fill(x, n, z, z % 2 ? 3 : 0);
        for (int64_t i = 0; i < n; i++) {
            sum += exp((double)x[i]);
            all[i] = (struct ranked){0, x[i], (int32_t)i};
        }
        qsort(all, (size_t)n, sizeof *all, by_rank);
        CHECK_EQ(sample_token(s, x, &o, NULL, NULL, 3, &result, &err), 0);
        CHECK(fabs(result.logprob - (x[result.id] - log(sum))) < 1e-9, "%g", result.logprob);
        CHECK_EQ(result.n_top, MIN(n, INT64_C(20)));
        for (int i = 0; i < result.n_top; i++) {
            CHECK_EQ(result.top[i].id, all[i].id, "%d of %lld", i, (long long)n);
            CHECK(fabs(result.top[i].logprob - (all[i].logit - log(sum))) < 1e-9);
        }
    }
}

/* What was taken back leaves no trace, whatever was put out meanwhile. */
TEST(history_is_taken_back)
{
    enum { N = 40 };
    static const int32_t prompt[] = {1, 17, 33};
    _cleanup_(sample_space_freep) struct sample_space *s = sample_space_new(N);
    _cleanup_(sample_history_freep) struct sample_history *a = sample_history_new(64);
    _cleanup_(sample_history_freep) struct sample_history *b = sample_history_new(64);
    struct sample_options o = sample_defaults();
    struct hai_err err = {0};
    float x[N];

    o.temperature = 2;
    o.repeat_penalty = 1.3;
    o.frequency_penalty = 0.7;
    fill(x, N, 9, 0);
    sample_history_add_prompt(a, prompt, 3);
    sample_history_add_prompt(b, prompt, 3);
    for (int64_t at = 0; at < 60; at++) {
        struct sample_result ra, rb;
        int64_t kept = sample_history_count(a);
        for (int i = 0; i < 50 && kept + i < 60; i++)
            sample_history_add(a, (int32_t)(40 * uniform(4, (uint32_t)(at * 50 + i))));
        sample_history_cut(a, kept);
        CHECK_EQ(sample_token(s, x, &o, a, NULL, at, &ra, &err), 0);
        CHECK_EQ(sample_token(s, x, &o, b, NULL, at, &rb, &err), 0);
        CHECK_EQ(ra.id, rb.id);
        sample_history_add(a, ra.id);
        sample_history_add(b, rb.id);
    }
}

enum { WORDS = 12 };

/* A "model" whose row depends on the last two tokens, so a wrong draft spoils what follows it. */
static void row_after(const int32_t *ids, int64_t n, float *ret) {
    fill(ret, WORDS, 1000 + (uint64_t)ids[n - 1] * WORDS + (uint64_t)ids[n - 2], 0);
}

struct masker {
    uint64_t mask;
    int n_left; // tokens before the end
};

static int mask_of(void *userdata, const uint64_t **ret, struct hai_err *err) {
    *ret = &((struct masker *)userdata)->mask;
    return 0;
}

/* Never the same twice in a row. */
static int take(void *userdata, int32_t id, struct hai_err *err) {
    struct masker *m = userdata;

    m->mask = (UINT64_C(1) << WORDS) - 1 - (UINT64_C(1) << id);
    return --m->n_left == 0;
}

/* Decode 64 tokens, n_drafts proposals at a time of which about half are right. */
static void decode(const struct sample_options *o, int n_drafts, int32_t *ids, int *ret_steps) {
    _cleanup_(sample_space_freep) struct sample_space *s = sample_space_new(WORDS);
    _cleanup_(sample_history_freep) struct sample_history *h = sample_history_new(80);
    struct sample_result results[5];
    struct masker m = {UINT64_MAX, 64};
    const struct sample_hooks hooks = {mask_of, take, &m};
    float rows[5][WORDS];
    struct hai_err err = {0};
    int64_t n = 2;

    ids[0] = 3;
    ids[1] = 1;
    sample_history_add_prompt(h, ids, 2);
    for (*ret_steps = 0; n < 66; ++*ret_steps) {
        int32_t drafts[4];
        _cleanup_(sample_space_freep) struct sample_space *own = sample_space_new(WORDS);
        for (int i = 0; i <= n_drafts; i++) {
            row_after(ids, n + i, rows[i]);
            if (i == n_drafts)
                break;
            // The drafter knows neither penalties nor masks, and errs.
            drafts[i] = choose(own, rows[i], o, n + i);
            if (uniform(6, (uint32_t)(n + i)) < 0.2)
                drafts[i] = (drafts[i] + 1) % WORDS;
            ids[n + i] = drafts[i];
        }
        int r = sample_verify(s, rows[0], drafts, n_drafts, o, h, &hooks, n, results, &err);
        CHECK(r >= 1 && r <= n_drafts + 1, "%d %s", r, err.text);
        for (int i = 0; i < MAX(r, 1); i++)
            ids[n++] = results[i].id;
    }
    CHECK_EQ(n, 66);
    CHECK_EQ(m.n_left, 0);
}

TEST(speculation_gives_the_same_tokens)
{
    for (int c = 0; c < 4; c++) {
        struct sample_options o = sample_defaults();
        int32_t plain[80] = {0}, fast[80] = {0};
        int n_plain, n_fast;
        o.temperature = c ? 0.8 : 0;
        o.top_k = c > 1 ? 6 : 0;
        o.frequency_penalty = c > 2 ? 0.1 : 0;
        o.seed = (uint64_t)c;
        decode(&o, 0, plain, &n_plain);
        for (int n_drafts = 1; n_drafts <= 4; n_drafts++) {
            decode(&o, n_drafts, fast, &n_fast);
            CHECK(!memcmp(plain, fast, 66 * sizeof *plain), "case %d, %d drafts", c, n_drafts);
            CHECK(n_fast < n_plain, "%d steps instead of %d", n_fast, n_plain);
        }
    }
}

TEST(options_in_range)
{
    static const struct sample_bias beyond = {8, 1}, nan = {3, NAN};
    static const struct {
        struct sample_options o;
        const char *name;
    } cases[] = {
        {{.top_p = 0, .repeat_penalty = 1},                                   "top_p"            },
        {{.top_p = 1.1, .repeat_penalty = 1},                                 "top_p"            },
        {{.top_p = 1, .repeat_penalty = 0},                                   "repeat_penalty"   },
        {{.top_p = 1, .repeat_penalty = 1, .temperature = -1},                "temperature"      },
        {{.top_p = 1, .repeat_penalty = 1, .temperature = NAN},               "temperature"      },
        {{.top_p = 1, .repeat_penalty = 1, .min_p = 2},                       "min_p"            },
        {{.top_p = 1, .repeat_penalty = 1, .top_k = -1},                      "top_k"            },
        {{.top_p = 1, .repeat_penalty = 1, .frequency_penalty = 101},         "frequency_penalty"},
        {{.top_p = 1, .repeat_penalty = 1, .presence_penalty = -101},         "presence_penalty" },
        {{.top_p = 1, .repeat_penalty = 1, .n_logprobs = 21},                 "logprobs"         },
        {{.top_p = 1, .repeat_penalty = 1, .n_biases = 1, .biases = &beyond}, "token 8"          },
        {{.top_p = 1, .repeat_penalty = 1, .n_biases = 1, .biases = &nan},    "token 3"          },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct hai_err err = {0};
        CHECK_EQ(sample_check(&cases[i].o, 8, &err), -EINVAL, "case %zu", i);
        CHECK(strstr(err.text, cases[i].name), "%s", err.text);
    }
    struct sample_options o = sample_defaults();
    CHECK_EQ(sample_check(&o, 8, NULL), 0);
}
