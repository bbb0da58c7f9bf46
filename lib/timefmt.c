#include "lib/timefmt.h"

#include <stdio.h>
#include <time.h>

static const struct {
    const char *text;
    int64_t us;
} units[] = {
    {"w",  7 * 24 * 3600 * (int64_t)TIMEFMT_US_PER_S},
    {"d",  24 * 3600 * (int64_t)TIMEFMT_US_PER_S    },
    {"h",  3600 * (int64_t)TIMEFMT_US_PER_S         },
    {"m",  60 * (int64_t)TIMEFMT_US_PER_S           },
    {"s",  TIMEFMT_US_PER_S                         },
    {"ms", 1000                                     },
    {"us", 1                                        },
};

static int64_t clock_us(clockid_t id) {
    struct timespec ts;

    int r = clock_gettime(id, &ts);
    assert(r == 0);
    return ts.tv_sec * (int64_t)TIMEFMT_US_PER_S + ts.tv_nsec / 1000;
}

int64_t timefmt_now_us(void) {
    return clock_us(CLOCK_REALTIME);
}

int64_t timefmt_monotonic_us(void) {
    return clock_us(CLOCK_MONOTONIC);
}

int64_t timefmt_boottime_us(void) {
    return clock_us(CLOCK_BOOTTIME);
}

/* Seconds, rounded down also before 1970, and the microseconds left over. */
static time_t split(int64_t us, int *ret_us) {
    int64_t s = us / TIMEFMT_US_PER_S;
    int rest = (int)(us % TIMEFMT_US_PER_S);

    if (rest < 0) {
        rest += TIMEFMT_US_PER_S;
        s--;
    }
    *ret_us = rest;
    return s;
}

/* Days since 1970-01-01 in the proleptic Gregorian calendar. Source: Hinnant, "chrono-compatible
 * low-level date algorithms", days_from_civil. */
static int64_t days_of(int64_t year, int month, int day) {
    year -= month <= 2;
    int64_t era = (year >= 0 ? year : year - 399) / 400;
    int64_t year_of_era = year - era * 400;
    int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    int64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    return era * 146097 + day_of_era - 719468;
}

void timefmt_iso(int64_t us, char ret[static TIMEFMT_ISO_BYTES]) {
    static const int64_t min_us = -62167219200 * TIMEFMT_US_PER_S;
    static const int64_t max_us = 253402300800 * TIMEFMT_US_PER_S - 1;
    struct tm tm;
    int rest;

    time_t s = split(MAX(MIN(us, max_us), min_us), &rest);
    gmtime_r(&s, &tm);
    (void)snprintf(ret, TIMEFMT_ISO_BYTES, "%04u-%02u-%02uT%02u:%02u:%02u.%03uZ",
                   (unsigned)(tm.tm_year + 1900) % 10000, (unsigned)(tm.tm_mon + 1) % 100,
                   (unsigned)tm.tm_mday % 100, (unsigned)tm.tm_hour % 100,
                   (unsigned)tm.tm_min % 100, (unsigned)tm.tm_sec % 100,
                   (unsigned)rest / 1000 % 1000);
}

/* Exactly n digits; moves *at behind them. */
static int digits(const char **at, int n, int *ret) {
    int value = 0;

    for (int i = 0; i < n; i++, (*at)++) {
        if (**at < '0' || **at > '9')
            return -EINVAL;
        value = value * 10 + (**at - '0');
    }
    *ret = value;
    return 0;
}

static int fraction_us(const char **at, int *ret) {
    int value = 0;
    int n = 0;

    for (; **at >= '0' && **at <= '9'; (*at)++, n++)
        if (n < 6)
            value = value * 10 + (**at - '0');
    if (n == 0 || n > 9)
        return -EINVAL;
    for (; n < 6; n++)
        value *= 10;
    *ret = value;
    return 0;
}

int timefmt_iso_parse(const char *text, int64_t *ret_us) {
    static const struct {
        char before;
        int n;
        int max;
    } parts[] = {
        {0,   4, 9999},
        {'-', 2, 12  },
        {'-', 2, 31  },
        {'T', 2, 23  },
        {':', 2, 59  },
        {':', 2, 59  },
    };
    static const int month_days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int v[ARRAY_SIZE(parts)];
    int us = 0;

    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        if (parts[i].before && *text++ != parts[i].before)
            return -EINVAL;
        if (digits(&text, parts[i].n, &v[i]) < 0 || v[i] > parts[i].max)
            return -EINVAL;
    }
    if (v[1] < 1 || v[2] < 1)
        return -EINVAL;
    bool leap = v[0] % 4 == 0 && (v[0] % 100 != 0 || v[0] % 400 == 0);
    if (v[2] > month_days[v[1] - 1] + (leap && v[1] == 2))
        return -EINVAL;
    if (*text == '.') {
        text++;
        if (fraction_us(&text, &us) < 0)
            return -EINVAL;
    }
    if (strcmp(text, "Z") != 0)
        return -EINVAL;
    int64_t s = days_of(v[0], v[1], v[2]) * 86400 + v[3] * 3600 + v[4] * 60 + v[5];
    *ret_us = s * TIMEFMT_US_PER_S + us;
    return 0;
}

