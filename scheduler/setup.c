#include "scheduler/setup.h"

#include "lib/digest.h"
#include "lib/fileio.h"
#include "lib/pure/map.h"
#include "lib/random.h"
#include "scheduler/cluster.h"
#include "scheduler/core/quota.h"
#include <limits.h>
#include <pwd.h>
#include <stdio.h>

/* Append one entry and commit it. */
struct outcome {
    int r;
    struct hai_err err;
};

static void note(void *data, int64_t index, int r, const struct apply_reply *reply) {
    struct outcome *outcome = data;

    outcome->r = r;
    outcome->err = reply->err;
}

static int change(struct turn *turn, enum entry_kind kind, const void *payload,
                  struct hai_err *err) {
    struct outcome outcome = {.r = -EIO};

    turn_append(turn, kind, payload, "system:hai", note, &outcome);
    turn_run(turn);
    if (outcome.r < 0 && err)
        *err = outcome.err;
    return outcome.r;
}

static int set_cluster(struct turn *turn, const struct cluster_file *cluster, struct hai_err *err) {
    struct entry_cluster_set entry;
    int r = cluster_entry(cluster, false, &entry, err);

    if (r < 0)
        return r;
    if (!cluster_same(turn_state(turn), &entry))
        r = change(turn, ENTRY_CLUSTER_SET, &entry, err);
    schema_free(entry_cluster_set_schema(), &entry);
    return r;
}

static int set_user(struct turn *turn, const char *name, int64_t uid, int64_t gid, enum scope scope,
                    bool external, struct hai_err *err) {
    const struct state_user *known = state_user_find(turn_state(turn), name);
    struct entry_user_set entry;

    if (known && known->uid == uid && known->gid == gid && known->scope >= scope &&
        (!external || known->external == 1))
        return 0;
    schema_init(entry_user_set_schema(), &entry);
    entry.name = (char *)name;
    entry.uid = uid;
    entry.gid = gid;
    entry.scope = known ? MAX(known->scope, scope) : scope;
    entry.disabled = known && known->disabled;
    entry.external = external || (known && known->external == 1) ? 1 : S_ABSENT;
    return change(turn, ENTRY_USER_SET, &entry, err);
}

/* The account of a user of the cluster file. Nobody's ranks run as a system account. */
static int account_of(const struct cluster_user *user, int64_t *ret_uid, int64_t *ret_gid,
                      struct hai_err *err) {
    *ret_uid = user->uid;
    *ret_gid = user->gid;
    if (user->uid == S_ABSENT) {
        const struct passwd *pw = getpwnam(user->account ? user->account : user->name);
        if (!pw)
            return 0; // may submit once the account is there
        *ret_uid = pw->pw_uid;
        *ret_gid = pw->pw_gid;
    } else if (user->gid == S_ABSENT) {
        *ret_gid = user->uid;
    }
    if (cluster_system_uid(*ret_uid))
        return hai_fail_at(err, -EINVAL, "system_account", "users", NULL,
                           "user %s would run as uid %lld, which is a system account", user->name,
                           (long long)*ret_uid);
    return 0;
}

static char *quota_key(const struct entry_quota_set *entry) {
    return hai_asprintf("%d\n%lld\n%s\n%s", (int)entry->holder, (long long)entry->priority,
                        entry->group, entry->name ? entry->name : "");
}

static bool is_set(const struct state *state, const struct entry_quota_set *entry) {
    const struct state_quota *known =
        quota_find(state, entry->holder, entry->name, entry->group, entry->priority);

    return known && known->gpus == entry->gpus;
}

static void add_quota(struct entry_quota_set *set, size_t *n, const struct entry_quota_set *one) {
    if ((*n)++)
        *LIST_ADD(&set->more) =
            (struct entry_quota){one->holder, one->name, one->group, one->priority, one->gpus};
    else
        *set = *one;
}

/* What the file says of a quota counts from every start on, if more than once the last; others stay
 * as they were set. All in one entry: each changed limit has all jobs charged anew, and a thousand
 * of that would take minutes, before anybody is served. */
static int set_quotas(struct turn *turn, const struct cluster_file *cluster, struct hai_err *err) {
    const size_t n = cluster->quotas.n;
    _cleanup_free_ struct entry_quota_set *entries = hai_new_array(struct entry_quota_set, n + 1);
    struct entry_quota_set set = {0};
    struct map last = {0}; // quota_key -> its last entry
    size_t n_set = 0;

    for (size_t i = 0; i < n; i++) {
        cluster_quota_entry(&cluster->quotas.items[i], &entries[i]);
        _cleanup_free_ char *key = quota_key(&entries[i]);
        map_put_text(&last, key, &entries[i]);
    }
    for (size_t i = 0; i < n; i++) {
        _cleanup_free_ char *key = quota_key(&entries[i]);
        if (map_get_text(&last, key) == &entries[i] && !is_set(turn_state(turn), &entries[i]))
            add_quota(&set, &n_set, &entries[i]);
    }
    map_free(&last);
    int r = n_set ? change(turn, ENTRY_QUOTA_SET, &set, err) : 0;
    free(set.more.items); // the texts are the file's
    return r;
}

int setup_describe(struct turn *turn, const struct cluster_file *cluster, struct hai_err *err) {
    int r = set_cluster(turn, cluster, err);

    for (size_t i = 0; r == 0 && i < cluster->users.n; i++) {
        int64_t uid, gid;
        r = account_of(&cluster->users.items[i], &uid, &gid, err);
        if (r == 0)
            r = set_user(turn, cluster->users.items[i].name, uid, gid, SCOPE_SUBMIT,
                         cluster->users.items[i].external, err);
    }
    return r < 0 ? r : set_quotas(turn, cluster, err);
}

