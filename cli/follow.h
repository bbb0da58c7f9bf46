/* follow.h - fetch the output of a job's ranks over all its attempts, and stay with it to its end.
 *
 * Two connections: one asks for output, one watches the job; both requests are held by the
 * scheduler until there is something. A scheduler that is away is waited for.
 */
#pragma once
#include "cli/cli.h"

enum follow_form {
    FOLLOW_PREFIX, // as hai logs -f
    FOLLOW_PLAIN,  // as hai run: text as it was written, what hai says on stderr
};

enum { FOLLOW_ALL_RANKS = -1 };

struct follow_options {
    enum follow_form form;
    bool follow;     // to the job's end
    int64_t rank;    // or FOLLOW_ALL_RANKS
    int64_t attempt; // 0: all
    const char *grep;
};

/* Show the output of a job (id or name; NULL: the last submitted). Returns an exit status: with
 * follow the job's own. */
int follow_output(struct cli *cli, const char *job, const struct follow_options *options);

/* Rank 0 of a job just submitted, to its end. */
int follow_job(struct cli *cli, int64_t job, enum follow_form form);

/* GET, again and again while the scheduler is away, for two minutes. Says on stderr that it waits.
 */
int follow_ask(struct cli *cli, const char *target, struct json **ret, struct hai_err *err);

/* Wait until a job has ended; *ret is its view. Waits for a scheduler that is away. */
int follow_wait(struct cli *cli, const char *job, struct json **ret, struct hai_err *err);
