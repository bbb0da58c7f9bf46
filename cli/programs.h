/* programs.h - where the programs that `hai` starts are: hai-schedd, hai-upd, hai-VERB. */
#pragma once
#include "lib/base.h"

/* The path of a program, looked for in $HAI_PROGRAMS (DIR:DIR), the folder of `hai` itself, the
 * folders beside that of a build tree, and PATH. The caller frees; NULL: nowhere. */
char *programs_find(const char *name);

/* Run one to its end with the caller's stdin, stdout and stderr. Returns its exit status (128+N for
 * a signal) or -Exxx. */
int programs_run(const char *path, char *const *argv);
