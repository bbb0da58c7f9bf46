#include "scheduler/metrics.h"

#include "scheduler/api_call.h"
#include "scheduler/fleet.h"

static void head(struct buf *b, const char *name, const char *type, const char *help) {
    buf_printf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void figure(struct buf *b, const char *name, const char *type, const char *help,
                   double value) {
    head(b, name, type, help);
    buf_printf(b, "%s %.17g\n", name, value);
}

static void add_cluster(struct buf *b, const struct state *state) {
    int64_t n_ready = 0, n_nodes = 0, gpus = 0, gpus_held = 0;

    for (int i = 0; i < state->n_nodes; i++) {
        const struct node *node = state->nodes[i];
        if (node->r.removed)
            continue;
        n_nodes++;
        gpus += node->r.gpus;
        gpus_held += __builtin_popcount(node->gpus_held);
        n_ready += state_node_usable(node);
    }
    head(b, "hai_jobs", "gauge", "Jobs in memory by state.");
    for (int i = 0; i < JOB_STATE_COUNT; i++)
        buf_printf(b, "hai_jobs{state=\"%s\"} %lld\n", job_state_text((enum job_state)i),
                   (long long)state->n_jobs_in[i]);
    figure(b, "hai_nodes", "gauge", "Nodes of the cluster file.", (double)n_nodes);
    figure(b, "hai_nodes_ready", "gauge", "Nodes that take jobs.", (double)n_ready);
    figure(b, "hai_gpus", "gauge", "GPUs of all nodes.", (double)gpus);
    figure(b, "hai_gpus_held", "gauge", "GPUs that an attempt holds.", (double)gpus_held);
    head(b, "hai_gpus_by_class", "gauge", "GPUs by what their time goes into.");
    for (int i = 0; i < LEDGER_COUNT; i++)
        buf_printf(b, "hai_gpus_by_class{class=\"%s\"} %lld\n",
                   ledger_class_text((enum ledger_class)i), (long long)state->ledger.gpus[i]);
}

static void add_log(struct buf *b, const struct schedd *s) {
    struct turn_stats stats = turn_stats(s->turn);
    struct entry_log *log = turn_log(s->turn);

    figure(b, "hai_log_index", "counter", "Newest committed log entry.",
           (double)entry_log_committed(log));
    figure(b, "hai_log_first", "counter", "Oldest log entry that is kept.",
           (double)entry_log_first(log));
    figure(b, "hai_log_commits_total", "counter", "Transactions of the log.",
           (double)stats.n_commits);
    figure(b, "hai_log_failures_total", "counter", "Transactions that failed.",
           (double)stats.n_failed);
    figure(b, "hai_log_longest_commit_seconds", "gauge", "Longest transaction since the start.",
           (double)stats.longest_commit_us / 1e6);
    figure(b, "hai_rows_outstanding", "gauge", "Rows for the next transaction.",
           (double)rows_outstanding(turn_rows(s->turn)));
}

static void add_daemon(struct buf *b, const struct schedd *s) {
    struct loop_stats loop = loop_stats(s->loop);
    struct http_server_stats http = http_server_stats(s->server);

    figure(b, "hai_loop_turns_total", "counter", "Turns of the event loop.", (double)loop.n_turns);
    figure(b, "hai_loop_slow_turns_total", "counter", "Turns longer than 50 ms.",
           (double)loop.n_slow);
    figure(b, "hai_loop_busy_seconds_total", "counter", "Time spent in turns.",
           (double)loop.busy_us / 1e6);
    figure(b, "hai_http_requests_total", "counter", "HTTP requests.", (double)http.n_requests);
    figure(b, "hai_http_connections", "gauge", "Open connections.", (double)http.n_connections);
    figure(b, "hai_http_held", "gauge", "Requests that wait for something.", (double)http.n_held);
    figure(b, "hai_agents_polling", "gauge", "Agents whose poll is held.",
           (double)fleet_n_polling(s->fleet));
}

void metrics_handle(struct api_call *call) {
    struct buf text = {0};

    add_cluster(&text, schedd_state(call->s));
    add_log(&text, call->s);
    add_daemon(&text, call->s);
    api_call_reply_text(call, 200, "text/plain; version=0.0.4; charset=utf-8", &text);
}
