/* Whatever bytes a GGUF file holds: an answer, never a crash; and what is accepted can be read. */
#include "engine/convert/ggufconfig.h"
#include "engine/convert/ggufmodel.h"
#include "engine/convert/ggufwords.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static unsigned sum; // so that reading is not left out

/* Every row of every tensor of the model that the file says it is. */
static void read_rows(const struct gguf *g, const struct buf *text) {
    _cleanup_free_ char *whole = hai_asprintf("%.*s\n}\n", (int)text->n_bytes, text->data);
    _cleanup_(params_freep) struct params *params = NULL;
    struct model_config config;
    struct hai_err err;

    if (config_parse(whole, strlen(whole), "config", &config, &err) < 0 ||
        (config.n_layers + 1) * (config.n_experts + 1) > 4096 ||
        params_new(&config, &params, &err) < 0)
        return;
    (void)ggufmodel_check_names(g, &config, params, &err);
    for (int i = 0; i < params->n; i++) {
        const struct param *p = &params->items[i];
        struct ggufmodel_place place;
        if (ggufmodel_find(g, &config, p, &place, &err) < 0)
            continue;
        _cleanup_free_ float *row = hai_new_array(float, (size_t)place.tensor->shape[0]);
        int64_t n_rows = p->n_dims == 2 && !place.keys ? p->shape[0] : 1;
        for (int64_t k = 0; k < n_rows; k++)
            if (ggufmodel_read_row(place.tensor, ggufmodel_row(&place, k), row))
                sum += row[0] > 0;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    _cleanup_(gguf_freep) struct gguf *g = NULL;
    _cleanup_(buf_free) struct buf text = {0}, words = {0}, config = {0};
    struct hai_err err = {0};
    int r = gguf_open_bytes(data, n_bytes, &g, &err);

    if (r < 0) {
        assert(err.text[0]);
        return 0;
    }
    for (size_t i = 0; i < gguf_n_values(g); i++) {
        const struct gguf_value *v = gguf_value_at(g, i);
        const uint8_t *at = v->items;
        for (uint64_t k = 0; v->kind == GGUF_ARRAY && k < v->n; k++) {
            struct gguf_value item = gguf_next(v, &at);
            sum += item.n_bytes ? (unsigned char)item.text[item.n_bytes - 1] : 0;
        }
    }
    for (size_t i = 0; i < gguf_n_tensors(g); i++)
        sum += gguf_tensor_at(g, i)->data[gguf_tensor_at(g, i)->n_bytes - 1];
    if (ggufconfig_model(g, &text, &err) == 0)
        read_rows(g, &text);
    (void)ggufwords_tokenizer(g, &words, &err);
    (void)ggufwords_config(g, &config, &err);
    return 0;
}
