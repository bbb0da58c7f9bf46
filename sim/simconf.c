#include "sim/simconf.h"
#include "lib/fileio.h"
#include "lib/timefmt.h"
#include "lib/yaml.h"
#include "scheduler/core/state.h"
#include "sim/csv.h"
#include "sim/fixed.h"

DEFINE_ENUM(simconf_limit, SIMCONF_LIMIT, SIMCONF_LIMITS);

// clang-format off
#include "lib/pure/schema_tables.h"
SIMCONF_SCHEMAS
#include "lib/pure/schema_undef.h"
// clang-format on

enum {
    FILE_BYTES_MAX = 1 << 20,
    TABLE_BYTES_MAX = 16 << 20,
    RATE_MAX = 1000000, // of 1000 nodes a day
};

static const int64_t default_priorities[TRACE_PRIORITY_COUNT] = {10, 20, 30};

void simconf_init(struct simconf *ret) {
    *ret = (struct simconf){0};
    schema_init(simconf_config_schema(), &ret->r);
    memcpy(ret->priorities, default_priorities, sizeof default_priorities);
}

void simconf_free(struct simconf *conf) {
    if (!conf)
        return;
    schema_free(simconf_config_schema(), &conf->r);
    *conf = (struct simconf){0};
}

/* ---- checks that schemas do not know ---- */

struct check {
    struct simconf *conf;
    const struct json *tree;
    const char *file;
    struct json_schema_errors *errors;
    struct hai_err first;
};

/* The value of a field for the place of an error: the nearest that is there. */
static const struct json *at(const struct check *c, const char *section, const char *key) {
    const struct json *in = json_get(c->tree, section);
    const struct json *value = json_get(in, key);

    return value ? value : in ? in : c->tree;
}

static void report(struct check *c, const struct json *where, int r, const char *text) {
    struct json_schema_errors one = {0};

    json_schema_error(&one, where, false, c->file, r, NULL, NULL, "%s", text);
    if (c->first.r == 0)
        c->first = one.items[0];
    if (c->errors && c->errors->n < JSON_SCHEMA_ERRORS_MAX)
        c->errors->items[c->errors->n] = one.items[0];
    if (c->errors)
        c->errors->n++;
}

static void check_priorities(struct check *c) {
    const struct simconf_jobs *jobs = &c->conf->r.jobs;
    const struct json *where = at(c, "jobs", "priorities");

    if (!jobs->priorities.n)
        return;
    if (jobs->priorities.n != TRACE_PRIORITY_COUNT) {
        report(c, where, -EINVAL, "priorities has to be three levels, for prio 0, 1 and 2");
        return;
    }
    for (size_t i = 0; i < TRACE_PRIORITY_COUNT; i++) {
        c->conf->priorities[i] = jobs->priorities.items[i];
        if (state_priority_level(c->conf->priorities[i]) >= 0)
            continue;
        _cleanup_free_ char *text =
            hai_asprintf("priority is %lld; expected 50, 40, 30, 20, 10, 8, 5 or 0",
                         (long long)c->conf->priorities[i]);
        report(c, where, -ERANGE, text);
    }
}

static void check_quotas(struct check *c) {
    for (size_t i = 0; i < c->conf->r.quotas.n; i++) {
        int64_t priority = c->conf->r.quotas.items[i].priority;
        if (state_priority_level(priority) >= 0)
            continue;
        _cleanup_free_ char *text = hai_asprintf(
            "priority is %lld; expected 50, 40, 30, 20, 10, 8, 5 or 0", (long long)priority);
        report(c, at(c, "quotas", NULL), -ERANGE, text);
    }
}

static int64_t zone_nodes(const struct simconf_cluster *cluster, int64_t zone) {
    if (cluster->nodes == S_ABSENT)
        return cluster->leaves * cluster->leaf_nodes;
    return cluster->nodes / cluster->zones + (zone < cluster->nodes % cluster->zones);
}

static int64_t zone_leaves(const struct simconf_cluster *cluster, int64_t zone) {
    return (zone_nodes(cluster, zone) + cluster->leaf_nodes - 1) / cluster->leaf_nodes;
}

/* The product has room: each factor is bounded by its field. */
static const char *too_large(const struct simconf_cluster *cluster) {
    int64_t n_leaves = 0;

    if (cluster->nodes == S_ABSENT &&
        cluster->zones * cluster->leaves * cluster->leaf_nodes > NODES_MAX)
        return "zones x leaves x leaf_nodes is more than 20000 nodes";
    for (int64_t z = 0; z < cluster->zones; z++)
        n_leaves += zone_leaves(cluster, z);
    return n_leaves > LEAVES_MAX ? "more than 4096 leaves" : NULL;
}

static void check_cluster(struct check *c) {
    _Static_assert(NODES_MAX == 20000 && LEAVES_MAX == 4096, "the messages of too_large");
    const char *text = too_large(&c->conf->r.cluster);

    if (text)
        report(c, at(c, "cluster", "leaves"), -ERANGE, text);
}

