#include "scheduler/api_usage.h"

#include "lib/timefmt.h"
#include "scheduler/core/ledger.h"
#include "scheduler/core/quota.h"
#include "scheduler/usage.h"
#include <math.h>

enum {
    DAYS_DEFAULT = 30,
    DAYS_MAX = 399,    // rows of days before begin to go
    JOB_DAYS_MAX = 31, // rows of every job: more would keep everybody else waiting
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

static int check_days(struct api_call *call, const struct query_usage *query) {
    char iso[TIMEFMT_ISO_BYTES];
    int64_t days = query->last - query->first;

    if (query->by != QUERY_BY_JOB || days <= JOB_DAYS_MAX)
        return 0;
    timefmt_iso(query->first * LEDGER_DAY_US, iso);
    api_call_fail(call, 400, "too_many",
                  "since is %.10s, %lld days before the last day; by job at most %d", iso,
                  (long long)days, JOB_DAYS_MAX);
    return -EINVAL;
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

static void fill_sum(const struct usage_sum *from, struct usage_sum_view *to) {
    schema_init(usage_sum_view_schema(), to);
    to->key = from->key && from->key[0] ? hai_strdup(from->key) : NULL;
    to->gpu_us = from->all_us;
    to->cost = from->cost;
    to->productive_us = from->gpu_us[LEDGER_PRODUCTIVE];
    to->recomputed_us = from->gpu_us[LEDGER_RECOMPUTED];
    to->checkpoint_stall_us = from->gpu_us[LEDGER_STALLED];
    to->start_up_us = from->gpu_us[LEDGER_START_UP];
    to->suspended_us = from->gpu_us[LEDGER_SUSPENDED];
}

static void fill_cluster(const struct usage_cluster *from, struct usage_view *to) {
    for (int k = 0; k < LEDGER_COUNT; k++) {
        struct usage_class_view *view = LIST_ADD(&to->classes);
        schema_init(usage_class_view_schema(), view);
        view->class = hai_strdup(ledger_class_text((enum ledger_class)k));
        view->gpu_us = from->gpu_us[k];
    }
    to->capacity_us = from->capacity_us;
    to->classes_us = from->classes_us;
    to->of_jobs_us = from->of_jobs_us;
    to->agrees = from->agrees;
}

static void reply(struct api_call *call, const struct query_usage *query, int64_t now_us,
                  const struct usage *usage, size_t limit) {
    size_t n = MIN(usage->n_sums, limit);
    struct usage_view view;

    schema_init(usage_view_schema(), &view);
    view.since = query->first * LEDGER_DAY_US;
    view.until = MIN((query->last + 1) * LEDGER_DAY_US, now_us);
    view.by = hai_strdup(query_by_text(query->by));
    view.currency = hai_strdup(call->s->cluster.prices.currency);
    for (size_t i = 0; i < n; i++) {
        struct usage_sum_view *sum = LIST_ADD(&view.sums);
        fill_sum(&usage->sums[i], sum);
        sum->external = query->by == QUERY_BY_USER && sum->key &&
                        quota_external(schedd_state(call->s), sum->key);
    }
    if (n < usage->n_sums)
        view.left_out = (int64_t)(usage->n_sums - n);
    schema_free(usage_sum_view_schema(), &view.total);
    fill_sum(&usage->total, &view.total);
    if (!query->user && !query->group)
        fill_cluster(&usage->cluster, &view);
    api_call_reply(call, 200, usage_view_schema(), &view);
    schema_free(usage_view_schema(), &view);
}

void api_usage_handle(struct api_call *call) {
    int64_t now_us = turn_now_us(call->s->turn), limit;
    struct query_usage query = {0};
    struct hai_err err = {0};
    struct usage usage;

    if (read_days(call, now_us, &query) < 0 || read_by(call, &query.by) < 0 ||
        check_days(call, &query) < 0 || read_user(call, &query.user) < 0 ||
        api_call_query_int(call, "limit", 1, SUMS_MAX, SUMS_DEFAULT, &limit) < 0)
        return;
    query.group = http_request_query(call->request, "group");
    int r = usage_collect(call->s, &query, now_us, &usage, &err);
    if (r < 0) {
        api_call_error(call, r, &err);
        return;
    }
    reply(call, &query, now_us, &usage, (size_t)limit);
    usage_free(&usage);
}
