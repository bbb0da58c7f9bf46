#include "scheduler/core/waits.h"
#include "scheduler/core/array.h"

#define SECOND INT64_C(1000000)

enum {
    KEPT = 9,  // starts of a kind
    KNOWN = 5, // fewer say little
};

enum size { SIZE_GPU, SIZE_PART, SIZE_NODE, SIZE_GANG, SIZE_COUNT };

/* The newest starts, in no order. */
struct kind {
    int n;
    int64_t started_us[KEPT], waited_us[KEPT];
};

struct waits {
    struct kind kinds[GROUPS_MAX][PRIORITY_COUNT][SIZE_COUNT];
};

static enum size size_of(const struct state *state, const struct job *job) {
    if (job->r.spec.nodes > 1)
        return SIZE_GANG;
    if (job->r.spec.gpus_per_node <= 1)
        return SIZE_GPU;
    return job->r.spec.gpus_per_node < state->groups[job->group].gpus_max ? SIZE_PART : SIZE_NODE;
}

static const struct kind *kind_of(const struct waits *waits, const struct state *state,
                                  const struct job *job) {
    return &waits->kinds[job->group][state_priority_level(job->r.priority)][size_of(state, job)];
}

/* Did it stand in line from its submission on? Who started at once had nothing to wait for. */
static bool waited(const struct job *job) {
    return job->group >= 0 && !array_is(job) && job->r.started_us != S_ABSENT &&
           !job->r.spec.after.n && job->r.spec.not_before_us == S_ABSENT &&
           job->r.started_us - job->r.submitted_us >= SECOND;
}

static void keep(struct kind *kind, const struct job *job) {
    int at = kind->n;

    if (kind->n == KEPT) {
        at = 0;
        for (int i = 1; i < KEPT; i++)
            if (kind->started_us[i] < kind->started_us[at])
                at = i;
        if (job->r.started_us <= kind->started_us[at])
            return;
    } else {
        kind->n++;
    }
    kind->started_us[at] = job->r.started_us;
    kind->waited_us[at] = job->r.started_us - job->r.submitted_us;
}

struct waits *waits_new(const struct state *state) {
    struct waits *waits = hai_new(struct waits);

    for (const struct job *job = state->jobs_first; job; job = job->next)
        if (waited(job))
            keep((struct kind *)kind_of(waits, state, job), job);
    return waits;
}

void waits_free(struct waits *waits) {
    free(waits);
}

static int compare(const void *pa, const void *pb) {
    int64_t a = *(const int64_t *)pa, b = *(const int64_t *)pb;

    return a < b ? -1 : a > b;
}

int64_t waits_start_us(const struct waits *waits, const struct state *state, const struct job *job,
                       int64_t now_us) {
    int64_t longer_us[KEPT];
    size_t n = 0;

    if (job->group < 0 || job->r.started_us != S_ABSENT || job->r.claim.n)
        return INT64_MAX;
    const struct kind *kind = kind_of(waits, state, job);
    for (int i = 0; i < kind->n; i++)
        if (job->r.submitted_us + kind->waited_us[i] > now_us)
            longer_us[n++] = kind->waited_us[i];
    if (n < KNOWN)
        return INT64_MAX;
    qsort(longer_us, n, sizeof *longer_us, compare);
    return job->r.submitted_us + longer_us[n / 2];
}
