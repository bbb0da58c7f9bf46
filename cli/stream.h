/* stream.h - a two-way connection to a rank: attach and shell (frames of wire/frame.h's form). */
#pragma once
#include "cli/cli.h"

struct stream_options {
    const char *kind; // attach or shell
    int64_t rank;
    bool tty;            // a terminal on both sides
    const char *command; // JSON array of words for shell; NULL: the user's shell
};

/* Join stdin, stdout and stderr with the rank until one side ends. *ret receives the exit status
 * that the other side gave. -EEXIST: the rank does not run now; -ECONNRESET: the stream broke;
 * -EHOSTDOWN: the scheduler, or the node, is away. */
int stream_join(struct cli *cli, const char *job, const struct stream_options *options, int *ret,
                struct hai_err *err);

/* The same; tells what went wrong and returns an exit status. */
int stream_run(struct cli *cli, const char *job, const struct stream_options *options);
