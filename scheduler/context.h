/* context.h - what the parts of the daemon share: one struct, filled by schedd.c at start.
 *
 * A part takes `struct schedd *` when it needs more than one of the others; it owns none of them.
 */
#pragma once
#include "lib/loop.h"
#include "scheduler/turn.h"
#include "wire/http_server.h"
#include "wire/messages.h"

struct api_route;
struct fence;
struct fleet;
struct live;
struct outlook;
struct relay;
struct usage_children;
struct watch;
struct upkeep;

struct schedd {
    struct loop *loop;
    struct store *store;
    struct turn *turn;
    struct http_server *server;
    const struct api_route *routes; // that the server knows
    int n_routes;
    struct watch *watch;
    struct live *live;
    struct fleet *fleet;
    struct fence *fence;
    struct relay *relay;
    struct upkeep *upkeep;
    struct outlook *outlook;
    struct usage_children *usage;
    struct cluster_file cluster;
    char *state_dir;
    uint8_t secret[DIGEST_BYTES]; // key from which the attempts' secrets are derived
    int64_t started_us;           // CLOCK_BOOTTIME
};

static inline const struct state *schedd_state(const struct schedd *s) {
    return turn_state(s->turn);
}
