/* shim.h - the inside of hai-shim: one process that holds all ranks of one attempt on one node.
 *
 * It starts them as the submitting user, captures their output, remembers how they ended until the
 * agent says that this is recorded, and owns the lease: at its deadline the ranks die, agent or no
 * agent. It outlives the agent, so it does little, links libc only and stays below 2 MB.
 * Parts: shim_start (spec, rank processes), shim_box (what contains them), shim_output (files),
 * shim_control (connections of agents), shim_life (orders and ends), hai-shim.c (the loop).
 */
#pragma once
#include "agent/shim_proto.h"
#include "lib/pure/buf.h"
#include <sys/types.h>

enum {
    SHIM_CONNECTIONS_MAX = 64,
    SHIM_STDIN_MAX = 64 * 1024, // waiting for rank 0 to read
};

struct shim_rank {
    struct shim_rank_state state;
    int output_fd; // read end; -1 after its end
    int log_fd;    // -1: cannot be written
    int64_t log_base;
    int64_t log_bytes; // of the current file
    int line_bytes;    // of the line being written; 0: at its start
    int64_t lost_bytes;
};

struct shim_connection {
    int fd;     // -1: free
    int watch;  // index of a rank, -1
    bool feeds; // gives rank 0 its input, and waits where that does not read it
    struct buf in, out;
};

struct shim {
    pid_t pid; // our own
    const struct shim_spec *spec;
    const int32_t *groups;
    const int32_t *ranks_global;
    const char *log_dir, *workdir, *cgroup, *memory_cgroup, *scratch_dir, *ckpt_dir;
    char **args;
    char **env; // room for n_rank_env more
    char **rank_env;

    struct shim_rank *ranks;
    int n_alive;
    int64_t started_us;
    int error_fd;     // a file of what ranks that could not start say, struct shim_start_error
    int64_t error_at; // read so far
    int stdin_fd;     // of the first rank; -1: closed
    struct buf stdin_data;
    bool stdin_end;

    int cgroup_fd;       // directory, SHIM_BOX_CGROUP2
    int cgroup_procs_fd; // SHIM_BOX_FREEZER
    int memory_procs_fd;
    pid_t init_pid;    // SHIM_BOX_PIDNS
    int init_fd;       // exits of its children
    int64_t oom_kills; // told of so far

    int64_t lease_until_us;
    int64_t term_asked_us; // orders of an agent, not yet carried out: kill_at_us of SIGTERM,
    bool kill_asked;       // SIGKILL
    int64_t kill_at_us;    // 0: no order yet
    enum shim_cause order; // why the ranks are being ended; SHIM_CAUSE_SELF: they are not
    bool killing;
    bool gone;
    bool release;
    struct shim_connection connections[SHIM_CONNECTIONS_MAX];
};
