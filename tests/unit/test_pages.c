#include "engine/infer/pages.h"
#include "tests/unit/test.h"

static const struct {
    int64_t n_pages, page_tokens;
    int r;
} sizes[] = {
    {0,                1,    0      },
    {1,                1,    0      },
    {1,                0,    -EINVAL},
    {1,                1024, 0      },
    {1,                1025, -EINVAL},
    {1,                48,   -EINVAL},
    {1,                2048, -EINVAL},
    {-1,               64,   -EINVAL},
    {INT64_C(1) << 25, 64,   -EINVAL}, // one row too many
    {INT64_C(1) << 40, 64,   -EINVAL},
};

TEST(sizes)
{
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        struct hai_err err = {0};
        struct pages *p = NULL;
        CHECK_EQ(pages_new(sizes[i].n_pages, sizes[i].page_tokens, &p, &err), sizes[i].r, "%zu", i);
        CHECK_EQ(p != NULL, sizes[i].r == 0);
        CHECK_EQ(err.text[0] != 0, sizes[i].r < 0);
        pages_free(p);
    }
}

TEST(taken_and_dropped)
{
    struct pages *p = NULL;
    int r = pages_new(3, 64, &p, NULL);

    assert(r == 0);
    CHECK_EQ(pages_take(p), 0);
    CHECK_EQ(pages_take(p), 1);
    CHECK_EQ(pages_take(p), 2);
    CHECK_EQ(pages_take(p), -ENOSPC);
    CHECK_EQ(pages_n_unused(p), 0);
    pages_hold(p, 1);
    CHECK(!pages_drop(p, 1));
    CHECK(pages_drop(p, 1));
    CHECK(pages_drop(p, 0));
    CHECK_EQ(pages_n_unused(p), 2);
    // What was freed last comes first.
    CHECK_EQ(pages_take(p), 0);
    CHECK_EQ(pages_take(p), 1);
    pages_free(p);
}

/* Random calls beside counts kept by hand. */
TEST(counts)
{
    enum { N = 50 };
    struct pages *p = NULL;
    int32_t holders[N] = {0}, n_unused = N;
    uint64_t state = 1;
    int r = pages_new(N, 16, &p, NULL);

    assert(r == 0);
    for (int i = 0; i < 100000; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        int32_t page = (int32_t)(state >> 33) % N;
        if (state >> 62 == 0) {
            page = pages_take(p);
            CHECK_EQ(page >= 0, n_unused > 0);
            if (page < 0)
                continue;
            CHECK_EQ(holders[page]++, 0);
            n_unused--;
        } else if (holders[page] > 0 && state >> 62 == 1) {
            pages_hold(p, page);
            holders[page]++;
        } else if (holders[page] > 0) {
            bool last = --holders[page] == 0;
            CHECK_EQ(pages_drop(p, page), last);
            n_unused += last;
        }
        CHECK_EQ(pages_n_unused(p), n_unused);
        page = page < 0 ? 0 : page;
        CHECK_EQ(pages_holders(p, page), holders[page]);
    }
    pages_free(p);
}
