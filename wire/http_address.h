/* http_address.h - where an HTTP server listens: `127.0.0.1:7480`, `[::1]:0`,
 * `unix:/run/hai/x.sock`.
 */
#pragma once
#include "lib/base.h"
#include <sys/types.h>

/* A listening socket, non-blocking and closed on exec. ret_port: the port taken, 0 for a Unix
 * socket, whose file gets exactly unix_mode and replaces an old socket (nothing else) there. Names
 * are not resolved. -EINVAL: no such form. */
int http_address_listen(const char *address, mode_t unix_mode, int *ret_port, struct hai_err *err);

/* A connected socket, blocking for at most timeout_ms. For names too: tries what they resolve to.
 */
int http_address_connect(const char *address, int timeout_ms, struct hai_err *err);

/* The path of a `unix:` address, else NULL. */
const char *http_address_path(const char *address);
