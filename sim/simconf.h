/* simconf.h - the description of a simulation: cluster, policy, failures, costs.
 *
 * A YAML file with the sections of simconf.def; what is left out has its default, which is the test
 * cluster of two zones with 8 leaves of 20 nodes. The policy section is decoded by its schema and
 * reaches the core through simconf_entry alone: a new knob of the core is a new field and a line
 * there.
 */
#pragma once
#include "lib/json_schema.h"
#include "lib/limits.h"
#include "scheduler/core/entry.h"
#include "sim/trace.h"

#define SIMCONF_LIMITS(P, X)                                                                       \
    X(P, NONE, "none")                                                                             \
    X(P, ESTIMATE, "estimate") /* the trace's est_s; who runs longer is stopped */                 \
    X(P, EXACT, "exact")       /* what it runs, and a second to spare */
DECLARE_ENUM(simconf_limit, SIMCONF_LIMIT, SIMCONF_LIMITS);

enum { SIMCONF_LOSSES_MAX = 1000 };

#include "sim/simconf.def"

#include "lib/pure/schema_structs.h"
SIMCONF_SCHEMAS
#include "lib/pure/schema_undef.h"

struct simconf {
    struct simconf_config r;
    int64_t priorities[TRACE_PRIORITY_COUNT];
    int64_t failure_rate; // millionths of failures of 1000 nodes a day
};

/* All defaults. Every simconf ends in simconf_free, NULL and {0} are accepted. */
void simconf_init(struct simconf *ret);
void simconf_free(struct simconf *conf);

/* Read a file or a text. file names it in errors and says where a failure table is looked for.
 * Returns 0, or a negative errno with ret all zero: all that is wrong is in errors (may be NULL),
 * with file:line:column, the first also in err. */
int simconf_read(const char *path, struct simconf *ret, struct json_schema_errors *errors,
                 struct hai_err *err);
int simconf_parse(const void *text, size_t n_bytes, const char *file, struct simconf *ret,
                  struct json_schema_errors *errors, struct hai_err *err);

/* Add a loss written as WHAT@TIME or WHAT@TIME:DURATION, e.g. "b@3d:12h". -EINVAL, -E2BIG. */
int simconf_lose(struct simconf *conf, const char *text, struct hai_err *err);

/* Set the number of all nodes (1 to NODES_MAX). -ERANGE: more leaves than LEAVES_MAX. */
int simconf_nodes(struct simconf *conf, int64_t nodes, struct hai_err *err);
int64_t simconf_n_nodes(const struct simconf *conf);

/* The entry that describes cluster and policy to the core; for schema_free. Zones a, b, ...; leaves
 * a-leaf1, ...; nodes a1, a2, ...; one group `default`. */
void simconf_entry(const struct simconf *conf, struct entry_cluster_set *ret);

/* The entry for one of its quotas; texts stay the description's. */
void simconf_quota_entry(const struct simconf_quota *quota, struct entry_quota_set *ret);
