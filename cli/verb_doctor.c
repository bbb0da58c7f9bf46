/* hai doctor: look over this machine and the connection, and say what to mend. */
#include "cli/clientconf.h"
#include "cli/local.h"
#include "cli/verbs.h"
#include "lib/programs.h"
#include "lib/pure/errline.h"
#include "lib/timefmt.h"
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { DISK_BYTES_MIN = 1 << 30, SKEW_S_MAX = 5 };

enum finding { FINDING_OK, FINDING_NOTE, FINDING_BAD };

struct doctor {
    struct cli *cli;
    struct json *findings; // --json
    int n_bad;
};

static void tell(struct doctor *d, enum finding finding, const char *check, const char *mend,
                 const char *format, ...) _printf_(5, 6);

static void tell(struct doctor *d, enum finding finding, const char *check, const char *mend,
                 const char *format, ...) {
    static const char *const words[] = {"ok", "note", "bad"};
    char text[512];
    va_list ap;

    va_start(ap, format);
    (void)vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    d->n_bad += finding == FINDING_BAD;
    if (d->cli->json) {
        struct json *object = json_append(d->findings, json_new_object());
        json_add_string(object, "check", check);
        json_add_string(object, "state", words[finding]);
        json_add_string(object, "message", text);
        json_add_string(object, "mend", mend);
        return;
    }
    if (d->cli->quiet && finding != FINDING_BAD)
        return;
    printf("%-5s %-11s %s\n", words[finding], check, text);
    if (mend)
        printf("%-17s mend: %s\n", "", mend);
}

static void check_programs(struct doctor *d) {
    static const char *const names[] = {"hai-schedd", "hai-agentd", "hai-shim", "hai-upd"};
    char missing[256] = "";

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        _cleanup_free_ char *path = programs_find(names[i]);
        size_t n = strlen(missing);
        if (!path)
            (void)snprintf(missing + n, sizeof missing - n, "%s%s", n ? ", " : "", names[i]);
    }
    if (missing[0])
        tell(d, FINDING_BAD, "programs", "meson install, or set HAI_PROGRAMS to their folder",
             "not found: %s", missing);
    else
        tell(d, FINDING_OK, "programs", NULL,
             "hai-schedd, hai-agentd, hai-shim, hai-upd " HAI_VERSION);
}

static void check_cgroups(struct doctor *d) {
    bool v2 = access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0;
    bool v1 = !v2 && access("/sys/fs/cgroup/memory", F_OK) == 0;
    bool hybrid = access("/sys/fs/cgroup/unified/cgroup.procs", F_OK) == 0;

    if (geteuid() != 0)
        tell(d, FINDING_NOTE, "cgroups", NULL,
             "not used without root; ranks are held together by a PID namespace or a subreaper");
    else if (access("/sys/fs/cgroup", W_OK) < 0 || (!v1 && !v2))
        tell(
            d, FINDING_NOTE, "cgroups", "mount a cgroup tree on /sys/fs/cgroup, writable",
            "no writable tree; ranks are held together by other means, memory limits are not kept");
    else
        tell(d, FINDING_OK, "cgroups", NULL, "%s",
             v2       ? "v2 (cgroup.kill)"
             : hybrid ? "v1 with a unified tree"
                      : "v1");
}

static void check_namespaces(struct doctor *d) {
    int status = 0;
    pid_t pid = fork();

    if (pid == 0)
        _exit(unshare(CLONE_NEWUSER | CLONE_NEWPID) == 0 ? 0 : 1);
    if (pid < 0 || waitpid(pid, &status, 0) < 0)
        return;
    if (status == 0)
        tell(d, FINDING_OK, "namespaces", NULL, "user and PID namespaces may be made");
    else
        tell(d, FINDING_NOTE, "namespaces",
             geteuid() == 0 ? NULL : "sysctl kernel.unprivileged_userns_clone=1, or run as root",
             "user namespaces are refused%s",
             geteuid() == 0 ? "; not needed as root"
                            : "; ranks are found by a walk over processes when they are killed");
}

static void check_disk(struct doctor *d) {
    _cleanup_free_ char *dir = clientconf_up_dir();
    char *end = dir + strlen(dir);
    struct statvfs st;

    // The directory may not be there yet: its nearest parent tells.
    while (statvfs(dir, &st) < 0 && end > dir + 1) {
        while (end > dir + 1 && *end != '/')
            end--;
        *end = '\0';
    }
    if (!dir[0] || statvfs(dir, &st) < 0)
        return;
    double gib = (double)st.f_bavail * (double)st.f_frsize / (1 << 30);
    bool enough = gib * (1 << 30) >= DISK_BYTES_MIN;
    tell(d, enough ? FINDING_OK : FINDING_BAD, "disk",
         enough ? NULL : "free some space, or use hai up --dir on another disk",
         "%.1f GiB free below %s", gib, dir);
}

static void check_time(struct doctor *d) {
    // This program is younger than that.
    if (timefmt_now_us() < INT64_C(1767225600) * 1000000)
        tell(d, FINDING_BAD, "time", "set the clock, e.g. timedatectl set-ntp true",
             "the clock stands before 2026");
}

