#include "scheduler/usage.h"

#include "lib/pure/map.h"
#include "lib/pure/tlv.h"
#include "lib/timefmt.h"
#include "scheduler/core/array.h"
#include "scheduler/core/ledger.h"
#include "scheduler/known.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { KEY_BYTES = 64 };
#define US_PER_HOUR 3.6e9

/* Differences are reckoned modulo 2^64: they are 0 if and only if both sides agree. */
struct work {
    const struct usage_task *task;
    enum query_by by;
    struct usage *usage;
    size_t n_sums_max;                // of usage
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
        if (usage->n_sums == w->n_sums_max) {
            w->n_sums_max = MAX(2 * w->n_sums_max, (size_t)64);
            usage->sums = hai_realloc_array(usage->sums, w->n_sums_max, sizeof *usage->sums);
        }
        usage->sums[usage->n_sums++] = (struct usage_sum){.key = hai_strdup(key), .cost = NAN};
        at = usage->n_sums;
        map_put_text(&w->by_key, key, (void *)at);
    }
    return &usage->sums[at - 1];
}

static void add_key(struct work *w, const char *key, const char *group,
                    const int64_t gpu_us[static LEDGER_JOB_CLASSES]) {
    double price = price_of(&w->task->prices, group);

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

    if (w->by >= QUERY_BY_JOB) {
        number_key(w->by, w->by == QUERY_BY_JOB ? sum->job : sum->day, text);
        key = text;
    }
    add_key(w, key, sum->group, sum->gpu_us);
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
              w->by == QUERY_BY_DAY ? by_key : by_time);
    map_free(&w->by_key);
}

