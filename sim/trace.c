#include "sim/trace.h"
#include "lib/fileio.h"
#include "lib/gzip.h"
#include "lib/limits.h"
#include "sim/csv.h"
#include "sim/fixed.h"

#include <stdio.h>

enum {
    GPUS_MAX = NODES_MAX * NODE_GPUS_MAX,
    TRACE_BYTES_MAX = 2047 << 20, // unpacked
};

struct columns {
    int submit, gpus, run, user, priority, estimate;
};

void trace_free(struct trace *trace) {
    for (size_t i = 0; i < trace->n_users; i++)
        free(trace->users[i]);
    free(trace->users);
    free(trace->jobs);
    free(trace->name);
    *trace = (struct trace){0};
}

static int need_column(const struct csv *csv, const char *name, int *ret, struct hai_err *err) {
    *ret = csv_column(csv, name);
    if (*ret >= 0)
        return 0;
    return csv_fail(csv, 0, -EBADMSG, err,
                    "there is no column %s; a job trace has submit_s, gpus and duration_s", name);
}

static int find_columns(const struct csv *csv, struct columns *ret, struct hai_err *err) {
    int r = need_column(csv, "submit_s", &ret->submit, err);

    if (r == 0)
        r = need_column(csv, "gpus", &ret->gpus, err);
    if (r == 0)
        r = need_column(csv, "duration_s", &ret->run, err);
    ret->user = csv_column(csv, "user");
    if (ret->user < 0)
        ret->user = csv_column(csv, "queue");
    ret->priority = csv_column(csv, "prio");
    ret->estimate = csv_column(csv, "est_s");
    return r;
}

int trace_user(struct trace *trace, struct map *known, const char *name, uint16_t *ret,
               struct hai_err *err) {
    uintptr_t at = (uintptr_t)map_get_text(known, name);

    if (!at) {
        if (trace->n_users == UINT16_MAX)
            return hai_fail(err, -E2BIG, "more than %d users", UINT16_MAX);
        trace->users = hai_realloc_array(trace->users, trace->n_users + 1, sizeof *trace->users);
        trace->users[trace->n_users++] = hai_strdup(name);
        at = trace->n_users;
        map_put_text(known, name, (void *)at);
    }
    *ret = (uint16_t)(at - 1);
    return 0;
}

int trace_add(struct trace *trace, const struct trace_job *job, struct hai_err *err) {
    if (trace->n == TRACE_JOBS_MAX)
        return hai_fail(err, -EFBIG, "more than %d jobs", TRACE_JOBS_MAX);
    if (trace->n == trace->n_max) {
        trace->n_max = MAX(2 * trace->n_max, (size_t)1024);
        trace->jobs = hai_realloc_array(trace->jobs, trace->n_max, sizeof *trace->jobs);
    }
    trace->jobs[trace->n++] = *job;
    return 0;
}

static int take_user(const struct csv *csv, int column, struct map *known, struct trace *trace,
                     uint16_t *ret, struct hai_err *err) {
    const struct csv_field *field = &csv->fields[MAX(column, 0)];
    bool named = column >= 0 && field->n_bytes;
    struct hai_err why = {0};

    if (named && field->n_bytes > USER_NAME_MAX)
        return csv_fail(csv, column, -ERANGE, err, "the name has %zu bytes; expected at most %d",
                        field->n_bytes, USER_NAME_MAX);
    if (named && memchr(field->text, 0, field->n_bytes))
        return csv_fail(csv, column, -EINVAL, err, "the name holds a zero byte");
    _cleanup_free_ char *name =
        named ? hai_strndup(field->text, field->n_bytes) : hai_strdup("none");
    int r = trace_user(trace, known, name, ret, &why);
    return r < 0 ? csv_fail(csv, column, r, err, "%s", why.text) : 0;
}

