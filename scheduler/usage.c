#include "scheduler/usage.h"

#include "lib/pure/map.h"
#include "lib/timefmt.h"
#include "scheduler/core/ledger.h"
#include <math.h>
#include <stdio.h>

enum { KEY_BYTES = 64 };
#define US_PER_HOUR 3.6e9

/* Differences are reckoned modulo 2^64: they are 0 if and only if both sides agree. */
struct work {
    const struct schedd *s;
    const struct query_usage *query;
    struct usage *usage;
    struct map by_key;                // position + 1
    uint64_t off[LEDGER_JOB_CLASSES]; // classes of jobs, less the rows of jobs
    uint64_t off_capacity;            // less all classes
};

static void add_us(int64_t *sum, int64_t us) {
    if (__builtin_add_overflow(*sum, us, sum))
        *sum = INT64_MAX - 1; // thousands of years of GPUs: the sum is shown as the most there is
}

static double price_of(const struct cluster_prices *prices, const char *group) {
    for (size_t i = 0; i < prices->groups.n; i++)
        if (hai_streq(prices->groups.items[i].name, group))
            return prices->groups.items[i].gpu_hour;
    return prices->gpu_hour; // NAN: absent
}

static void add_to(struct usage_sum *sum, const int64_t gpu_us[static LEDGER_JOB_CLASSES],
                   double price) {
    int64_t all_us = 0;

    for (int k = 0; k < LEDGER_JOB_CLASSES; k++) {
        add_us(&sum->gpu_us[k], gpu_us[k]);
        all_us += gpu_us[k];
    }
    add_us(&sum->all_us, all_us);
    if (!isnan(price)) // what has no price is left out
        sum->cost = (isnan(sum->cost) ? 0 : sum->cost) + (double)all_us / US_PER_HOUR * price;
}

static struct usage_sum *sum_of(struct work *w, const char *key) {
    struct usage *usage = w->usage;
    size_t at = (size_t)map_get_text(&w->by_key, key);

    if (!at) {
        usage->sums = hai_realloc_array(usage->sums, usage->n_sums + 1, sizeof *usage->sums);
        usage->sums[usage->n_sums++] = (struct usage_sum){.key = hai_strdup(key), .cost = NAN};
        at = usage->n_sums;
        map_put_text(&w->by_key, key, (void *)at);
    }
    return &usage->sums[at - 1];
}

static void add_key(struct work *w, const char *key, const char *group,
                    const int64_t gpu_us[static LEDGER_JOB_CLASSES]) {
    double price = price_of(&w->s->cluster.prices, group);

    add_to(sum_of(w, key ? key : ""), gpu_us, price);
    add_to(&w->usage->total, gpu_us, price);
    for (int k = 0; k < LEDGER_JOB_CLASSES; k++)
        w->off[k] -= (uint64_t)gpu_us[k];
}

static void number_key(enum query_by by, int64_t number, char ret[static KEY_BYTES]) {
    char iso[TIMEFMT_ISO_BYTES];

    if (by == QUERY_BY_JOB) {
        (void)snprintf(ret, KEY_BYTES, "%lld", (long long)number);
        return;
    }
    timefmt_iso(number * LEDGER_DAY_US, iso);
    (void)snprintf(ret, KEY_BYTES, "%.10s", iso); // 2026-11-23
}

static void add_stored(void *data, const struct usage_row *sum, const char *key) {
    struct work *w = data;
    char text[KEY_BYTES];

    if (w->query->by >= QUERY_BY_JOB) {
        number_key(w->query->by, w->query->by == QUERY_BY_JOB ? sum->job : sum->day, text);
        key = text;
    }
    add_key(w, key, sum->group, sum->gpu_us);
}

