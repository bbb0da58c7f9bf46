/* table_body.h - the table of one CPU path; what is missing falls back to ref by name.
 *
 * Left to ref: embed, gather, route_sort, route_drop, unfold, fold and cache_put only move memory
 * or count; router, router_dx, balance, sum_rows and pooling touch a few hundred numbers a token;
 * loss, a few numbers an item.
 */
#pragma once
#include "kernels/cpu/attention_dx_body.h"
#include "kernels/cpu/expand_body.h"
#include "kernels/cpu/linear_body.h"
#include "kernels/cpu/masked_body.h"
#include "kernels/cpu/rows_body.h"

#define CPU_TABLE(name)                                                                            \
    {                                                                                              \
        .path = name, .quantize = quantize, .dequantize = dequantize, .embed_dw = embed_dw,        \
        .rmsnorm = rmsnorm, .rmsnorm_dx = rmsnorm_dx, .rmsnorm_dw = rmsnorm_dw, .linear = linear,  \
        .linear_dx = linear_dx, .linear_dw = linear_dw, .linear_heads = linear_heads,              \
        .linear_heads_dx = linear_heads_dx, .rope = rope, .attention = attention,                  \
        .attention_expand = attention_expand, .attention_dx = attention_dx, .swiglu = swiglu,      \
        .swiglu_dx = swiglu_dx, .combine = combine, .combine_dx = combine_dx,                      \
        .cross_entropy = cross_entropy, .copy = copy, .sum_heads = sum_heads, .add = add,          \
        .sum_squares = sum_squares, .adamw = adamw, .linear_workspace = linear_workspace,          \
        .linear_heads_workspace = linear_heads_workspace,                                          \
        .linear_heads_dx_workspace = linear_heads_dx_workspace,                                    \
        .linear_dx_workspace = linear_dx_workspace, .linear_dw_workspace = linear_dw_workspace,    \
        .attention_workspace = attention_workspace,                                                \
        .attention_expand_workspace = attention_expand_workspace,                                  \
        .attention_dx_workspace = attention_dx_workspace, .layernorm = layernorm,                  \
        .layernorm_dx = layernorm_dx, .layernorm_dw = layernorm_dw, .activate = activate,          \
        .activate_dx = activate_dx, .dropout = dropout, .softmax = softmax,                        \
        .softmax_dx = softmax_dx, .attention_masked = attention_masked,                            \
        .attention_masked_dx = attention_masked_dx, .lstm_cell = lstm_cell,                        \
        .lstm_cell_dx = lstm_cell_dx, .gru_cell = gru_cell, .gru_cell_dx = gru_cell_dx,            \
        .attention_masked_workspace = attention_masked_workspace,                                  \
        .attention_masked_dx_workspace = attention_masked_dx_workspace,                            \
    }
