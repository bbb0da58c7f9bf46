#include "scheduler/core/queue.h"
#include "scheduler/core/fair.h"
#include "scheduler/core/hold.h"
#include "scheduler/core/ledger.h"
#include "scheduler/core/order.h"

bool queue_same_need(const struct place_need *a, const struct place_need *b) {
    return a->group == b->group && a->zones == b->zones && a->nodes == b->nodes &&
           a->gpus_per_node == b->gpus_per_node && a->cpus_per_node == b->cpus_per_node &&
           a->memory_per_node_bytes == b->memory_per_node_bytes &&
           a->cross_zones == b->cross_zones && a->recovers == b->recovers &&
           a->keeps_apart == b->keeps_apart && a->reserve == b->reserve &&
           a->lasts_us == b->lasts_us;
}

static int64_t hash_of(const struct place_need *need, int length) {
    const uint64_t parts[] = {(uint64_t)need->group,
                              need->zones,
                              (uint64_t)need->nodes,
                              (uint64_t)need->gpus_per_node,
                              (uint64_t)need->cpus_per_node,
                              (uint64_t)need->memory_per_node_bytes,
                              (uint64_t)need->cross_zones + 2 * (uint64_t)need->recovers +
                                  4 * (uint64_t)need->keeps_apart,
                              (uint64_t)need->reserve,
                              (uint64_t)need->lasts_us,
                              (uint64_t)length};
    uint64_t h = 0;

    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        h = (h ^ parts[i]) * UINT64_C(0x9e3779b97f4a7c15);
        h ^= h >> 29;
    }
    return (int64_t)(h >> 1);
}

int64_t queue_place(const struct job *job) {
    return job->r.place == S_ABSENT ? job->r.id : job->r.place;
}

static int line_of(const struct job *job) {
    return job->tier * FAIR_LEVELS + job->level;
}

bool queue_before(const struct job *a, const struct job *b) {
    int line_a = line_of(a), line_b = line_of(b);

    return line_a < line_b || (line_a == line_b && queue_place(a) < queue_place(b));
}

static void set_present(struct queue *queue, const struct shape *shape, int line) {
    uint64_t bit = UINT64_C(1) << (shape->slot & 63);
    uint64_t *word = &queue->present[line][shape->slot >> 6];

    if ((shape->lines[line].first != NULL) == ((*word & bit) != 0))
        return;
    *word ^= bit;
    queue->n_present[line] += *word & bit ? 1 : -1;
    uint64_t line_bit = UINT64_C(1) << (line & 63);
    if (queue->n_present[line])
        queue->lines[line >> 6] |= line_bit;
    else
        queue->lines[line >> 6] &= ~line_bit;
}

static void more_slots(struct queue *queue) {
    size_t n = queue->n_slots, n_words = n / 64;

    queue->n_slots = MAX(2 * n, (size_t)64);
    queue->slots = hai_realloc_array(queue->slots, queue->n_slots, sizeof *queue->slots);
    memset(queue->slots + n, 0, (queue->n_slots - n) * sizeof *queue->slots);
    for (int line = 0; line < ORDER_LINES; line++) {
        uint64_t **words = &queue->present[line];
        *words = hai_realloc_array(*words, queue->n_slots / 64, sizeof **words);
        memset(*words + n_words, 0, (queue->n_slots / 64 - n_words) * sizeof **words);
    }
}

const struct shape *queue_shape(const struct state *state, const struct place_need *need,
                                int length) {
    const struct shape *shape = map_get(&state->queue.by_hash, hash_of(need, length));

    while (shape && !(shape->length == length && queue_same_need(&shape->need, need)))
        shape = shape->again;
    return shape;
}

static struct shape *shape_find(struct queue *queue, const struct place_need *need, int length) {
    int64_t hash = hash_of(need, length);
    struct shape *first = map_get(&queue->by_hash, hash), *shape;

    for (shape = first; shape; shape = shape->again)
        if (shape->length == length && queue_same_need(&shape->need, need))
            return shape;
    shape = hai_new(struct shape);
    shape->need = *need;
    shape->length = length;
    shape->need.avoid = NULL;
    shape->need.n_avoid = 0;
    shape->need.self = NULL;
    shape->serial = ++queue->serial;
    shape->again = first;
    map_put(&queue->by_hash, hash, shape);
    size_t slot = queue->slot_hint;
    while (slot < queue->n_slots && queue->slots[slot])
        slot++;
    if (slot == queue->n_slots)
        more_slots(queue);
    shape->slot = (int)slot;
    queue->slots[slot] = shape;
    queue->slot_hint = slot + 1;
    return shape;
}

