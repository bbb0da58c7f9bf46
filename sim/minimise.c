#include "sim/minimise.h"

struct search {
    uint64_t seed;
    int n_steps;
    bool *skip;
    size_t n;
    struct hai_err *err;
};

static int run(struct search *s, struct storm_result *ret) {
    struct storm_options options = {.skip = s->skip, .n_skip = s->n};

    *s->err = (struct hai_err){0};
    return storm_run_as(s->seed, s->n_steps, &options, ret, NULL, s->err);
}

/* Leave out what is left of a part; put it back if the seed does not fail without it. */
static bool try_without(struct search *s, size_t from, size_t to) {
    _cleanup_free_ bool *before = hai_new_array(bool, s->n + 1);
    struct storm_result result;
    bool any = false;

    memcpy(before, s->skip, s->n * sizeof *before);
    for (size_t i = from; i < to; i++) {
        any |= !s->skip[i];
        s->skip[i] = true;
    }
    if (!any)
        return false;
    if (run(s, &result) < 0)
        return true;
    memcpy(s->skip, before, s->n * sizeof *before);
    return false;
}

int minimise(uint64_t seed, int n_steps, bool **ret_skip, size_t *ret_n, struct hai_err *err) {
    struct search s = {.seed = seed, .n_steps = n_steps, .err = err};
    struct storm_result result;
    bool shorter = true;

    if (run(&s, &result) == 0)
        return 0;
    s.n = (size_t)result.n_met;
    s.skip = hai_new_array(bool, s.n + 1);
    for (size_t size = MAX(s.n / 2, (size_t)1); size > 1 || shorter;
         size = MAX(size / 2, (size_t)1)) {
        shorter = false;
        for (size_t to = s.n; to > 0; to -= MIN(size, to))
            shorter |= try_without(&s, to - MIN(size, to), to);
    }
    *ret_skip = s.skip;
    *ret_n = s.n;
    return run(&s, &result);
}
