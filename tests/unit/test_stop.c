#include "engine/data/utf8.h"
#include "engine/infer/stop.h"
#include "tests/unit/test.h"

static const struct {
    const char *text;
    const char *stops[4];
    const char *out;
    int found;
    bool keep;
} cases[] = {
    {"one two three",                         {"two"},                "one ",                   0,  false},
    {"one two three",                         {"two"},                "one two",                0,  true },
    {"one two three",                         {"four", "three", "e"}, "on",                     2,  false},
    {"abcd",                                  {"abcd", "bc"},         "a",                      1,  false},
    {"abcd",                                  {"cd", "bcd"},          "a",                      1,  false},
    {"aaaab",                                 {"aab"},                "aa",                     0,  false},
    {"ababac",                                {"abac"},               "ab",                     0,  false},
    {"abcabcabd",                             {"abcabd"},             "abc",                    0,  false},
    {"nothing here",                          {"nowhere", "hers"},    "nothing here",           -1, false},
    {"ends with the start <|",                {"<|end|>"},            "ends with the start <|", -1, false},
    {"x",                                     {"x"},                  "",                       0,  false},
    {"",                                      {"x"},                  "",                       -1, false},
    {"no rules",                              {NULL},                 "no rules",               -1, false},
    {"\n\nQ: \n\n\nQ: ?",                     {"\n\n\n"},             "\n\nQ: ",                0,  false},
    {"caf\xc3\xa9 \xe4\xb8\xad\xe6\x96\x87!",
     {"\xe6\x96\x87"},
     "caf\xc3\xa9 \xe4\xb8\xad",                                                                0,
     false                                                                                               },
 // Two characters that share their first bytes.
    {"\xe4\xb8\xad\xe4\xb8\xae",              {"\xe4\xb8\xae"},       "\xe4\xb8\xad",           0,  false},
    {"\xf0\x9f\x98\x80\xf0\x9f\x98\x81.",     {"\xf0\x9f\x98\x81."},  "\xf0\x9f\x98\x80",       0,  false},
};

static struct stop_rules *rules_of(size_t c) {
    struct stop_rules *rules = NULL;
    struct hai_err err = {0};
    int n = 0;

    while (n < 4 && cases[c].stops[n])
        n++;
    CHECK_EQ(stop_rules_new(cases[c].stops, n, NULL, 0, cases[c].keep, &rules, &err), 0, "%s",
             err.text);
    return rules;
}

/* Is there a stop string that begins with these bytes, but is longer? */
static bool may_begin(size_t c, const char *bytes, size_t n) {
    for (int i = 0; i < 4 && cases[c].stops[i]; i++)
        if (strlen(cases[c].stops[i]) > n && !memcmp(cases[c].stops[i], bytes, n))
            return true;
    return false;
}

/* One case, cut where the bits of `cuts` say (bit i: a new piece begins after byte i). */
static void check_cuts(size_t c, const struct stop_rules *rules, uint64_t cuts) {
    _cleanup_(stop_freep) struct stop *s = stop_new(rules);
    _cleanup_(buf_free) struct buf out = {0}, pending = {0}, text = {0};
    const char *p = cases[c].text;
    size_t n = strlen(p), from = 0;
    int r = 0;

    for (size_t i = 0; i < n && !r; i++) {
        if (i + 1 < n && !(cuts >> i & 1))
            continue;
        r = stop_add(s, p + from, i + 1 - from, &out);
        from = i + 1;
        if (r)
            break;
        // What is held is the rest of the text so far, and no more than may begin a stop string.
        size_t held = stop_held(s);
        CHECK_EQ(out.n_bytes + held, from);
        CHECK(held == 0 || may_begin(c, p + from - held, held), "case %zu holds %zu", c, held);
        for (size_t k = held + 1; k <= from; k++)
            CHECK(!may_begin(c, p + from - k, k), "case %zu holds too little", c);
    }
    if (!r)
        stop_end(s, &out);
    CHECK_STR(buf_cstr(&out), cases[c].out, "case %zu, cuts %llx", c, (unsigned long long)cuts);
    CHECK_EQ(stop_found(s), cases[c].found, "case %zu", c);
    buf_add(&pending, out.data, out.n_bytes);
    utf8_add_stream(&text, &pending);
    CHECK_EQ(pending.n_bytes, 0, "case %zu ends in half a character", c);
}