/* ---- failure rates ---- */

static int sum_rows(struct csv *csv, const char *source, int64_t *ret, struct hai_err *err) {
    int rate_column = csv_column(csv, "per_1000_node_days");
    int source_column = csv_column(csv, "source");
    size_t n_found = 0;
    int64_t sum = 0;
    int r;

    if (rate_column < 0)
        return csv_fail(csv, 0, -EBADMSG, err, "there is no column per_1000_node_days");
    if (source && source_column < 0)
        return csv_fail(csv, 0, -EBADMSG, err, "there is no column source");
    while ((r = csv_next(csv, err)) > 0) {
        const struct csv_field *from = source ? &csv->fields[source_column] : NULL;
        int64_t rate;
        if (from && (from->n_bytes != strlen(source) || memcmp(from->text, source, from->n_bytes)))
            continue;
        n_found++;
        if (!csv->fields[rate_column].n_bytes) // not published
            continue;
        r = csv_decimal(csv, rate_column, 0, RATE_MAX * FIXED_ONE, &rate, err);
        if (r < 0)
            return r;
        sum += rate;
        if (sum > RATE_MAX * FIXED_ONE)
            return csv_fail(csv, rate_column, -ERANGE, err, "the rates add up to more than %d",
                            RATE_MAX);
    }
    if (r == 0 && !n_found)
        return hai_fail_at(err, -EINVAL, NULL, csv->file, NULL, "no row%s%s",
                           source ? " of source " : "", source ? source : "");
    *ret = sum;
    return r;
}

/* Relative to the folder of the description. */
static char *table_path(const char *file, const char *path) {
    const char *slash = file ? strrchr(file, '/') : NULL;

    if (path[0] == '/' || !slash)
        return hai_strdup(path);
    return hai_asprintf("%.*s/%s", (int)(slash - file), file, path);
}

static int read_table(const struct simconf_failures *failures, const char *file, int64_t *ret,
                      struct hai_err *err) {
    _cleanup_free_ char *path = table_path(file, failures->file);
    _cleanup_(buf_free) struct buf text = {0};
    struct csv csv;

    int r = fileio_read_file(path, TABLE_BYTES_MAX, &text, err);
    if (r == 0)
        r = csv_open(&csv, text.data, text.n_bytes, path, err);
    return r < 0 ? r : sum_rows(&csv, failures->source, ret, err);
}

static void check_failures(struct check *c) {
    const struct simconf_failures *failures = &c->conf->r.failures;
    const struct json *where = at(c, "failures", "per_1000_node_days");
    const char *rate = failures->per_1000_node_days;
    struct hai_err err = {0};

    if (rate && failures->file) {
        report(c, where, -EINVAL, "per_1000_node_days and file exclude each other");
    } else if (rate &&
               (fixed_parse(rate, strlen(rate), &c->conf->failure_rate) < 0 ||
                c->conf->failure_rate < 0 || c->conf->failure_rate > RATE_MAX * FIXED_ONE)) {
        _cleanup_free_ char *text = hai_asprintf(
            "per_1000_node_days is '%s'; expected a number from 0 to %d", rate, RATE_MAX);
        report(c, where, -EINVAL, text);
    } else if (failures->file && read_table(failures, c->file, &c->conf->failure_rate, &err) < 0) {
        _cleanup_free_ char *text =
            hai_asprintf("%s%s%s", err.where, err.where[0] ? ": " : "", hai_err_text(&err));
        report(c, at(c, "failures", "file"), err.r, text);
    } else if (failures->source && !failures->file) {
        report(c, at(c, "failures", "source"), -EINVAL, "source says which rows of a file count");
    }
}

int simconf_parse(const void *text, size_t n_bytes, const char *file, struct simconf *ret,
                  struct json_schema_errors *errors, struct hai_err *err) {
    _cleanup_(json_freep) struct json *tree = NULL;
    struct simconf conf;

    *ret = (struct simconf){0};
    int r = yaml_parse(text, n_bytes, file, &tree, err);
    if (r < 0)
        return r;
    simconf_init(&conf);
    r = json_schema_decode(simconf_config_schema(), tree, JSON_SCHEMA_FILE, 0, file, &conf.r,
                           errors, err);
    if (r < 0)
        return r;
    struct check c = {.conf = &conf, .tree = tree, .file = file, .errors = errors};
    check_priorities(&c);
    check_quotas(&c);
    check_cluster(&c);
    check_failures(&c);
    if (c.first.r < 0) {
        simconf_free(&conf);
        if (err)
            *err = c.first;
        return c.first.r;
    }
    *ret = conf;
    return 0;
}

int simconf_read(const char *path, struct simconf *ret, struct json_schema_errors *errors,
                 struct hai_err *err) {
    _cleanup_(buf_free) struct buf text = {0};

    *ret = (struct simconf){0};
    int r = fileio_read_file(path, FILE_BYTES_MAX, &text, err);
    return r < 0 ? r : simconf_parse(text.data, text.n_bytes, path, ret, errors, err);
}

