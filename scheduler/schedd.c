#include "scheduler/schedd.h"

#include "lib/digest.h"
#include "lib/fileio.h"
#include "lib/json_schema.h"
#include "lib/log.h"
#include "lib/timefmt.h"
#include "lib/yaml.h"
#include "scheduler/api.h"
#include "scheduler/cluster.h"
#include "scheduler/fence.h"
#include "scheduler/fleet.h"
#include "scheduler/live.h"
#include "scheduler/outlook.h"
#include "scheduler/relay.h"
#include "scheduler/setup.h"
#include "scheduler/upkeep.h"
#include "scheduler/usage_child.h"
#include "scheduler/watch.h"
#include <signal.h>
#include <stdio.h>

enum { CONFIG_BYTES_MAX = 64 << 10, LAST_TURNS_MAX = 16 };

static int read_config(const char *path, struct schedd_config *ret, struct hai_err *err) {
    _cleanup_(buf_free) struct buf text = {0};
    _cleanup_(json_freep) struct json *tree = NULL;

    int r = fileio_read_file(path, CONFIG_BYTES_MAX, &text, err);
    if (r == 0)
        r = yaml_parse(text.data, text.n_bytes, path, &tree, err);
    if (r == 0)
        r = json_schema_decode(schedd_config_schema(), tree, JSON_SCHEMA_FILE, 0, path, ret, NULL,
                               err);
    return r;
}

/* Beyond this machine tokens would travel in the open. */
static int check_address(const char *address, struct hai_err *err) {
    if (!strncmp(address, "127.", 4) || !strncmp(address, "[::1]:", 6) ||
        !strncmp(address, "unix:", 5))
        return 0;
    return hai_fail_at(err, -EINVAL, "not_loopback", "listen", NULL,
                       "listen is %s; beyond this machine TLS is required, which is not yet "
                       "supported: use 127.0.0.1:PORT, [::1]:PORT or unix:/PATH",
                       address);
}

static void nothing(void *data) {
}

/* Another turn of the loop, whose end commits what is left. */
static void on_again(void *data) {
    struct schedd *s = data;

    loop_post(s->loop, nothing, NULL);
}

static void on_applied(void *data, const struct effects *fx, int64_t index) {
    struct schedd *s = data;

    if (!s->live)
        return; // the first entries, before anybody listens
    const struct state *state = schedd_state(s);
    for (size_t i = 0; i < fx->n_jobs; i++) {
        const struct job *job = state_job_find(state, fx->jobs[i]);
        live_touch(s->live, fx->jobs[i], index);
        if (job && state_job_ended(job))
            live_end(s->live, fx->jobs[i]);
        watch_wake(s->watch, WATCH_JOB, fx->jobs[i]);
    }
    for (size_t i = 0; i < fx->n_dropped; i++)
        live_drop(s->live, fx->dropped[i]->r.id);
    if (fx->n_events)
        watch_wake(s->watch, WATCH_EVENTS, 0);
    if (fx->n_nodes || fx->cluster)
        watch_wake(s->watch, WATCH_NODES, 0);
    fleet_on_applied(s->fleet, fx);
    fence_on_applied(s->fence, fx);
    upkeep_on_applied(s->upkeep);
}

struct daemon {
    struct schedd s;
    struct loop_source *due;
    struct loop_source *sigterm, *sigint;
};

static void arm_due(struct daemon *d) {
    int64_t due_us = turn_due_us(d->s.turn);

    if (due_us == INT64_MAX)
        loop_timer_stop(d->due);
    else
        loop_timer_after(d->due, MAX(due_us - turn_now_us(d->s.turn), 0));
}

static void on_turn_end(void *data) {
    struct daemon *d = data;

    turn_run(d->s.turn);
    arm_due(d);
}

static void on_signal(int signal, void *data) {
    struct daemon *d = data;

    log_notice("stopping: signal %d", signal);
    loop_quit(d->s.loop, 0);
}

/* The state as it was when the scheduler ended in good order, for hai-replay. */
static void write_digest(const struct schedd *s) {
    _cleanup_free_ char *path = hai_asprintf("%s/state.digest", s->state_dir);
    uint8_t digest[DIGEST_BYTES];
    char hex[2 * DIGEST_BYTES + 1], text[128];
    struct hai_err err = {0};

    turn_digest(s->turn, digest);
    digest_hex(digest, sizeof digest, hex);
    int n = snprintf(text, sizeof text, "%lld %s\n", (long long)schedd_state(s)->r.index, hex);
    if (fileio_replace(path, text, (size_t)n, 0600, &err) < 0)
        log_warning("%s", hai_err_text(&err));
}

