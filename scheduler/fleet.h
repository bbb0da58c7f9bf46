/* fleet.h - the agents of the nodes: their long polls, their leases, their silence.
 *
 * Level-triggered: an agent holds a desired set by its revision and says what it really runs; the
 * answer to a poll comes when the set is another one, when a stream is wanted, or when the time is
 * over. Nothing here is state: after a restart every node counts as heard of just now, so that its
 * silence is counted afresh.
 */
#pragma once
#include "scheduler/api_call.h"

struct fleet;

struct fleet *fleet_new(struct schedd *s);
void fleet_free(struct fleet *fleet);
DEFINE_CLEANUP(struct fleet *, fleet_free)

/* Handler of POST /api/v1/agent/poll. */
void fleet_poll(struct api_call *call);

/* A message of the node's agent came in. */
void fleet_heard(struct fleet *fleet, int node);

/* After a batch: answer the polls of nodes whose desired set changed. */
void fleet_on_applied(struct fleet *fleet, const struct effects *fx);

/* Ask a node's agent to open a stream; the content of the request is taken over. -ENOTCONN: it is
 * not there now. */
int fleet_request_stream(struct fleet *fleet, int node, struct stream_request *request,
                         struct hai_err *err);

/* health and seen_at of a node_view. */
void fleet_describe(const struct fleet *fleet, int node, struct node_view *ret);

/* For /metrics. */
int64_t fleet_n_polling(const struct fleet *fleet);
