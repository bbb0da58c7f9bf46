/* jobstop.h - SIGINT and SIGTERM in programs that write a new folder: what they began is removed,
 * and they end with 130 or 143, as a shell says of who was killed so.
 */
#pragma once
#include "lib/base.h"

/* From here on they end the program at once, with that status. Before threads are started. */
void jobstop_catch(void);

/* From here on they are only noted: there is something to remove. Whoever writes looks. */
void jobstop_hold(void);

/* 0, or -EINTR: one has come. */
int jobstop_look(void);

/* The status to end with after a failure: 130 or 143 where jobstop_look ended the work, else the
 * one given. */
int jobstop_status(const struct hai_err *err, int status);
