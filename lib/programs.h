/* programs.h - where hai's own programs are that others of them start: hai-schedd, hai-shim,
 * hai-VERB. */
#pragma once
#include "lib/base.h"
#include "lib/pure/buf.h"
#include <sys/types.h>

/* The path of a program, looked for in $HAI_PROGRAMS (DIR:DIR), the folder of the running program,
 * the folders beside that of a build tree, and PATH. The caller frees; NULL: nowhere. */
char *programs_find(const char *name);

/* Run one to its end with the caller's stdin, stdout and stderr. Returns its exit status (128+N for
 * a signal) or -Exxx. */
int programs_run(const char *path, char *const *argv);

/* The same, with its stdout appended to ret: at most n_bytes_max. */
int programs_read(const char *path, char *const *argv, size_t n_bytes_max, struct buf *ret,
                  struct hai_err *err);

/* Fork a child that works for the caller and goes when it goes: SIGKILL then, and no signal blocked
 * until then. What it inherits (locks, listening sockets) would else outlive the caller and be in
 * the way of its successor. Returns 0 in the child, its pid in the caller, or -errno. */
pid_t programs_fork(void);
