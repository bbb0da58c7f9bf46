/* evalkl.h - `hai-eval kl`: how far one model's predictions are from another's over a text. */
#pragma once
#include "lib/base.h"

/* argv[0] is "kl"; usage is what --help prints. Returns the exit status; messages are printed. */
int evalkl_main(int argc, char **argv, const char *usage);
