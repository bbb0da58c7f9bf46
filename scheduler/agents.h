/* agents.h - the agents of the nodes: their long polls, their leases, their silence.
 *
 * Level-triggered: an agent holds a desired set by its revision and says what it really runs; the
 * answer to a poll comes when the set is another one, when a stream is wanted, or when the time is
 * over. Nothing here is state: after a restart every node counts as heard of just now, so that its
 * silence is counted afresh.
 */
#pragma once
#include "scheduler/api_call.h"

struct agents;

struct agents *agents_new(struct schedd *s);
void agents_free(struct agents *agents);
DEFINE_CLEANUP(struct agents *, agents_free)

/* Handler of POST /api/v1/agent/poll. */
void agents_poll(struct api_call *call);

/* A message of the node's agent came in. */
void agents_heard(struct agents *agents, int node);

/* After a batch: answer the polls of nodes whose desired set changed. */
void agents_on_applied(struct agents *agents, const struct effects *fx);

/* Ask a node's agent to open a stream; the content of the request is taken over. -ENOTCONN: it is
 * not there now. */
int agents_request_stream(struct agents *agents, int node, struct stream_request *request,
                          struct hai_err *err);

/* health and seen_at of a node_view. */
void agents_describe(const struct agents *agents, int node, struct node_view *ret);

/* For /metrics. */
int64_t agents_n_polling(const struct agents *agents);