/* ---- what-if ---- */

static int take_duration(const char *text, const char *whole, int64_t *ret, struct hai_err *err) {
    int r = timefmt_duration_parse(text, ret, err);

    return r < 0 ? hai_err_prefix(err, "'%s': ", whole) : 0;
}

int simconf_lose(struct simconf *conf, const char *text, struct hai_err *err) {
    _cleanup_free_ char *what = hai_strdup(text);
    char *when = strchr(what, '@');
    int64_t at_us, for_us = S_ABSENT;

    if (!when || when == what || strlen(what) > LEAF_NAME_MAX)
        return hai_fail(err, -EINVAL,
                        "'%s' is no loss; expected WHAT@TIME or WHAT@TIME:DURATION, e.g. b@3d:12h",
                        text);
    *when++ = 0;
    char *length = strchr(when, ':');
    if (length)
        *length++ = 0;
    int r = take_duration(when, text, &at_us, err);
    if (r == 0 && length)
        r = take_duration(length, text, &for_us, err);
    if (r < 0)
        return r;
    if (length && for_us == 0)
        return hai_fail(err, -ERANGE, "'%s': it would be lost for no time", text);
    if (conf->r.lose.n == SIMCONF_LOSSES_MAX)
        return hai_fail(err, -E2BIG, "more than %d losses", SIMCONF_LOSSES_MAX);
    *LIST_ADD(&conf->r.lose) = (struct simconf_loss){TAKE_PTR(what), at_us, for_us};
    return 0;
}

int simconf_nodes(struct simconf *conf, int64_t nodes, struct hai_err *err) {
    assert(nodes >= 1);
    assert(nodes <= NODES_MAX);
    conf->r.cluster.nodes = nodes;
    const char *text = too_large(&conf->r.cluster);
    return text ? hai_fail(err, -ERANGE, "%s", text) : 0;
}

int64_t simconf_n_nodes(const struct simconf *conf) {
    int64_t n = 0;

    for (int64_t z = 0; z < conf->r.cluster.zones; z++)
        n += zone_nodes(&conf->r.cluster, z);
    return n;
}

static void add_zone(const struct simconf_cluster *cluster, int64_t zone, struct entry_group *group,
                     struct entry_cluster_set *ret) {
    char letter = (char)('a' + zone);

    LIST_ADD(&ret->zones)->name = hai_asprintf("%c", letter);
    for (int64_t n = 0; n < zone_nodes(cluster, zone); n++) {
        if (n % cluster->leaf_nodes == 0) {
            struct entry_leaf *leaf = LIST_ADD(&ret->leaves);
            leaf->name =
                hai_asprintf("%c-leaf%lld", letter, (long long)(n / cluster->leaf_nodes + 1));
            leaf->zone = zone;
        }
        *LIST_ADD(&group->nodes) = (int64_t)ret->nodes.n;
        struct entry_node *node = LIST_ADD(&ret->nodes);
        schema_init(entry_node_schema(), node);
        node->name = hai_asprintf("%c%lld", letter, (long long)n + 1);
        node->leaf = (int64_t)ret->leaves.n - 1;
        node->gpus = cluster->gpus;
        node->cpus = cluster->cpus;
    }
}

void simconf_entry(const struct simconf *conf, struct entry_cluster_set *ret) {
    schema_init(entry_cluster_set_schema(), ret);
    ret->name = hai_strdup("sim");
    ret->fence = true;
    struct entry_group *group = LIST_ADD(&ret->groups);
    schema_init(entry_group_schema(), group);
    group->name = hai_strdup("default");
    for (int64_t z = 0; z < conf->r.cluster.zones; z++)
        add_zone(&conf->r.cluster, z, group, ret);
    ret->cross_zone_jobs = conf->r.policy.cross_zone_jobs;
    ret->min_run_us = conf->r.policy.time_sharing ? conf->r.policy.min_run_us : S_ABSENT;
    ret->fair_share_us = conf->r.policy.fair_share_us ? conf->r.policy.fair_share_us : S_ABSENT;
    ret->aging_us = conf->r.policy.aging_us ? conf->r.policy.aging_us : S_ABSENT;
    ret->backfill = !conf->r.policy.time_sharing && conf->r.policy.backfill
                        ? conf->r.policy.backfill
                        : S_ABSENT;
}

void simconf_quota_entry(const struct simconf_quota *quota, struct entry_quota_set *ret) {
    bool every = !strcmp(quota->user, "*");

    schema_init(entry_quota_set_schema(), ret);
    ret->holder = every ? QUOTA_HOLDER_EVERY : QUOTA_HOLDER_USER;
    ret->name = every ? NULL : quota->user;
    ret->group = (char *)"default";
    ret->priority = quota->priority;
    ret->gpus = quota->gpus;
}
