/* shim_proto.h - what hai-agentd and hai-shim say to each other; nobody else speaks it.
 *
 * An agent may meet a shim that an older agent started: every frame begins with its own size and
 * version, fields are only added at the end of a struct, and a reader takes min(sent, known) bytes
 * of it, the rest being zero. Numbers are in the machine's own order: both ends are on one machine.
 *
 * The agent starts a shim with three descriptors: its listening Unix socket (it exists before the
 * shim does, so whoever can connect to it knows that the shim lives), a memory file with a struct
 * shim_spec, and one connected socket, as if accepted from the first.
 */
#pragma once
#include "lib/base.h"

enum {
    SHIM_VERSION = 1,
    SHIM_LISTEN_FD = 3,
    SHIM_SPEC_FD = 4,
    SHIM_AGENT_FD = 5,

    SHIM_FRAME_MAX = 64 * 1024, // of any frame, header included
    SHIM_CHUNK_MAX = 4096,      // bytes of output or input in one frame
    SHIM_MESSAGE_BYTES = 256,
};

/* How the processes of an attempt are held together, from the surest to the least sure. */
#define SHIM_BOXES(P, X)                                                                           \
    X(P, CGROUP2, "cgroup")                                                                        \
    X(P, FREEZER, "freezer cgroup")                                                                \
    X(P, PIDNS, "PID namespace")                                                                   \
    X(P, WALK, "process walk")
#define SHIM_BOX_VALUE_(prefix, suffix, text) prefix##_##suffix,
enum shim_box { SHIM_BOXES(SHIM_BOX, SHIM_BOX_VALUE_) SHIM_BOX_COUNT };

enum shim_cause { // as enum exit_cause of lib/pure/terms.h
    SHIM_CAUSE_SELF,
    SHIM_CAUSE_ORDER,
    SHIM_CAUSE_MEMORY,
    SHIM_CAUSE_LEASE,
    SHIM_CAUSE_START,
    SHIM_CAUSE_UNKNOWN,
};

/* What to run. After the struct: int32 groups[n_groups], int32 ranks[n_ranks] (global numbers),
 * then texts, each with its terminating zero: log_dir, workdir, cgroup, memory_cgroup, scratch_dir,
 * ckpt_dir (empty: none), args[n_args], env[n_env], and n_rank_env more of the environment for each
 * rank in turn. */
struct shim_spec {
    uint32_t n_bytes; // of the whole file
    uint32_t version;
    int64_t job;
    int64_t attempt;
    int64_t epoch;
    int64_t lease_until_us; // CLOCK_BOOTTIME
    int64_t log_bytes;      // of one of a rank's two files
    int64_t memory_bytes;   // 0: no limit
    uint32_t uid;
    uint32_t gid;
    uint32_t switch_user; // 0: stay who we are
    uint32_t box;
    uint32_t n_groups;
    uint32_t n_ranks;
    uint32_t n_args;
    uint32_t n_env;
    uint32_t n_rank_env;
    uint32_t first_local_rank;
};

struct shim_header {
    uint32_t n_bytes; // of the frame, this header included
    uint16_t version;
    uint16_t kind;
};

enum shim_kind {
    /* to the shim */
    SHIM_HELLO = 1, // answered with SHIM_STATE; exits and the end follow as they happen
    SHIM_LEASE,     // struct shim_time: the ranks may live until then
    SHIM_TERM,      // struct shim_time: SIGTERM to all ranks, SIGKILL at that time
    SHIM_KILL,      // SIGKILL now
    SHIM_RELEASE,   // all is recorded: end as soon as no process is left
    SHIM_WATCH,     // struct shim_watch: send this rank's output from now on
    SHIM_STDIN,     // bytes for rank 0 of the node; none: end of input
    /* from the shim */
    // struct shim_state, at least up to cgroup, then struct shim_rank_state for each rank, at least
    // up to message
    SHIM_STATE = 64,
    SHIM_EXIT,   // struct shim_rank_state
    SHIM_GONE,   // no process of the attempt is left, all output is written
    SHIM_OUTPUT, // bytes
};

struct shim_time {
    int64_t at_us; // CLOCK_BOOTTIME
};

struct shim_watch {
    uint32_t rank; // global
};

struct shim_rank_state {
    int32_t rank; // global
    int32_t pid;  // 0 where it is not known or no more there
    uint32_t exited;
    int32_t code;   // CLD_EXITED or CLD_KILLED
    int32_t status; // exit code or signal
    uint32_t cause; // enum shim_cause
    int64_t at_us;  // when it ended, since 1970
    char message[SHIM_MESSAGE_BYTES];
};

struct shim_state {
    int64_t job;
    int64_t attempt;
    int64_t epoch;
    int64_t started_us; // since 1970
    int64_t lease_until_us;
    uint32_t uid;
    uint32_t gid;
    uint32_t box;
    uint32_t gone;
    uint32_t n_ranks;
    uint32_t rank_bytes; // sizeof(struct shim_rank_state) of the sender
    char cgroup[1024];   // where the ranks are; empty: none
};
