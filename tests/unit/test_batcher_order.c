/* Who runs when: budgets of time, fair shares, levels, preemption, refusals. Tokens do not matter
 * here (test_batcher.c has those); steps take what a linear clock says. */
#include "engine/infer/batcher.h"
#include "engine/infer/stepcost.h"
#include "tests/unit/test.h"

static const struct batcher_config base = {
    .n_slots = 32,
    .n_requests_max = 512,
    .n_step_tokens_max = 1024,
    .n_chunk_max = 512,
    .n_drafts_max = 4,
    .n_seq_tokens_max = 4096,
    .n_ids_max = 1 << 20,
    .latency_us = 50000,
    .us_step = 2000,
    .us_row = 50,
    .us_key = 0.02,
};

struct driver {
    struct pages *pages;
    struct batcher *batcher;
    struct batcher_plan plan;
    int64_t now_us, step_us,
        streams_us;      // streams_us: what the step would have taken without others
    double us[3], noise; // how much longer or shorter steps are at random, as a share
    uint64_t random;
};

static uint64_t next(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static void start(struct driver *d, const struct batcher_config *config, int32_t n_pages) {
    struct hai_err err = {0};

    *d = (struct driver){
        .us = {2000, 50, 0.02},
          .random = 1
    };
    int r = pages_new(n_pages, 16, &d->pages, &err);
    assert(r == 0);
    r = batcher_new(config, d->pages, NULL, &d->batcher, &err);
    CHECK_EQ(r, 0, "%s", err.text);
    assert(r == 0);
}

static void end(struct driver *d) {
    int32_t n = pages_count(d->pages);

    batcher_check(d->batcher);
    batcher_free(d->batcher);
    CHECK_EQ(pages_n_unused(d->pages), n);
    pages_free(d->pages);
}

static int64_t submit(struct driver *d, uint64_t user, int32_t priority, int32_t n_prompt,
                      int32_t n_new) {
    static const int32_t ids[4096];
    struct hai_err err = {0};
    struct batcher_request q = {
        .user = user,
        .weight = 1,
        .priority = priority,
        .ids = ids,
        .n_ids = n_prompt,
        .n_new_max = n_new,
    };
    int64_t id = -1;
    int r = batcher_submit(d->batcher, &q, d->now_us, &id, &err);

    CHECK_EQ(r, 0, "%s", err.text);
    return id;
}

static int plan(struct driver *d) {
    return batcher_plan(d->batcher, d->now_us, &d->plan);
}

/* Keys of rows from seq_start on. */
static double time_of(const struct driver *d, bool streams_only) {
    const struct batcher_plan *p = &d->plan;
    double n_rows = 0, n_keys = 0;

    for (int32_t i = 0; i < p->n_seqs; i++) {
        int32_t n = p->seq_start[i + 1] - p->seq_start[i];
        if (streams_only && n > 1)
            continue;
        n_rows += n;
        n_keys += stepcost_keys(p->kv_length[i] - n, n);
    }
    return d->us[0] + d->us[1] * n_rows + d->us[2] * n_keys;
}

static void done(struct driver *d) {
    struct batcher_result results[64] = {0};

    assert(d->plan.n_seqs <= 64);
    d->streams_us = (int64_t)time_of(d, true);
    double share = (double)(next(&d->random) % 2001) / 1000 - 1;
    d->step_us = (int64_t)(time_of(d, false) * (1 + d->noise * share));
    d->now_us += d->step_us;
    batcher_done(d->batcher, results, d->now_us, d->step_us);
}

static bool step(struct driver *d) {
    if (plan(d) == 0)
        return false;
    done(d);
    return true;
}

/* Position of a request in the plan, or -1. */
static int32_t planned(const struct driver *d, int64_t id) {
    for (int32_t i = 0; i < d->plan.n_seqs; i++)
        if (d->plan.seqs[i].id == id)
            return i;
    return -1;
}

static int fetch(struct driver *d) {
    struct batcher_ending e;
    int n = 0;

    while (batcher_next_end(d->batcher, &e))
        n++;
    return n;
}

/* The step model finds what steps take, from guesses far off, and predicts within 2 %. */
TEST(costs_are_learned)
{
    static const double truth[][3] = {
        {2000,  50,  0.02 },
        {100,   400, 0.5  },
        {30000, 10,  0.001}
    };

    for (size_t i = 0; i < ARRAY_SIZE(truth); i++) {
        struct stepcost c;
        uint64_t random = 1;
        const double *us = truth[i];
        stepcost_start(&c, 1000, 20, 0.01);
        double worst = 0;
        for (int n = 0; n < 300; n++) {
            double rows = 1 + (double)(next(&random) % 500);
            double keys = rows * (double)(next(&random) % 4000);
            double t = us[0] + us[1] * rows + us[2] * keys;
            double off = stepcost_predict(&c, rows, keys) / t - 1;
            if (n > 100)
                worst = MAX(worst, off < 0 ? -off : off);
            stepcost_observe(&c, rows, keys, t);
        }
        CHECK(worst < 0.02, "%zu: %g", i, worst);
        // Equal steps for long: what they do not show is not forgotten.
        for (int n = 0; n < 2000; n++)
            stepcost_observe(&c, 8, 8000, us[0] + us[1] * 8 + us[2] * 8000);
        double t = us[0] + us[1] * 300 + us[2] * 300000;
        double off = stepcost_predict(&c, 300, 300000) / t - 1;
        CHECK(off < 0.1 && off > -0.1, "%zu: %g", i, off);
    }
}

TEST(rows_within_a_time)
{
    struct stepcost c;

    stepcost_start(&c, 1000, 10, 1);
    CHECK_EQ(stepcost_rows_within(&c, 0, 100, 10 * 11 + 66), 11);
    CHECK_EQ(stepcost_rows_within(&c, 0, 100, 10 * 11 + 65.9), 10);
    CHECK_EQ(stepcost_rows_within(&c, 1000, 100, 1010.9), 0);
    CHECK_EQ(stepcost_rows_within(&c, 1000, 100, 1011), 1);
    CHECK_EQ(stepcost_rows_within(&c, 0, 5, 1e12), 5);
    CHECK_EQ(stepcost_rows_within(&c, 0, 0, 1e12), 0);
    CHECK_EQ(stepcost_rows_within(&c, 0, 5, -1), 0);
}

static const struct {
    const char *name;
    double guess[3], noise;
    int64_t latency_us;
} budgets[] = {
    {"the truth",        {2000, 50, 0.02},   0,   50000},
    {"far too fast",     {200, 5, 0.002},    0,   50000},
    {"far too slow",     {20000, 500, 0.2},  0,   50000},
    {"a narrow budget",  {2000, 50, 0.02},   0,   8000 },
    {"narrow, too fast", {2000, 1, 0.00001}, 0,   8000 },
    {"noise",            {200, 5, 0.002},    0.1, 50000},
    {"noise, narrow",    {2000, 50, 0.02},   0.1, 8000 },
};

/* Streams beside long prompts: once the model has seen some steps, no step goes over the budget,
 * and others' prefill never takes more than the budget; and prefill goes on. */
TEST(streams_wait_no_longer_than_the_budget)
{
    for (size_t i = 0; i < ARRAY_SIZE(budgets); i++) {
        struct batcher_config config = base;
        struct driver d;
        int64_t n_over = 0, n_mixed = 0, n_prefill = 0, longest = 0;
        config.latency_us = budgets[i].latency_us;
        config.us_step = budgets[i].guess[0];
        config.us_row = budgets[i].guess[1];
        config.us_key = budgets[i].guess[2];
        start(&d, &config, 4096);
        d.noise = budgets[i].noise;
        for (int n = 0; n < 3000; n++) {
            if (next(&d.random) % 4 == 0 && n < 2500)
                submit(&d, next(&d.random) % 5, 0, 1 + (int32_t)(next(&d.random) % 3000),
                       1 + (int32_t)(next(&d.random) % 200));
            if (!step(&d))
                continue;
            fetch(&d);
            int64_t limit_us = config.latency_us + config.latency_us / 50;
            if (n < 100 || d.plan.n_decode_rows == 0 || d.plan.n_decode_rows == d.plan.n_tokens)
                continue;
            n_mixed++;
            n_prefill += d.plan.n_tokens - d.plan.n_decode_rows;
            n_over += d.step_us > limit_us;
            longest = MAX(longest, d.step_us - d.streams_us);
        }
        CHECK(n_mixed > 500, "%s: %lld", budgets[i].name, (long long)n_mixed);
        CHECK(n_prefill > 10 * n_mixed, "%s: %lld", budgets[i].name, (long long)n_prefill);
        CHECK(n_over <= (budgets[i].noise > 0 ? n_mixed / 100 : 0), "%s: %lld of %lld",
              budgets[i].name, (long long)n_over, (long long)n_mixed);
        CHECK(longest <= config.latency_us, "%s: %lld", budgets[i].name, (long long)longest);
        end(&d);
    }
}

enum { CROWD = 40 };

static const struct {
    const char *name;
    int32_t n_prompt[3], n_new[3], weight[3], n_pages, n_slots;
} shares[] = {
    {"equal",              {100, 100, 100}, {50, 50, 50},  {1, 1, 1}, 256, 8 },
    {"long prompts",       {2000, 100, 20}, {10, 10, 10},  {1, 1, 1}, 256, 8 },
    {"long answers",       {20, 20, 20},    {800, 50, 5},  {1, 1, 1}, 256, 8 },
    {"prompts or answers", {1500, 10, 300}, {2, 500, 100}, {1, 1, 1}, 256, 32},
    {"weights",            {300, 300, 300}, {50, 50, 50},  {1, 2, 4}, 256, 8 },
    {"weights and shapes", {2000, 30, 300}, {10, 300, 50}, {4, 1, 2}, 256, 32},
};

struct crowd {
    int64_t ids[3][CROWD]; // of each user's requests, 0: none
    int64_t served[3];
};

/* Every user has CROWD requests at all times. */
static void refill(struct driver *d, struct crowd *c, size_t share) {
    static const int32_t ids[4096];

    for (int u = 0; u < 3; u++)
        for (int j = 0; j < CROWD; j++) {
            struct batcher_request q = {
                .user = (uint64_t)u,
                .weight = shares[share].weight[u],
                .ids = ids,
                .n_ids = shares[share].n_prompt[u],
                .n_new_max = shares[share].n_new[u],
            };
            if (c->ids[u][j] > 0)
                continue;
            int r = batcher_submit(d->batcher, &q, d->now_us, &c->ids[u][j], NULL);
            assert(r == 0);
        }
}

static void forget_ended(struct driver *d, struct crowd *c) {
    struct batcher_ending e;

    while (batcher_next_end(d->batcher, &e))
        for (int u = 0; u < 3; u++)
            for (int j = 0; j < CROWD; j++)
                if (c->ids[u][j] == e.id)
                    c->ids[u][j] = 0;
}

/* Three users who always have requests waiting: what each is served over his weight stays within
 * the bound of batcher.h, and everybody is served many times that. */
TEST(users_are_served_alike)
{
    for (size_t i = 0; i < ARRAY_SIZE(shares); i++) {
        struct batcher_config config = base;
        struct crowd c = {0};
        struct driver d;
        int64_t widest = 0;
        int32_t weight_min = 4, n_prompt_max = 0;
        config.n_slots = shares[i].n_slots;
        start(&d, &config, shares[i].n_pages);
        for (int u = 0; u < 3; u++) {
            weight_min = MIN(weight_min, shares[i].weight[u]);
            n_prompt_max = MAX(n_prompt_max, shares[i].n_prompt[u]);
        }
        int64_t bound = (int64_t)shares[i].n_pages * 16 * (BATCHER_COST_PROMPT + BATCHER_COST_NEW);
        bound = 2 * (bound + BATCHER_COST_PROMPT * n_prompt_max) * 65536 / weight_min;
        for (int n = 0; n < 100000 && c.served[0] < 10 * bound; n++) {
            refill(&d, &c, i);
            CHECK(step(&d));
            forget_ended(&d, &c);
            for (int u = 0; u < 3; u++)
                c.served[u] = batcher_served(d.batcher, (uint64_t)u, 0);
            for (int u = 0; u < 3; u++)
                widest = MAX(widest, c.served[u] - c.served[(u + 1) % 3]);
        }
        if (getenv("SHOW"))
            printf("%s: widest %lld, bound %lld, served %lld %lld %lld\n", shares[i].name,
                   (long long)widest / 65536, (long long)bound / 65536,
                   (long long)c.served[0] / 65536, (long long)c.served[1] / 65536,
                   (long long)c.served[2] / 65536);
        CHECK(widest <= bound, "%s: %lld, bound %lld", shares[i].name, (long long)widest / 65536,
              (long long)bound / 65536);
        CHECK(c.served[0] >= 10 * bound, "%s: %lld", shares[i].name,
              (long long)c.served[0] / 65536);
        end(&d);
    }
}

/* A newcomer does not get back what others had before he came, nor does he wait behind it. */
TEST(newcomers_start_where_others_are)
{
    struct batcher_config config = base;
    struct driver d;

    config.n_slots = 2;
    start(&d, &config, 256);
    for (int i = 0; i < 100; i++)
        submit(&d, 1, 0, 50, 20);
    for (int i = 0; i < 500; i++)
        step(&d);
    int64_t before = batcher_served(d.batcher, 1, 0);
    CHECK(before > 1000 * (int64_t)65536);
    for (int i = 0; i < 40; i++)
        submit(&d, 2, 0, 50, 20);
    for (int i = 0; i < 300; i++)
        step(&d);
    int64_t one = batcher_served(d.batcher, 1, 0) - before, two = batcher_served(d.batcher, 2, 0);
    CHECK(one > 0 && two > 0);
    CHECK(one < two * 3 / 2 && two < one * 3 / 2, "%lld, %lld", (long long)one / 65536,
          (long long)two / 65536);
    end(&d);
}

/* Under a stream of more important requests that fills everything, the others still run in the end:
 * after BATCHER_LEVELS * age_us they are on the highest level. */
TEST(nobody_starves)
{
    static const int64_t ages_us[] = {0, 2000000};

    for (size_t i = 0; i < ARRAY_SIZE(ages_us); i++) {
        struct batcher_config config = base;
        struct batcher_ending e, low = {0};
        struct driver d;
        config.n_slots = 4;
        config.age_us = ages_us[i];
        start(&d, &config, 256);
        for (int n = 0; n < 20; n++)
            submit(&d, 1, 7, 100, 20);
        int64_t id = submit(&d, 2, 0, 100, 20), limit_us = 30000000;
        while (d.now_us < limit_us && low.id == 0) {
            CHECK(step(&d));
            while (batcher_next_end(d.batcher, &e)) {
                if (e.id == id)
                    low = e;
                submit(&d, 1, 7, 100, 20);
            }
        }
        CHECK_EQ(low.id == id, ages_us[i] > 0);
        if (low.id == id)
            CHECK(low.admitted_us <= BATCHER_LEVELS * ages_us[i] + 2000000, "%lld",
                  (long long)low.admitted_us);
        end(&d);
    }
}

/* A more important request takes the place of the youngest of the least important; one that is only
 * as important waits. */
TEST(importance_displaces)
{
    static const struct {
        int32_t priority;
        int victim; // of the four, -1: nobody
    } cases[] = {
        {0, -1},
        {1, 3 },
        {5, 3 }
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct batcher_config config = base;
        struct driver d;
        static const int32_t priorities[] = {1, 0, 2, 0};
        int64_t ids[4];
        config.n_slots = 4;
        start(&d, &config, 256);
        for (int j = 0; j < 4; j++)
            ids[j] = submit(&d, 1, priorities[j], 20, 100);
        for (int j = 0; j < 5; j++)
            step(&d);
        int64_t id = submit(&d, 2, cases[i].priority, 20, 10);
        CHECK_EQ(plan(&d), 4);
        CHECK_EQ(planned(&d, id) >= 0, cases[i].victim >= 0, "%zu", i);
        for (int j = 0; j < 4; j++)
            CHECK_EQ(planned(&d, ids[j]) >= 0, j != cases[i].victim, "%zu: %d", i, j);
        done(&d);
        // It goes on afterwards.
        for (int j = 0; j < 200; j++)
            step(&d);
        CHECK_EQ(fetch(&d), 5);
        end(&d);
    }
}

/* A prompt of one user does not hold up a short one of another. */
TEST(prefill_is_shared)
{
    struct batcher_config config = base;
    struct driver d;

    config.n_step_tokens_max = config.n_chunk_max = 256;
    start(&d, &config, 1024);
    int64_t first = submit(&d, 1, 0, 4000, 10);
    step(&d);
    int64_t second = submit(&d, 2, 0, 200, 10);
    int32_t at = -1;
    for (int i = 0; i < 3; i++) {
        CHECK(plan(&d) > 0);
        at = planned(&d, second);
        CHECK(at >= 0);
        if (at >= 0 && d.plan.seqs[at].n_logits > 0)
            break;
        done(&d);
    }
    CHECK(at >= 0 && d.plan.seqs[at].n_logits == 1);
    CHECK(planned(&d, first) >= 0);
    done(&d);
    end(&d);
}

static const struct {
    struct batcher_request q;
    int r;
} refusals[] = {
    {{.weight = 1, .n_ids = 1, .n_new_max = 1},                    0      },
    {{.weight = 0, .n_ids = 1, .n_new_max = 1},                    -EINVAL},
    {{.weight = 2000, .n_ids = 1, .n_new_max = 1},                 -EINVAL},
    {{.weight = 1, .n_ids = 0, .n_new_max = 1},                    -EINVAL},
    {{.weight = 1, .n_ids = 1, .n_new_max = 0},                    -EINVAL},
    {{.weight = 1, .n_ids = 1, .n_new_max = 1, .priority = 8},     -EINVAL},
    {{.weight = 1, .n_ids = 1, .n_new_max = 1, .priority = -1},    -EINVAL},
    {{.weight = 1, .n_ids = 1, .n_new_max = 1, .deadline_us = -1}, -EINVAL},
    {{.weight = 1, .n_ids = 100, .n_new_max = INT32_MAX},          -E2BIG },
    {{.weight = 1, .n_ids = 4000, .n_new_max = 97},                -E2BIG }, // than a sequence may be
    {{.weight = 1, .n_ids = 3000, .n_new_max = 300},               -E2BIG }, // than the cache
    {{.weight = 1, .n_ids = 3000, .n_new_max = 200},               0      },
    {{.weight = 1, .n_ids = 1000, .n_new_max = 700},               -EAGAIN}, // ids are full
    {{.weight = 1, .n_ids = 10, .n_new_max = 6},                   0      },
    {{.weight = 1, .n_ids = 10, .n_new_max = 6},                   -EAGAIN}, // three requests at most
};

static const struct {
    const char *name;
    size_t at;
    int32_t value;
} settings[] = {
    {"n_slots",           offsetof(struct batcher_config, n_slots),           0            },
    {"n_step_tokens_max", offsetof(struct batcher_config, n_step_tokens_max), 31           },
    {"n_chunk_max",       offsetof(struct batcher_config, n_chunk_max),       0            },
    {"n_drafts_max",      offsetof(struct batcher_config, n_drafts_max),      33           },
    {"n_seq_tokens_max",  offsetof(struct batcher_config, n_seq_tokens_max),  1 << 30      },
    {"n_swap_pages",      offsetof(struct batcher_config, n_swap_pages),      (1 << 28) + 1},
    {"n_requests_max",    offsetof(struct batcher_config, n_requests_max),    (1 << 20) + 1},
};

TEST(settings_have_bounds)
{
    struct pages *pages = NULL;
    int r = pages_new(16, 16, &pages, NULL);

    assert(r == 0);
    for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
        struct batcher_config config = base;
        struct batcher *b = NULL;
        struct hai_err err = {0};
        memcpy((char *)&config + settings[i].at, &settings[i].value, sizeof settings[i].value);
        CHECK_EQ(batcher_new(&config, pages, NULL, &b, &err), -EINVAL, "%s", settings[i].name);
        CHECK(strstr(err.text, settings[i].name), "%s", err.text);
        CHECK(!b);
    }
    pages_free(pages);
}

