#include "scheduler/core/predict.h"

#define SECOND INT64_C(1000000)

enum {
    WEIGHT = 8,       // of one job
    WEIGHT_MAX = 512, // of all in a history: then all are halved
    WEIGHT_KNOWN = 2 * WEIGHT,
    KEY_BYTES = USER_NAME_MAX + JOB_NAME_MAX + 2,
    LEVELS = PREDICT_LEVELS,
};
#define UNKNOWN_MIN_US (600 * SECOND)

/* The shortest run time of a bucket: 0, 1.5 s, 2, 3, 4, 6, 8, ... */
static int64_t bucket_low_us(int bucket) {
    int64_t octave_us = SECOND << (bucket / 2);

    if (!bucket)
        return 0;
    return bucket % 2 ? octave_us + octave_us / 2 : octave_us;
}

static int bucket_of(int64_t us) {
    int bucket = 0;

    while (bucket + 1 < PAST_BUCKETS && us >= bucket_low_us(bucket + 1))
        bucket++;
    return bucket;
}

/* Level 0: user and name, 1: user, 2: all. */
static void key_of(const char *user, const char *name, int level, char ret[static KEY_BYTES]) {
    char *end = stpcpy(ret, level < 2 && user ? user : ""); // the texts are within their limits

    *end++ = '\n';
    strcpy(end, level < 1 && name ? name : "");
}

static struct state_past *past_find(const struct state *state, const char *key) {
    uintptr_t slot = (uintptr_t)map_get_text(&state->past_by_key, key);

    return slot ? &state->pasts[slot - 1] : NULL;
}

static size_t oldest(const struct state *state) {
    size_t at = 0;

    for (size_t i = 1; i < state->n_pasts; i++)
        if (state->pasts[i].used < state->pasts[at].used)
            at = i;
    return at;
}

/* Its user and name go to lost, if it is of both. */
static void forget(struct state *state, struct state_past *past, struct predict_lost *lost) {
    char key[KEY_BYTES];

    key_of(past->user, past->name, 0, key);
    map_remove_text(&state->past_by_key, key);
    if (past->name) {
        assert(lost->n < ARRAY_SIZE(lost->items));
        lost->items[lost->n].user = TAKE_PTR(past->user);
        lost->items[lost->n++].name = TAKE_PTR(past->name);
    }
    schema_free(state_past_schema(), past);
}

/* A new history, in the slot of the one that was not added to for longest. */
static struct state_past *past_add(struct state *state, const struct entry_job_spec *spec,
                                   int level, struct predict_lost *lost) {
    char key[KEY_BYTES];
    size_t at = state->n_pasts;

    if (at == PASTS_MAX) {
        at = oldest(state);
        forget(state, &state->pasts[at], lost);
    } else {
        state->pasts = hai_realloc_array(state->pasts, ++state->n_pasts, sizeof *state->pasts);
    }
    struct state_past *past = &state->pasts[at];
    schema_init(state_past_schema(), past);
    past->user = level < 2 ? hai_strdup(spec->user) : NULL;
    past->name = level < 1 ? hai_strdup(spec->name) : NULL;
    past->counts.items = hai_new_array(int64_t, PAST_BUCKETS);
    past->counts.n = PAST_BUCKETS;
    key_of(spec->user, spec->name, level, key);
    map_put_text(&state->past_by_key, key, (void *)(at + 1));
    return past;
}

static void add(struct state_past *past, int bucket) {
    int64_t sum = 0;

    past->counts.items[bucket] += WEIGHT;
    for (int i = 0; i < PAST_BUCKETS; i++)
        sum += past->counts.items[i];
    for (int i = 0; sum > WEIGHT_MAX && i < PAST_BUCKETS; i++)
        past->counts.items[i] /= 2;
}

void predict_learn(struct state *state, const struct job *job, struct predict_lost *ret) {
    const struct entry_job_spec *spec = &job->r.spec;
    char key[KEY_BYTES];

    *ret = (struct predict_lost){0};
    if (state->r.remembers != 1 || job->r.started_us == S_ABSENT || job->r.ran_us <= 0)
        return;
    for (int level = 0; level < LEVELS; level++) {
        key_of(spec->user, spec->name, level, key);
        struct state_past *past = past_find(state, key);
        if (!past)
            past = past_add(state, spec, level, ret);
        past->used = state->r.index;
        add(past, bucket_of(job->r.ran_us));
    }
}

void predict_lost_free(struct predict_lost *lost) {
    for (size_t i = 0; i < lost->n; i++) {
        free(lost->items[i].user);
        free(lost->items[i].name);
    }
    *lost = (struct predict_lost){0};
}

