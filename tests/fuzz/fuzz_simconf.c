/* Whatever bytes a simulation's description holds: a cluster that the core accepts, or an error. */
#include "sim/simconf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    struct json_schema_errors errors = {0};
    struct entry_cluster_set set;
    struct simconf conf;
    struct hai_err err = {0};

    if (simconf_parse(data, n_bytes, "fuzz", &conf, &errors, &err) < 0) {
        assert(err.text[0]);
        return 0;
    }
    simconf_entry(&conf, &set);
    int r = schema_check(entry_cluster_set_schema(), &set, &err);
    assert(r == 0);
    schema_free(entry_cluster_set_schema(), &set);
    simconf_free(&conf);
    return 0;
}
