/* net.h - hfai.nn: networks built layer by layer, for models that are no language models.
 *
 * A network is a graph of named layers. Building it gives numbers of values; net_plan places every
 * buffer and parameter before the first step, and a step allocates nothing. Gradients and weights
 * are flat, so that engine/coll adds up the former and engine/ckpt saves the latter (net_parts).
 * Equations, shapes and sources of all layers: docs/nn.md. Parameters are named, laid out and
 * initialised as PyTorch's modules of the same name. Language models: engine/model.
 *
 * A value has height x width positions of n channels for every item of a batch, channels last,
 * items one behind the other: [n_items, height, width, channels]. A sequence has height 1, a vector
 * is one position. Layers over channels (linear, layernorm, softmax) work on every position alone.
 *
 * Bits depend on the numeric identity (docs/ARCHITECTURE.md, "Bits"), on no number of threads.
 * Draws of dropout follow from (seed, step, layer, number of the item in the whole batch) alone.
 */
#pragma once
#include "engine/ckpt/ckpt.h"
#include "engine/model/adamw.h"
#include "kernels/kernels.h"

enum {
    NET_NODES_MAX = 256,
    NET_INPUTS_MAX = 8,
    NET_NAME_BYTES = 96,
};

struct net;

struct net_shape {
    int64_t height, width, channels;
};

#define NET_PICTURE(height, width, channels) ((struct net_shape){(height), (width), (channels)})
#define NET_SEQUENCE(length, channels) ((struct net_shape){1, (length), (channels)})
#define NET_VECTOR(channels) ((struct net_shape){1, 1, (channels)})

/* Building. Every function gives the number of the layer's output, from 1. A mistake (shapes that
 * do not fit, too many layers) is kept until net_plan reports it: numbers may be passed on
 * unchecked. Names are copied; parameters are called NAME.weight and so on. */
struct net *net_new(void);
void net_free(struct net *net);
DEFINE_CLEANUP(struct net *, net_free)

/* What a batch brings, in the order of these calls: float32, or int32 (ids, masks, lengths). */
int net_input(struct net *net, struct net_shape shape);
int net_input_ints(struct net *net, struct net_shape shape);

/* y = x W^T + bias. W [n_out, channels]. */
int net_linear(struct net *net, const char *name, int x, int64_t n_out, bool bias);
/* Row ids of a table [n_vocab, n_dim]; zeros for negative ids. ids: ints of 1 channel. */
int net_embedding(struct net *net, const char *name, int ids, int64_t n_vocab, int64_t n_dim);
int net_activation(struct net *net, int x, enum k_curve curve);
/* Nothing outside training. rate in [0, 1). */
int net_dropout(struct net *net, int x, float rate);
int net_layernorm(struct net *net, const char *name, int x, float eps);
int net_softmax(struct net *net, int x);
int net_add(struct net *net, int a, int b);

/* The same memory as another shape of as many numbers; flatten: as one vector. */
int net_reshape(struct net *net, int x, struct net_shape shape);
int net_flatten(struct net *net, int x);
/* The last position of a sequence. */
int net_last(struct net *net, int x);

/* Recurrent layers over sequences, from zeros: h of every position. */
int net_lstm(struct net *net, const char *name, int x, int64_t n_hidden);
int net_gru(struct net *net, const char *name, int x, int64_t n_hidden);

/* Attention of n_heads heads from the positions of q over those of kv (q for self-attention). */
struct net_attention {
    int n_heads; // divides the channels
    bool causal;
    int mask;    // an input [queries or n_heads * queries, keys, 1], to be added to scores (floats)
                 // or hiding keys where it is not 0 (ints); 0: none
    int lengths; // an input of ints, one an item: how many keys count; 0: all
};
int net_attention(struct net *net, const char *name, int q, int kv,
                  const struct net_attention *rule);

/* Convolution (cross-correlation) with zeros beyond the edges: W [n_out, channels, height, width]
 * of the window. A sequence: window of height 1, [n_out, channels, width]. */
int net_conv(struct net *net, const char *name, int x, int64_t n_out, const struct k_window *window,
             bool bias);
int net_pool(struct net *net, int x, const struct k_window *window, bool mean);

/* What training makes small: the mean loss of a value against targets of the same shape, or
 * cross-entropy of its channels, as logits, with a label for every position (below 0: not counted
 * as a loss, but as a position). */
void net_loss(struct net *net, int y, enum k_loss_kind kind);
void net_loss_labels(struct net *net, int logits);

struct net_options {
    enum k_backend backend;
    const char *path; // NULL: the best one of this processor (kernels.h)
    int n_threads;
    int64_t n_items_max;
    bool training;
    uint64_t seed; // of weights and dropout
};

/* Place everything and draw the weights. Once, before the functions below. -EINVAL: a mistake while
 * building (err names layer and shapes); -ENOTSUP: no such backend. */
int net_plan(struct net *net, const struct net_options *options, struct hai_err *err);

struct net_batch {
    int64_t n_items;                    // at most n_items_max
    const void *inputs[NET_INPUTS_MAX]; // [n_items, height, width, channels] each
    const void *target;                 // float32 as the loss' value; labels: int32 a position
    int64_t n_items_all; // of the whole batch of all ranks; losses are means over them
    int64_t first_item;  // number of this one's first in it
    int64_t step;        // for dropout, below 2^32
};

/* Outputs without training: values of net_value. Only inputs and n_items are read. */
int net_forward(struct net *net, const struct net_batch *batch);

/* Forward, loss and backward: adds to the gradients; ret_loss is this part of the mean. */
int net_train(struct net *net, const struct net_batch *batch, double *ret_loss);

/* A value of the last batch, [n_items, height, width, channels]; its gradient likewise. */
const float *net_value(const struct net *net, int value);
struct net_shape net_value_shape(const struct net *net, int value);
/* Of an input of floats: the gradient is made as well. Before net_plan. */
void net_want_gradient(struct net *net, int input);
const float *net_value_gradient(const struct net *net, int value);

/* Parameters: those of two or more dimensions first, which weight decay applies to. */
struct net_param {
    char name[NET_NAME_BYTES];
    int n_dims;
    int64_t shape[CKPT_DIMS_MAX];
    int64_t n_elements, offset; // in the flat buffers
};
const struct net_param *net_params(const struct net *net, int *ret_n);
int64_t net_n_elements(const struct net *net); // of the flat buffers, padding included
float *net_weights(struct net *net);
float *net_gradients(struct net *net);
void net_gradients_clear(struct net *net);

/* One step of AdamW, from 1, after the gradients of all ranks were added up; ret_norm: theirs. */
int net_step(struct net *net, const struct adamw_rule *rule, int64_t step, double *ret_norm);

/* Weights and both moments as parts of a checkpoint; borrowed. */
const struct ckpt_part *net_parts(const struct net *net, size_t *ret_n);

const char *net_kernel_path(const struct net *net);
int64_t net_n_items_max(const struct net *net);
