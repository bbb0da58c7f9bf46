#include "scheduler/fence.h"

#include "lib/log.h"
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

enum { RETRY_US = 10 * 1000 * 1000 };

/* One node being fenced. */
struct attempt {
    struct fence *fence;
    struct attempt *next;
    int node;
    char *boot_id; // of the life that the command is to end
    pid_t pid;
    struct loop_source *child;
    struct loop_source *retry;
};

struct fence {
    struct schedd *s;
    const char *command; // NULL: none
    struct attempt *first;
};

static void drop(struct attempt *attempt) {
    struct attempt **link = &attempt->fence->first;

    while (*link != attempt)
        link = &(*link)->next;
    *link = attempt->next;
    loop_source_free(attempt->child);
    loop_source_free(attempt->retry);
    free(attempt->boot_id);
    free(attempt);
}

static const struct state_node *node_of(const struct attempt *attempt) {
    return &schedd_state(attempt->fence->s)->nodes[attempt->node]->r;
}

static void report(struct attempt *attempt) {
    struct entry_node_fenced entry;

    schema_init(entry_node_fenced_schema(), &entry);
    entry.node = node_of(attempt)->name;
    entry.evidence = (char *)"the fence command ended with status 0";
    entry.boot_id = attempt->boot_id;
    turn_append(attempt->fence->s->turn, ENTRY_NODE_FENCED, &entry, "system:hai", NULL, NULL);
}

/* The node came back while the command ran, and was lost in its new life. */
static bool lost_anew(const struct attempt *attempt) {
    const struct state_node *node = node_of(attempt);

    return node->state == NODE_STATE_LOST && !hai_streq(node->boot_id, attempt->boot_id);
}

static void start(struct attempt *attempt);

static void on_end(pid_t pid, int code, int status, void *data) {
    struct attempt *attempt = data;
    const char *name = node_of(attempt)->name;

    attempt->pid = 0;
    loop_source_free(attempt->child);
    attempt->child = NULL;
    if (code == CLD_EXITED && status == 0) {
        report(attempt);
        if (lost_anew(attempt))
            start(attempt);
        else
            drop(attempt);
        return;
    }
    log_write(LOG_LEVEL_WARNING, LOG_FIELDS(.node = name),
              "fencing %s failed (%s %d); again in %d s", name,
              code == CLD_EXITED ? "exit status" : "signal", status, RETRY_US / 1000000);
    loop_timer_after(attempt->retry, RETRY_US);
}

static void run_command(const char *command, const char *node) {
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execl("/bin/sh", "sh", "-c", command, "hai-fence", node, (char *)NULL);
    _exit(127);
}

static void start(struct attempt *attempt) {
    struct hai_err err = {0};

    hai_strset(&attempt->boot_id, node_of(attempt)->boot_id);
    pid_t pid = fork();
    if (pid == 0)
        run_command(attempt->fence->command, node_of(attempt)->name);
    attempt->pid = pid > 0 ? pid : 0;
    if (pid > 0)
        attempt->child = loop_child_new(attempt->fence->s->loop, pid, on_end, attempt, &err);
    if (!attempt->child) {
        log_warning("the fence command cannot be run: %s",
                    pid < 0 ? strerror(errno) : hai_err_text(&err));
        loop_timer_after(attempt->retry, RETRY_US);
    }
}

static void on_retry(void *data) {
    struct attempt *attempt = data;

    if (node_of(attempt)->state == NODE_STATE_LOST)
        start(attempt);
    else
        drop(attempt);
}

static bool under_way(const struct fence *fence, int node) {
    for (const struct attempt *a = fence->first; a; a = a->next)
        if (a->node == node)
            return true;
    return false;
}

static void begin(struct fence *fence, int node) {
    if (!fence->command || under_way(fence, node))
        return;
    struct attempt *attempt = hai_new(struct attempt);
    *attempt = (struct attempt){.fence = fence, .next = fence->first, .node = node};
    fence->first = attempt;
    attempt->retry = loop_timer_new(fence->s->loop, LOOP_MONOTONIC, on_retry, attempt);
    start(attempt);
}

/* What an earlier scheduler has not brought to its end begins again. */
struct fence *fence_new(struct schedd *s) {
    struct fence *fence = hai_new(struct fence);
    const struct state *state = schedd_state(s);
    const char *command = s->cluster.fence;

    fence->s = s;
    fence->command = command && strcmp(command, "hai-upd") != 0 ? command : NULL;
    for (int i = 0; i < state->n_nodes; i++) {
        const struct state_node *node = &state->nodes[i]->r;
        if (node->state == NODE_STATE_LOST && node->hold_until_us != S_ABSENT)
            begin(fence, i);
    }
    return fence;
}

void fence_on_applied(struct fence *fence, const struct effects *fx) {
    for (size_t i = 0; i < fx->n_events; i++)
        if (fx->events[i].kind == EVENT_NODE_LOST && fx->events[i].node >= 0)
            begin(fence, fx->events[i].node);
}

void fence_free(struct fence *fence) {
    if (!fence)
        return;
    while (fence->first)
        drop(fence->first);
    free(fence);
}
