#include "scheduler/spec.h"

#include "lib/digest.h"
#include "lib/json_schema.h"
#include "scheduler/core/quota.h"
#include "wire/arraytext.h"
#include "wire/jobfile.h"

int spec_priority(const char *text, int64_t *ret, int64_t *ret_auto, struct hai_err *err) {
    char *end;

    *ret_auto = S_ABSENT;
    if (!text || !strcmp(text, "auto")) {
        *ret = QUOTA_AUTO_PRIORITY;
        *ret_auto = 1;
        return 0;
    }
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || state_priority_level(value) < 0)
        return hai_fail_at(err, -ERANGE, "out_of_range", "priority", NULL,
                           "priority is %.20s; expected 50, 40, 30, 20, 10, 8, 5, 0 or auto", text);
    *ret = value;
    return 0;
}

void spec_name_unsupported(struct hai_err *err) {
    static const char *const kinds[] = {"serve", "generate", "validate"};
    size_t n = strlen(err->where);

    if (n < 4 || strcmp(err->where + n - 4, "kind") != 0)
        return;
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        _cleanup_free_ char *quoted = hai_asprintf("'%s'", kinds[i]);
        _cleanup_free_ char *where = hai_strdup(err->where);
        if (strstr(err->text, quoted)) {
            hai_fail_at(err, -EINVAL, "unsupported", where, NULL,
                        "kind %s is not yet supported; expected command or train", kinds[i]);
            return;
        }
    }
}

static int unsupported(struct hai_err *err, const char *field) {
    return hai_fail_at(err, -EINVAL, "unsupported", field, NULL, "%s is not yet supported", field);
}

static int check_supported(const struct job_spec *spec, struct hai_err *err) {
    if (spec->log_dir)
        return unsupported(err, "log_dir");
    return 0;
}

static int ranks_per_node(const struct job_resources *resources, int64_t *ret,
                          struct hai_err *err) {
    const char *text = resources->ranks;
    char *end;

    if (!text)
        *ret = MAX(resources->gpus_per_node, 1);
    else if (!strcmp(text, "per-node"))
        *ret = 1;
    else if (!strcmp(text, "per-gpu") && resources->gpus_per_node > 0)
        *ret = resources->gpus_per_node;
    else {
        *ret = strtoll(text, &end, 10);
        if (end == text || *end || *ret < 1 || *ret > NODE_RANKS_MAX)
            return hai_fail_at(err, -ERANGE, "out_of_range", "resources.ranks", NULL,
                               "ranks is %.20s; expected per-gpu (with GPUs), per-node or a number"
                               " from 1 to %d",
                               text, NODE_RANKS_MAX);
    }
    return 0;
}

static int restart_when(const struct job_restart *restart, int64_t *ret, struct hai_err *err) {
    static const struct {
        const char *text;
        int64_t bits;
    } words[] = {
        {"fault",  RESTART_FAULTS},
        {"exit",   RESTART_EXIT  },
        {"node",   RESTART_NODE  },
        {"signal", RESTART_SIGNAL},
        {"memory", RESTART_MEMORY},
        {"hang",   RESTART_HANG  },
    };

    *ret = restart->when.n ? 0 : RESTART_FAULTS;
    for (size_t i = 0; i < restart->when.n; i++) {
        size_t w = 0;
        while (w < ARRAY_SIZE(words) && strcmp(words[w].text, restart->when.items[i]) != 0)
            w++;
        if (w == ARRAY_SIZE(words))
            return hai_fail_at(err, -EINVAL, "invalid", "restart.when", NULL,
                               "restart.when has '%.20s'; expected fault or exit",
                               restart->when.items[i]);
        *ret |= words[w].bits;
    }
    return 0;
}

static int fill_resources(const struct job_resources *from, struct entry_job_spec *job,
                          struct hai_err *err) {
    int r = ranks_per_node(from, &job->ranks_per_node, err);

    if (r < 0)
        return r;
    job->group = hai_strdup(from->group ? from->group : "default");
    job->nodes = from->nodes;
    job->gpus_per_node = from->gpus_per_node;
    job->cpus_per_node = from->cpus;
    job->memory_per_node_bytes = from->memory_bytes == S_ABSENT ? 0 : from->memory_bytes;
    job->cross_zones = from->cross_zones;
    job->anti_affinity = from->anti_affinity ? 1 : S_ABSENT;
    job->reservation = hai_strdup(from->reservation);
    for (size_t i = 0; i < from->zones.n; i++)
        *LIST_ADD(&job->zones) = hai_strdup(from->zones.items[i]);
    if (job->nodes * job->ranks_per_node > JOB_RANKS_MAX)
        return hai_fail_at(err, -ERANGE, "out_of_range", "resources.ranks", NULL,
                           "%lld nodes with %lld ranks each are more than %d ranks",
                           (long long)job->nodes, (long long)job->ranks_per_node, JOB_RANKS_MAX);
    return 0;
}