static void check_port(struct doctor *d) {
    _cleanup_free_ char *dir = clientconf_up_dir();

    if (local_supervisor(dir))
        tell(d, FINDING_OK, "cluster", NULL, "hai up runs in %s, port %d", dir, local_port(dir));
    else if (local_port_free(7480))
        tell(d, FINDING_OK, "ports", NULL, "7480 is free for hai up");
    else
        tell(d, FINDING_NOTE, "ports", "hai up --port 0 takes any free one",
             "7480 is taken by another program");
}

/* How far the scheduler's clock is from this one, by the Date header of its answer. */
static void check_skew(struct doctor *d, const struct http_sync_reply *reply) {
    char date[64];
    struct tm tm = {0};

    if (!http_sync_header(reply, "Date", sizeof date, date) ||
        !strptime(date, "%a, %d %b %Y %H:%M:%S", &tm))
        return;
    int64_t skew_s = (int64_t)timegm(&tm) - timefmt_now_us() / 1000000;
    if (llabs(skew_s) > SKEW_S_MAX)
        tell(d, FINDING_BAD, "time", "set both clocks by NTP",
             "the scheduler's clock is %lld s %s this one", (long long)llabs(skew_s),
             skew_s > 0 ? "ahead of" : "behind");
    else
        tell(d, FINDING_OK, "time", NULL, "the scheduler's clock agrees");
}

static void check_health(struct doctor *d, const struct http_sync_reply *reply) {
    _cleanup_(json_freep) struct json *health = NULL;

    if (json_parse(reply->body.data, reply->body.n_bytes, NULL, &health, NULL) < 0) {
        tell(d, FINDING_BAD, "connection", "check the URL", "%s answers, but is no scheduler",
             d->cli->server_url);
        return;
    }
    const char *version = json_get_string(health, "version", "?");
    tell(d, FINDING_OK, "connection", NULL, "%s answers (%s)", d->cli->server_url,
         d->cli->server_from);
    if (strcmp(version, HAI_VERSION) == 0)
        tell(d, FINDING_OK, "versions", NULL, "both " HAI_VERSION);
    else
        tell(d, FINDING_NOTE, "versions", "install the same version on both sides",
             "hai is " HAI_VERSION ", the scheduler %s", version);
}

static void check_token(struct doctor *d) {
    _cleanup_(json_freep) struct json *me = NULL;
    struct hai_err err = {0};

    int r = cli_ask(d->cli, "GET", "/api/v1/whoami", NULL, NULL, &me, &err);
    if (r < 0)
        tell(d, FINDING_BAD, "token", "hai init URL with a valid token", "%s", err.text);
    else
        tell(d, FINDING_OK, "token", NULL, "%s", json_get_string(me, "user", "?"));
}

/* Nodes that take no jobs. */
static void check_nodes(struct doctor *d) {
    _cleanup_(json_freep) struct json *nodes = NULL;
    struct hai_err err = {0};
    size_t n_ready = 0;

    if (cli_ask(d->cli, "GET", "/api/v1/nodes", NULL, NULL, &nodes, &err) < 0)
        return;
    for (const struct json *n = json_first(nodes); n; n = json_next(n))
        n_ready += strcmp(json_get_string(n, "state", ""), "ready") == 0;
    bool all = n_ready == json_count(nodes);
    tell(d, n_ready ? all ? FINDING_OK : FINDING_NOTE : FINDING_BAD, "nodes",
         all ? NULL : "hai nodes says why", "%zu of %zu are ready", n_ready, json_count(nodes));
}

static void check_connection(struct doctor *d) {
    _cleanup_(http_sync_reply_free) struct http_sync_reply reply = {0};
    char line[ERRLINE_BYTES];
    struct hai_err err = {0};

    int r = cli_connect(d->cli, &err);
    if (r < 0) {
        tell(d, r == -EACCES || err.where[0] ? FINDING_BAD : FINDING_NOTE, "connection",
             err.hint[0] ? err.hint : NULL, "%s", errline_text(&err, line));
        return;
    }
    r = cli_ask_raw(d->cli, "GET", "/healthz", NULL, NULL, 0, &reply, &err);
    if (r < 0) {
        tell(d, FINDING_BAD, "connection", "hai up starts a cluster here", "%s", err.text);
        return;
    }
    check_health(d, &reply);
    check_skew(d, &reply);
    check_token(d);
    check_nodes(d);
}

static int run(struct cli *cli) {
    struct doctor d = {.cli = cli, .findings = json_new_array()};

    check_programs(&d);
    check_cgroups(&d);
    check_namespaces(&d);
    check_disk(&d);
    check_time(&d);
    check_port(&d);
    check_connection(&d);
    if (cli->json)
        cli_print_json(d.findings);
    json_free(d.findings);
    return d.n_bad ? CLI_FAILED : CLI_OK;
}

const struct verb verb_doctor = {
    .name = "doctor",
    .group = "start",
    .args = "",
    .help = "check this machine and the connection, say what to mend",
    .examples = "  hai doctor\n",
    .run = run,
};
