/* stream.h - a two-way connection to a rank: attach and shell (frames of wire/frame.h's form). */
#pragma once
#include "cli/cli.h"

struct stream_options {
    const char *kind; // attach or shell
    int64_t rank;
    bool tty;            // a terminal on both sides
    const char *command; // JSON array of words for shell; NULL: the user's shell
};

/* Join stdin, stdout and stderr with the rank until one side ends. Returns an exit status: the one
 * that the other side gave. */
int stream_run(struct cli *cli, const char *job, const struct stream_options *options);