/* Local time by the first format of its day, the second within its year, or the third. */
static size_t local_text(int64_t us, int64_t now_us, const char *const formats[3],
                         char ret[static TIMEFMT_ISO_BYTES]) {
    struct tm tm;
    struct tm now;
    int rest;

    time_t s = split(us, &rest);
    time_t now_s = split(now_us, &rest);
    localtime_r(&s, &tm);
    localtime_r(&now_s, &now);
    bool same_year = tm.tm_year == now.tm_year;
    bool same_day = same_year && tm.tm_yday == now.tm_yday;
    size_t n = strftime(ret, TIMEFMT_ISO_BYTES, formats[same_day ? 0 : same_year ? 1 : 2], &tm);
    if (n == 0)
        strcpy(ret, "-");
    return n;
}

void timefmt_local(int64_t us, int64_t now_us, bool utc, char ret[static TIMEFMT_ISO_BYTES]) {
    static const char *const formats[] = {"%H:%M", "%b %d %H:%M", "%Y-%m-%d %H:%M"};

    if (utc)
        timefmt_iso(us, ret);
    else
        (void)local_text(us, now_us, formats, ret);
}

void timefmt_clock(int64_t us, int64_t now_us, bool utc, char ret[static TIMEFMT_ISO_BYTES]) {
    static const char *const formats[] = {"%H:%M:%S", "%b %d %H:%M:%S", "%Y-%m-%d %H:%M:%S"};
    int rest;

    if (utc) {
        timefmt_iso(us, ret);
        return;
    }
    (void)split(us, &rest);
    size_t n = local_text(us, now_us, formats, ret);
    if (n)
        (void)snprintf(ret + n, TIMEFMT_ISO_BYTES - n, ".%03u", (unsigned)rest / 1000 % 1000);
}

/* `HH:MM` or `HH:MM:SS` to the end of the text. */
static int clock_parse(const char *text, struct tm *tm) {
    if (digits(&text, 2, &tm->tm_hour) < 0 || *text++ != ':' || digits(&text, 2, &tm->tm_min) < 0)
        return -EINVAL;
    if (*text == ':') {
        text++;
        if (digits(&text, 2, &tm->tm_sec) < 0)
            return -EINVAL;
    }
    return *text || tm->tm_hour > 23 || tm->tm_min > 59 || tm->tm_sec > 59 ? -EINVAL : 0;
}

static int date_parse(const char **at, struct tm *tm) {
    if (digits(at, 4, &tm->tm_year) < 0 || *(*at)++ != '-' || digits(at, 2, &tm->tm_mon) < 0 ||
        *(*at)++ != '-' || digits(at, 2, &tm->tm_mday) < 0 || (**at != ' ' && **at != 'T'))
        return -EINVAL;
    tm->tm_year -= 1900;
    tm->tm_mon--;
    ++*at;
    return 0;
}

/* Local time to seconds; mktime bends what does not exist (Feb 30, an hour that a change of the
 * clock leaves out) into something else, which shows. */
static int local_seconds(const struct tm *wanted, int64_t *ret_s) {
    struct tm tm = *wanted;
    time_t s;

    tm.tm_isdst = -1;
    s = mktime(&tm);
    if (tm.tm_mday != wanted->tm_mday || tm.tm_mon != wanted->tm_mon ||
        tm.tm_hour != wanted->tm_hour || tm.tm_min != wanted->tm_min)
        return -EINVAL;
    *ret_s = s;
    return 0;
}

int timefmt_local_parse(const char *text, int64_t now_us, int64_t *ret_us) {
    struct tm tm = {0};
    bool dated = strchr(text, '-') != NULL;
    int64_t s;
    int rest;

    if (timefmt_iso_parse(text, ret_us) == 0)
        return 0;
    if (dated ? date_parse(&text, &tm) < 0 : false)
        return -EINVAL;
    if (!dated) {
        time_t now_s = split(now_us, &rest);
        localtime_r(&now_s, &tm);
        tm.tm_sec = 0;
    }
    int day = tm.tm_mday;
    if (clock_parse(text, &tm) < 0)
        return -EINVAL;
    int r = local_seconds(&tm, &s);
    if (r == 0 && !dated && s * TIMEFMT_US_PER_S <= now_us) { // tomorrow
        tm.tm_mday = day + 1;
        tm.tm_isdst = -1;
        s = mktime(&tm);
    }
    if (r == 0)
        *ret_us = s * TIMEFMT_US_PER_S;
    return r;
}

