#include "agent/news.h"

enum { COMMITS_MAX = 128 }; // of one report; a message takes twice as many

void news_progress(struct agentd *a, struct rank_progress *progress) {
    for (size_t i = 0; i < a->news.progress.n; i++) {
        struct rank_progress *known = &a->news.progress.items[i];
        if (known->job == progress->job && known->attempt == progress->attempt &&
            known->rank == progress->rank) {
            schema_free(rank_progress_schema(), known);
            *known = *progress;
            return;
        }
    }
    if (a->news.progress.n < NODE_RANKS_MAX)
        *LIST_ADD(&a->news.progress) = *progress;
    else
        schema_free(rank_progress_schema(), progress);
}

int news_commit(struct agentd *a, struct ckpt_commit *commit) {
    for (size_t i = 0; i < a->news.commits.n; i++) {
        struct ckpt_commit *known = &a->news.commits.items[i];
        if (known->job == commit->job && known->epoch == commit->epoch &&
            known->step == commit->step) {
            schema_free(ckpt_commit_schema(), commit);
            return 0;
        }
    }
    if (a->news.commits.n >= COMMITS_MAX)
        return -ENOBUFS;
    *LIST_ADD(&a->news.commits) = *commit;
    return 0;
}
