/* local.h - the files and processes of a cluster of `hai up`: DIR and what lies below it.
 *
 * DIR/cluster.yaml, schedd.yaml, client.yaml, upd.pid, log/, schedd/ (state of the scheduler),
 * nodes/NAME/ (agentd.yaml, state, run), jobs/ (output of ranks), ckpt/ (their default checkpoints,
 * of all nodes together as on shared storage). hai-upd supervises the daemons.
 */
#pragma once
#include "cli/clientconf.h"

struct local_shape {
    int64_t nodes, gpus, zones;
    const char *cluster; // a cluster file instead; NULL: made from the numbers
};

/* Make or complete DIR. port 0: the one of an earlier start, else any free one; ret_port receives
 * it. -EEXIST: another cluster lies there; -EADDRINUSE: the port is taken. */
int local_prepare(const char *dir, const struct local_shape *shape, bool shape_given, int port,
                  const struct clientconf_user *user, int *ret_port, struct hai_err *err);

/* Whether the cluster that runs in DIR is the one that is asked for. port -1: any. -EEXIST: it has
 * another shape or port, or its cluster file was changed since it was started. */
int local_same(const char *dir, const struct local_shape *shape, bool shape_given, int port,
               struct hai_err *err);

/* After `hai-schedd init`: an agentd.yaml for every node that has a token, and client.yaml. Returns
 * the number of nodes. */
int local_configure(const char *dir, int port, const struct clientconf_user *user,
                    struct hai_err *err);

/* The DIR whose client.yaml $HAI_CONFIG names; it may have been purged, so that nothing of hai is
 * there (local_port is 0). NULL: it names the file of a cluster elsewhere. The caller frees. */
char *local_of_config(void);

/* The supervisor of DIR: its pid, or 0 when none runs. */
int local_supervisor(const char *dir);

/* Start it in a session of its own. Returns its pid. */
int local_start(const char *dir, const char *program, struct hai_err *err);

/* End it and wait, then whatever of the cluster is still there. Returns how many processes of the
 * cluster had to be ended besides it. */
int local_stop(const char *dir, int64_t timeout_s, struct hai_err *err);

/* Remove what local_prepare and the daemons made; DIR too when nothing else is in it. Returns 1, or
 * 0 where there was nothing. */
int local_purge(const char *dir, struct hai_err *err);

/* The port in DIR/schedd.yaml, 0 if there is none. */
int local_port(const char *dir);

/* True if nobody listens on 127.0.0.1:port. */
bool local_port_free(int port);
