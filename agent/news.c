#include "agent/news.h"

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
    *LIST_ADD(&a->news.progress) = *progress;
}

void news_commit(struct agentd *a, struct ckpt_commit *commit) {
    for (size_t i = 0; i < a->news.commits.n; i++) {
        struct ckpt_commit *known = &a->news.commits.items[i];
        if (known->job == commit->job && known->epoch == commit->epoch &&
            known->step == commit->step) {
            schema_free(ckpt_commit_schema(), commit);
            return;
        }
    }
    *LIST_ADD(&a->news.commits) = *commit;
}
