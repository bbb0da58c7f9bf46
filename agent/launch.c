#include "agent/launch.h"
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

/* Variables that differ between the ranks of a node; they come last. */
enum { N_RANK_ENV = 3 };

static void add_text(struct launch_texts *texts, char *text) {
    char **slot = schema_list_add(texts, sizeof *texts->items);

    *slot = text;
}

void launch_texts_free(struct launch_texts *texts) {
    for (size_t i = 0; i < texts->n; i++)
        free(texts->items[i]);
    free(texts->items);
    *texts = (struct launch_texts){0};
}

/* Set a variable: the last value counts, at the place of the first. */
static void set(struct launch_texts *env, const char *name, const char *format, ...) _printf_(3, 4);
static void set(struct launch_texts *env, const char *name, const char *format, ...) {
    size_t n = strlen(name);
    _cleanup_free_ char *value = NULL;
    va_list args;

    va_start(args, format);
    int r = vasprintf(&value, format, args);
    va_end(args);
    assert(r >= 0);
    char *text = hai_asprintf("%s=%s", name, value);
    for (size_t i = 0; i < env->n; i++)
        if (!strncmp(env->items[i], name, n) && env->items[i][n] == '=') {
            free(env->items[i]);
            env->items[i] = text;
            return;
        }
    add_text(env, text);
}

char *launch_log_dir(const char *log_dir, int64_t job, int64_t attempt) {
    return hai_asprintf("%s/%" PRId64 "/%" PRId64, log_dir, job, attempt);
}

char *launch_ckpt_dir(const struct launch_node *node, const struct desired_attempt *d,
                      const struct job_spec *spec) {
    const char *dir = spec->checkpoint.dir;

    if (!dir)
        return hai_asprintf("%s/%" PRId64, node->ckpt_dir, d->job);
    /* A relative one is of the job: relative to where it runs. */
    const char *base = dir[0] == '/' || !spec->workdir ? "" : spec->workdir;
    const char *slash = dir[0] == '/' ? "" : "/";
    if (d->array == S_ABSENT)
        return hai_asprintf("%s%s%s", base, slash, dir);
    return hai_asprintf("%s%s%s/%" PRId64, base, slash, dir, d->array_index);
}

static char *scratch_dir(const struct launch_node *node, const struct desired_attempt *d) {
    return hai_asprintf("%s/%" PRId64 ".%" PRId64 ".%" PRId64, node->scratch_dir, d->job,
                        d->attempt, d->epoch);
}

static void set_gpus(struct launch_texts *env, const struct rank_place *place) {
    char text[NODE_GPUS_MAX * 4] = "";
    size_t n = 0;

    for (size_t i = 0; i < place->gpus.n; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%" PRId64, i ? "," : "",
                              place->gpus.items[i]);
    set(env, "CUDA_VISIBLE_DEVICES", "%s", text);
}

static void set_hai(struct launch_texts *env, const struct launch_node *node,
                    const struct desired_attempt *d, const struct job_spec *spec,
                    const char *rank_socket) {
    _cleanup_free_ char *ckpt = launch_ckpt_dir(node, d, spec);
    _cleanup_free_ char *scratch = scratch_dir(node, d);
    const struct node_place *here =
        (size_t)d->node_rank < d->nodes.n ? &d->nodes.items[d->node_rank] : NULL;

    set(env, "HAI_JOB_ID", "%" PRId64, d->job);
    if (d->array != S_ABSENT) {
        set(env, "HAI_ARRAY_ID", "%" PRId64, d->array);
        set(env, "HAI_ARRAY_INDEX", "%" PRId64, d->array_index);
    }
    set(env, "HAI_JOB_NAME", "%s", d->name ? d->name : "");
    set(env, "HAI_ATTEMPT", "%" PRId64, d->attempt);
    set(env, "HAI_NODE", "%s", node->node);
    set(env, "HAI_ZONE", "%s", here && here->zone ? here->zone : "");
    set(env, "HAI_NODES", "%" PRId64, d->n_nodes);
    set(env, "HAI_GPUS_PER_NODE", "%" PRId64, d->gpus_per_node);
    set(env, "HAI_CKPT_DIR", "%s", ckpt);
    set(env, "HAI_RESUME", "%" PRId64, d->resume);
    set(env, "HAI_SCRATCH_DIR", "%s", scratch);
    set(env, "HAI_SOCKET", "%s", rank_socket);
    set(env, "WORLD_SIZE", "%" PRId64, d->world_size);
    set(env, "LOCAL_WORLD_SIZE", "%zu", d->ranks.n);
    set(env, "NODE_RANK", "%" PRId64, d->node_rank);
    set(env, "MASTER_ADDR", "%s", d->master_addr ? d->master_addr : "127.0.0.1");
    set(env, "MASTER_PORT", "%" PRId64, d->master_port);
}

