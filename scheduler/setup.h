/* setup.h - making a scheduler: `hai-schedd init`, and keeping the state as the cluster file says.
 *
 * STATE_DIR receives the store, `secret` (32 bytes, from which the attempts' secrets are derived),
 * `schedd.yaml` (the configuration) and `tokens/` with the only copies of the tokens: admin, and
 * node-NAME for each node, mode 0600. Doing it again changes only what is missing.
 */
#pragma once
#include "scheduler/turn.h"
#include "wire/messages.h"

struct setup_options {
    const char *state_dir;
    const char *cluster; // cluster file
    const char *listen;  // NULL: as in schedd_config
    const char *user;    // owner of the admin token
    int64_t uid, gid;    // its ranks run as
};

int setup_run(const struct setup_options *options, struct hai_err *err);

/* Append and commit what the cluster file says and the state does not know: cluster, accounts. */
int setup_describe(struct turn *turn, const struct cluster_file *cluster, struct hai_err *err);

/* Read STATE_DIR/secret. */
int setup_secret(const char *state_dir, uint8_t ret[static DIGEST_BYTES], struct hai_err *err);
