#include "engine/infer/batcher_impl.h"

static uint32_t bucket_of(const struct batcher *b, uint64_t id) {
    return (uint32_t)((id * UINT64_C(0x9E3779B97F4A7C15)) >> 32) & b->user_mask;
}

int32_t batcher_lines_find(const struct batcher *b, uint64_t id) {
    int32_t i = b->user_buckets[bucket_of(b, id)];

    while (i != NONE && b->users[i].id != id)
        i = b->users[i].chain;
    return i;
}

static void idle_add(struct batcher *b, int32_t i) {
    b->users[i].idle_next = NONE;
    b->users[i].idle_before = b->idle_last;
    if (b->idle_last == NONE)
        b->idle_first = i;
    else
        b->users[b->idle_last].idle_next = i;
    b->idle_last = i;
}

static void idle_remove(struct batcher *b, int32_t i) {
    struct user *u = &b->users[i];

    if (u->idle_before == NONE)
        b->idle_first = u->idle_next;
    else
        b->users[u->idle_before].idle_next = u->idle_next;
    if (u->idle_next == NONE)
        b->idle_last = u->idle_before;
    else
        b->users[u->idle_next].idle_before = u->idle_before;
}

int32_t batcher_lines_user(struct batcher *b, uint64_t id) {
    int32_t i = batcher_lines_find(b, id), *link = NULL;

    if (i != NONE)
        return i;
    if (b->n_users < b->config.n_requests_max) {
        i = b->n_users++;
    } else {
        // Whoever has had nothing to do for the longest time is forgotten.
        i = b->idle_first;
        assert(i != NONE);
        idle_remove(b, i);
        for (link = &b->user_buckets[bucket_of(b, b->users[i].id)]; *link != i;)
            link = &b->users[*link].chain;
        *link = b->users[i].chain;
    }
    link = &b->user_buckets[bucket_of(b, id)];
    b->users[i] = (struct user){.id = id, .weight = 1, .chain = *link};
    for (int l = 0; l < BATCHER_LEVELS; l++)
        b->users[i].levels[l].first = b->users[i].levels[l].last = NONE;
    *link = i;
    idle_add(b, i);
    return i;
}

void batcher_lines_enter(struct batcher *b, struct request *r) {
    struct user *u = &b->users[r->user];
    struct user_level *ul = &u->levels[r->level];
    const struct level *level = &b->levels[r->level];

    if (u->n++ == 0)
        idle_remove(b, r->user);
    if (ul->n++ > 0)
        return;
    ul->admitted = MAX(ul->admitted, level->admitted);
    ul->served = MAX(ul->served, level->served);
}

void batcher_lines_leave(struct batcher *b, struct request *r) {
    struct user *u = &b->users[r->user];

    assert(u->levels[r->level].n > 0);
    u->levels[r->level].n--;
    if (--u->n == 0)
        idle_add(b, r->user);
}

/* The level knows the user by his first request, or not at all. */
static void line_changed(struct batcher *b, int32_t user, int32_t level) {
    const struct user_level *ul = &b->users[user].levels[level];

    if (ul->first == NONE)
        heap_remove(&b->levels[level].users, user);
    else
        heap_set(&b->levels[level].users, user, ul->admitted, batcher_at(b, ul->first)->id);
}

void batcher_lines_push(struct batcher *b, struct request *r, bool from_front) {
    struct user_level *ul = &b->users[r->user].levels[r->level];
    struct level *level = &b->levels[r->level];
    int32_t i = batcher_index(b, r), before = from_front ? NONE : ul->last;

    // By numbers: first come, first served, also for those who were preempted or went up.
    if (from_front)
        for (int32_t next = ul->first; next != NONE && batcher_at(b, next)->id < r->id;
             next = batcher_at(b, next)->line_next)
            before = next;
    else
        while (before != NONE && batcher_at(b, before)->id > r->id)
            before = batcher_at(b, before)->line_before;
    r->line_before = before;
    r->line_next = before == NONE ? ul->first : batcher_at(b, before)->line_next;
    *(before == NONE ? &ul->first : &batcher_at(b, before)->line_next) = i;
    *(r->line_next == NONE ? &ul->last : &batcher_at(b, r->line_next)->line_before) = i;

    r->level_since_us = b->now_us;
    r->age_before = level->age_last;
    r->age_next = NONE;
    *(level->age_last == NONE ? &level->age_first : &batcher_at(b, level->age_last)->age_next) = i;
    level->age_last = i;
    b->counts.n_waiting++;
    line_changed(b, r->user, r->level);
}

void batcher_lines_remove(struct batcher *b, struct request *r) {
    struct user_level *ul = &b->users[r->user].levels[r->level];
    struct level *level = &b->levels[r->level];
    int32_t before = r->line_before, next = r->line_next;

    *(before == NONE ? &ul->first : &batcher_at(b, before)->line_next) = next;
    *(next == NONE ? &ul->last : &batcher_at(b, next)->line_before) = before;
    before = r->age_before;
    next = r->age_next;
    *(before == NONE ? &level->age_first : &batcher_at(b, before)->age_next) = next;
    *(next == NONE ? &level->age_last : &batcher_at(b, next)->age_before) = before;
    b->counts.n_waiting--;
    line_changed(b, r->user, r->level);
}

int32_t batcher_lines_level(const struct batcher *b) {
    int32_t l = BATCHER_LEVELS - 1;

    while (l >= 0 && !heap_top(&b->levels[l].users))
        l--;
    return l;
}

struct request *batcher_lines_first(struct batcher *b) {
    int32_t l = batcher_lines_level(b);

    for (;;) {
        const struct heap_entry *top = heap_top(&b->levels[l].users);
        const struct user_level *ul = &b->users[top->item].levels[l];
        if (top->key == ul->admitted)
            return batcher_at(b, ul->first);
        line_changed(b, top->item, l);
    }
}

void batcher_lines_admitted(struct batcher *b, const struct request *r) {
    struct level *level = &b->levels[r->level];

    level->admitted = MAX(level->admitted, b->users[r->user].levels[r->level].admitted);
}

static int64_t charge_of(const struct user *u, int64_t n, int32_t cost) {
    return n * cost * TAG_UNIT / u->weight;
}

void batcher_lines_charge_admitted(struct batcher *b, const struct request *r, int64_t n,
                                   int32_t cost) {
    struct user *u = &b->users[r->user];

    u->levels[r->level].admitted += charge_of(u, n, cost);
}

void batcher_lines_charge_served(struct batcher *b, const struct request *r, int64_t n,
                                 int32_t cost) {
    struct user *u = &b->users[r->user];

    u->levels[r->level].served += charge_of(u, n, cost);
    u->levels[r->level].total += charge_of(u, n, cost);
}

void batcher_lines_promote(struct batcher *b) {
    int n_left = BATCHER_PROMOTIONS_MAX;

    if (b->config.age_us == 0)
        return;
    // From above, so that nobody goes up twice.
    for (int32_t l = BATCHER_LEVELS - 2; l >= 0; l--) {
        int32_t i;
        for (; n_left > 0 && (i = b->levels[l].age_first) != NONE; n_left--) {
            struct request *r = batcher_at(b, i);
            if (b->now_us - r->level_since_us < b->config.age_us)
                break;
            batcher_lines_remove(b, r);
            batcher_lines_leave(b, r);
            r->level++;
            batcher_lines_enter(b, r);
            batcher_lines_push(b, r, false);
        }
    }
}
