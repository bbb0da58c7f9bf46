#include "scheduler/cluster.h"

#include "lib/fileio.h"
#include "lib/pure/map.h"
#include "lib/yaml.h"
#include "scheduler/core/state.h"
#include "scheduler/ranges.h"
#include <stdarg.h>
#include <stdio.h>

enum { FILE_BYTES_MAX = 8 << 20, SYSTEM_UID_MAX = 999, NOBODY_UID = 65534 };
#define PRICE_MAX 1e6

/* What building the entry needs to know; at, file, errors: where to report to, or NULL. */
struct build {
    struct entry_cluster_set *entry;
    struct map zones, leaves, nodes; // name -> position + 1
    const struct json *tree;
    const char *file;
    struct json_schema_errors *errors;
    struct hai_err *err;
};

static void *place(size_t position) {
    return (void *)(uintptr_t)(position + 1);
}

static size_t position(const void *value) {
    return (size_t)(uintptr_t)value - 1;
}

/* The value at a path of the tree, e.g. nodes, 2, "zone"; NULL without a tree. */
static const struct json *at(const struct build *b, const char *list, size_t i, const char *key) {
    const struct json *item = json_first(json_get(b->tree, list));

    while (item && i--)
        item = json_next(item);
    const struct json *value = json_get(item, key);
    return value ? value : item;
}

/* Note one error, with its position if there is a tree. */
static void report(struct build *b, const struct json *where, int r, const char *code,
                   const char *format, ...) _printf_(5, 6);
static void report(struct build *b, const struct json *where, int r, const char *code,
                   const char *format, ...) {
    char text[HAI_ERR_TEXT_BYTES];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (b->errors && where)
        json_schema_error(b->errors, where, false, b->file, r, code, NULL, "%s", text);
    if (!b->err->r)
        hai_fail_at(b->err, r, code, b->file, NULL, "%s", text);
}

static void add_zones(struct build *b, const struct cluster_file *file) {
    for (size_t i = 0; i < file->zones.n; i++) {
        const char *name = file->zones.items[i].name;
        if (map_get_text(&b->zones, name)) {
            report(b, at(b, "zones", i, "name"), -EINVAL, "twice", "zone %s is named twice", name);
            continue;
        }
        map_put_text(&b->zones, name, place(b->entry->zones.n));
        struct entry_zone *zone = LIST_ADD(&b->entry->zones);
        schema_init(entry_zone_schema(), zone);
        zone->name = hai_strdup(name);
    }
}

static size_t leaf_of(struct build *b, const char *name, size_t zone) {
    void *known = map_get_text(&b->leaves, name);

    if (known)
        return position(known);
    map_put_text(&b->leaves, name, place(b->entry->leaves.n));
    struct entry_leaf *leaf = LIST_ADD(&b->entry->leaves);
    schema_init(entry_leaf_schema(), leaf);
    leaf->name = hai_strdup(name);
    leaf->zone = (int64_t)zone;
    return b->entry->leaves.n - 1;
}

/* The leaf of the i-th node of a range: named, numbered by leaf_size, or one a zone. */
static size_t range_leaf(struct build *b, const struct cluster_node *range, const char *first,
                         size_t i, size_t zone) {
    _cleanup_free_ char *name = NULL;

    if (range->leaf)
        name = hai_strdup(range->leaf);
    else if (range->leaf_size != S_ABSENT)
        name = hai_asprintf("%s-%s-%zu", range->zone, first, i / (size_t)range->leaf_size + 1);
    else
        name = hai_strdup(range->zone);
    return leaf_of(b, name, zone);
}

