#include "scheduler/api_table.h"

#include "scheduler/api_accounts.h"
#include "scheduler/api_agent.h"
#include "scheduler/api_jobs.h"
#include "scheduler/api_logs.h"
#include "scheduler/api_nodes.h"
#include "scheduler/api_openapi.h"
#include "scheduler/api_read.h"
#include "scheduler/api_reserve.h"
#include "scheduler/api_usage.h"
#include "scheduler/fleet.h"
#include "scheduler/metrics.h"
#include "wire/messages.h"

#define WAIT "wait: seconds to hold the answer until something changed, at most 60; "

// clang-format off
static const struct api_route routes[] = {
    {"GET", "/healthz", SCOPE_NONE, .status = 200, .schema = healthz_view_schema,
     .doc = "The scheduler serves", .handle = api_nodes_healthz},
    {"GET", "/metrics", SCOPE_READ, .status = 200, .answer = API_ANSWER_TEXT,
     .doc = "Figures for Prometheus", .handle = metrics_handle},
    {"GET", "/api/v1/openapi.json", SCOPE_READ, .status = 200, .answer = API_ANSWER_TEXT,
     .doc = "This description", .handle = api_openapi_handle},
    {"GET", "/api/v1/state", SCOPE_ADMIN, .status = 200, .schema = state_view_schema,
     .doc = "Index and digest of the state", .handle = api_nodes_state},
    {"GET", "/api/v1/whoami", SCOPE_READ, .status = 200, .schema = whoami_view_schema,
     .doc = "Who the token belongs to", .handle = api_accounts_whoami},
    {"POST", "/api/v1/jobs", SCOPE_SUBMIT, job_spec_schema, true, .status = 201,
     .schema = job_submitted_schema, .query = "dry_run: 1: check only",
     .doc = "Submit a job; the header Idempotency-Key makes it safe to repeat",
     .handle = api_jobs_submit},
    {"POST", "/api/v1/jobs:batch", SCOPE_SUBMIT, job_submit_batch_schema, true, .status = 200,
     .schema = job_submitted_batch_schema, .doc = "Submit many jobs, each for itself",
     .handle = api_jobs_submit_batch},
    {"GET", "/api/v1/jobs", SCOPE_READ, .status = 200, .answer = API_ANSWER_LIST,
     .schema = job_view_schema,
     .query = "all: 1: everyone's; user: of this user; name: of this name; state: in this state; "
      "since: ended at or after this time, or not ended; before: only ids below; limit: at most this many",
     .doc = "Jobs, newest first; the caller's unless asked otherwise", .handle = api_read_jobs},
    {"GET", "/api/v1/queue", SCOPE_READ, .status = 200, .answer = API_ANSWER_LIST,
     .schema = job_view_schema, .query = "group: of this group",
     .doc = "Everyone's running jobs, then the waiting ones in order", .handle = api_read_queue},
    {"GET", "/api/v1/jobs/{job}", SCOPE_READ, .status = 200, .schema = job_view_schema,
     .query = WAIT "since: index that is known; ranks: 1: with its ranks", .doc = "One job",
     .handle = api_read_job},
    {"GET", "/api/v1/jobs/{job}/why", SCOPE_READ, .status = 200, .schema = why_view_schema,
     .doc = "Why it waits, failed or moved", .handle = api_read_why},
    {"GET", "/api/v1/jobs/{job}/events", SCOPE_READ, .status = 200, .answer = API_ANSWER_LIST,
     .schema = event_view_schema, .query = WAIT "since: index that is known; limit: at most",
     .doc = "Its story, oldest first", .handle = api_read_job_events},
    {"GET", "/api/v1/jobs/{job}/spec", SCOPE_READ, .status = 200, .schema = job_spec_schema,
     .doc = "The job as submitted", .handle = api_read_spec},
    {"GET", "/api/v1/jobs/{job}/logs", SCOPE_READ, .status = 200, .answer = API_ANSWER_BYTES,
     .query = WAIT "rank: which; attempt: 0: newest; offset: first byte; limit: bytes at most",
     .doc = "Output of a rank", .handle = api_logs_read},
    {"POST", "/api/v1/jobs/{job}/stream", SCOPE_SUBMIT, .status = 101, .answer = API_ANSWER_BYTES,
     .query = "kind: attach or shell; rank: which; tty: 1: terminal; rows: of it; cols: of it",
     .doc = "Join a rank, or a shell beside it; Upgrade: hai-stream", .handle = api_logs_join},
    {"POST", "/api/v1/jobs/{job}/stop", SCOPE_SUBMIT, job_change_schema, .status = 200,
     .schema = index_view_schema, .doc = "End it", .handle = api_jobs_stop},
    {"POST", "/api/v1/jobs/{job}/suspend", SCOPE_SUBMIT, job_change_schema, .status = 200,
     .schema = index_view_schema, .doc = "Give its nodes back and wait",
     .handle = api_jobs_suspend},
    {"POST", "/api/v1/jobs/{job}/resume", SCOPE_SUBMIT, job_change_schema, .status = 200,
     .schema = index_view_schema, .doc = "Let it go on", .handle = api_jobs_resume},
    {"POST", "/api/v1/jobs/{job}/rerun", SCOPE_SUBMIT, job_change_schema, .status = 200,
     .schema = index_view_schema, .doc = "Submit it again as a new job", .handle = api_jobs_rerun},
    {"POST", "/api/v1/jobs/{job}/set", SCOPE_SUBMIT, job_change_schema, .status = 200,
     .schema = index_view_schema, .doc = "Change it", .handle = api_jobs_set},
    {"GET", "/api/v1/events", SCOPE_READ, .status = 200, .answer = API_ANSWER_LIST,
     .schema = event_view_schema,
     .query = WAIT "since: index that is known; limit: at most; newest: 1: the last ones, not the first",
     .doc = "What happened, oldest first", .handle = api_read_events},
    {"GET", "/api/v1/nodes", SCOPE_READ, .status = 200, .answer = API_ANSWER_LIST,
     .schema = node_view_schema, .query = WAIT "since: log index that is known", .doc = "All nodes",
     .handle = api_nodes_list},
    {"GET", "/api/v1/nodes/{node}", SCOPE_READ, .status = 200, .schema = node_view_schema,
     .query = WAIT "since: log index that is known", .doc = "One node", .handle = api_nodes_one},
    {"POST", "/api/v1/nodes/{node}/drain", SCOPE_OPERATE, node_change_schema, .status = 200,
     .schema = index_view_schema, .doc = "Place nothing more on it", .handle = api_nodes_drain},
    {"POST", "/api/v1/nodes/{node}/undrain", SCOPE_OPERATE, node_change_schema, .status = 200,
     .schema = index_view_schema, .doc = "Use it again", .handle = api_nodes_undrain},
    {"POST", "/api/v1/nodes/{node}/fenced", SCOPE_OPERATE, node_fenced_schema, true, .status = 200,
     .schema = index_view_schema, .doc = "No process of it is left", .handle = api_nodes_fenced},
    {"GET", "/api/v1/groups", SCOPE_READ, .status = 200, .answer = API_ANSWER_LIST,
     .schema = group_view_schema, .doc = "Groups of nodes", .handle = api_nodes_groups},
    {"GET", "/api/v1/zones", SCOPE_READ, .status = 200, .answer = API_ANSWER_LIST,
     .schema = zone_view_schema, .doc = "Zones", .handle = api_nodes_zones},
    {"GET", "/api/v1/reservations", SCOPE_READ, .status = 200, .answer = API_ANSWER_LIST,
     .schema = reservation_view_schema, .doc = "Reservations that are not over, oldest first",
     .handle = api_reserve_list},
    {"POST", "/api/v1/reservations", SCOPE_OPERATE, reservation_set_schema, true, .status = 200,
     .schema = reservation_view_schema, .query = "dry_run: 1: check only, and say which jobs would leave",
     .doc = "Reserve nodes, or change a reservation",
     .handle = api_reserve_set},
    {"POST", "/api/v1/reservations/{reservation}/remove", SCOPE_OPERATE, .status = 200,
     .schema = index_view_schema, .doc = "End it now, or before it begins",
     .handle = api_reserve_remove},
    {"GET", "/api/v1/usage", SCOPE_READ, .status = 200, .schema = usage_view_schema,
     .query = "by: stage, user, team, group, job or day; since: days from this time on, default 30 days ago; "
      "until: up to the day before this time, default now; group: of this group; user: of this user; limit: sums at most",
     .doc = "GPU time and costs, of the caller's jobs; operators: of all, and of the cluster",
     .handle = api_usage_handle},
    {"GET", "/api/v1/users", SCOPE_OPERATE, .status = 200, .answer = API_ANSWER_LIST,
     .schema = whoami_view_schema, .doc = "Accounts", .handle = api_accounts_users},
    {"POST", "/api/v1/users/{user}", SCOPE_ADMIN, user_change_schema, true, .status = 200,
     .schema = index_view_schema, .doc = "Make or change an account",
     .handle = api_accounts_set_user},
    {"GET", "/api/v1/quotas", SCOPE_READ, .status = 200, .answer = API_ANSWER_LIST,
     .schema = quota_view_schema, .doc = "Quotas and what is used of them",
     .handle = api_accounts_quotas},
    {"POST", "/api/v1/quotas", SCOPE_OPERATE, quota_change_schema, true, .status = 200,
     .schema = index_view_schema, .doc = "Set a quota, or take it away",
     .handle = api_accounts_set_quota},
    {"GET", "/api/v1/tokens", SCOPE_READ, .status = 200, .answer = API_ANSWER_LIST,
     .schema = token_view_schema, .doc = "Tokens: the caller's, or an admin's: all",
     .handle = api_accounts_tokens},
    {"POST", "/api/v1/tokens", SCOPE_SUBMIT, token_change_schema, true, .status = 201,
     .schema = token_view_schema, .doc = "Make a token", .handle = api_accounts_make_token},
    {"POST", "/api/v1/tokens/{token}/revoke", SCOPE_SUBMIT, .status = 200,
     .schema = index_view_schema, .doc = "Refuse it from now on",
     .handle = api_accounts_revoke_token},
    {"POST", "/api/v1/agent/poll", SCOPE_NODE, agent_poll_schema, true, true, .status = 200,
     .schema = agent_desired_schema, .doc = "What should run on the node; a long poll",
     .handle = fleet_poll},
    {"POST", "/api/v1/agent/report", SCOPE_NODE, agent_report_schema, true, true, .status = 200,
     .schema = agent_report_reply_schema, .doc = "What happened on the node",
     .handle = api_agent_report},
    {"POST", "/api/v1/agent/streams/{stream}", SCOPE_NODE, .status = 200,
     .answer = API_ANSWER_BYTES, .doc = "The agent's end of a stream", .handle = api_logs_agent},
};
// clang-format on

