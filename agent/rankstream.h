/* rankstream.h - what people see of a running job: ranges of its output, attach, shell. The
 * scheduler asks in the answer to a poll; the agent opens the connection. */
#pragma once
#include "agent/agentd.h"

struct rankstreams;
struct rankstreams *rankstream_new(struct agentd *a);
void rankstream_free(struct rankstreams *streams);

/* Serve one request. It is copied. */
void rankstream_open(struct agentd *a, const struct stream_request *request);

/* Does a shell of ours run in this attempt? */
bool rankstream_has_shell(const struct agentd *a, const struct reconcile_key *key);

/* A child of the agent ended; true if it was a shell of ours. status as waitpid gives it. */
bool rankstream_reaped(struct agentd *a, pid_t pid, int status);