static int take_row(const struct csv *csv, const struct columns *c, struct map *known,
                    struct trace *trace, struct hai_err *err) {
    struct trace_job job = {.row = (uint32_t)trace->n};
    int64_t gpus = 0, priority = 1;
    struct hai_err why = {0};

    int r = csv_decimal(csv, c->submit, 0, DURATION_US_MAX, &job.submit_us, err);
    if (r == 0)
        r = csv_int(csv, c->gpus, 1, GPUS_MAX, &gpus, err);
    if (r == 0)
        r = csv_decimal(csv, c->run, 0, DURATION_US_MAX, &job.run_us, err);
    if (r == 0 && c->priority >= 0)
        r = csv_int(csv, c->priority, 0, TRACE_PRIORITY_COUNT - 1, &priority, err);
    if (r == 0 && c->estimate >= 0 && csv->fields[c->estimate].n_bytes)
        r = csv_decimal(csv, c->estimate, 0, DURATION_US_MAX, &job.estimate_us, err);
    if (r == 0)
        r = take_user(csv, c->user, known, trace, &job.user, err);
    if (r < 0)
        return r;
    job.gpus = (int32_t)gpus;
    job.priority = (uint8_t)priority;
    r = trace_add(trace, &job, &why);
    return r < 0 ? csv_fail(csv, 0, r, err, "%s", why.text) : 0;
}

static int by_submission(const void *pa, const void *pb) {
    const struct trace_job *a = pa, *b = pb;

    if (a->submit_us != b->submit_us)
        return a->submit_us < b->submit_us ? -1 : 1;
    return a->row < b->row ? -1 : a->row > b->row;
}

void trace_sort(struct trace *trace) {
    if (trace->n)
        qsort(trace->jobs, trace->n, sizeof *trace->jobs, by_submission);
}

int trace_parse(const void *data, size_t n_bytes, const char *file, struct trace *ret,
                struct hai_err *err) {
    struct columns columns = {0};
    struct map known = {0};
    struct csv csv;

    int r = csv_open(&csv, data, n_bytes, file, err);
    if (r == 0)
        r = find_columns(&csv, &columns, err);
    while (r == 0 && (r = csv_next(&csv, err)) > 0)
        r = take_row(&csv, &columns, &known, ret, err);
    map_free(&known);
    if (r == 0)
        trace_sort(ret);
    return r;
}

/* traces/philly.csv.gz is philly. */
static char *name_of(const char *path) {
    static const char *const endings[] = {".gz", ".csv"};
    const char *slash = strrchr(path, '/');
    char *name = hai_strdup(slash ? slash + 1 : path);

    for (size_t i = 0; i < ARRAY_SIZE(endings); i++) {
        size_t n = strlen(name), cut = strlen(endings[i]);
        if (n > cut && !strcmp(name + n - cut, endings[i]))
            name[n - cut] = 0;
    }
    return name;
}

int trace_read(const char *path, struct trace *ret, struct hai_err *err) {
    _cleanup_(buf_free) struct buf file = {0};
    _cleanup_(buf_free) struct buf unpacked = {0};

    int r = fileio_read_file(path, TRACE_BYTES_MAX, &file, err);
    if (r < 0)
        return r;
    const struct buf *text = &file;
    if (gzip_is(file.data, file.n_bytes)) {
        r = gzip_unpack(file.data, file.n_bytes, TRACE_BYTES_MAX, &unpacked, err);
        if (r < 0) {
            hai_err_prefix(err, "%s: ", path);
            return r;
        }
        text = &unpacked;
    }
    ret->name = name_of(path);
    return trace_parse(text->data, text->n_bytes, path, ret, err);
}

int64_t trace_last_us(const struct trace *trace) {
    return trace->n ? trace->jobs[trace->n - 1].submit_us : 0;
}

void trace_window(struct trace *trace, int64_t from_us, int64_t to_us) {
    size_t n = 0;

    for (size_t i = 0; i < trace->n; i++) {
        struct trace_job job = trace->jobs[i];
        if (job.submit_us < from_us || job.submit_us >= to_us)
            continue;
        job.submit_us -= from_us;
        trace->jobs[n++] = job;
    }
    trace->n = n;
}

