#include "scheduler/core/dependents.h"
#include "scheduler/core/eligible.h"

static void end_if_broken(struct mutate *c, struct job *job) {
    const struct entry_after *after = eligible_broken(job);
    char text[REASON_BYTES_MAX];

    if (!after)
        return;
    eligible_say_broken(c->state, after, text, sizeof text);
    mutate_state(c, job, JOB_STATE_STOPPED, REASON_DEPENDENCY, "%s", text);
}

void dependents_check(struct mutate *c, struct job *job) {
    struct entry entry;
    struct mutate by = mutate_by_system(c, &entry);

    end_if_broken(&by, job);
}

static void tell(struct mutate *c, struct job *job, const struct eligible_news *news) {
    for (size_t i = 0; i < job->r.spec.after.n; i++)
        if (job->r.spec.after.items[i].job == news->job)
            job->r.spec.after.items[i].ended = news->ended;
    if (eligible_broken(job))
        end_if_broken(c, job);
    else
        mutate_follow(c, job);
}

/* One after the other, not one within the other: a chain may be long. */
void dependents_settle(struct mutate *c) {
    struct state *state = c->state;
    struct entry entry;
    struct mutate by = mutate_by_system(c, &entry);

    while (state->news_first) {
        struct eligible_news *news = state->news_first;
        for (size_t i = 0; i < news->n_waiters; i++) {
            struct job *job = state_job_find(state, news->waiters[i]);
            if (job && !state_job_ended(job))
                tell(&by, job, news);
        }
        state->news_first = news->next;
        if (!state->news_first)
            state->news_last = NULL;
        free(news->waiters);
        free(news);
    }
}
