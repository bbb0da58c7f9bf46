/* The picture of free room gives the answers of the plain search, whatever has happened. */
#include "scheduler/core/room.h"
#include "scheduler/core/spare.h"
#include "tests/unit/core_steps.h"

enum { STEPS = 1500, ASKED = 6, SEEDS = 12 };

struct trial {
    struct world w;
    struct rng rng;
    struct room *room;
    struct place_scratch plain, quick;
    int64_t avoid[2];
    int n_reserved;
};

static struct place_need some_need(struct trial *t) {
    struct rng *rng = &t->rng;
    const struct state *state = t->w.state;

    for (size_t i = 0; i < ARRAY_SIZE(t->avoid); i++)
        t->avoid[i] = rng_below(rng, state->n_nodes);
    const struct job *self = state->jobs_first;
    for (int64_t skip = rng_below(rng, 8); self && (skip > 0 || state_job_ended(self));
         self = self->next)
        skip--;
    return (struct place_need){
        .group = 0,
        .zones = rng_once_in(rng, 4) ? (uint64_t)1 << rng_below(rng, state->n_zones) : UINT64_MAX,
        .nodes = rng_once_in(rng, 2) ? 1 : 1 + rng_below(rng, 12),
        .gpus_per_node = rng_below(rng, 9),
        .cpus_per_node = 1 + rng_below(rng, 6),
        .cross_zones = rng_once_in(rng, 2),
        .recovers = rng_once_in(rng, 4),
        .reserve = state->n_reserves && rng_once_in(rng, 3)
                       ? state->reserves[rng_below(rng, (int64_t)state->n_reserves)].number
                       : 0,
        .avoid = t->avoid,
        .n_avoid = (size_t)rng_below(rng, 3),
        .keeps_apart = self && rng_once_in(rng, 4),
        .self = self,
    };
}

static void compare(struct trial *t) {
    for (int i = 0; i < ASKED && !test_failed(); i++) {
        struct place_need need = some_need(t);
        int plain = place_find(t->w.state, &need, &t->plain);
        CHECK_EQ(room_find(t->room, t->w.state, &need, &t->quick), plain);
        struct spread all = spread_fewest(t->w.state, &need, &t->plain);
        struct spread quick = room_fewest(t->room, t->w.state, &need, &t->quick);
        CHECK_EQ(spread_compare(quick, all), 0);
        /* A node of which a part is taken is no spare, and may lie better than those that are not.
         */
        CHECK(plain < 0 || need.cross_zones || spare_any(t->w.state) ||
              spread_compare(all, spread_of(t->w.state, t->plain.nodes, need.nodes)) <= 0);
        for (int64_t n = 0; plain == 0 && n < need.nodes; n++) {
            CHECK_EQ(t->quick.nodes[n].node, t->plain.nodes[n].node);
            CHECK_EQ(t->quick.nodes[n].gpus, t->plain.nodes[n].gpus);
        }
    }
}

/* Take what a job of this shape would get, first in the picture, then in the state. */
static void start_one(struct trial *t) {
    struct place_need need = some_need(t);
    struct entry_job_spec spec = world_spec();

    need.zones = UINT64_MAX;
    need.recovers = false;
    need.n_avoid = 0;
    need.keeps_apart = false;
    if (need.reserve)
        spec.reservation = state_reserve_find(t->w.state, need.reserve)->name;
    spec.nodes = need.nodes;
    spec.gpus_per_node = need.gpus_per_node;
    spec.cpus_per_node = need.cpus_per_node;
    spec.cross_zones = need.cross_zones;
    int64_t id = world_submit(&t->w, &spec);
    if (id < 0 || room_find(t->room, t->w.state, &need, &t->quick) < 0)
        return;
    struct entry_place place = {.job = id};
    for (int64_t i = 0; i < need.nodes; i++)
        *LIST_ADD(&place.nodes) = (struct entry_place_node){
            t->w.state->nodes[t->quick.nodes[i].node]->r.name, t->quick.nodes[i].gpus};
    room_take(t->room, t->w.state, &need, t->quick.nodes);
    CHECK_EQ(world_append(&t->w, "system:hai", ENTRY_PLACE, &place), 0, "%s", t->w.reply.err.text);
    free(place.nodes.items);
    compare(t); // before the picture has followed
}

