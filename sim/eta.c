#include "sim/eta.h"
#include "scheduler/core/forecast.h"
#include "scheduler/core/order.h"
#include "scheduler/core/predict.h"
#include "scheduler/core/queue.h"

#define MINUTE_US (INT64_C(60) * 1000000)

void eta_free(struct eta *eta) {
    free(eta->answers);
    *eta = (struct eta){0};
}

/* GPUs times microseconds that a job still takes, as far as is known. */
static fixed_wide rest(const struct state *state, const struct job *job) {
    int64_t had_us = job->r.ran_us;

    if (state_job_live(job))
        had_us += state->r.time_us - job->r.placed_us;
    return (fixed_wide)predict_rest(state, job, had_us).p50_us * order_gpus(job);
}

/* Would a job that runs go before the other if both waited? */
static bool goes_before(const struct state *state, const struct job *running,
                        const struct job *asked) {
    int tier = order_tier(state, running);

    return tier < asked->tier || (tier == asked->tier && running->r.id < asked->r.id);
}

static void answer_naively(const struct state *state, const struct job *asked,
                           int64_t ret[static ETA_AHEAD_COUNT]) {
    fixed_wide ahead[ETA_AHEAD_COUNT] = {0};
    int64_t gpus = 0;

    for (const struct job *job = state->jobs_first; job; job = job->next) {
        enum eta_ahead as = ETA_AHEAD_COUNT;
        if (state_job_live(job))
            as = goes_before(state, job, asked) ? ETA_AHEAD_ORDER : ETA_AHEAD_RUNS;
        else if (job->queued && job != asked && queue_before(job, asked))
            as = ETA_AHEAD_WAITS;
        fixed_wide demand = as < ETA_AHEAD_COUNT ? rest(state, job) : 0;
        for (int i = (int)as; i < ETA_AHEAD_COUNT; i++)
            ahead[i] += demand;
    }
    for (int i = 0; i < state->n_nodes; i++)
        gpus += state_node_usable(state->nodes[i]) ? state->nodes[i]->r.gpus : 0;
    for (int i = 0; i < ETA_AHEAD_COUNT; i++)
        ret[i] = state->r.time_us + (int64_t)(ahead[i] / MAX(gpus, INT64_C(1)));
}

static struct forecast_job foreseen(const struct state *state, int64_t job) {
    _cleanup_free_ struct forecast_job *all = NULL;
    size_t n = forecast_run(state, state->r.time_us, job, NULL, &all);

    for (size_t i = 0; i < n; i++)
        if (all[i].id == job)
            return all[i];
    return (struct forecast_job){.start_us = INT64_MAX};
}

void eta_ask(struct eta *eta, const struct state *state, uint32_t index, int64_t job,
             int64_t base_us) {
    const struct job *asked = state_job_find(state, job);

    if (!eta->every || !asked || !asked->queued || eta->n_seen++ % eta->every)
        return;
    struct forecast_job answer = foreseen(state, job);
    if (answer.start_us == INT64_MAX)
        return;
    if (eta->n == eta->n_max) {
        eta->n_max = MAX(2 * eta->n_max, (size_t)256);
        eta->answers = hai_realloc_array(eta->answers, eta->n_max, sizeof *eta->answers);
    }
    struct eta_answer *kept = &eta->answers[eta->n++];
    *kept = (struct eta_answer){index, state->r.time_us - base_us, answer.start_us - base_us,
                                answer.late_us - base_us};
    answer_naively(state, asked, kept->naive_us);
    for (int i = 0; i < ETA_AHEAD_COUNT; i++)
        kept->naive_us[i] -= base_us;
}

static int compare(const void *pa, const void *pb) {
    int64_t a = *(const int64_t *)pa, b = *(const int64_t *)pb;

    return a < b ? -1 : a > b;
}

static bool is_near(int64_t foreseen_us, int64_t real_us) {
    return llabs(foreseen_us - real_us) < MINUTE_US ||
           (foreseen_us < 2 * real_us && real_us < 2 * foreseen_us);
}

/* Of one kind of answer; naive: ETA_AHEAD_COUNT means the forecast. Only jobs that started. */
static struct eta_error error_of(const struct eta *eta, const struct tally *tally,
                                 enum eta_ahead naive) {
    _cleanup_free_ int64_t *errors = hai_new_array(int64_t, eta->n + 1);
    int64_t n = 0, n_near = 0;

    for (size_t i = 0; i < eta->n; i++) {
        const struct eta_answer *answer = &eta->answers[i];
        int64_t start_us = tally->jobs[answer->job].start_us;
        int64_t said_us = naive < ETA_AHEAD_COUNT ? answer->naive_us[naive] : answer->p50_us;
        if (start_us < 0)
            continue;
        errors[n++] = llabs(said_us - start_us);
        n_near += is_near(said_us - answer->asked_us, start_us - answer->asked_us);
    }
    if (!n)
        return (struct eta_error){0};
    qsort(errors, (size_t)n, sizeof *errors, compare);
    return (struct eta_error){errors[(n - 1) / 2], errors[(n * 9 + 9) / 10 - 1],
                              fixed_ratio(n_near, n)};
}

struct eta_worth eta_worth(const struct eta *eta, const struct tally *tally) {
    struct eta_worth worth = {.own = error_of(eta, tally, ETA_AHEAD_COUNT)};
    int64_t n_by_p90 = 0;

    for (size_t i = 0; i < eta->n; i++) {
        int64_t start_us = tally->jobs[eta->answers[i].job].start_us;
        worth.n += start_us >= 0;
        n_by_p90 += start_us >= 0 && start_us <= eta->answers[i].p90_us;
    }
    worth.by_p90 = fixed_ratio(n_by_p90, worth.n);
    for (int i = 0; i < ETA_AHEAD_COUNT; i++)
        worth.naive[i] = error_of(eta, tally, (enum eta_ahead)i);
    return worth;
}