/* One `12.5h` of a duration; units before *unit have been used. */
static int duration_part(const char **at, size_t *unit, int64_t *ret_us) {
    int64_t whole = 0;
    int64_t fraction = 0;
    int64_t scale = 1;
    const char *start = *at;

    for (; **at >= '0' && **at <= '9'; (*at)++)
        if (__builtin_mul_overflow(whole, 10, &whole) ||
            __builtin_add_overflow(whole, **at - '0', &whole))
            return -ERANGE;
    if (*at == start)
        return -EINVAL;
    if (**at == '.') {
        start = ++(*at);
        for (; **at >= '0' && **at <= '9'; (*at)++)
            if (scale < 1000000) {
                fraction = fraction * 10 + (**at - '0');
                scale *= 10;
            }
        if (*at == start)
            return -EINVAL;
    }
    size_t n = strcspn(*at, "0123456789.");
    while (*unit < ARRAY_SIZE(units) &&
           !(strlen(units[*unit].text) == n && strncmp(units[*unit].text, *at, n) == 0))
        ++*unit;
    if (*unit == ARRAY_SIZE(units))
        return -EINVAL;
    *at += n;
    int64_t us;
    if (__builtin_mul_overflow(whole, units[*unit].us, &us) ||
        __builtin_add_overflow(us, fraction * units[*unit].us / scale, &us) ||
        __builtin_add_overflow(us, *ret_us, ret_us))
        return -ERANGE;
    ++*unit;
    return 0;
}

int timefmt_duration_parse(const char *text, int64_t *ret_us, struct hai_err *err) {
    const char *at = text;
    int64_t us = 0;
    size_t unit = 0;
    int r = *at == '-' ? -ERANGE : *at ? 0 : -EINVAL;

    while (r == 0 && *at)
        r = duration_part(&at, &unit, &us);
    if (r == -ERANGE)
        return hai_fail(err, r, "'%.60s' is out of range for a duration", text);
    if (r < 0)
        return hai_fail(err, r,
                        "'%.60s' is not a duration; expected a number with a unit, such as "
                        "90s, 30m, 6h or 3d",
                        text);
    *ret_us = us;
    return 0;
}

void timefmt_duration(int64_t us, char ret[static TIMEFMT_ISO_BYTES]) {
    int64_t s = MAX(us, 0) / TIMEFMT_US_PER_S;

    if (s == 0 && us >= 10000)
        (void)snprintf(ret, TIMEFMT_ISO_BYTES, "0.%02ds", (int)(us / 10000));
    else if (s < 60)
        (void)snprintf(ret, TIMEFMT_ISO_BYTES, "%ds", (int)s);
    else if (s < 3600)
        (void)snprintf(ret, TIMEFMT_ISO_BYTES, "%dm%02ds", (int)(s / 60), (int)(s % 60));
    else if (s < 86400)
        (void)snprintf(ret, TIMEFMT_ISO_BYTES, "%dh%02dm", (int)(s / 3600), (int)(s / 60 % 60));
    else
        (void)snprintf(ret, TIMEFMT_ISO_BYTES, "%lldd%02dh", (long long)(s / 86400),
                       (int)(s / 3600 % 24));
}

void timefmt_duration_exact(int64_t us, char ret[static 64]) {
    size_t n = 0;

    assert(us >= 0);
    if (us == 0)
        strcpy(ret, "0s");
    for (size_t i = 1; i < ARRAY_SIZE(units); i++) { // weeks are read but not written
        int64_t count = us / units[i].us;
        us %= units[i].us;
        if (count)
            n += (size_t)snprintf(ret + n, 64 - n, "%lld%s", (long long)count, units[i].text);
    }
}

void timefmt_seconds(int64_t us, struct buf *ret) {
    uint64_t left = us < 0 ? -(uint64_t)us : (uint64_t)us;
    unsigned fraction = (unsigned)(left % TIMEFMT_US_PER_S);

    buf_printf(ret, "%s%llu", us < 0 ? "-" : "", (unsigned long long)(left / TIMEFMT_US_PER_S));
    if (fraction == 0)
        return;
    buf_printf(ret, ".%06u", fraction);
    while (ret->data[ret->n_bytes - 1] == '0')
        ret->n_bytes--;
}