int setup_secret(const char *state_dir, uint8_t ret[static DIGEST_BYTES], struct hai_err *err) {
    _cleanup_free_ char *path = hai_asprintf("%s/secret", state_dir);
    _cleanup_(buf_free) struct buf bytes = {0};

    int r = fileio_read_file(path, DIGEST_BYTES, &bytes, err);
    if (r < 0)
        return r;
    if (bytes.n_bytes != DIGEST_BYTES)
        return hai_fail(err, -EBADMSG, "%s: expected %d bytes", path, DIGEST_BYTES);
    memcpy(ret, bytes.data, DIGEST_BYTES);
    return 0;
}

static int make_secret(const char *state_dir, struct hai_err *err) {
    _cleanup_free_ char *path = hai_asprintf("%s/secret", state_dir);
    uint8_t bytes[DIGEST_BYTES];

    if (access(path, F_OK) == 0)
        return 0;
    random_bytes(bytes, sizeof bytes);
    return fileio_replace(path, bytes, sizeof bytes, 0600, err);
}

/* Is the token in a file one that the state knows? */
static bool token_works(struct turn *turn, const char *path) {
    _cleanup_(buf_free) struct buf text = {0};
    uint8_t hash[DIGEST_SHA256_BYTES];

    if (fileio_read_file(path, RANDOM_TOKEN_BYTES, &text, NULL) < 0)
        return false;
    digest_sha256(text.data, strcspn(buf_cstr(&text), "\n"), hash);
    return state_token_find(turn_state(turn), hash);
}

/* The file is written after the commit: a token that is in a file works. */
static int make_token(struct turn *turn, const char *state_dir, const char *file, const char *owner,
                      enum scope scope, struct hai_err *err) {
    _cleanup_free_ char *path = hai_asprintf("%s/tokens/%s", state_dir, file);
    uint8_t hash[DIGEST_SHA256_BYTES];
    char token[RANDOM_TOKEN_BYTES];
    struct entry_token_create entry;

    if (token_works(turn, path))
        return 0;
    random_token(token);
    digest_sha256(token, strlen(token), hash);
    schema_init(entry_token_create_schema(), &entry);
    entry.hash = (struct schema_blob){hash, sizeof hash};
    entry.owner = (char *)owner;
    entry.scope = scope;
    entry.label = (char *)"init";
    int r = change(turn, ENTRY_TOKEN_CREATE, &entry, err);
    if (r < 0)
        return r;
    token[RANDOM_TOKEN_BYTES - 1] = '\n';
    return fileio_replace(path, token, RANDOM_TOKEN_BYTES, 0600, err);
}

static int make_tokens(struct turn *turn, const struct setup_options *options,
                       struct hai_err *err) {
    _cleanup_free_ char *dir = hai_asprintf("%s/tokens", options->state_dir);
    const struct state *state = turn_state(turn);

    int r = fileio_mkdir_durable(dir, 0700, err);
    if (r == 0)
        r = make_token(turn, options->state_dir, "admin", options->user, SCOPE_ADMIN, err);
    for (int i = 0; r == 0 && i < state->n_nodes; i++) {
        const struct state_node *node = &state->nodes[i]->r;
        _cleanup_free_ char *file = hai_asprintf("node-%s", node->name);
        if (!node->removed)
            r = make_token(turn, options->state_dir, file, node->name, SCOPE_NODE, err);
    }
    return r;
}

static int write_config(const struct setup_options *options, struct hai_err *err) {
    _cleanup_free_ char *path = hai_asprintf("%s/schedd.yaml", options->state_dir);
    _cleanup_(buf_free) struct buf text = {0};
    char dir[PATH_MAX], cluster[PATH_MAX];

    if (!realpath(options->state_dir, dir))
        return hai_fail(err, -errno, "%s: %m", options->state_dir);
    if (!realpath(options->cluster, cluster))
        return hai_fail(err, -errno, "%s: %m", options->cluster);
    buf_printf(&text, "# Made by hai-schedd init.\nversion: 1\nstate_dir: %s\ncluster: %s\n", dir,
               cluster);
    if (options->listen)
        buf_printf(&text, "listen: \"%s\"\n", options->listen);
    return fileio_replace(path, text.data, text.n_bytes, 0600, err);
}

int setup_run(const struct setup_options *options, struct hai_err *err) {
    struct store_options store_options = {.dir = options->state_dir, .create = true};
    _cleanup_(store_closep) struct store *store = NULL;
    _cleanup_(turn_closep) struct turn *turn = NULL;
    struct turn_hooks hooks = {0};
    struct cluster_file cluster;

    int r = cluster_read(options->cluster, &cluster, NULL, err);
    if (r < 0)
        return r;
    r = store_open(&store_options, &store, err);
    if (r == 0)
        r = make_secret(options->state_dir, err);
    if (r == 0)
        r = turn_open(store, &hooks, &turn, err);
    if (r == 0)
        r = setup_describe(turn, &cluster, err);
    if (r == 0)
        r = set_user(turn, options->user, options->uid, options->gid, SCOPE_ADMIN, false, err);
    if (r == 0)
        r = make_tokens(turn, options, err);
    if (r == 0)
        r = write_config(options, err);
    schema_free(cluster_file_schema(), &cluster);
    return r;
}