/* Taken out of a job's own variables: they would carry the submitter's authority or mislead. */
static bool is_private(const char *name) {
    return !strcmp(name, "HAI_TOKEN") || !strcmp(name, "HAI_TOKEN_FILE") ||
           !strcmp(name, "HAI_CONFIG");
}

void launch_env(const struct launch_node *node, const struct launch_account *account,
                const struct desired_attempt *desired, const struct job_spec *spec,
                const char *rank_socket, size_t index, struct launch_texts *ret) {
    const struct rank_place *place = &desired->ranks.items[index];

    *ret = (struct launch_texts){0};
    set(ret, "PATH", "%s", node->path);
    set(ret, "HOME", "%s", account->home);
    set(ret, "USER", "%s", account->name);
    set(ret, "LOGNAME", "%s", account->name);
    set(ret, "SHELL", "%s", account->shell);
    set(ret, "LANG", "C.UTF-8");
    for (size_t i = 0; i < spec->env.n; i++)
        if (!is_private(spec->env.items[i].key))
            set(ret, spec->env.items[i].key, "%s", spec->env.items[i].value);
    if (spec->workdir)
        set(ret, "PWD", "%s", spec->workdir);
    set_hai(ret, node, desired, spec, rank_socket);
    // A job may have named these, in any place: put them last, where the ranks' parts are.
    static const char *const last[N_RANK_ENV] = {"RANK", "LOCAL_RANK", "CUDA_VISIBLE_DEVICES"};
    for (size_t i = 0; i < ret->n;) {
        bool drop = false;
        for (size_t k = 0; k < N_RANK_ENV; k++)
            drop |= !strncmp(ret->items[i], last[k], strlen(last[k])) &&
                    ret->items[i][strlen(last[k])] == '=';
        if (drop) {
            free(ret->items[i]);
            memmove(ret->items + i, ret->items + i + 1, (--ret->n - i) * sizeof *ret->items);
        } else {
            i++;
        }
    }
    set(ret, "RANK", "%" PRId64, place->rank);
    set(ret, "LOCAL_RANK", "%" PRId64, place->local_rank);
    set_gpus(ret, place);
}

static int train_args(const struct launch_node *node, const struct job_spec *spec,
                      struct launch_texts *ret, struct hai_err *err) {
    const struct job_train *train = &spec->train;
    const struct job_checkpoint *ckpt = &spec->checkpoint;
    _cleanup_free_ char *keep =
        ckpt->keep == S_ABSENT ? NULL : hai_asprintf("%" PRId64, ckpt->keep);
    const struct {
        const char *flag, *value;
    } single[] = {
        {NULL,      train->config        },
        {"--model", train->model         },
        {"--out",   train->out           },
        {"--every", hai_streq(ckpt->every, "auto") ? NULL : ckpt->every},
        {"--keep",         keep                      },
    };

    if (!node->hai_train)
        return hai_fail(err, -ENOENT, "hai-train is not installed on this node");
    add_text(ret, hai_strdup(node->hai_train));
    for (size_t i = 0; i < ARRAY_SIZE(single); i++)
        if (single[i].value) {
            if (single[i].flag)
                add_text(ret, hai_strdup(single[i].flag));
            add_text(ret, hai_strdup(single[i].value));
        }
    for (size_t i = 0; i < train->data.n; i++) {
        add_text(ret, hai_strdup("--data"));
        add_text(ret, hai_strdup(train->data.items[i]));
    }
    return 0;
}

int launch_args(const struct launch_node *node, const struct job_spec *spec,
                struct launch_texts *ret, struct hai_err *err) {
    struct launch_texts command = {0};

    *ret = (struct launch_texts){0};
    if (spec->kind == JOB_KIND_TRAIN) {
        int r = train_args(node, spec, &command, err);
        if (r < 0)
            return r;
    }
    for (size_t i = 0; spec->kind == JOB_KIND_COMMAND && i < spec->command.n; i++)
        add_text(&command, hai_strdup(spec->command.items[i]));
    if (!command.n)
        return hai_fail(err, -EINVAL, "the job has no command");
    if (!spec->setup) {
        *ret = command;
        return 0;
    }
    // The same shell runs both, so that what the setup sets is there for the command.
    add_text(ret, hai_strdup("/bin/sh"));
    add_text(ret, hai_strdup("-c"));
    bool shell =
        command.n == 3 && !strcmp(command.items[0], "/bin/sh") && !strcmp(command.items[1], "-c");
    add_text(ret, hai_asprintf("%s\n%s", spec->setup, shell ? command.items[2] : "exec \"$@\""));
    if (!shell)
        add_text(ret, hai_strdup("sh")); // $0
    for (size_t i = 0; !shell && i < command.n; i++)
        add_text(ret, hai_strdup(command.items[i]));
    launch_texts_free(&command);
    return 0;
}

