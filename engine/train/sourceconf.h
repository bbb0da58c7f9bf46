/* sourceconf.h - `data.sources` and `data.stages` of a training file: folders of shards with
 * weights, for the whole run or for one part of it after the other.
 *
 *   sources: [{path: web, weight: 7}, {path: code, weight: 3}]
 *
 *   stages:
 *   - {tokens: 1000000, sources: [{path: web}, {path: code, middle: code-fim}], fim: 0.5}
 *   - {sources: [{path: web}]}
 *
 * middle is the folder of the same text rewritten to fill in the middle (hai-prep --fim 1): `fim`
 * is its part of the source's weight.
 */
#pragma once
#include "lib/json.h"

enum { SOURCECONF_STAGES_MAX = 256, SOURCECONF_SOURCES_MAX = 512 };

struct sourceconf_source {
    char *path, *middle; // middle: NULL, there is none
    double weight;       // above 0
};

struct sourceconf_stage {
    int64_t tokens; // of inputs, a sample more or less; 0: up to the end of the run
    double fim;     // 0 to 1; above 0, some source has a middle
    struct sourceconf_source *sources;
    int n_sources;
};

/* Start from {0}. Without stages, one that has no end. */
struct sourceconf {
    struct sourceconf_stage *stages;
    int n;
};

void sourceconf_free(struct sourceconf *conf);

/* Read the value of either key; ret must be empty. -EINVAL with file, line and column. */
int sourceconf_read_sources(const struct json *value, const char *file, struct sourceconf *ret,
                            struct hai_err *err);
int sourceconf_read_stages(const struct json *value, const char *file, struct sourceconf *ret,
                           struct hai_err *err);
