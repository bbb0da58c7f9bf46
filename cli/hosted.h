/* hosted.h - jobs by the words of HAI Platform: `hai python FILE ARGS -- -n N -p P --name X` runs
 * one process a node.
 */
#pragma once
#include "cli/cli.h"

#define HOSTED_DETAIL "The options after -- are those of hai submit: -n 2, -p 30, --name X, -f, ..."

/* Submit FILE ARGS of the command line with `before` (NULL-terminated) in front of it; the options
 * stand after `--`. */
int hosted_run(struct cli *cli, const char *const *before);