/* Run times of one bucket that are longer than had_us: their weight times 1024, and the shortest.
 */
static int64_t weight_beyond(const struct state_past *past, int bucket, int64_t had_us,
                             int64_t *ret_low_us) {
    int64_t low_us = bucket_low_us(bucket), high_us = bucket_low_us(bucket + 1);
    int64_t from_us = MAX(low_us, had_us);

    *ret_low_us = from_us;
    if (from_us >= high_us)
        return 0;
    return past->counts.items[bucket] * ((high_us - from_us) / ((high_us - low_us) / 1024));
}

/* The run time that a part (in thousandths) of those beyond had_us stays below. */
static int64_t quantile_us(const struct state_past *past, int64_t had_us, int64_t sum,
                           int64_t thousandths) {
    int64_t left = sum * thousandths / 1000, low_us = had_us;

    for (int bucket = bucket_of(had_us); bucket < PAST_BUCKETS; bucket++) {
        int64_t weight = weight_beyond(past, bucket, had_us, &low_us);
        if (weight > left)
            return low_us + (bucket_low_us(bucket + 1) - low_us) / 64 * (left * 64 / weight);
        left -= weight;
    }
    return low_us;
}

static int64_t sum_beyond(const struct state_past *past, int64_t had_us) {
    int64_t sum = 0, low_us;

    for (int bucket = bucket_of(had_us); bucket < PAST_BUCKETS; bucket++)
        sum += weight_beyond(past, bucket, had_us, &low_us);
    return sum;
}

/* The first of its so many narrowest histories that knows enough, or NULL; ret_sum: what it knows
 * beyond had_us. */
static const struct state_past *past_of(const struct state *state, const struct job *job,
                                        int64_t had_us, int n_levels, int64_t *ret_sum) {
    char key[KEY_BYTES];

    for (int level = 0; level < n_levels; level++) {
        key_of(job->r.spec.user, job->r.spec.name, level, key);
        const struct state_past *past = past_find(state, key);
        *ret_sum = past ? sum_beyond(past, had_us) : 0;
        if (*ret_sum >= WEIGHT_KNOWN * INT64_C(1024))
            return past;
    }
    return NULL;
}

static int64_t limit_us(const struct job *job, int64_t had_us) {
    return job->r.time_limit_us == S_ABSENT ? INT64_MAX : MAX(job->r.time_limit_us - had_us, 0);
}

/* Of a job of which nothing is known: half of them as long again, 8 of 10 four times that. */
static int64_t unknown_us(const struct job *job, int64_t had_us, int64_t thousandths) {
    int64_t again_us = MAX(had_us, UNKNOWN_MIN_US);

    if (job->r.time_limit_us != S_ABSENT)
        return limit_us(job, had_us);
    return again_us / 1000 * thousandths / (1000 - thousandths) * 1000;
}

/* ---- how long it may still run ---- */

/* The chance that a job that comes to a bucket of run time ends in it. Where nothing is known half
 * of those that have run for a while run as long again. Each history, from that of all to the
 * narrowest, speaks with the weight of those it knows to have come so far, and leaves the rest to
 * the one before it. The first that knows two jobs alone was tried: where few ran for long, its
 * tails were those of two jobs. */
enum { UNKNOWN_WEIGHT = 4 * WEIGHT, PART_ONE = 1024 };
#define CHANCE_ONE (INT64_C(1) << 20)
#define CHANCE_UNKNOWN (CHANCE_ONE * 2929 / 10000) // 1 - 1/sqrt(2): a bucket is half an octave

static void heed(const struct state_past *past, int64_t chances[static PAST_BUCKETS]) {
    int64_t came = 0;

    for (int bucket = PAST_BUCKETS - 1; bucket >= 0; bucket--) {
        int64_t ended = past->counts.items[bucket];
        came += ended;
        chances[bucket] =
            (ended * CHANCE_ONE + UNKNOWN_WEIGHT * chances[bucket]) / (came + UNKNOWN_WEIGHT);
    }
}

/* False: nothing is known. */
static bool chances_of(const struct state *state, const struct job *job,
                       int64_t ret[static PAST_BUCKETS]) {
    char key[KEY_BYTES];
    bool known = false;

    for (int bucket = 0; bucket < PAST_BUCKETS; bucket++)
        ret[bucket] = CHANCE_UNKNOWN;
    for (int level = LEVELS - 1; level >= 0; level--) {
        key_of(job->r.spec.user, job->r.spec.name, level, key);
        const struct state_past *past = past_find(state, key);
        if (past)
            heed(past, ret);
        known |= past != NULL;
    }
    return known;
}

