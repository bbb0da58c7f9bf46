/* relay.h - streams between a client and the agent of a node, joined by the scheduler.
 *
 * A client's request is held under a number; the number goes to the agent with the answer to its
 * poll, and the agent's request with that number is joined to the client's. A log range is the
 * agent's body, passed on; attach and shell become raw byte streams on both sides.
 */
#pragma once
#include "scheduler/api_call.h"

struct relay;

/* What becomes of a client whose stream did not come about: called once, with the call. */
typedef void (*relay_failed_fn)(struct api_call *call, int r, const struct hai_err *err);

struct relay *relay_new(struct schedd *s);
void relay_free(struct relay *relay); // no client may be held any more
DEFINE_CLEANUP(struct relay *, relay_free)

/* Close joined streams, which must be gone before their server. */
void relay_close(struct relay *relay);

/* Hold a client's call and ask the node's agent for a stream. The request's id is set here, its
 * content taken over. failed is called if the agent is away, refuses, or is not there in time. */
void relay_open(struct relay *relay, struct api_call *call, int node,
                struct stream_request *request, relay_failed_fn failed);

/* Handler of the agent's end: POST /api/v1/agent/streams/{stream}. */
void relay_agent(struct api_call *call);