static void shape_drop(struct queue *queue, struct shape *shape) {
    int64_t hash = hash_of(&shape->need, shape->length);
    struct shape *first = map_get(&queue->by_hash, hash), **at = &first;

    while (*at != shape)
        at = &(*at)->again;
    *at = shape->again;
    if (first)
        map_put(&queue->by_hash, hash, first);
    else
        map_remove(&queue->by_hash, hash);
    queue->slots[shape->slot] = NULL;
    queue->slot_hint = MIN(queue->slot_hint, (size_t)shape->slot);
    free(shape);
}

/* New jobs go to the end of their line. The place of one that waits again is looked for from that
 * of the one before, if it is behind it, so that many in order cost no more than a step each. */
static void enter(struct shape *shape, struct job *job) {
    struct job_line *line = &shape->lines[line_of(job)];
    struct job *next = NULL, *before = shape->entered;

    if (line->last && queue_place(line->last) > queue_place(job)) {
        bool behind =
            before && line_of(before) == line_of(job) && queue_place(before) < queue_place(job);
        next = behind ? before : line->first;
        while (queue_place(next) < queue_place(job))
            next = next->line_next;
    }
    job->line_next = next;
    job->line_prev = next ? next->line_prev : line->last;
    if (job->line_prev)
        job->line_prev->line_next = job;
    else
        line->first = job;
    if (next)
        next->line_prev = job;
    else
        line->last = job;
    shape->entered = job;
}

static void leave(struct shape *shape, struct job *job) {
    struct job_line *line = &shape->lines[line_of(job)];

    if (shape->entered == job)
        shape->entered = job->line_prev;
    if (job->line_prev)
        job->line_prev->line_next = job->line_next;
    else
        line->first = job->line_next;
    if (job->line_next)
        job->line_next->line_prev = job->line_prev;
    else
        line->last = job->line_prev;
    job->line_next = job->line_prev = NULL;
}

void queue_add(struct state *state, struct job *job) {
    struct place_need need = place_need_of(state, job);

    assert(!job->queued);
    bool backfills = order_backfills(state);
    job->hold_s = backfills ? hold_seconds(state, job) : 0;
    job->shape = shape_find(&state->queue, &need, backfills ? hold_length(job->hold_s) : 0);
    job->tier = order_tier(state, job);
    job->level = fair_level(state, job);
    enter(job->shape, job);
    set_present(&state->queue, job->shape, line_of(job));
    job->shape->n++;
    job->shape->n_late += order_waits_since_us(job) < state->r.time_us;
    state->queue.n++;
    state->queue.changes++;
    ledger_wait(state, &job->shape->need, 1);
    job->queued = true;
}

void queue_remove(struct state *state, struct job *job) {
    struct shape *shape = job->shape;

    if (!job->queued)
        return;
    leave(shape, job);
    set_present(&state->queue, shape, line_of(job));
    state->queue.n--;
    state->queue.changes++;
    ledger_wait(state, &shape->need, -1);
    job->queued = false;
    job->shape = NULL;
    if (--shape->n == 0)
        shape_drop(&state->queue, shape);
}

void queue_sort(struct state *state) {
    for (struct job *job = state->jobs_first; job; job = job->next)
        if (job->queued &&
            (job->tier != order_tier(state, job) || job->level != fair_level(state, job))) {
            queue_remove(state, job);
            queue_add(state, job);
        }
}

static void sift_down(struct queue_walk *walk, size_t at) {
    struct job *job = walk->heap[at];

    for (size_t child; (child = 2 * at + 1) < walk->n; at = child) {
        if (child + 1 < walk->n &&
            queue_place(walk->heap[child + 1]) < queue_place(walk->heap[child]))
            child++;
        if (queue_place(walk->heap[child]) > queue_place(job))
            break;
        walk->heap[at] = walk->heap[child];
    }
    walk->heap[at] = job;
}