static void add_range(struct build *b, const struct cluster_file *file, size_t number) {
    const struct cluster_node *range = &file->nodes.items[number];
    void *zone = map_get_text(&b->zones, range->zone);
    SCHEMA_LIST(char *) names = {0};
    struct hai_err err = {0};

    if (!zone) {
        report(b, at(b, "nodes", number, "zone"), -EINVAL, "unknown_zone",
               "zone %s is not among zones", range->zone);
        return;
    }
    int r = ranges_expand(range->names, NODES_MAX, (struct schema_list *)&names, &err);
    if (r < 0)
        report(b, at(b, "nodes", number, "names"), r, err.code, "%s", err.text);
    for (size_t i = 0; r == 0 && i < names.n; i++) {
        if (map_get_text(&b->nodes, names.items[i])) {
            report(b, at(b, "nodes", number, "names"), -EINVAL, "twice", "node %s is named twice",
                   names.items[i]);
            continue;
        }
        map_put_text(&b->nodes, names.items[i], place(b->entry->nodes.n));
        struct entry_node *node = LIST_ADD(&b->entry->nodes);
        schema_init(entry_node_schema(), node);
        node->name = hai_strdup(names.items[i]);
        node->leaf = (int64_t)range_leaf(b, range, names.items[0], i, position(zone));
        node->gpus = range->gpus;
        node->cpus = range->cpus;
        node->memory_bytes = range->memory_bytes;
        node->nvlink = range->nvlink;
    }
    for (size_t i = 0; i < names.n; i++)
        free(names.items[i]);
    free(names.items);
}

static int ascending(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return x < y ? -1 : x > y;
}

static void add_group_nodes(struct build *b, const struct cluster_group *group, size_t number,
                            struct entry_group *ret) {
    SCHEMA_LIST(char *) names = {0};
    struct hai_err err = {0};

    int r = ranges_expand(group->nodes, NODES_MAX, (struct schema_list *)&names, &err);
    if (r < 0)
        report(b, at(b, "groups", number, "nodes"), r, err.code, "%s", err.text);
    for (size_t i = 0; i < names.n; i++) {
        void *node = map_get_text(&b->nodes, names.items[i]);
        if (node)
            *LIST_ADD(&ret->nodes) = (int64_t)position(node);
        else
            report(b, at(b, "groups", number, "nodes"), -EINVAL, "unknown_node",
                   "node %s of group %s is not among nodes", names.items[i], group->name);
        free(names.items[i]);
    }
    free(names.items);
    if (ret->nodes.n)
        qsort(ret->nodes.items, ret->nodes.n, sizeof(int64_t), ascending);
    for (size_t i = 1; i < ret->nodes.n; i++)
        if (ret->nodes.items[i] == ret->nodes.items[i - 1]) {
            report(b, at(b, "groups", number, "nodes"), -EINVAL, "twice",
                   "group %s names a node twice", group->name);
            return;
        }
}

static void add_group(struct build *b, const struct cluster_group *group, size_t number) {
    struct entry_group *ret = LIST_ADD(&b->entry->groups);

    schema_init(entry_group_schema(), ret);
    ret->name = hai_strdup(group->name);
    ret->spares = group->spares ? group->spares : S_ABSENT;
    if (strcmp(group->nodes, "*") != 0) {
        add_group_nodes(b, group, number, ret);
        return;
    }
    for (size_t i = 0; i < b->entry->nodes.n; i++)
        *LIST_ADD(&ret->nodes) = (int64_t)i;
}

static void check_prices(struct build *b, const struct cluster_file *file) {
    const struct cluster_prices *prices = &file->prices;

    for (size_t i = 0; i <= prices->groups.n; i++) {
        double price = i ? prices->groups.items[i - 1].gpu_hour : prices->gpu_hour;
        const char *name = i ? prices->groups.items[i - 1].name : NULL;
        if (price < 0 || price > PRICE_MAX)
            report(b, json_get(b->tree, "prices"), -ERANGE, "out_of_range",
                   "prices%s%s: gpu_hour is %g; expected 0 to %g", name ? ", group " : "",
                   name ? name : "", price, PRICE_MAX);
        bool known = !name;
        for (size_t g = 0; g < b->entry->groups.n && !known; g++)
            known = !strcmp(b->entry->groups.items[g].name, name);
        if (!known)
            report(b, json_get(b->tree, "prices"), -EINVAL, "unknown_group",
                   "prices: there is no group %s", name);
    }
}

void cluster_quota_entry(const struct cluster_quota *quota, struct entry_quota_set *ret) {
    schema_init(entry_quota_set_schema(), ret);
    ret->holder = quota->team                 ? QUOTA_HOLDER_TEAM
                  : !strcmp(quota->user, "*") ? QUOTA_HOLDER_EVERY
                                              : QUOTA_HOLDER_USER;
    if (ret->holder != QUOTA_HOLDER_EVERY)
        ret->name = quota->team ? quota->team : quota->user;
    ret->group = quota->group ? quota->group : (char *)"default";
    ret->priority = quota->priority;
    ret->gpus = quota->gpus;
}