TEST(refusals_say_why)
{
    static const int32_t ids[4096];
    struct batcher_config config = base;
    struct driver d;

    config.n_requests_max = 3;
    config.n_ids_max = 4096;
    start(&d, &config, 200);
    for (size_t i = 0; i < ARRAY_SIZE(refusals); i++) {
        struct batcher_request q = refusals[i].q;
        struct hai_err err = {0};
        int64_t id;
        q.ids = ids;
        CHECK_EQ(batcher_submit(d.batcher, &q, 0, &id, &err), refusals[i].r, "%zu: %s", i,
                 err.text);
        CHECK_EQ(err.text[0] != 0, refusals[i].r < 0);
    }
    end(&d);
}

TEST(drafts_have_limits)
{
    static const int32_t drafts[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    struct batcher_config config = base;
    struct batcher_result result = {.token = 9};
    struct driver d;

    start(&d, &config, 16);
    int64_t id = submit(&d, 1, 0, 20, 8);
    CHECK_EQ(batcher_drafts(d.batcher, id, drafts, 1), -ENOENT); // it waits
    step(&d);
    CHECK_EQ(batcher_drafts(d.batcher, id, drafts, 8), 0);
    CHECK_EQ(plan(&d), 1);
    CHECK_EQ(d.plan.seqs[0].n_drafts, 4);
    CHECK_EQ(d.plan.n_tokens, 5);
    CHECK_EQ(d.plan.n_logits, 5);
    CHECK_EQ(d.plan.n_decode_rows, 5);
    result.n_accepted = 2;
    batcher_done(d.batcher, &result, d.now_us, 0);
    // Of this step only, and 4 tokens are left: three drafts would give them all.
    CHECK_EQ(plan(&d), 1);
    CHECK_EQ(d.plan.n_tokens, 1);
    CHECK_EQ(d.plan.position[0], 23);
    CHECK_EQ(d.plan.ids[0], 9);
    result.n_accepted = 0;
    batcher_done(d.batcher, &result, d.now_us, 0);
    CHECK_EQ(batcher_drafts(d.batcher, id, drafts, 4), 0);
    CHECK_EQ(plan(&d), 1);
    CHECK_EQ(d.plan.seqs[0].n_drafts, 2);
    int32_t tables[256];
    batcher_tables(d.batcher, tables);
    CHECK_EQ(d.plan.n_table, 256);
    CHECK_EQ(d.plan.n_pages, 2);
    CHECK(tables[0] != tables[1]);

    CHECK_EQ(d.plan.row[0], tables[1] * 16 + 8);
    result.n_accepted = 2;
    batcher_done(d.batcher, &result, d.now_us, 0);
    CHECK_EQ(fetch(&d), 1);
    end(&d);
}

/* A failed step ends whoever was in it, and nobody else; a cancelled one is not missed by done. */
TEST(failed_steps)
{
    struct batcher_config config = base;
    struct batcher_ending e;
    struct driver d;

    config.n_slots = 2;
    start(&d, &config, 64);
    submit(&d, 1, 0, 20, 50);
    int64_t second = submit(&d, 1, 0, 20, 50), third = submit(&d, 1, 0, 20, 5);
    step(&d);
    CHECK_EQ(plan(&d), 2);
    CHECK_EQ(batcher_cancel(d.batcher, second, d.now_us), 0);
    done(&d);
    CHECK(batcher_next_end(d.batcher, &e) && e.id == second && e.end == BATCHER_END_CANCELLED);
    int64_t fourth = submit(&d, 1, 0, 20, 5);
    CHECK_EQ(plan(&d), 2);
    batcher_done_failed(d.batcher, d.now_us);
    CHECK(batcher_next_end(d.batcher, &e) && e.end == BATCHER_END_FAILED);
    CHECK(batcher_next_end(d.batcher, &e) && e.id == third && e.end == BATCHER_END_FAILED);
    CHECK(!batcher_next_end(d.batcher, &e));
    while (step(&d))
        ;
    CHECK(batcher_next_end(d.batcher, &e) && e.id == fourth && e.end == BATCHER_END_LENGTH);
    end(&d);
}

/* Rows whose choice failed give no token, and nobody finds their keys; a good run of the same ids
 * is found. */
TEST(failed_rows_are_not_reused)
{
    static const int32_t ids[33];
    struct batcher_request q = {.weight = 1, .ids = ids, .n_ids = 33, .n_new_max = 5};
    struct batcher_result results[] = {{.failed = true}, {.stop = true}};
    struct batcher_counts counts;
    struct batcher_ending e;
    struct hai_err err = {0};
    struct driver d = {0};
    int64_t id;

    int r = pages_new(64, 16, &d.pages, &err);
    assert(r == 0);
    _cleanup_(prefix_freep) struct prefix *prefix = prefix_new(d.pages, 1);
    r = batcher_new(&base, d.pages, prefix, &d.batcher, &err);
    assert(r == 0);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(batcher_submit(d.batcher, &q, 0, &id, &err), 0, "%s", err.text);
        CHECK_EQ(plan(&d), 1);
        batcher_done(d.batcher, &results[i], 0, 0);
        batcher_count(d.batcher, &counts);
        CHECK_EQ(prefix_n_nodes(prefix), 2 * i);
        CHECK_EQ(counts.n_new_tokens, i);
        CHECK(batcher_next_end(d.batcher, &e) && e.n_new == i);
        CHECK_EQ(e.end, i == 0 ? BATCHER_END_FAILED : BATCHER_END_STOP);
    }
    batcher_check(d.batcher);
    batcher_free(d.batcher);
    prefix_free(TAKE_PTR(prefix));
    CHECK_EQ(pages_n_unused(d.pages), 64);
    pages_free(d.pages);
}
