/* params.h - the one table of a model's parameters, built from its configuration.
 *
 * It serves initialisation, optimizer, sharding, checkpoints and export: one row per published
 * tensor. Values live in one flat float32 buffer (and so do gradients, moments, masters): `offset`
 * counts elements from its start. Order of the buffer:
 *
 *   [0, n_decayed)          trained tensors with weight decay (two or more dimensions)
 *   [n_decayed, n_trained)  trained tensors without
 *   [n_trained, n_elements) state that is not trained by gradients: the routers' bias
 *
 * so that an all-reduce, a norm or an optimizer step is one call over a range. Tensors read by one
 * product (q, k, v; gate, up; all experts of a layer) lie side by side. Padding between tensors is
 * zero and stays zero under every step.
 */
#pragma once
#include "engine/model/config.h"

/* How tensor parallelism cuts a tensor. */
enum param_split {
    PARAM_SPLIT_NONE,
    PARAM_SPLIT_ROWS,    // the output dimension
    PARAM_SPLIT_COLUMNS, // the input dimension
    PARAM_SPLIT_EXPERTS, // a whole tensor belongs to one expert
    PARAM_SPLIT_VOCABULARY,
    PARAM_SPLIT_COUNT,
};

enum param_init {
    PARAM_INIT_NORMAL, // mean 0, config.init_std
    PARAM_INIT_ONE,
    PARAM_INIT_ZERO,
    PARAM_INIT_COUNT,
};

enum { PARAM_NAME_BYTES = 96 };

struct param {
    char name[PARAM_NAME_BYTES]; // as published
    int n_dims;
    int64_t shape[2]; // global
    int64_t n_elements;
    int64_t offset; // in the flat buffers; that of the owner if tied
    enum param_split split;
    enum param_init init;
    int tie;      // index of the row whose values these are; its own index if it owns them
    bool in_file; // false: not written to files (a tied head), and not expected in them
    bool decay;   // weight decay applies
    bool trained; // has a gradient; otherwise state, set by rule (router bias)
    int layer;    // -1: outside the layers
    int expert;   // -1: none
    // kv_b_proj: rows are cut in n_heads heads, whose first n_key_rows make keys; else 0
    int64_t n_heads, n_key_rows;
};

struct params {
    struct param *items; // owned
    int n;
    int64_t n_decayed, n_trained, n_elements; // elements of the flat buffers, see above
    int64_t n_counted;                        // parameters, each once, without padding and state
};

/* -EINVAL if the model has more than 2^40 parameters. */
int params_new(const struct model_config *config, struct params **ret, struct hai_err *err);
void params_free(struct params *params);
DEFINE_CLEANUP(struct params *, params_free)

/* Index of a published name, or -1. */
int params_find(const struct params *params, const char *name);

/* Index of the next expert's tensor of the same kind and layer as the expert's at i, or -1. */
int params_next_expert(const struct params *params, int i);

/* Is it a router's matrix? Its choices flip on small errors, so it is never quantised. */
bool params_is_router(const struct param *p);

/* Is it among the matrices that the published models have in 8-bit floats? Those of the layers, but
 * not routers and what joins the multi-token module to the model. A copy is what its owner is. */
bool params_is_fp8(const struct param *p);