bool cluster_system_uid(int64_t uid) {
    return uid != S_ABSENT && (uid <= SYSTEM_UID_MAX || uid == NOBODY_UID);
}

static bool has_group(const struct build *b, const char *name) {
    for (size_t i = 0; i < b->entry->groups.n; i++)
        if (!strcmp(b->entry->groups.items[i].name, name))
            return true;
    return false;
}

static void check_quota(struct build *b, const struct cluster_quota *quota, size_t number) {
    if (!quota->user == !quota->team)
        report(b, at(b, "quotas", number, "user"), -EINVAL, "bad_value",
               "a quota needs a user (\"*\": every user) or a team");
    if (quota->group && !has_group(b, quota->group))
        report(b, at(b, "quotas", number, "group"), -EINVAL, "unknown_group",
               "group %s is not among groups", quota->group);
    if (state_priority_level(quota->priority) < 0)
        report(b, at(b, "quotas", number, "priority"), -ERANGE, "out_of_range",
               "priority is %lld; expected 50, 40, 30, 20, 10, 8, 5 or 0",
               (long long)quota->priority);
}

static int build(struct build *b, const struct cluster_file *file, bool fence) {
    static const struct cluster_group all = {.name = (char *)"default", .nodes = (char *)"*"};

    schema_init(entry_cluster_set_schema(), b->entry);
    b->entry->name = hai_strdup(file->name);
    b->entry->lease_us = file->scheduler_outage_us;
    b->entry->fence = fence || file->fence;
    b->entry->cross_zone_jobs = file->cross_zone_jobs;
    b->entry->min_run_us = file->time_sharing ? file->min_run_us : S_ABSENT;
    b->entry->fair_share_us = file->fair_share_us ? file->fair_share_us : S_ABSENT;
    b->entry->aging_us = file->aging_us ? file->aging_us : S_ABSENT;
    b->entry->backfill = !file->time_sharing && file->backfill ? file->backfill : S_ABSENT;
    add_zones(b, file);
    for (size_t i = 0; i < file->nodes.n; i++)
        add_range(b, file, i);
    for (size_t i = 0; i < file->groups.n; i++)
        add_group(b, &file->groups.items[i], i);
    if (!file->groups.n)
        add_group(b, &all, 0);
    check_prices(b, file);
    for (size_t i = 0; i < file->quotas.n; i++)
        check_quota(b, &file->quotas.items[i], i);
    map_free(&b->zones);
    map_free(&b->leaves);
    map_free(&b->nodes);
    if (b->err->r)
        return b->err->r;
    return schema_check(entry_cluster_set_schema(), b->entry, b->err);
}

int cluster_entry(const struct cluster_file *file, bool fence, struct entry_cluster_set *ret,
                  struct hai_err *err) {
    struct hai_err own = {0};
    struct build b = {.entry = ret, .err = &own};

    int r = build(&b, file, fence);
    if (r < 0) {
        schema_free(entry_cluster_set_schema(), ret);
        if (err)
            *err = own;
    }
    return r;
}

int cluster_read(const char *path, struct cluster_file *ret, struct json_schema_errors *errors,
                 struct hai_err *err) {
    _cleanup_(buf_free) struct buf text = {0};
    _cleanup_(json_freep) struct json *tree = NULL;
    struct entry_cluster_set entry;
    struct hai_err own = {0};

    int r = fileio_read_file(path, FILE_BYTES_MAX, &text, err);
    if (r == 0)
        r = yaml_parse(text.data, text.n_bytes, path, &tree, err);
    if (r == 0)
        r = json_schema_decode(cluster_file_schema(), tree, JSON_SCHEMA_FILE, 0, path, ret, errors,
                               err);
    if (r < 0)
        return r;
    struct build b = {.entry = &entry, .tree = tree, .file = path, .errors = errors, .err = &own};
    r = build(&b, ret, false);
    schema_free(entry_cluster_set_schema(), &entry);
    if (r < 0) {
        schema_free(cluster_file_schema(), ret);
        if (err)
            *err = own;
    }
    return r;
}

