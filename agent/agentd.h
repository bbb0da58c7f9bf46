/* agentd.h - what the parts of hai-agentd share: one thread, one loop, one node.
 *
 * Parts: attempts (what runs here), uplink (polls and reports), news (for the next report),
 * rankhub (ranks' sockets), rounds and meeting (rendezvous), rankstream (logs, attach, shell),
 * logkeep (old output).
 */
#pragma once
#include "agent/accounts.h"
#include "agent/cgroups.h"
#include "agent/core/reconcile.h"
#include "agent/holder.h"
#include "agent/launch.h"
#include "agent/marks.h"
#include "lib/loop.h"
#include "lib/pure/map.h"
#include "wire/http_client.h"
#include "wire/messages.h"

struct agentd;
struct rankhub;
struct rounds;
struct uplink;
struct meeting;
struct rankstreams;

/* An attempt whose shim is here, or is being started or looked for. */
struct attempt {
    struct agentd *agentd;
    struct reconcile_key key;
    char *dir; // run directory: sockets
    struct holder *holder;
    bool adopting; // its shim has not said yet what it holds
    bool gone;
    struct loop_source *ending; // its shim is dead and something it held is not yet: look again
    bool end_told;              // that something is left was logged
    int64_t lease_sent_us;
    struct shim_state state;        // .job is 0 until the shim has spoken
    struct desired_attempt desired; // .job is 0 until the scheduler has
    struct job_spec spec;           // of desired.spec
    struct rankhub *hub;
    struct rounds *rounds; // all-gathers of its ranks
};

struct agentd {
    struct loop *loop;
    struct loop_source *quiet; // timer: nothing has happened for a moment
    struct loop_source *sweep; // timer: look for output that is too old or too much
    struct agentd_config config;
    int lock_fd; // nobody else is this node's agent
    char *shim;  // path of hai-shim
    char *hai_train;
    char *scratch_dir;
    char *ckpt_dir;
    char instance[65];
    int64_t started_us; // the instance; CLOCK_BOOTTIME
    char boot_id[65];
    struct http_client *client;
    struct reconcile *core;
    struct marks *marks;
    struct cgroups cgroups;
    struct accounts *accounts;
    struct launch_node launch;
    struct agent_desired desired; // newest answer
    struct reconcile_want *wants; // made from it
    int64_t lease_until_us;       // CLOCK_BOOTTIME
    int64_t clock_offset_us;      // the scheduler's clock less CLOCK_BOOTTIME, S_ABSENT: not told
    struct attempt **attempts;
    size_t n_attempts, n_attempts_max;
    size_t n_adopting;
    bool foreign; // the scheduler is another cluster's: end everything of the old one first
    struct agent_report news; // progress and commits for the next report
    struct uplink *uplink;
    struct meeting *meeting;
    void (*round_complete)(struct attempt *at, const char *round); // rankhub_complete
    struct rankstreams *streams;
};