/* The run time that a part (in thousandths) of those beyond had_us stays below. */
static int64_t drawn_us(const int64_t chances[static PAST_BUCKETS], int64_t had_us,
                        int64_t thousandths) {
    int64_t left = CHANCE_ONE * PART_ONE, until = left / 1000 * (1000 - thousandths);

    for (int bucket = bucket_of(had_us); bucket < PAST_BUCKETS; bucket++) {
        int64_t low_us = bucket_low_us(bucket), high_us = bucket_low_us(bucket + 1);
        int64_t from_us = MAX(low_us, had_us);
        int64_t part = MAX(high_us - from_us, 0) / ((high_us - low_us) / PART_ONE);
        /* Of those that came to the bucket some have ended in what is over of it. */
        int64_t ends = chances[bucket] * part / PART_ONE;
        int64_t came = CHANCE_ONE - chances[bucket] + ends;
        int64_t leave = left / PART_ONE * ends / MAX(came, 1) * PART_ONE;
        if (left - leave <= until)
            return from_us +
                   (high_us - from_us) / PART_ONE * ((left - until) / MAX(leave / PART_ONE, 1));
        left -= leave;
    }
    return bucket_low_us(PAST_BUCKETS);
}

int64_t predict_rest_us(const struct state *state, const struct job *job, int64_t had_us,
                        int64_t thousandths) {
    int64_t chances[PAST_BUCKETS];
    int64_t rest_us = chances_of(state, job, chances)
                          ? drawn_us(chances, had_us, thousandths) - had_us
                          : unknown_us(job, had_us, thousandths);

    return MIN(MAX(rest_us, 0), limit_us(job, had_us));
}

struct predict_rest predict_rest(const struct state *state, const struct job *job, int64_t had_us) {
    return (struct predict_rest){predict_rest_us(state, job, had_us, 500),
                                 predict_rest_us(state, job, had_us, 900)};
}

/* Did somebody say how long this very job may run? The group's default says little. */
static bool limit_is_own(const struct state *state, const struct job *job) {
    return job->r.time_limit_us != S_ABSENT &&
           (job->r.spec.time_limit_us != S_ABSENT || job->group < 0 ||
            job->r.time_limit_us != state->groups[job->group].r.time_limit_us);
}

/* The 90 % quantile, up to the end of its bucket: so it changes rarely. */
static bool usual_rest_us(const struct state *state, const struct job *job, int64_t had_us,
                          int n_levels, int64_t *ret) {
    int64_t sum;
    const struct state_past *past = past_of(state, job, had_us, n_levels, &sum);

    if (!past)
        return false;
    *ret = bucket_low_us(bucket_of(quantile_us(past, had_us, sum, 900)) + 1) - had_us;
    return true;
}

int64_t predict_usual_us(const struct state *state, const struct job *job) {
    int64_t rest_us;

    return usual_rest_us(state, job, 0, 1, &rest_us) ? rest_us : INT64_MAX;
}

int64_t predict_hold_us(const struct state *state, const struct job *job) {
    int64_t most_us = limit_us(job, job->r.ran_us), usual_us = INT64_MAX;

    if (!limit_is_own(state, job))
        usual_us = predict_usual_us(state, job);
    if (usual_us == INT64_MAX)
        return most_us;
    int64_t rest_us =
        usual_us > job->r.ran_us ? usual_us - job->r.ran_us : MAX(job->r.ran_us, UNKNOWN_MIN_US);
    return MIN(rest_us, most_us);
}

int64_t predict_longer_us(const struct state *state, const struct job *job, int64_t had_us) {
    int64_t most_us = limit_us(job, had_us), rest_us;

    if (limit_is_own(state, job))
        return most_us;
    if (usual_rest_us(state, job, had_us, LEVELS, &rest_us))
        return MIN(rest_us, most_us);
    return MIN(MAX(had_us, UNKNOWN_MIN_US), most_us);
}

int predict_derive(struct state *state) {
    char key[KEY_BYTES];

    if (state->n_pasts > PASTS_MAX)
        return -EBADMSG;
    for (size_t i = 0; i < state->n_pasts; i++) {
        const struct state_past *past = &state->pasts[i];
        key_of(past->user, past->name, 0, key);
        if (past->counts.n != PAST_BUCKETS ||
            map_put_text(&state->past_by_key, key, (void *)(i + 1)))
            return -EBADMSG;
    }
    return 0;
}