static bool same_node(const struct state *state, const struct entry_cluster_set *entry, int i) {
    const struct entry_node *want = &entry->nodes.items[i];
    int number = state_node_find(state, want->name);

    if (number < 0)
        return false;
    const struct node *node = state->nodes[number];
    const struct state_leaf *leaf = &state->leaves[node->r.leaf];
    const struct entry_leaf *want_leaf = &entry->leaves.items[want->leaf];
    return !node->r.removed && node->r.gpus == want->gpus && node->r.cpus == want->cpus &&
           node->r.memory_bytes == want->memory_bytes && node->r.nvlink == want->nvlink &&
           !strcmp(leaf->name, want_leaf->name) &&
           !strcmp(state->zones[leaf->zone].name, entry->zones.items[want_leaf->zone].name);
}

static bool same_group(const struct state *state, const struct entry_cluster_set *entry, int i) {
    const struct entry_group *want = &entry->groups.items[i];
    int number = state_group_find(state, want->name);

    if (number < 0 || state->groups[number].r.nodes.n != want->nodes.n ||
        state->groups[number].r.spares != want->spares)
        return false;
    for (size_t n = 0; n < want->nodes.n; n++) {
        int node = state_node_find(state, entry->nodes.items[want->nodes.items[n]].name);
        if (node < 0 || !(state->nodes[node]->groups >> number & 1))
            return false;
    }
    return true;
}

bool cluster_same(const struct state *state, const struct entry_cluster_set *entry) {
    int n_described = 0;

    for (int i = 0; i < state->n_nodes; i++)
        n_described += !state->nodes[i]->r.removed;
    if ((size_t)state->n_zones != entry->zones.n)
        return false;
    for (size_t i = 0; i < entry->zones.n; i++)
        if (state_zone_find(state, entry->zones.items[i].name) < 0)
            return false;
    if (!hai_streq(state->r.cluster, entry->name) || state->r.lease_us != entry->lease_us ||
        state->r.fence != entry->fence || state->r.cross_zone_jobs != entry->cross_zone_jobs ||
        state->r.min_run_us != entry->min_run_us ||
        state->r.fair_share_us != entry->fair_share_us || state->r.aging_us != entry->aging_us ||
        state->r.backfill != entry->backfill || (size_t)n_described != entry->nodes.n ||
        (size_t)state->n_groups != entry->groups.n)
        return false;
    for (size_t i = 0; i < entry->nodes.n; i++)
        if (!same_node(state, entry, (int)i))
            return false;
    for (size_t i = 0; i < entry->groups.n; i++)
        if (!same_group(state, entry, (int)i))
            return false;
    return true;
}

const char *cluster_team(const struct cluster_file *file, const char *user) {
    for (size_t i = 0; i < file->users.n; i++) {
        const struct cluster_user *known = &file->users.items[i];
        if (hai_streq(known->name, user) && known->team)
            return known->team;
    }
    return user;
}

static bool has_team(const struct cluster_user *user, const char *team) {
    if (hai_streq(user->team, team))
        return true;
    for (size_t i = 0; i < user->teams.n; i++)
        if (!strcmp(user->teams.items[i], team))
            return true;
    return false;
}

bool cluster_has_team(const struct cluster_file *file, const struct state *state,
                      const char *team) {
    for (size_t i = 0; i < file->users.n; i++)
        if (!strcmp(file->users.items[i].name, team) || has_team(&file->users.items[i], team))
            return true;
    for (size_t i = 0; i < state->n_quotas; i++)
        if (state->quotas[i].holder == QUOTA_HOLDER_TEAM && !strcmp(state->quotas[i].name, team))
            return true;
    return state_user_find(state, team);
}

bool cluster_may_name_team(const struct cluster_file *file, const struct state *state,
                           const char *user, const char *team) {
    for (size_t i = 0; i < file->users.n; i++) {
        const struct cluster_user *known = &file->users.items[i];
        if (!strcmp(known->name, user) && (known->team || known->teams.n))
            return has_team(known, team);
    }
    return !strcmp(user, team) || !cluster_has_team(file, state, team);
}
