/* upd_daemon.h - one daemon that hai-upd keeps running: start, restart with growing pauses, stop.
 *
 * A daemon that ends is started again after UPD_RESTART_MIN_US, doubling to UPD_RESTART_MAX_US; one
 * that ran for UPD_RESTART_GOOD_US begins anew. Its output goes to a log file.
 */
#pragma once
#include "agent/upd_box.h"
#include "lib/loop.h"

#define UPD_RESTART_MIN_US INT64_C(100000)
#define UPD_RESTART_MAX_US INT64_C(5000000)
#define UPD_RESTART_GOOD_US INT64_C(10000000)

struct upd_daemon;

/* name    for log lines
 * argv    NULL-terminated, copied; argv[0] is the path of the program
 * log     file that receives stdout and stderr, appended to
 * box     NULL: none; borrowed
 * Started by the first upd_daemon_start. */
struct upd_daemon *upd_daemon_new(struct loop *loop, const char *name, const char *const argv[],
                                  const char *log, const struct upd_box *box);
void upd_daemon_free(struct upd_daemon *daemon);

void upd_daemon_start(struct upd_daemon *daemon);

/* Between the two it is not started, whoever ends it; the second starts it where it does not run.
 */
void upd_daemon_hold(struct upd_daemon *daemon);
void upd_daemon_resume(struct upd_daemon *daemon);

/* No restart from now on; send a signal if it runs (0: none). */
void upd_daemon_stop(struct upd_daemon *daemon, int signal);

bool upd_daemon_running(const struct upd_daemon *daemon);