/* The first job of every shape that has one in this line. */
static void gather(struct queue_walk *walk) {
    const struct queue *queue = &walk->state->queue;

    int left = queue->n_present[walk->line];
    for (size_t word = 0; left > 0; word++) {
        uint64_t set = queue->present[walk->line][word];
        left -= __builtin_popcountll(set);
        for (; set; set &= set - 1) {
            const struct shape *shape = queue->slots[word * 64 + (size_t)__builtin_ctzll(set)];
            if (walk->n == walk->n_max) {
                walk->n_max = MAX(2 * walk->n_max, (size_t)64);
                walk->heap = hai_realloc_array(walk->heap, walk->n_max, sizeof *walk->heap);
            }
            walk->heap[walk->n++] = shape->lines[walk->line].first;
        }
    }
    for (size_t i = walk->n / 2; i-- > 0;)
        sift_down(walk, i);
}

void queue_walk_begin(struct queue_walk *walk, const struct state *state) {
    walk->state = state;
    walk->line = -1;
    walk->n = 0;
    walk->given = false;
}

void queue_walk_end(struct queue_walk *walk) {
    free(walk->heap);
    *walk = (struct queue_walk){0};
}

/* The head of the heap gives its place to job, or to the last of all. */
static void replace_head(struct queue_walk *walk, struct job *job) {
    walk->heap[0] = job ? job : walk->heap[--walk->n];
    if (walk->n)
        sift_down(walk, 0);
}

/* The first line with a job behind the one at hand, or -1. */
static int next_line(const struct queue_walk *walk) {
    const uint64_t *lines = walk->state->queue.lines;
    int line = walk->line + 1;

    while (line < ORDER_LINES) {
        uint64_t left = lines[line >> 6] >> (line & 63);
        if (left)
            return line + __builtin_ctzll(left);
        line = (line | 63) + 1;
    }
    return -1;
}

struct job *queue_walk_next(struct queue_walk *walk) {
    if (walk->given)
        replace_head(walk, walk->heap[0]->line_next);
    walk->given = false;
    if (!walk->n) {
        int line = next_line(walk);
        if (line < 0)
            return NULL;
        walk->line = line;
        gather(walk);
    }
    walk->given = true;
    return walk->heap[0];
}

void queue_walk_pass(struct queue_walk *walk) {
    assert(walk->given);
    replace_head(walk, NULL);
    walk->given = false;
}

void queue_walk_pass_to(struct queue_walk *walk, const struct job *job) {
    assert(walk->given);
    assert(queue_in_line_behind(walk->heap[0], job));
    replace_head(walk, (struct job *)job);
    walk->given = false;
}

bool queue_in_line_behind(const struct job *job, const struct job *behind) {
    return job->shape == behind->shape && line_of(job) == line_of(behind) &&
           queue_place(job) < queue_place(behind);
}

static bool waits_longer(const struct job *a, int a_position, const struct job *b, int b_position) {
    if (a_position != b_position)
        return a_position < b_position;
    int64_t a_us = order_waits_since_us(a), b_us = order_waits_since_us(b);
    return a_us != b_us ? a_us < b_us : a->r.id < b->r.id;
}

const struct job *queue_longest(const struct state *state, const struct shape *shape,
                                int64_t *ret_until_us) {
    const struct job *longest = NULL;
    int best = 0;

    *ret_until_us = INT64_MAX;
    for (int line = 0; line < ORDER_LINES; line++)
        for (const struct job *job = shape->lines[line].first; job; job = job->line_next) {
            int64_t from_us = order_too_long_us(state, job);
            *ret_until_us = MIN(*ret_until_us, from_us);
            if (state->r.time_us < from_us || job->r.claim.n || !order_may_ask(state, job))
                continue;
            int position = fair_position(state, job);
            if (longest && !waits_longer(job, position, longest, best))
                continue;
            longest = job;
            best = position;
        }
    return longest;
}

size_t queue_list(const struct state *state, int64_t **ret) {
    int64_t *ids = hai_new_array(int64_t, (size_t)MAX(state->queue.n, 1));
    struct queue_walk walk = {0};
    size_t n = 0;

    queue_walk_begin(&walk, state);
    for (const struct job *job; (job = queue_walk_next(&walk));)
        ids[n++] = job->r.id;
    queue_walk_end(&walk);
    *ret = ids;
    return n;
}
