/* schedd.h - the daemon: its parts put together and run in one event loop. */
#pragma once
#include "lib/base.h"

/* Run until SIGTERM or SIGINT. listen overrides the configuration's address, NULL does not. Returns
 * 0 at an orderly end, negative if it could not start or go on. */
int schedd_run(const char *config_path, const char *listen, struct hai_err *err);
