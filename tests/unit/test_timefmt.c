#include "lib/size.h"
#include "lib/timefmt.h"
#include "tests/unit/test.h"

#include <time.h>

static const struct {
    const char *text;
    int r;
    int64_t us;
    const char *out;
} iso_cases[] = {
    {"2026-11-23T13:11:40.102Z",       0,       1795439500102000,   "2026-11-23T13:11:40.102Z"},
    {"1970-01-01T00:00:00Z",           0,       0,                  "1970-01-01T00:00:00.000Z"},
    {"2024-02-29T23:59:59.999999999Z", 0,       1709251199999999,   "2024-02-29T23:59:59.999Z"},
    {"1969-12-31T23:59:59.5Z",         0,       -500000,            "1969-12-31T23:59:59.500Z"},
    {"0000-01-01T00:00:00.000Z",       0,       -62167219200000000, "0000-01-01T00:00:00.000Z"},
    {"2023-02-29T00:00:00Z",           -EINVAL, 0,                  NULL                      },
    {"2026-13-01T00:00:00Z",           -EINVAL, 0,                  NULL                      },
    {"2026-00-01T00:00:00Z",           -EINVAL, 0,                  NULL                      },
    {"2026-01-01T24:00:00Z",           -EINVAL, 0,                  NULL                      },
    {"2026-01-01 00:00:00Z",           -EINVAL, 0,                  NULL                      },
    {"2026-01-01T00:00:00",            -EINVAL, 0,                  NULL                      },
    {"2026-01-01T00:00:00+01:00",      -EINVAL, 0,                  NULL                      },
    {"2026-01-01T00:00:00.Z",          -EINVAL, 0,                  NULL                      },
    {"",                               -EINVAL, 0,                  NULL                      },
};

TEST(iso)
{
    for (size_t i = 0; i < ARRAY_SIZE(iso_cases); i++) {
        char out[TIMEFMT_ISO_BYTES];
        int64_t us = 7;
        const char *text = iso_cases[i].text;
        CHECK_EQ(timefmt_iso_parse(text, &us), iso_cases[i].r, "%s", text);
        CHECK_EQ(us, iso_cases[i].r < 0 ? 7 : iso_cases[i].us, "%s", text);
        if (iso_cases[i].r < 0)
            continue;
        timefmt_iso(us, out);
        CHECK_STR(out, iso_cases[i].out);
    }
}

TEST(iso_clamps)
{
    char out[TIMEFMT_ISO_BYTES];

    timefmt_iso(INT64_MAX, out);
    CHECK_STR(out, "9999-12-31T23:59:59.999Z");
    timefmt_iso(INT64_MIN, out);
    CHECK_STR(out, "0000-01-01T00:00:00.000Z");
}

TEST(local)
{
    char out[TIMEFMT_ISO_BYTES];
    int64_t us = 1795439500102000; // 2026-11-23T13:11:40.102Z, a Monday

    setenv("TZ", "CET-1", 1);
    tzset();
    timefmt_local(us, us + 3600 * INT64_C(1000000), false, out);
    CHECK_STR(out, "14:11");
    timefmt_local(us, us + 86400 * INT64_C(1000000), false, out);
    CHECK_STR(out, "Nov 23 14:11");
    timefmt_local(us, us + 86400 * INT64_C(365000000), false, out);
    CHECK_STR(out, "2026-11-23 14:11");
    timefmt_local(us, us, true, out);
    CHECK_STR(out, "2026-11-23T13:11:40.102Z");
    timefmt_clock(us, us, false, out);
    CHECK_STR(out, "14:11:40.102");
    timefmt_clock(us, us + 86400 * INT64_C(1000000), false, out);
    CHECK_STR(out, "Nov 23 14:11:40.102");
    timefmt_clock(us, us + 86400 * INT64_C(365000000), false, out);
    CHECK_STR(out, "2026-11-23 14:11:40.102");
    timefmt_clock(us, us, true, out);
    CHECK_STR(out, "2026-11-23T13:11:40.102Z");
}

