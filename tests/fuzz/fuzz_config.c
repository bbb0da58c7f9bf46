/* Whatever bytes a config.json holds: a model or an error, never a crash; and what is accepted has
 * a table of parameters or is refused as too large. */
#include "engine/model/config.h"
#include "engine/model/params.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    _cleanup_(params_freep) struct params *params = NULL;
    struct model_config config;
    struct hai_err err = {0};

    if (config_parse((const char *)data, n_bytes, "fuzz", &config, &err) < 0) {
        assert(err.r < 0);
        assert(err.text[0]);
        return 0;
    }
    assert(config_attention_scale(&config) > 0);
    /* The table has a row a tensor: large models are slow, not interesting. */
    if (config.n_layers * (config.n_experts + 1) < 10000 && params_new(&config, &params, &err) == 0)
        assert(params->n_elements >= params->n_counted);
    return 0;
}