/* A row that is not in the store yet. */
static void add_row(void *data, const struct usage_row *row) {
    struct work *w = data;
    const struct query_usage *query = w->query;
    const char *keys[] = {
        [QUERY_BY_STAGE] = row->stage, [QUERY_BY_USER] = row->user, [QUERY_BY_TEAM] = row->team,
        [QUERY_BY_GROUP] = row->group, [QUERY_BY_DAY] = NULL,
    };

    if (row->day < query->first || row->day > query->last ||
        (query->user && !hai_streq(query->user, row->user)) ||
        (query->group && !hai_streq(query->group, row->group)))
        return;
    add_stored(w, row, keys[query->by]);
}

static void add_open(void *data, const struct job *job, int64_t day,
                     const int64_t gpu_us[static LEDGER_JOB_CLASSES]) {
    const struct entry_job_spec *spec = &job->r.spec;
    struct usage_row row = {
        .day = day,
        .job = job->r.id,
        .user = spec->user,
        .team = spec->team,
        .group = spec->group,
        .stage = spec->stage,
    };

    memcpy(row.gpu_us, gpu_us, sizeof row.gpu_us);
    add_row(data, &row);
}

static void add_class(void *data, int64_t day, const char *class, int64_t gpu_us) {
    struct work *w = data;
    struct usage_cluster *cluster = &w->usage->cluster;
    int number = schema_enum_parse(&ledger_class_enum, class);

    if (number < 0) { // the capacity
        add_us(&cluster->capacity_us, gpu_us);
        w->off_capacity += (uint64_t)gpu_us;
        return;
    }
    add_us(&cluster->gpu_us[number], gpu_us);
    add_us(&cluster->classes_us, gpu_us);
    w->off_capacity -= (uint64_t)gpu_us;
    if (number >= LEDGER_JOB_CLASSES)
        return;
    add_us(&cluster->of_jobs_us, gpu_us);
    w->off[number] += (uint64_t)gpu_us;
}

static void add_day(void *data, const struct ledger_day *day) {
    struct work *w = data;

    if (day->day < w->query->first || day->day > w->query->last)
        return;
    add_class(w, day->day, "capacity", day->capacity_us);
    for (int k = 0; k < LEDGER_COUNT; k++)
        add_class(w, day->day, ledger_class_text((enum ledger_class)k), day->gpu_us[k]);
}

static int by_time(const void *pa, const void *pb) {
    const struct usage_sum *a = pa, *b = pb;

    if (a->all_us != b->all_us)
        return a->all_us < b->all_us ? 1 : -1;
    return strcmp(a->key, b->key);
}

static int by_key(const void *pa, const void *pb) {
    const struct usage_sum *a = pa, *b = pb;

    return strcmp(a->key, b->key);
}

static void finish(struct work *w) {
    struct usage *usage = w->usage;
    bool agrees = w->off_capacity == 0;

    for (int k = 0; k < LEDGER_JOB_CLASSES; k++)
        agrees = agrees && w->off[k] == 0;
    usage->cluster.agrees = agrees;
    if (usage->n_sums)
        qsort(usage->sums, usage->n_sums, sizeof *usage->sums,
              w->query->by == QUERY_BY_DAY ? by_key : by_time);
    map_free(&w->by_key);
}

int usage_collect(const struct schedd *s, const struct query_usage *query, int64_t now_us,
                  struct usage *ret, struct hai_err *err) {
    struct work work = {.s = s, .query = query, .usage = ret};

    *ret = (struct usage){.total = {.cost = NAN}};
    int r = query_usage(s->store, query, add_stored, &work, err);
    if (r >= 0)
        r = query_ledger(s->store, query->first, query->last, add_class, &work, err);
    if (r >= 0) {
        rows_outstanding_usage(turn_rows(s->turn), query->first, query->last, add_row, add_day,
                               &work);
        ledger_peek(schedd_state(s), now_us, &(struct ledger_peek){add_open, add_day, &work});
    }
    finish(&work);
    if (r < 0)
        usage_free(ret);
    return MIN(r, 0);
}

void usage_free(struct usage *usage) {
    for (size_t i = 0; i < usage->n_sums; i++)
        free(usage->sums[i].key);
    free(usage->sums);
    *usage = (struct usage){0};
}