static const struct {
    const char *text;
    int r;
    int64_t us;
    const char *exact;
    const char *human;
} duration_cases[] = {
    {"90s",                   0,       90000000,     "1m30s", "1m30s" },
    {"30m",                   0,       1800000000,   "30m",   "30m00s"},
    {"6h",                    0,       21600000000,  "6h",    "6h00m" },
    {"3d",                    0,       259200000000, "3d",    "3d00h" },
    {"1w",                    0,       604800000000, "7d",    "7d00h" },
    {"1h30m",                 0,       5400000000,   "1h30m", "1h30m" },
    {"0.24s",                 0,       240000,       "240ms", "0.24s" },
    {"1.5h",                  0,       5400000000,   "1h30m", "1h30m" },
    {"1s5us",                 0,       1000005,      "1s5us", "1s"    },
    {"0s",                    0,       0,            "0s",    "0s"    },
    {"18m2s",                 0,       1082000000,   "18m2s", "18m02s"},
    {"90",                    -EINVAL, 0,            NULL,    NULL    },
    {"",                      -EINVAL, 0,            NULL,    NULL    },
    {"s",                     -EINVAL, 0,            NULL,    NULL    },
    {"5x",                    -EINVAL, 0,            NULL,    NULL    },
    {"5s5s",                  -EINVAL, 0,            NULL,    NULL    },
    {"5s3m",                  -EINVAL, 0,            NULL,    NULL    },
    {"1.s",                   -EINVAL, 0,            NULL,    NULL    },
    {" 5s",                   -EINVAL, 0,            NULL,    NULL    },
    {"-5s",                   -ERANGE, 0,            NULL,    NULL    },
    {"99999999999999d",       -ERANGE, 0,            NULL,    NULL    },
    {"99999999999999999999s", -ERANGE, 0,            NULL,    NULL    },
};

TEST(durations)
{
    for (size_t i = 0; i < ARRAY_SIZE(duration_cases); i++) {
        char exact[64];
        char human[TIMEFMT_ISO_BYTES];
        struct hai_err err = {0};
        int64_t us = 7;
        const char *text = duration_cases[i].text;
        CHECK_EQ(timefmt_duration_parse(text, &us, &err), duration_cases[i].r, "%s", text);
        CHECK_EQ(us, duration_cases[i].r < 0 ? 7 : duration_cases[i].us, "%s", text);
        CHECK_EQ(err.text[0] != 0, duration_cases[i].r < 0, "%s", text);
        if (duration_cases[i].r < 0)
            continue;
        timefmt_duration_exact(us, exact);
        CHECK_STR(exact, duration_cases[i].exact);
        timefmt_duration(us, human);
        CHECK_STR(human, duration_cases[i].human);
        int64_t again = -1;
        CHECK_EQ(timefmt_duration_parse(exact, &again, NULL), 0);
        CHECK_EQ(again, us);
    }
}

TEST(seconds)
{
    _cleanup_(buf_free) struct buf out = {0};

    timefmt_seconds(1500000, &out);
    buf_add_str(&out, " ");
    timefmt_seconds(-250000, &out);
    buf_add_str(&out, " ");
    timefmt_seconds(60000000, &out);
    buf_add_str(&out, " ");
    timefmt_seconds(INT64_MIN, &out);
    CHECK_STR(buf_cstr(&out), "1.5 -0.25 60 -9223372036854.775808");
}

