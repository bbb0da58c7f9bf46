/* watch.h - who waits for a change: blocking queries.
 *
 * A waiter names a topic; when something of it changed, or its time is over, it is taken off the
 * list and its function is called, which looks again and answers or waits once more. Nothing is
 * remembered between the two, so a query must compare indexes itself.
 */
#pragma once
#include "lib/loop.h"

enum watch_topic { WATCH_JOB, WATCH_EVENTS, WATCH_NODES, WATCH_TOPIC_COUNT };

struct watch;
struct watch_item;

struct watch *watch_new(struct loop *loop);
void watch_free(struct watch *watch); // nobody may wait any more
DEFINE_CLEANUP(struct watch *, watch_free)

/* Wait until the topic changes (WATCH_JOB: of that job) or wait_us passed. fn is called once, in a
 * later turn: not from within this call or watch_wake. */
struct watch_item *watch_add(struct watch *watch, enum watch_topic topic, int64_t job,
                             int64_t wait_us, void (*fn)(void *data), void *data);

/* Stop waiting without the call; only before it. */
void watch_remove(struct watch_item *item);

void watch_wake(struct watch *watch, enum watch_topic topic, int64_t job);
size_t watch_count(const struct watch *watch);