const struct api_route *api_table_routes(int *ret_n) {
    *ret_n = ARRAY_SIZE(routes);
    return routes;
}

/* Compare a path with a pattern; texts of braces are found, not yet copied. */
static bool match(const char *pattern, const char *path, const char *starts[], size_t lengths[]) {
    int n = 0;

    while (*pattern) {
        if (*pattern != '{') {
            if (*pattern++ != *path++)
                return false;
            continue;
        }
        size_t length = strcspn(path, "/");
        if (!length)
            return false;
        starts[n] = path;
        lengths[n++] = length;
        path += length;
        pattern = strchr(pattern, '}') + 1;
    }
    return !*path;
}

const struct api_route *api_table_find(const char *method, const char *path,
                                       char *ret_params[API_ROUTE_PARAMS_MAX], bool *ret_known) {
    *ret_known = false;
    for (size_t i = 0; i < ARRAY_SIZE(routes); i++) {
        const char *starts[API_ROUTE_PARAMS_MAX] = {0};
        size_t lengths[API_ROUTE_PARAMS_MAX] = {0};
        if (!match(routes[i].path, path, starts, lengths))
            continue;
        *ret_known = true;
        if (strcmp(routes[i].method, method) != 0)
            continue;
        for (int p = 0; p < API_ROUTE_PARAMS_MAX; p++)
            ret_params[p] = starts[p] ? hai_strndup(starts[p], lengths[p]) : NULL;
        return &routes[i];
    }
    return NULL;
}