static const struct {
    const char *text;
    int r;
    int64_t bytes;
    const char *exact;
    const char *human;
} size_cases[] = {
    {"2KiB",                  0,       2048,                "2KiB",        "2.00KiB"},
    {"80GiB",                 0,       INT64_C(80) << 30,   "80GiB",       "80.0GiB"},
    {"1500B",                 0,       1500,                "1500B",       "1.46KiB"},
    {"1.5GiB",                0,       1610612736,          "1536MiB",     "1.50GiB"},
    {"80GB",                  0,       80000000000,         "78125000KiB", "74.5GiB"},
    {"0B",                    0,       0,                   "0B",          "0B"     },
    {"8191PiB",               0,       INT64_C(8191) << 50, "8191PiB",     "8191PiB"},
    {"8192PiB",               -ERANGE, 0,                   NULL,          NULL     },
    {"-1",                    -ERANGE, 0,                   NULL,          NULL     },
    {"99999999999999999999B", -ERANGE, 0,                   NULL,          NULL     },
    {"8XB",                   -EINVAL, 0,                   NULL,          NULL     },
    {"8",                     -EINVAL, 0,                   NULL,          NULL     },
    {"GiB",                   -EINVAL, 0,                   NULL,          NULL     },
    {"1.GiB",                 -EINVAL, 0,                   NULL,          NULL     },
    {"8 GiB",                 -EINVAL, 0,                   NULL,          NULL     },
};

TEST(sizes)
{
    for (size_t i = 0; i < ARRAY_SIZE(size_cases); i++) {
        char out[SIZE_TEXT_BYTES];
        int64_t bytes = 7;
        const char *text = size_cases[i].text;
        CHECK_EQ(size_parse(text, &bytes, NULL), size_cases[i].r, "%s", text);
        CHECK_EQ(bytes, size_cases[i].r < 0 ? 7 : size_cases[i].bytes, "%s", text);
        if (size_cases[i].r < 0)
            continue;
        size_exact(bytes, out);
        CHECK_STR(out, size_cases[i].exact);
        size_human(bytes, out);
        CHECK_STR(out, size_cases[i].human);
    }
}

TEST(clocks_go_forward)
{
    int64_t a = timefmt_boottime_us();
    int64_t b = timefmt_monotonic_us();

    CHECK(timefmt_boottime_us() >= a);
    CHECK(timefmt_monotonic_us() >= b);
    CHECK(timefmt_now_us() > INT64_C(1700000000000000));
}

TEST(local_parse)
{
    static const struct {
        const char *text;
        const char *utc; // NULL: refused
    } cases[] = {
        {"2026-11-23T13:11:40Z", "2026-11-23T13:11:40.000Z"},
        {"2026-11-23 18:00",     "2026-11-23T17:00:00.000Z"},
        {"2026-11-23T18:00:05",  "2026-11-23T17:00:05.000Z"},
        {"18:00",                "2026-11-23T17:00:00.000Z"}, // it is 14:11:40 there
        {"14:12",                "2026-11-23T13:12:00.000Z"},
        {"14:11",                "2026-11-24T13:11:00.000Z"},
        {"00:00",                "2026-11-23T23:00:00.000Z"},
        {"2026-02-30 18:00",     NULL                      },
        {"2026-11-23",           NULL                      },
        {"24:00",                NULL                      },
        {"18:60",                NULL                      },
        {"1800",                 NULL                      },
        {"18",                   NULL                      },
        {"2026-11-23 18:00 CET", NULL                      },
        {"tomorrow",             NULL                      },
        {"",                     NULL                      },
    };
    int64_t now_us = 1795439500102000; // 2026-11-23T13:11:40.102Z

    setenv("TZ", "CET-1", 1);
    tzset();
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char out[TIMEFMT_ISO_BYTES];
        int64_t us = 7;
        int r = timefmt_local_parse(cases[i].text, now_us, &us);
        CHECK_EQ(r, cases[i].utc ? 0 : -EINVAL, "%s", cases[i].text);
        CHECK(cases[i].utc || us == 7, "%s", cases[i].text);
        timefmt_iso(us, out);
        if (cases[i].utc)
            CHECK_STR(out, cases[i].utc, "%s", cases[i].text);
    }
    /* An hour that the clock leaves out. */
    int64_t us = 7;
    setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3", 1);
    tzset();
    CHECK_EQ(timefmt_local_parse("2026-03-29 02:30", now_us, &us), -EINVAL);
    CHECK_EQ(timefmt_local_parse("2026-03-29 03:30", now_us, &us), 0);
}
