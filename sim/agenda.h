/* agenda.h - what happens next in a storm: events by true time, then in the order of their making.
 *
 * Pure. An event is never taken back: whoever made it looks, when it comes, whether it still means
 * something (`what` names the call, the life of a process or the shim that it is about).
 */
#pragma once
#include "lib/base.h"

enum agenda_kind {
    /* of a node */
    AGENDA_MESSAGE, // something arrives; data: struct network_message, owned by the event
    AGENDA_AGENT,   // its agent is started; what: life of the machine
    AGENDA_POLL,    // its agent polls again; what: instance
    AGENDA_REPORT,  // and reports again; what: instance
    AGENDA_CALL,    // nobody answers a call in time; what: call
    AGENDA_SHIM,    // ranks end, or a deadline passes; what: shim
    AGENDA_NEWS,    // a shim tells its agent; what: shim
    AGENDA_LEFT,    // the agent looks at what a dead shim left; what: shim
    AGENDA_RESUME,  // its disk works again; what: instance
    AGENDA_HELD,    // its held poll has waited for long enough; what: call
    AGENDA_FENCED,  // somebody says that it was fenced; what: life of the machine
    AGENDA_MEND,    // its network, power or service is given back
    /* of everything */
    AGENDA_SILENCE,   // the scheduler looks who is silent
    AGENDA_SCHEDULER, // it is started
    AGENDA_PEOPLE,    // somebody asks for something
    AGENDA_FAULT,     // something breaks
};

struct agenda_event {
    int64_t at_us;
    int64_t seq;
    int64_t what;
    void *data;
    int node;
    enum agenda_kind kind;
};

struct agenda {
    struct agenda_event *items;
    size_t n, n_max;
    int64_t seq;
    int64_t now_us; // true time
};

static inline void agenda_free(struct agenda *agenda) {
    free(agenda->items);
    *agenda = (struct agenda){0};
}

void agenda_add(struct agenda *agenda, int64_t at_us, enum agenda_kind kind, int node, int64_t what,
                void *data);

/* The earliest, NULL: none; and take it out. */
static inline const struct agenda_event *agenda_first(const struct agenda *agenda) {
    return agenda->n ? &agenda->items[0] : NULL;
}
struct agenda_event agenda_take(struct agenda *agenda);