static int fill_array(const char *text, struct entry_job_spec *job, struct hai_err *err) {
    struct arraytext array;

    if (!text)
        return 0;
    if (arraytext_parse(text, &array) < 0)
        return hai_fail_at(err, -EINVAL, "bad_value", "array", NULL,
                           "array is '%.60s'; expected indices that ascend, at most %d of them, "
                           "such as 0-99, 1,3,7-9, 0-90:10 or 0-99%%8 (8 at once)",
                           text, ARRAY_MAX);
    for (size_t i = 0; i < array.n_ranges; i++)
        *LIST_ADD(&job->array) =
            (struct entry_range){array.ranges[i].first, array.ranges[i].last, array.ranges[i].step};
    if (array.cap)
        job->array_cap = array.cap;
    return 0;
}

static void fill_blob(struct schema_blob *blob, const void *data, size_t n_bytes) {
    blob->data = hai_alloc(n_bytes);
    blob->n_bytes = n_bytes;
    memcpy(blob->data, data, n_bytes);
}

/* The key counts for its user only; the body is compared by what it says, not how it was written.
 */
static void fill_key(struct entry_job_submit *entry, const char *user, const char *key) {
    uint8_t hash[DIGEST_SHA256_BYTES];
    _cleanup_free_ char *text = hai_asprintf("%s\n%s", user, key);

    digest_sha256(text, strlen(text), hash);
    fill_blob(&entry->key_hash, hash, KEY_HASH_BYTES);
    digest_sha256(entry->job.spec.data, entry->job.spec.n_bytes, hash);
    fill_blob(&entry->body_digest, hash, KEY_HASH_BYTES);
}

static char *name_of(const struct job_spec *spec) {
    if (spec->name)
        return hai_strdup(spec->name);
    if (spec->kind == JOB_KIND_TRAIN)
        return hai_strdup("train");
    return jobfile_name_from(spec->command.n ? spec->command.items[0] : "job");
}

static int fill(const struct job_spec *spec, const struct state_user *user, const char *team,
                struct entry_job_spec *job, struct hai_err *err) {
    int r = fill_resources(&spec->resources, job, err);

    if (r == 0)
        r = restart_when(&spec->restart, &job->restart_when, err);
    if (r == 0)
        r = spec_priority(spec->priority, &job->priority, &job->auto_priority, err);
    if (r == 0)
        r = fill_array(spec->array, job, err);
    if (r < 0)
        return r;
    job->user = hai_strdup(user->name);
    job->uid = user->uid;
    job->gid = user->gid == S_ABSENT ? user->uid : user->gid;
    job->name = name_of(spec);
    job->kind = hai_strdup(job_kind_text(spec->kind));
    job->team = hai_strdup(spec->team ? spec->team : team);
    job->stage = hai_strdup(spec->stage);
    job->held = spec->hold;
    job->time_limit_us = spec->time_limit_us;
    job->warn_us = spec->warn_before_us == S_ABSENT ? 0 : spec->warn_before_us;
    job->grace_us = spec->grace_us;
    job->restart_max = spec->restart.max;
    return 0;
}

int spec_to_entry(const struct job_spec *spec, const struct state_user *user, const char *team,
                  const char *key, struct entry_job_submit *ret, struct hai_err *err) {
    _cleanup_(buf_free) struct buf text = {0};
    struct entry_job_submit entry;
    int r = check_supported(spec, err);

    if (r == 0)
        r = jobfile_check(spec, err);
    if (r < 0)
        return r;
    if (user->uid == S_ABSENT)
        return hai_fail_at(err, -EINVAL, "no_account", "users", "name the user in the cluster file",
                           "user %s has no account on the nodes", user->name);
    if (key && strlen(key) > IDEMPOTENCY_KEY_MAX)
        return hai_fail_at(err, -ERANGE, "out_of_range", "Idempotency-Key", NULL,
                           "the key has %zu bytes; at most %d", strlen(key), IDEMPOTENCY_KEY_MAX);
    schema_init(entry_job_submit_schema(), &entry);
    r = fill(spec, user, team, &entry.job, err);
    if (r == 0) {
        json_schema_dump(job_spec_schema(), spec, &text);
        fill_blob(&entry.job.spec, text.data, text.n_bytes);
        if (key)
            fill_key(&entry, user->name, key);
        r = schema_check(entry_job_submit_schema(), &entry, err);
    }
    if (r < 0) {
        schema_free(entry_job_submit_schema(), &entry);
        return r;
    }
    *ret = entry;
    return 0;
}
