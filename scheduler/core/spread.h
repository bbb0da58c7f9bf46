/* spread.h - over how many zones and leaf switches a gang lies.
 *
 * Pure and reading only. Fewer zones are better, then fewer leaves: what crosses neither stays fast
 * whoever else uses the network.
 */
#pragma once
#include "scheduler/core/place.h"

struct spread {
    int64_t zones, leaves;
};

/* Of n nodes in rank order. */
struct spread spread_of(const struct state *state, const struct place_node *nodes, int64_t n);

/* < 0, 0, > 0 as a is better than, as good as, worse than b. */
int spread_compare(struct spread a, struct spread b);

/* The least that the gang could have on the nodes in service if they were idle; {0} if it would not
 * fit. Looks at every node: room_fewest is faster. */
struct spread spread_fewest(const struct state *state, const struct place_need *need,
                            struct place_scratch *scratch);

/* The end of both searches: of candidates by leaf and zone (in_zone is used up), which
 * scratch->in_leaf has and loses. */
struct spread spread_choose(const struct state *state, const struct place_need *need, int64_t n,
                            int64_t *in_zone, struct place_scratch *scratch);
