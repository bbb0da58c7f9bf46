/* news.h - what goes into the agent's next report besides starts and exits. */
#pragma once
#include "agent/agentd.h"

/* The newest progress of a rank replaces what was not yet sent. Contents are taken over.
 * More than fit into one report are dropped. */
void news_progress(struct agentd *a, struct rank_progress *progress);

/* A checkpoint that a rank asks to record; one asked for twice is sent once. Contents are taken
 * over, but not on failure. -ENOBUFS: as many as may be under way wait already. */
int news_commit(struct agentd *a, struct ckpt_commit *commit);
