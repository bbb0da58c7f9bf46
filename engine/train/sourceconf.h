/* sourceconf.h - `sources:` of a training file: folders of shards with weights.
 *
 *   sources: [{path: web, weight: 7}, {path: code, weight: 3}]
 */
#pragma once
#include "engine/data/packing.h"
#include "lib/json.h"

/* Start from {0}. */
struct sourceconf {
    struct packing_source *items; // with their paths owned
    int n;
};

void sourceconf_free(struct sourceconf *conf);

/* Read the value, in place of what is there. -EINVAL with file, line and column. */
int sourceconf_read(const struct json *value, const char *file, struct sourceconf *ret,
                    struct hai_err *err);
