/* each.h - requests that change jobs or nodes, one after another, with the question before more
 * than one.
 */
#pragma once
#include "cli/cli.h"

/* POST PREFIX/WORD/action for every word of the command line.
 *
 * prefix  "/api/v1/jobs" or "/api/v1/nodes"
 * done    past form for the line of each, e.g. "stopping"
 * body    JSON text
 *
 * Every one is tried; returns the status of the first failure. With --json the answers are printed,
 * as an array when there are several words.
 */
int each_change(struct cli *cli, const char *prefix, const char *action, const char *done,
                const char *body);