int64_t trace_gpus(const struct trace_job *job, int64_t gpus_per_node) {
    if (job->gpus <= gpus_per_node)
        return job->gpus;
    return (job->gpus + gpus_per_node - 1) / gpus_per_node * gpus_per_node;
}

static fixed_wide gpu_us(const struct trace *trace, int64_t gpus_per_node) {
    fixed_wide sum = 0;

    for (size_t i = 0; i < trace->n; i++)
        sum += (fixed_wide)trace_gpus(&trace->jobs[i], gpus_per_node) * trace->jobs[i].run_us;
    return sum;
}

int64_t trace_load(const struct trace *trace, int64_t gpus_per_node, int64_t n_gpus) {
    return fixed_ratio(gpu_us(trace, gpus_per_node), (fixed_wide)trace_last_us(trace) * n_gpus);
}

/* Times a / b. The factors lose low bits until the product has room. */
static void stretch(struct trace *trace, fixed_wide a, fixed_wide b) {
    while (a >> 62 || b >> 100) {
        a >>= 1;
        b >>= 1;
    }
    b = MAX(b, (fixed_wide)1);
    for (size_t i = 0; i < trace->n; i++) {
        fixed_wide to = trace->jobs[i].submit_us * a / b;
        trace->jobs[i].submit_us = (int64_t)MIN(to, (fixed_wide)DURATION_US_MAX);
    }
}

void trace_stretch(struct trace *trace, int64_t factor) {
    stretch(trace, factor, FIXED_ONE);
}

int trace_stretch_to(struct trace *trace, int64_t gpus_per_node, int64_t n_gpus, int64_t load,
                     struct hai_err *err) {
    fixed_wide asked = gpu_us(trace, gpus_per_node);
    fixed_wide length = (fixed_wide)trace_last_us(trace) * n_gpus;

    assert(load > 0);
    if (!asked || !length)
        return hai_fail(err, -EINVAL,
                        "the trace cannot be stretched to a load: it needs jobs that run and are "
                        "submitted at different times");
    stretch(trace, asked * FIXED_ONE, length * load);
    return 0;
}

struct drawn {
    uint64_t hash;
    struct trace_job *job;
};

/* The finalizer of splitmix64 (Steele, Lea, Flood, 2014): neighbours come far apart. */
static uint64_t hash_of(uint64_t x) {
    x = (x + UINT64_C(0x9e3779b97f4a7c15)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static int by_hash(const void *pa, const void *pb) {
    const struct drawn *a = pa, *b = pb;

    if (a->hash != b->hash)
        return a->hash < b->hash ? -1 : 1;
    return a->job->row < b->job->row ? -1 : a->job->row > b->job->row;
}

static fixed_wide asks_for(const struct trace_job *job, int64_t gpus_per_node) {
    return (fixed_wide)job->run_us * trace_gpus(job, gpus_per_node);
}

void trace_choose_external(struct trace *trace, int64_t gpus_per_node, int64_t percent) {
    _cleanup_free_ struct drawn *drawn = hai_new_array(struct drawn, trace->n + 1);
    fixed_wide missing = 0; // hundredths

    for (size_t i = 0; i < trace->n; i++) {
        drawn[i] = (struct drawn){hash_of(trace->jobs[i].row), &trace->jobs[i]};
        missing += percent * asks_for(&trace->jobs[i], gpus_per_node);
    }
    if (trace->n)
        qsort(drawn, trace->n, sizeof *drawn, by_hash);
    for (size_t i = 0; i < trace->n; i++) {
        fixed_wide gpu_us = 100 * asks_for(drawn[i].job, gpus_per_node);
        drawn[i].job->external = gpu_us && gpu_us <= missing;
        missing -= drawn[i].job->external ? gpu_us : 0;
    }
}
