/* streams.h - streams between a client and the agent of a node, joined by the scheduler.
 *
 * A client's request is held under a number; the number goes to the agent with the answer to its
 * poll, and the agent's request with that number is joined to the client's. A log range is the
 * agent's body, passed on; attach and shell become raw byte streams on both sides.
 */
#pragma once
#include "scheduler/api_call.h"

struct streams;

/* What becomes of a client whose stream did not come about: called once, with the call. */
typedef void (*streams_failed_fn)(struct api_call *call, int r, const struct hai_err *err);

struct streams *streams_new(struct schedd *s);
void streams_free(struct streams *streams); // no client may be held any more
DEFINE_CLEANUP(struct streams *, streams_free)

/* Close joined streams, which must be gone before their server. */
void streams_close(struct streams *streams);

/* Hold a client's call and ask the node's agent for a stream. The request's id is set here, its
 * content taken over. failed is called if the agent is away, refuses, or is not there in time. */
void streams_open(struct streams *streams, struct api_call *call, int node,
                  struct stream_request *request, streams_failed_fn failed);

/* Handler of the agent's end: POST /api/v1/agent/streams/{stream}. */
void streams_agent(struct api_call *call);
