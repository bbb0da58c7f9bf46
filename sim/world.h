/* world.h - a scheduler without daemon and store: the core, its log in memory, and a clock.
 *
 * Pure. The simulator and the core's unit tests drive the core through it, as hai-schedd does.
 */
#pragma once
#include "scheduler/core/core.h"
#include "sim/naive.h"

/* One appended entry, as the log keeps it. */
struct world_entry {
    int64_t time_us;
    char *principal;
    int kind;
    int version;
    struct buf payload;
};

struct world {
    struct state *state;
    struct effects *fx;
    struct decide *decide;
    struct decide_list proposals;
    struct apply_reply reply; // of the last entry
    struct world_entry *log;  // entry with index i at [i - 1]
    size_t n_log, n_log_max;
    struct naive *naive; // what is decided is compared with it, NULL: not
    bool forget;         // keep no log: long replays of traces, which never restart
    struct buf snapshot; // of the state after the first n_snapshot entries; empty: none
    size_t n_snapshot;
    struct buf scratch; // payload of the entry that is being applied, when there is no log
    int64_t now_us;
    void (*appended)(void *userdata,
                     enum entry_kind kind); // an entry is applied; NULL: tell nobody
    void *userdata;
};

void world_init(struct world *w);
void world_free(struct world *w);

/* Append an entry at w->now_us, or 1 us after the last one, and apply it. payload is the kind's
 * struct. Returns what apply_entry returned; more in w->reply. */
int world_append(struct world *w, const char *principal, enum entry_kind kind, const void *payload);

/* Decide, and append what was proposed, until nothing more is. Returns how many were placed. */
size_t world_decide(struct world *w);

/* Let time pass, with a tick whenever one is due. */
void world_pass(struct world *w, int64_t us);

/* Start the scheduler anew, unless it forgets, from the log (snapshot false) or from an encoding of
 * the state (true).
 */
void world_restart(struct world *w, bool snapshot);

/* Kill it before it committed what it applied: of the log the first n_kept entries are left. What
 * it will know when it starts again, which _start says, is made from the newest snapshot. */
void world_crash(struct world *w, size_t n_kept);
void world_start(struct world *w);

/* Keep an encoding of the state; what is in the log until now is not taken back any more. */
void world_snapshot(struct world *w);

/* Apply one entry of a log. */
void world_apply(struct state *state, const struct world_entry *entry, size_t index,
                 struct effects *fx);

/* Apply a log to an empty state. The caller frees the result. */
struct state *world_replay(const struct world_entry *log, size_t n);

/* Forget what the last batch touched. */
void world_clear(struct world *w);

/* A cluster of n_zones x leaves_per_zone x nodes_per_leaf nodes, all up, one group `default`; zones
 * a, b, ...; nodes a1, a2, ... Leases: 10 s and 1 s of drift, or a lone scheduler's 600 s and 2 s.
 */
struct world_cluster {
    int n_zones, leaves_per_zone, nodes_per_leaf;
    int gpus, cpus;
    bool lone;
    bool fence;
    int64_t min_run_us;              // 0: jobs share no time
    int64_t spares;                  // of the group
    int64_t nvlink;                  // GPUs that are linked; 0: none
    int64_t fair_share_us, aging_us; // 0: off
    int64_t backfill;                // without min_run_us: planned starts, 0: nobody passes
};

void world_cluster(struct world *w, const struct world_cluster *cluster);

/* Submit for a user; spec's user, name and group may be NULL for alice, job and default, and 0 in
 * nodes and ranks_per_node stands for 1. Start from world_spec(). Returns the id, or why not. */
struct entry_job_spec world_spec(void);
int64_t world_submit(struct world *w, const struct entry_job_spec *spec);

/* Log files: entries one after the other. world_load adds to nothing else than an empty log and
 * returns 0 or -EBADMSG. */
void world_save(const struct world *w, struct buf *ret);
int world_load(const void *data, size_t n_bytes, struct world_entry **ret, size_t *ret_n);
void world_log_free(struct world_entry *log, size_t n);