static int write_port(const struct schedd *s, int port, struct hai_err *err) {
    _cleanup_free_ char *path = hai_asprintf("%s/port", s->state_dir);
    char text[16];
    int n = snprintf(text, sizeof text, "%d\n", port);

    return fileio_replace(path, text, (size_t)n, 0600, err);
}

static int listen_all(struct schedd *s, const struct schedd_config *config, const char *listen,
                      struct hai_err *err) {
    const char *address = listen ? listen : config->listen ? config->listen : "127.0.0.1:7480";
    int r = check_address(address, err);

    if (r < 0)
        return r;
    int port = http_server_listen(s->server, address, err);
    if (port < 0)
        return port;
    if (config->socket) {
        _cleanup_free_ char *path = hai_asprintf("unix:%s", config->socket);
        r = http_server_listen(s->server, path, err);
        if (r < 0)
            return r;
    }
    r = port ? write_port(s, port, err) : 0;
    log_notice("listening on %s (port %d), log entry %lld, cluster %s", address, port,
               (long long)schedd_state(s)->r.index, s->cluster.name);
    loop_notify("READY=1");
    return r;
}

static int open_state(struct schedd *s, const struct schedd_config *config, struct hai_err *err) {
    struct store_options options = {.dir = s->state_dir};
    struct turn_hooks hooks = {on_applied, on_again, s};

    int r = cluster_read(config->cluster, &s->cluster, NULL, err);
    if (r == 0)
        r = setup_secret(s->state_dir, s->secret, err);
    if (r == 0)
        r = store_open(&options, &s->store, err);
    if (r == 0)
        r = turn_open(s->store, &hooks, &s->turn, err);
    if (r == 0)
        r = setup_describe(s->turn, &s->cluster, err);
    return r;
}

static void open_parts(struct daemon *d) {
    struct schedd *s = &d->s;
    struct http_server_config server_config = api_server_config(s);

    s->watch = watch_new(s->loop);
    s->live = live_new(schedd_state(s)->r.index);
    s->fleet = fleet_new(s);
    s->fence = fence_new(s);
    s->relay = relay_new(s);
    s->upkeep = upkeep_new(s);
    s->outlook = outlook_new(s);
    s->usage = usage_children_new(s);
    s->server = http_server_new(s->loop, &server_config);
    d->due = loop_timer_new(s->loop, LOOP_BOOTTIME, nothing, NULL);
    d->sigterm = loop_signal_new(s->loop, SIGTERM, on_signal, d);
    d->sigint = loop_signal_new(s->loop, SIGINT, on_signal, d);
    loop_set_turn_end(s->loop, on_turn_end, d);
    loop_watchdog(s->loop);
    arm_due(d);
}

static void close_parts(struct daemon *d) {
    struct schedd *s = &d->s;

    /* Requests whose entries wait are answered; then connections go, and with them all calls. */
    for (int i = 0; s->server && i < LAST_TURNS_MAX; i++)
        turn_run(s->turn);
    if (s->server)
        write_digest(s);
    if (s->relay)
        relay_close(s->relay);
    if (s->usage)
        usage_children_close(s->usage);
    http_server_free(s->server);
    relay_free(s->relay);
    fence_free(s->fence);
    fleet_free(s->fleet);
    outlook_free(s->outlook);
    usage_children_free(s->usage);
    upkeep_free(s->upkeep);
    watch_free(s->watch);
    turn_close(s->turn);
    live_free(s->live);
    store_close(s->store);
    loop_source_free(d->due);
    loop_source_free(d->sigterm);
    loop_source_free(d->sigint);
    loop_free(s->loop);
    schema_free(cluster_file_schema(), &s->cluster);
    free(s->state_dir);
}

int schedd_run(const char *config_path, const char *listen, struct hai_err *err) {
    struct daemon d = {0};
    struct schedd_config config;

    int r = read_config(config_path, &config, err);
    if (r < 0)
        return r;
    signal(SIGPIPE, SIG_IGN);
    d.s.started_us = timefmt_boottime_us();
    d.s.state_dir = hai_strdup(config.state_dir ? config.state_dir : "/var/lib/hai");
    r = loop_new(&d.s.loop, err);
    if (r == 0)
        r = open_state(&d.s, &config, err);
    if (r == 0) {
        open_parts(&d);
        r = listen_all(&d.s, &config, listen, err);
    }
    if (r == 0)
        r = loop_run(d.s.loop);
    close_parts(&d);
    schema_free(schedd_config_schema(), &config);
    return r;
}