static void put_text(struct buf *b, const char *text) {
    buf_add(b, text ? text : "", text ? strlen(text) + 1 : 1);
}

char *launch_cgroup(const char *base, int64_t job, int64_t attempt, int64_t epoch) {
    return base ? hai_asprintf("%s/hai-%" PRId64 ".%" PRId64 ".%" PRId64, base, job, attempt, epoch)
                : NULL;
}

static void put_cgroup(struct buf *b, const char *base, const struct desired_attempt *d) {
    _cleanup_free_ char *path = launch_cgroup(base, d->job, d->attempt, d->epoch);

    put_text(b, path);
}

static void put_paths(struct buf *b, const struct launch_node *node,
                      const struct launch_account *account, const struct desired_attempt *d,
                      const struct job_spec *spec) {
    _cleanup_free_ char *log = launch_log_dir(node->log_dir, d->job, d->attempt);
    _cleanup_free_ char *scratch = scratch_dir(node, d);
    _cleanup_free_ char *ckpt = launch_ckpt_dir(node, d, spec);
    bool limited = d->memory_bytes != S_ABSENT && d->memory_bytes > 0;

    put_text(b, log);
    put_text(b, spec->workdir ? spec->workdir : account->home);
    put_cgroup(b, node->box <= SHIM_BOX_FREEZER ? node->cgroup : NULL, d);
    put_cgroup(b, limited ? node->memory_cgroup : NULL, d);
    put_text(b, scratch);
    put_text(b, spec->checkpoint.dir ? NULL : ckpt); // the user's own is the user's to make
}

static void put_ranks_env(struct buf *b, struct shim_spec *shim, const struct launch_node *node,
                          const struct launch_account *account, const struct desired_attempt *d,
                          const struct job_spec *spec, const char *rank_socket) {
    struct launch_texts env;

    for (size_t i = 0; i < d->ranks.n; i++) {
        launch_env(node, account, d, spec, rank_socket, i, &env);
        shim->n_env = (uint32_t)env.n - N_RANK_ENV;
        for (size_t k = i ? shim->n_env : 0; k < env.n; k++)
            put_text(b, env.items[k]);
        launch_texts_free(&env);
    }
}

int launch_spec(const struct launch_node *node, const struct launch_account *account,
                const struct desired_attempt *desired, const struct job_spec *spec,
                const char *rank_socket, int64_t lease_until_us, struct buf *ret,
                struct hai_err *err) {
    struct launch_texts args;
    size_t start = ret->n_bytes;

    int r = launch_args(node, spec, &args, err);
    if (r < 0)
        return r;
    struct shim_spec shim = {
        .version = SHIM_VERSION,
        .job = desired->job,
        .attempt = desired->attempt,
        .epoch = desired->epoch,
        .lease_until_us = lease_until_us,
        .log_bytes = node->rank_log_bytes / 2,
        .memory_bytes = desired->memory_bytes == S_ABSENT ? 0 : desired->memory_bytes,
        .uid = account->uid,
        .gid = account->gid,
        .switch_user = node->switch_user,
        .box = node->box,
        .n_groups = (uint32_t)account->n_groups,
        .n_ranks = (uint32_t)desired->ranks.n,
        .n_args = (uint32_t)args.n,
        .n_rank_env = N_RANK_ENV,
    };
    buf_add(ret, &shim, sizeof shim);
    buf_add(ret, account->groups, sizeof *account->groups * account->n_groups);
    for (size_t i = 0; i < desired->ranks.n; i++) {
        int32_t rank = (int32_t)desired->ranks.items[i].rank;
        buf_add(ret, &rank, sizeof rank);
    }
    put_paths(ret, node, account, desired, spec);
    for (size_t i = 0; i < args.n; i++)
        put_text(ret, args.items[i]);
    launch_texts_free(&args);
    put_ranks_env(ret, &shim, node, account, desired, spec, rank_socket);
    shim.n_bytes = (uint32_t)(ret->n_bytes - start);
    memcpy(ret->data + start, &shim, sizeof shim);
    return 0;
}
