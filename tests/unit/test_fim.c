#include "engine/data/fim.h"
#include "engine/data/utf8.h"
#include "lib/fileio.h"
#include "tests/unit/test.h"

#include <math.h>

static const char text[] =
    "def füber(x):\n    return x + 1  # 三つ\n\nprint(füber(2)) <｜User｜> 🙂\n";

/* The small tokenizer, with tokens to fill in the middle in place of some others. */
static struct tokenizer *tokenizer_with_middle(void) {
    static const char *const names[][2] = {
        {"\"<think>\"",           "\"<｜fim▁begin｜>\""},
        {"\"</think>\"",          "\"<｜fim▁hole｜>\"" },
        {"\"<｜▁pad▁｜>\"", "\"<｜fim▁end｜>\""  }
    };
    _cleanup_(buf_free) struct buf file = {0};
    struct tokenizer *t = NULL;
    struct hai_err err = {0};

    CHECK_EQ(fileio_read_file("tests/fixtures/tokenizer/tiny/tokenizer.json", 1 << 20, &file, &err),
             0, "%s", err.text);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        _cleanup_(buf_free) struct buf to = {0};
        const char *from = buf_cstr(&file), *at;
        while ((at = strstr(from, names[i][0]))) {
            buf_add(&to, from, (size_t)(at - from));
            buf_add_str(&to, names[i][1]);
            from = at + strlen(names[i][0]);
        }
        buf_add_str(&to, from);
        buf_clear(&file);
        buf_add(&file, to.data, to.n_bytes);
    }
    CHECK_EQ(tokenizer_parse((char *)file.data, file.n_bytes, &t, &err), 0, "%s", err.text);
    return t;
}

/* The share of rewritten documents is the rate's, within 5 standard deviations; cuts are uniform:
 * the mean of the middle's length is a third. */
TEST(rate_and_cuts)
{
    static const double rates[] = {0, 0.1, 0.5, 1};
    enum { DOCUMENTS = 20000, BYTES = 3000 };
    _cleanup_free_ char *letters = hai_alloc(BYTES);

    memset(letters, 'a', BYTES);
    for (size_t i = 0; i < ARRAY_SIZE(rates); i++) {
        struct fim fim = {.rate = rates[i], .seed = 5};
        int n = 0;
        double sum = 0, p = rates[i];
        for (int64_t d = 0; d < DOCUMENTS; d++) {
            size_t cuts[2];
            if (!fim_cut(&fim, d, letters, BYTES, cuts))
                continue;
            n++;
            CHECK(cuts[0] <= cuts[1] && cuts[1] <= BYTES);
            sum += (double)(cuts[1] - cuts[0]) / BYTES;
        }
        CHECK(fabs(n - p * DOCUMENTS) <= 5 * sqrt(p * (1 - p) * DOCUMENTS), "rate %g: %d", p, n);
        // |a - b| of two uniform numbers: mean 1/3, variance 1/18.
        CHECK(!n || fabs(sum / n - 1.0 / 3) < 5 * sqrt(1.0 / 18 / n), "%g", sum / n);
    }
}

/* Drawn by number and seed alone, also beyond 32 bits. */
TEST(draws_are_fixed)
{
    struct fim fim = {.rate = 0.5, .seed = 5}, other = {.rate = 0.5, .seed = 6};
    int n_same = 0, n_high = 0;
    size_t a[2], b[2];

    for (int64_t d = 0; d < 1000; d++) {
        bool is = fim_cut(&fim, d, text, strlen(text), a);
        CHECK_EQ(is, fim_cut(&fim, d, text, strlen(text), b));
        CHECK(!is || !memcmp(a, b, sizeof a));
        n_same += is == fim_cut(&other, d, text, strlen(text), b);
        n_high += is == fim_cut(&fim, d + (INT64_C(1) << 32), text, strlen(text), b);
    }
    CHECK(n_same > 400 && n_same < 600 && n_high > 400 && n_high < 600, "%d %d", n_same, n_high);
}

static void decode(const struct tokenizer *t, const int32_t *ids, size_t n, struct buf *ret) {
    struct hai_err err = {0};

    for (size_t i = 0; i < n; i++)
        CHECK_EQ(tokenizer_add_bytes(t, ids[i], ret), 0, "%s", err.text);
}

static size_t find(const struct token_list *ids, int32_t id) {
    size_t found = SIZE_MAX, n = 0;

    for (size_t i = 0; i < ids->n; i++)
        if (ids->ids[i] == id) {
            found = i;
            n++;
        }
    CHECK_EQ(n, 1, "token %d", id);
    return found;
}

/* Prefix, middle and suffix are the document again, whatever the cut; special tokens written in it
 * are text. */
TEST(psm_is_reversible)
{
    _cleanup_(tokenizer_freep) struct tokenizer *t = tokenizer_with_middle();
    struct fim fim = {.rate = 1, .seed = 9};
    struct hai_err err = {0};

    CHECK_EQ(fim_find(t, fim_names, &fim, &err), 0, "%s", err.text);
    for (int64_t d = 0; d < 500; d++) {
        _cleanup_(token_list_free) struct token_list ids = {0};
        _cleanup_(buf_free) struct buf whole = {0};
        size_t cuts[2];
        CHECK(fim_cut(&fim, d, text, strlen(text), cuts));
        CHECK_EQ(utf8_valid(text, cuts[0]), cuts[0]);
        CHECK_EQ(utf8_valid(text, cuts[1]), cuts[1]);
        CHECK_EQ(fim_encode(&fim, t, text, strlen(text), cuts, false, &ids, &err), 0, "%s",
                 err.text);
        size_t begin = find(&ids, fim.begin), hole = find(&ids, fim.hole);
        size_t end = find(&ids, fim.end);
        CHECK(begin == 0 && hole > begin && end > hole);
        decode(t, ids.ids + 1, hole - 1, &whole);
        CHECK_EQ(whole.n_bytes, cuts[0]);
        decode(t, ids.ids + end + 1, ids.n - end - 1, &whole);
        CHECK_EQ(whole.n_bytes, cuts[1]);
        decode(t, ids.ids + hole + 1, end - hole - 1, &whole);
        CHECK_STR(buf_cstr(&whole), text);
    }
}

TEST(tokens_that_are_not_there)
{
    _cleanup_(tokenizer_freep) struct tokenizer *t = tokenizer_new_bytes();
    struct fim fim = {0};
    struct hai_err err = {0};
    size_t cuts[2];

    CHECK_EQ(fim_find(t, fim_names, &fim, &err), -ENOTSUP);
    CHECK(strstr(err.text, "no '<｜fim▁begin｜>'"), "%s", err.text);
    fim.rate = 1;
    CHECK(fim_cut(&fim, 0, "", 0, cuts));
    CHECK(cuts[0] == 0 && cuts[1] == 0);
}
