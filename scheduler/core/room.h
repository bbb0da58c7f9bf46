/* room.h - what is free where: a picture of the nodes that decisions are tried out on.
 *
 * Pure. It follows a state by the nodes that were touched meanwhile, so keeping up costs what
 * changed. What is proposed is taken from the picture at once; the next room_follow asks the state
 * what became of it. Nodes stand in bitmaps by the number of their free GPUs, so that a search sees
 * only those that may fit: its answers are those of place_find, which looks at every node and is
 * the truth in tests.
 */
#pragma once
#include "scheduler/core/spread.h"

struct room;

struct room *room_new(void);
void room_free(struct room *room);
DEFINE_CLEANUP(struct room *, room_free)

/* Be as the state is. A room belongs to one state: throw it away when another takes its place. */
void room_follow(struct room *room, const struct state *state);

/* As place_find. Returns 0 with the answer in scratch->nodes, or -ENOSPC. */
int room_find(const struct room *room, const struct state *state, const struct place_need *need,
              struct place_scratch *scratch);

/* As spread_fewest. Stays as it is while room_service does: that grows when nodes come into service
 * or go out of it, reservations begin or end, or the cluster is described anew. */
struct spread room_fewest(const struct room *room, const struct state *state,
                          const struct place_need *need, struct place_scratch *scratch);
uint64_t room_service(const struct room *room);

/* As place_could of nodes in service: would there be room if all were idle? */
bool room_could(const struct room *room, const struct state *state, const struct place_need *need,
                struct place_scratch *scratch);

/* Take what an answer holds, until the next room_follow. */
void room_take(struct room *room, const struct state *state, const struct place_need *need,
               const struct place_node *nodes);

/* Give back what was taken, or what a job holds by the state: for a picture that is led on beyond
 * the state. */
void room_give(struct room *room, const struct state *state, const struct place_need *need,
               const struct place_node *nodes);

/* For the same: another time; another reservation that has a node (0: none), and when the next one
 * takes it (0: none does). */
void room_time(struct room *room, int64_t now_us);
void room_keep(struct room *room, int node, int64_t reserve, int64_t coming_us);

/* What is free of a node; false: it is not in service. */
struct room_amount {
    uint32_t gpus; // set
    int64_t cpus;
    int64_t memory_bytes; // INT64_MAX: not accounted
};
bool room_free_of(const struct room *room, int node, struct room_amount *ret);

/* A map of the spares; as_idle: as if nothing ran. Only where a group keeps some (spare_any). */
const uint64_t *room_spares(const struct room *room, const struct state *state, bool as_idle);

/* Another picture becomes as this one is, or one node of it does. room_limit: of what is free of a
 * node no more than so much counts as free, though it may be idle; room_cross: n gangs more than
 * there are span zones. */
void room_copy(struct room *to, const struct room *from, const struct state *state);
void room_copy_node(struct room *to, const struct room *from, int node);
void room_limit(struct room *room, const struct state *state, int node, int64_t gpus, int64_t cpus,
                int64_t memory_bytes);
void room_cross(struct room *to, const struct room *from, int64_t n);

/* What if: between the two, changes of the picture are remembered, and room_trial_end undoes them;
 * room_trial_back undoes those since a mark. room_leave: the job leaves all that it holds. */
struct room_mark {
    size_t n_undo;
    int64_t cross;
};
void room_trial_begin(struct room *room);
struct room_mark room_trial_mark(const struct room *room);
void room_trial_back(struct room *room, struct room_mark mark);
void room_leave(struct room *room, const struct state *state, const struct job *job);
void room_trial_end(struct room *room);
