#include "scheduler/api_usage.h"

#include "lib/timefmt.h"
#include "scheduler/core/ledger.h"
#include "scheduler/usage_child.h"

enum {
    DAYS_DEFAULT = 30,
    DAYS_MAX = 399, // rows of days before begin to go
    SUMS_DEFAULT = 1000,
    SUMS_MAX = 100000,
};

static int read_time(struct api_call *call, const char *name, int64_t fallback_us, int64_t *ret) {
    const char *text = http_request_query(call->request, name);

    *ret = fallback_us;
    if (!text || timefmt_iso_parse(text, ret) == 0)
        return 0;
    api_call_fail(call, 400, "invalid", "%s is '%.40s'; expected 2026-11-23T13:11:40Z", name, text);
    return -EINVAL;
}

/* Whole days, the last one up to now. */
static int read_days(struct api_call *call, int64_t now_us, struct query_usage *ret) {
    int64_t today = now_us / LEDGER_DAY_US, since_us, until_us;

    if (read_time(call, "since", (today - DAYS_DEFAULT) * LEDGER_DAY_US, &since_us) < 0 ||
        read_time(call, "until", now_us, &until_us) < 0)
        return -EINVAL;
    ret->first = MAX(since_us / LEDGER_DAY_US, today - DAYS_MAX);
    ret->last = MIN((until_us - 1) / LEDGER_DAY_US, today);
    if (until_us > since_us && ret->first <= ret->last)
        return 0;
    if (since_us > now_us)
        api_call_fail(call, 400, "invalid", "since is in the future; expected a time that is past");
    else
        api_call_fail(call, 400, "invalid", "no day is left between since and until");
    return -EINVAL;
}

static int read_by(struct api_call *call, enum query_by *ret) {
    const char *text = http_request_query(call->request, "by");
    int by = text ? schema_enum_parse(&query_by_enum, text) : QUERY_BY_STAGE;

    if (by < 0) {
        api_call_fail(call, 400, "invalid",
                      "by is '%.40s'; expected stage, user, team, group, job or day", text);
        return -EINVAL;
    }
    *ret = (enum query_by)by;
    return 0;
}

/* People see their own jobs, operators everybody's. */
static int read_user(struct api_call *call, const char **ret) {
    const char *user = http_request_query(call->request, "user");
    bool operates = call->caller.scope >= SCOPE_OPERATE;

    if (user && !operates && !hai_streq(user, call->caller.user)) {
        api_call_fail(call, 403, "denied", "usage of %.63s needs a token of scope operate", user);
        return -EACCES;
    }
    *ret = operates ? user : call->caller.user;
    return 0;
}

void api_usage_handle(struct api_call *call) {
    int64_t now_us = turn_now_us(call->s->turn), limit;
    struct query_usage query = {0};

    if (read_days(call, now_us, &query) < 0 || read_by(call, &query.by) < 0 ||
        read_user(call, &query.user) < 0 ||
        api_call_query_int(call, "limit", 1, SUMS_MAX, SUMS_DEFAULT, &limit) < 0)
        return;
    query.group = http_request_query(call->request, "group");
    if ((query.user && strlen(query.user) > USER_NAME_MAX) ||
        (query.group && strlen(query.group) > GROUP_NAME_MAX)) {
        api_call_fail(call, 400, "out_of_range", "a name has at most %d bytes", USER_NAME_MAX);
        return;
    }
    usage_child_start(call, &query, limit);
}