int usage_collect(struct store *store, const struct usage_task *task, struct usage *ret,
                  struct hai_err *err) {
    struct query_usage query = {task->first, task->last, task->user, task->group,
                                (enum query_by)schema_enum_parse(&query_by_enum, task->by)};
    struct work work = {.task = task, .by = query.by, .usage = ret};

    assert((int)query.by >= 0);
    *ret = (struct usage){.total = {.cost = NAN}};
    int r = query_usage(store, &query, add_stored, &work, err);
    if (r >= 0)
        r = query_ledger(store, query.first, query.last, add_class, &work, err);
    for (size_t i = 0; r >= 0 && i < task->parts.n; i++) {
        const struct usage_part *part = &task->parts.items[i];
        if (part->gpu_us.n == LEDGER_JOB_CLASSES)
            add_key(&work, part->key, part->group, part->gpu_us.items);
    }
    for (size_t i = 0; r >= 0 && i < task->classes.n; i++)
        add_class(&work, task->classes.items[i].day, task->classes.items[i].class,
                  task->classes.items[i].gpu_us);
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

/* ---- what the store does not have yet ---- */

struct gather {
    const struct query_usage *query;
    struct usage_task *task;
    struct map by_key; // of parts: day, group and key; position + 1
};

static struct usage_part *part_of(struct gather *g, int64_t day, const char *group,
                                  const char *key) {
    _cleanup_free_ char *text = hai_asprintf("%lld\n%s\n%s", (long long)day, group, key);
    size_t at = (size_t)map_get_text(&g->by_key, text);

    if (at)
        return &g->task->parts.items[at - 1];
    struct usage_part *part = LIST_ADD(&g->task->parts);
    schema_init(usage_part_schema(), part);
    part->day = day;
    part->key = key[0] ? hai_strdup(key) : NULL;
    part->group = hai_strdup(group);
    for (int k = 0; k < LEDGER_JOB_CLASSES; k++)
        *LIST_ADD(&part->gpu_us) = 0;
    map_put_text(&g->by_key, text, (void *)g->task->parts.n);
    return part;
}

static void gather_row(void *data, const struct usage_row *row) {
    struct gather *g = data;
    const struct query_usage *query = g->query;
    const char *keys[] = {
        [QUERY_BY_STAGE] = row->stage, [QUERY_BY_USER] = row->user, [QUERY_BY_TEAM] = row->team,
        [QUERY_BY_GROUP] = row->group, [QUERY_BY_DAY] = NULL,
    };
    char text[KEY_BYTES];

    if (row->day < query->first || row->day > query->last ||
        (query->user && !hai_streq(query->user, row->user)) ||
        (query->group && !hai_streq(query->group, row->group)))
        return;
    const char *key = keys[query->by];
    if (query->by >= QUERY_BY_JOB) {
        number_key(query->by, query->by == QUERY_BY_JOB ? row->job : row->day, text);
        key = text;
    }
    struct usage_part *part = part_of(g, row->day, row->group, key ? key : "");
    for (int k = 0; k < LEDGER_JOB_CLASSES; k++)
        add_us(&part->gpu_us.items[k], row->gpu_us[k]);
}

static void gather_open(void *data, const struct job *job, int64_t day,
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
    gather_row(data, &row);
}

static void gather_class(struct gather *g, int64_t day, const char *class, int64_t gpu_us) {
    struct usage_class_part *part = LIST_ADD(&g->task->classes);

    *part = (struct usage_class_part){.day = day, .class = hai_strdup(class), .gpu_us = gpu_us};
}

static void gather_day(void *data, const struct ledger_day *day) {
    struct gather *g = data;

    if (day->day < g->query->first || day->day > g->query->last)
        return;
    gather_class(g, day->day, "capacity", day->capacity_us);
    for (int k = 0; k < LEDGER_COUNT; k++)
        gather_class(g, day->day, ledger_class_text((enum ledger_class)k), day->gpu_us[k]);
}

void usage_gather(const struct schedd *s, const struct query_usage *query, int64_t now_us,
                  struct usage_task *ret) {
    const struct state *state = schedd_state(s);
    struct gather gather = {.query = query, .task = ret};
    struct hai_err unknown;

    schema_init(usage_task_schema(), ret);
    ret->first = query->first;
    ret->last = query->last;
    ret->by = hai_strdup(query_by_text(query->by));
    ret->user = query->user ? hai_strdup(query->user) : NULL;
    ret->group = query->group ? hai_strdup(query->group) : NULL;
    ret->until = MIN((query->last + 1) * LEDGER_DAY_US, now_us);
    schema_free(cluster_prices_schema(), &ret->prices);
    schema_copy(cluster_prices_schema(), &ret->prices, &s->cluster.prices);
    for (size_t i = 0; query->by == QUERY_BY_USER && i < state->n_users; i++)
        if (state->users[i].external == 1)
            *LIST_ADD(&ret->externals) = hai_strdup(state->users[i].name);
    for (const struct job *job = query->by == QUERY_BY_JOB ? state->jobs_first : NULL; job;
         job = job->next)
        if (array_is_element(job) && job->r.attempt > 0)
            *LIST_ADD(&ret->labels) =
                (struct usage_label){job->r.id, hai_strdup(array_label(&job->r).text)};
    if ((query->user && known_user(s, query->user, &unknown) < 0) ||
        (query->group && known_group(s, query->group, &unknown) < 0))
        ret->unknown = hai_asprintf("%s; %s", unknown.text, unknown.hint);
    rows_outstanding_usage(turn_rows(s->turn), query->first, query->last, gather_row, gather_day,
                           &gather);
    ledger_peek(state, now_us, &(struct ledger_peek){gather_open, gather_day, &gather});
    map_free(&gather.by_key);
}

/* ---- the answer ---- */

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

void usage_fill(const struct usage_task *task, const struct usage *usage, struct usage_view *ret) {
    size_t n = MIN(usage->n_sums, (size_t)task->limit);
    struct map externals = {0};

    for (size_t i = 0; i < task->externals.n; i++)
        map_put_text(&externals, task->externals.items[i], task->externals.items[i]);
    schema_init(usage_view_schema(), ret);
    ret->since = task->first * LEDGER_DAY_US;
    ret->until = task->until;
    ret->by = hai_strdup(task->by);
    ret->currency = hai_strdup(task->prices.currency);
    for (size_t i = 0; i < n; i++) {
        struct usage_sum_view *sum = LIST_ADD(&ret->sums);
        fill_sum(&usage->sums[i], sum);
        sum->external = sum->key && map_get_text(&externals, sum->key);
    }
    if (n < usage->n_sums)
        ret->left_out = (int64_t)(usage->n_sums - n);
    schema_free(usage_sum_view_schema(), &ret->total);
    fill_sum(&usage->total, &ret->total);
    if (!usage->n_sums) // groups that are gone had their time
        ret->unknown = hai_strdup(task->unknown);
    if (!task->user && !task->group)
        fill_cluster(&usage->cluster, ret);
    map_free(&externals);
}

static void take_label(void *data, const struct rows_job *row) {
    char **label = data;
    struct state_job job;

    if (tlv_decode(state_job_schema(), row->record, row->record_bytes, &job, NULL) < 0)
        return;
    *label = hai_strdup(array_label(&job).text);
    schema_free(state_job_schema(), &job);
}

void usage_label_jobs(struct store *store, const struct usage_task *task, struct usage_view *view) {
    struct map known = {0};

    for (size_t i = 0; i < task->labels.n; i++)
        map_put(&known, task->labels.items[i].job, task->labels.items[i].label);
    for (size_t i = 0; i < view->sums.n; i++) {
        struct usage_sum_view *sum = &view->sums.items[i];
        int64_t id = strtoll(sum->key, NULL, 10);
        sum->label = hai_strdup(map_get(&known, id));
        if (!sum->label) // a row that cannot be read leaves the number
            (void)query_job(store, id, take_label, &sum->label, NULL);
        if (!sum->label)
            sum->label = hai_strdup(sum->key);
    }
    map_free(&known);
}
