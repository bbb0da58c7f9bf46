#include "lib/pure/arena.h"
#include "lib/pure/idset.h"
#include "lib/pure/map.h"
#include "tests/unit/test.h"

TEST(arena)
{
    struct arena a = {0};
    char *kept = arena_strdup(&a, "kept");
    int64_t sum = 0;

    for (int i = 0; i < 20000; i++) {
        int64_t *p = arena_alloc(&a, 8 + (size_t)i % 50);
        CHECK_EQ((uintptr_t)p % 16, 0);
        sum += *p; // zeroed
        *p = i;
    }
    CHECK_EQ(sum, 0);
    CHECK_STR(kept, "kept");
    CHECK_STR(arena_strndup(&a, "abcdef", 3), "abc");
    CHECK(!arena_strdup(&a, NULL));
    memset(arena_alloc(&a, 3 << 20), 1, 3 << 20);
    arena_clear(&a);
    CHECK_EQ(a.n_bytes, 0);
    CHECK_EQ(*(uint8_t *)arena_alloc(&a, 1), 0, "zeroed again");
    arena_free(&a);
    arena_free(&a);
}

TEST(idset_members)
{
    _cleanup_(idset_free) struct idset s = {0};
    int64_t sum = 0;

    CHECK_EQ(idset_next(&s, 0), -1);
    CHECK(idset_add(&s, 700));
    CHECK(idset_add(&s, 3));
    CHECK(!idset_add(&s, 3));
    CHECK(idset_add(&s, 63));
    CHECK(idset_add(&s, 64));
    CHECK_EQ(idset_count(&s), 4);
    CHECK(idset_has(&s, 64));
    CHECK(!idset_has(&s, 65));
    CHECK(!idset_has(&s, 100000));
    CHECK(!idset_has(&s, -1));
    for (int id = idset_next(&s, 0); id >= 0; id = idset_next(&s, id + 1))
        sum = sum * 1000 + id;
    CHECK_EQ(sum, 3063064700);
    CHECK(idset_remove(&s, 63));
    CHECK(!idset_remove(&s, 63));
    CHECK_EQ(idset_count(&s), 3);
}

TEST(idset_algebra)
{
    _cleanup_(idset_free) struct idset a = {0};
    _cleanup_(idset_free) struct idset b = {0};
    _cleanup_(idset_free) struct idset c = {0};
    _cleanup_(buf_free) struct buf out = {0};

    CHECK_EQ(idset_parse(&a, "0-5,100", 1000), 0);
    CHECK_EQ(idset_parse(&b, "4-6,1000", 1000), 0);
    idset_copy(&c, &a);
    CHECK(idset_equal(&c, &a));
    idset_union(&c, &b);
    idset_print(&c, &out);
    CHECK_STR(buf_cstr(&out), "0-6,100,1000");
    CHECK_EQ(idset_count(&c), 9);
    idset_intersect(&c, &b);
    CHECK(idset_equal(&c, &b));
    idset_subtract(&c, &a);
    buf_clear(&out);
    idset_print(&c, &out);
    CHECK_STR(buf_cstr(&out), "6,1000");
    CHECK(!idset_equal(&a, &c));
    idset_clear(&c);
    CHECK_EQ(idset_count(&c), 0);
    CHECK_EQ(idset_next(&c, 0), -1);
}

static const struct {
    const char *text;
    int r;
    int n;
} parse_cases[] = {
    {"",                     0,       0},
    {"7",                    0,       1},
    {"1-3,9",                0,       4},
    {"3,1-4",                0,       4},
    {"100",                  0,       1},
    {"101",                  -ERANGE, 0},
    {"3-1",                  -ERANGE, 0},
    {"1,",                   -EINVAL, 0},
    {"1--3",                 -EINVAL, 0},
    {"a",                    -EINVAL, 0},
    {"1 2",                  -EINVAL, 0},
    {"99999999999999999999", -ERANGE, 0},
};

TEST(idset_parse)
{
    for (size_t i = 0; i < ARRAY_SIZE(parse_cases); i++) {
        _cleanup_(idset_free) struct idset s = {0};
        CHECK_EQ(idset_parse(&s, parse_cases[i].text, 100), parse_cases[i].r, "%s",
                 parse_cases[i].text);
        CHECK_EQ(idset_count(&s), parse_cases[i].n, "%s", parse_cases[i].text);
    }
}

TEST(map_against_an_array)
{
    enum { KEYS = 500, STEPS = 50000 };
    _cleanup_(map_free) struct map m = {0};
    static int values[KEYS];
    void *model[KEYS] = {0};
    uint32_t seed = 1;
    size_t n = 0;

    for (int step = 0; step < STEPS; step++) {
        seed = seed * 1664525 + 1013904223;
        int key = (int)(seed >> 8) % KEYS;
        bool put = seed >> 31;
        void *old = put ? map_put(&m, key - 250, &values[key]) : map_remove(&m, key - 250);
        CHECK(old == model[key]);
        n = n + (put && !old) - (!put && old);
        model[key] = put ? &values[key] : NULL;
    }
    CHECK_EQ(map_count(&m), n);
    CHECK(m.n_items_max <= 4 * KEYS, "removed items are reclaimed");
    for (int key = 0; key < KEYS; key++)
        CHECK(map_get(&m, key - 250) == model[key]);
    size_t at = 0;
    int64_t last = INT64_MIN;
    map_sort(&m);
    for (struct map_item *item; (item = map_next(&m, &at)); n--) {
        CHECK(item->number > last);
        last = item->number;
        CHECK(map_get(&m, item->number) == item->value);
    }
    CHECK_EQ(n, 0);
}

TEST(map_of_texts_keeps_order)
{
    _cleanup_(map_free) struct map m = {0};
    static const char *const names[] = {"beta", "alpha", "", "delta", "gamma"};
    struct map_item *item;
    size_t at = 0;
    size_t n = 0;

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        char copy[8];
        strcpy(copy, names[i]); // the map must not keep the caller's pointer
        CHECK(!map_put_text(&m, copy, (void *)names[i]));
    }
    while ((item = map_next(&m, &at)))
        CHECK_STR(item->text, names[n++]);
    CHECK(map_remove_text(&m, "beta") == names[0]);
    CHECK(!map_remove_text(&m, "beta"));
    CHECK(!map_get_text(&m, "beta"));
    map_put_text(&m, "beta", (void *)names[0]);
    at = 0;
    while ((item = map_next(&m, &at)))
        n = item->value == names[0];
    CHECK_EQ(n, 1, "added again: the newest");
    map_sort(&m);
    at = 0;
    CHECK_STR(map_next(&m, &at)->text, "");
    CHECK_STR(map_next(&m, &at)->text, "alpha");
}
