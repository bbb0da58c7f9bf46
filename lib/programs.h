/* programs.h - where hai's own programs are that others of them start: hai-schedd, hai-shim,
 * hai-VERB. */
#pragma once
#include "lib/base.h"

/* The path of a program, looked for in $HAI_PROGRAMS (DIR:DIR), the folder of the running program,
 * the folders beside that of a build tree, and PATH. The caller frees; NULL: nowhere. */
char *programs_find(const char *name);

/* Run one to its end with the caller's stdin, stdout and stderr. Returns its exit status (128+N for
 * a signal) or -Exxx. */
int programs_run(const char *path, char *const *argv);