/* Every way to cut short texts; of longer ones every single cut, and byte by byte. */
TEST(cut_everywhere)
{
    for (size_t c = 0; c < ARRAY_SIZE(cases); c++) {
        _cleanup_(stop_rules_freep) struct stop_rules *rules = rules_of(c);
        size_t n = strlen(cases[c].text);
        if (n <= 12) {
            for (uint64_t cuts = 0; cuts < UINT64_C(1) << n; cuts++)
                check_cuts(c, rules, cuts);
            continue;
        }
        check_cuts(c, rules, 0);
        check_cuts(c, rules, UINT64_MAX);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++)
                check_cuts(c, rules, UINT64_C(1) << i | UINT64_C(1) << j);
    }
}

/* Random texts of two letters against a search in the whole text. */
TEST(as_a_search_in_the_whole)
{
    uint64_t state = 7;

    for (int round = 0; round < 3000; round++) {
        char text[25] = {0}, strings[3][6] = {{0}};
        const char *stops[3] = {strings[0], strings[1], strings[2]};
        _cleanup_(stop_rules_freep) struct stop_rules *rules = NULL;
        _cleanup_(buf_free) struct buf out = {0};
        size_t end = 0, length = 0;
        for (int i = 0; i < 24; i++)
            text[i] = (char)('a' + ((state = state * 6364136223846793005u + 1) >> 60 & 1));
        for (int i = 0; i < 3; i++)
            for (int j = 0; j <= 2 + round % 3; j++)
                strings[i][j] =
                    (char)('a' + ((state = state * 6364136223846793005u + 1) >> 61 & 1));
        for (size_t i = 1; i <= 24 && !end; i++)
            for (int k = 0; k < 3; k++) {
                size_t l = strlen(stops[k]);
                if (l <= i && !memcmp(text + i - l, stops[k], l)) {
                    end = i;
                    length = MAX(length, l);
                }
            }
        CHECK_EQ(stop_rules_new(stops, 3, NULL, 0, false, &rules, NULL), 0);
        _cleanup_(stop_freep) struct stop *s = stop_new(rules);
        int r = 0;
        for (size_t at = 0; at < 24 && !r;) {
            size_t n = MIN((state = state * 6364136223846793005u + 1) >> 62, (uint64_t)(24 - at));
            r = stop_add(s, text + at, n, &out);
            at += n;
        }
        if (!r)
            stop_end(s, &out);
        text[end ? end - length : 24] = 0;
        CHECK_EQ(r, end > 0);
        CHECK_STR(buf_cstr(&out), text);
    }
}

TEST(ids_and_limits)
{
    static const int32_t ids[] = {5, 9};
    static char longest[STOP_BYTES_MAX + 2];
    const char *strings[STOP_STRINGS_MAX + 1];
    _cleanup_(stop_rules_freep) struct stop_rules *rules = NULL, *none = NULL;
    struct hai_err err = {0};

    CHECK_EQ(stop_rules_new(NULL, 0, ids, 2, false, &rules, &err), 0);
    CHECK(stop_rules_has_id(rules, 9));
    CHECK(!stop_rules_has_id(rules, 6));
    for (size_t i = 0; i < ARRAY_SIZE(strings); i++)
        strings[i] = "x";
    CHECK_EQ(stop_rules_new(strings, STOP_STRINGS_MAX + 1, NULL, 0, false, &none, &err), -EINVAL);
    strings[0] = "";
    CHECK_EQ(stop_rules_new(strings, 1, NULL, 0, false, &none, &err), -EINVAL);
    memset(longest, 'y', STOP_BYTES_MAX + 1);
    strings[0] = longest;
    CHECK_EQ(stop_rules_new(strings, 1, NULL, 0, false, &none, &err), -EINVAL);
    CHECK(strstr(err.text, "1025 bytes"), "%s", err.text);
}
