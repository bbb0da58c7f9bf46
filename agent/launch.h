/* launch.h - what an attempt's ranks are started with: arguments, environment, directories;
 * as the start message of a shim.
 *
 * Makes texts from texts; starting the shim is holder.h's business.
 */
#pragma once
#include "agent/shim_proto.h"
#include "lib/pure/buf.h"
#include "wire/messages.h"

/* What the node adds to every job. Texts are borrowed. */
struct launch_node {
    const char *node;
    const char *log_dir;     // of all jobs
    const char *ckpt_dir;    // root of the default HAI_CKPT_DIR
    const char *scratch_dir; // root
    const char *hai_train;   // program for kind train; NULL: not found
    const char *path;        // PATH of ranks
    enum shim_box box;
    const char *cgroup;        // below which the attempt gets its own; NULL: none
    const char *memory_cgroup; // v1 memory hierarchy likewise; NULL: none
    int64_t rank_log_bytes;
    bool switch_user; // we may become the submitting user
};

/* Whose processes they are. */
struct launch_account {
    uint32_t uid, gid;
    const char *name, *home, *shell;
    const int32_t *groups; // supplementary
    size_t n_groups;
};

/* Environment of one rank (index into desired->ranks): `NAME=value` texts. The job's own variables
 * override the system's, hai's override the job's. rank_socket: HAI_SOCKET. */
struct launch_texts {
    char **items;
    size_t n;
};
void launch_env(const struct launch_node *node, const struct launch_account *account,
                const struct desired_attempt *desired, const struct job_spec *spec,
                const char *rank_socket, size_t index, struct launch_texts *ret);
void launch_texts_free(struct launch_texts *texts);

/* What each rank runs. -ENOENT: kind train without hai-train; -EINVAL: nothing to run. */
int launch_args(const struct launch_node *node, const struct job_spec *spec,
                struct launch_texts *ret, struct hai_err *err);

/* The start message. Appends to ret. */
int launch_spec(const struct launch_node *node, const struct launch_account *account,
                const struct desired_attempt *desired, const struct job_spec *spec,
                const char *rank_socket, int64_t lease_until_us, struct buf *ret,
                struct hai_err *err);

/* The cgroup of an attempt below a base, NULL without one. The caller frees. */
char *launch_cgroup(const char *base, int64_t job, int64_t attempt, int64_t epoch);

/* The attempt's directory of output, and its default HAI_CKPT_DIR or the one of the job; in
 * that one elements of an array have each their own, named after the index. The caller frees. */
char *launch_log_dir(const char *log_dir, int64_t job, int64_t attempt);
char *launch_ckpt_dir(const struct launch_node *node, const struct desired_attempt *d,
                      const struct job_spec *spec);
