/* eventheap.h - what happens next in a replay: events by time, then in the order of their making.
 */
#pragma once
#include "lib/base.h"

enum happens {
    HAPPENS_START,   // the ranks of an attempt run
    HAPPENS_END,     // they have done their work
    HAPPENS_STOPPED, // they are gone, as ordered
    HAPPENS_FAILURE, // some node fails; draws the next
    HAPPENS_LOSS,    // a described loss begins
    HAPPENS_LOST,    // a node that fell silent counts as lost
    HAPPENS_REPAIR,  // a node is back
};

struct eventheap_item {
    int64_t at_us;
    int64_t seq;
    int64_t epoch; // of a job: the event is void if it has moved on
    uint32_t what; // job of the trace, node or loss
    uint8_t kind;
};

struct eventheap {
    struct eventheap_item *items;
    size_t n, n_max;
    int64_t seq;
};

void eventheap_free(struct eventheap *heap);
void eventheap_push(struct eventheap *heap, int64_t at_us, enum happens kind, uint32_t what,
                    int64_t epoch);

/* The earliest, NULL: none; and take it out. */
const struct eventheap_item *eventheap_first(const struct eventheap *heap);
struct eventheap_item eventheap_pop(struct eventheap *heap);
