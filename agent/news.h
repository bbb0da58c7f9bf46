/* news.h - what goes into the agent's next report besides starts and exits. */
#pragma once
#include "agent/agentd.h"

/* The newest progress of a rank replaces what was not yet sent. Contents are taken over. */
void news_progress(struct agentd *a, struct rank_progress *progress);

/* A checkpoint that a rank asks to record; one asked for twice is sent once. */
void news_commit(struct agentd *a, struct ckpt_commit *commit);