static void end_one(struct trial *t) {
    struct job *job = t->w.state->jobs_first;

    for (int64_t skip = rng_below(&t->rng, 8); job && (skip > 0 || !state_job_live(job));
         job = job->next)
        skip -= state_job_live(job);
    if (!job)
        return;
    int64_t id = job->r.id;
    all_succeed(&t->w, id);
}

/* Set, change or remove one of three reservations, or let time pass. */
static void reserve_some(struct trial *t) {
    static const char *const names[] = {"x", "y", "z"};
    const struct state *state = t->w.state;
    struct entry_reserve_set set;
    char *name = (char *)names[rng_below(&t->rng, ARRAY_SIZE(names))], *user = (char *)"alice";
    struct entry_reserve_remove away = {name};
    struct entry_tick tick = {.due_us = S_ABSENT};

    switch (rng_below(&t->rng, 4)) {
    case 0:
        world_append(&t->w, "operate:root", ENTRY_RESERVE_REMOVE, &away); // may be none
        return;
    case 1:
        t->w.now_us += S(rng_below(&t->rng, 40));
        CHECK_EQ(world_append(&t->w, "system:hai", ENTRY_TICK, &tick), 0);
        return;
    }
    schema_init(entry_reserve_set_schema(), &set);
    set.name = name;
    if (rng_once_in(&t->rng, 2))
        set.from_us = t->w.now_us + S(1 + rng_below(&t->rng, 40));
    set.until_us = MAX(set.from_us, t->w.now_us) + S(1 + rng_below(&t->rng, 99));
    for (int64_t n = 1 + rng_below(&t->rng, 6); n > 0; n--)
        *LIST_ADD(&set.nodes) = state->nodes[rng_below(&t->rng, state->n_nodes)]->r.name;
    if (!rng_once_in(&t->rng, 3))
        *LIST_ADD(&set.users) = user;
    int r = world_append(&t->w, "operate:root", ENTRY_RESERVE_SET, &set);
    CHECK(r == 0 || r == -EEXIST, "%s", t->w.reply.err.text); // another one may have a node
    t->n_reserved += r == 0;
    free(set.nodes.items);
    free(set.users.items);
}

static void run(uint64_t seed) {
    struct trial t = {.rng = {seed}, .room = room_new()};
    struct world_cluster cluster = {.n_zones = 1 + (int)rng_below(&t.rng, 3),
                                    .leaves_per_zone = 1 + (int)rng_below(&t.rng, 4),
                                    .nodes_per_leaf = 1 + (int)rng_below(&t.rng, 9),
                                    .gpus = 8,
                                    .cpus = 16,
                                    .nvlink = rng_once_in(&t.rng, 2) ? 2 : 0,
                                    .spares = rng_once_in(&t.rng, 2) ? rng_below(&t.rng, 5) : 0};

    world_init(&t.w);
    world_cluster(&t.w, &cluster);
    struct entry_user_set user = {(char *)"alice", 1000, 1000, SCOPE_SUBMIT, false};
    CHECK_EQ(world_append(&t.w, "admin:root", ENTRY_USER_SET, &user), 0);
    for (int i = 0; i < STEPS && !test_failed(); i++) {
        room_follow(t.room, t.w.state);
        compare(&t);
        switch (rng_below(&t.rng, 9)) {
        case 0:
            change_a_node(&t.w, &t.rng);
            break;
        case 1:
        case 2:
        case 3:
            end_one(&t);
            break;
        case 4:
            reserve_some(&t);
            break;
        default:
            start_one(&t);
        }
        world_clear(&t.w);
    }
    CHECK(t.n_reserved > STEPS / 100, "%d reservations", t.n_reserved);
    CHECK(!test_failed(), "seed %llu", (unsigned long long)seed);
    place_scratch_free(&t.plain);
    place_scratch_free(&t.quick);
    room_free(t.room);
    world_free(&t.w);
}

TEST(room_finds_what_the_plain_search_finds)
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++)
        run(seed);
}
