/* rounds.h - the values of an attempt's all-gathers as far as they have come, by round and rank.
 *
 * Text in, text out: values are hexadecimal, as ranks and agents send them. Who sends what to whom
 * is rankhub.h's and meeting.h's business.
 */
#pragma once
#include "lib/base.h"
#include "lib/pure/buf.h"

struct rounds;

/* n_ranks: of the whole attempt. */
struct rounds *rounds_new(int64_t n_ranks);
void rounds_free(struct rounds *rounds);

/* Keep a value. The first one of a rank stays. -EINVAL: no such rank, not hexadecimal or too long;
 * -ENOBUFS: too many rounds. */
int rounds_add(struct rounds *rounds, const char *round, int64_t rank, const char *hex);

/* Keep `RANK HEX` lines. -EINVAL at the first bad one. */
int rounds_add_lines(struct rounds *rounds, const char *round, const char *lines, size_t n_bytes);

/* Are the values of the ranks [first, first + n) there? */
bool rounds_has(const struct rounds *rounds, const char *round, int64_t first, int64_t n);
bool rounds_has_all(const struct rounds *rounds, const char *round);
int64_t rounds_n_ranks(const struct rounds *rounds);

/* The value of a rank, NULL if it has not come. */
const char *rounds_value(const struct rounds *rounds, const char *round, int64_t rank);

/* Append the values of [first, first + n) that are there as `RANK HEX` lines. */
void rounds_lines(const struct rounds *rounds, const char *round, int64_t first, int64_t n,
                  struct buf *ret);
