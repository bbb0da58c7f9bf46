/* joins.h - two raw byte streams joined: what comes from one goes to the other.
 *
 * A join waits until it has both ends. It ends when either does, after what was read from it has
 * been written to the other.
 */
#pragma once
#include "lib/loop.h"
#include "wire/http_raw.h"

struct joins; // all that are open
struct join;

struct joins *joins_new(struct loop *loop);
void joins_free(struct joins *joins);
DEFINE_CLEANUP(struct joins *, joins_free)

void joins_close_all(struct joins *joins);

struct join *joins_open(struct joins *joins);
void joins_close(struct join *join);

/* Give a join one of its ends, 0 or 1; raw is taken over. */
void joins_add(struct join *join, int end, struct http_raw *raw);
