/* rankline.h - what one line of a rank says (rank/rank.h is the protocol): text in, values out.
 *
 * Reads bytes of whoever runs in the job. Whether the rank may say it now, and what follows from
 * it, is rankhub.h's business.
 */
#pragma once
#include "lib/pure/buf.h"
#include "rank/rankproto.h"
#include "wire/messages.h"

enum rankline_kind {
    RANKLINE_HELLO,
    RANKLINE_PROGRESS, // or a phase
    RANKLINE_COMMIT,
    RANKLINE_GATHER,
};

/* The fields of its kind are set; texts that are no arrays point into the line. */
struct rankline {
    enum rankline_kind kind;
    int64_t rank;                  // hello
    struct progress_view progress; // progress: for rankline_clear
    int64_t step;                  // commit
    char digest[65];               //
    const char *dir;               //
    char round[RANK_NAME_MAX + 1]; // gather
    const char *hex;               //
};

/* The next whole line of what came, behind *at, which moves past it; its line feed becomes a zero.
 * NULL: there is none yet. */
char *rankline_next(struct buf *in, size_t *at);

/* Take a line apart; it is changed. 0, or -EINVAL with words for the rank, and nothing to clear. */
int rankline_parse(char *line, struct rankline *ret, struct hai_err *err);
void rankline_clear(struct rankline *line);
