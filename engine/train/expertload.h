/* expertload.h - how evenly experts were chosen over the last steps of a run.
 *
 * The trainer adds every step's picks, summed over all ranks; here they are kept for a window of
 * steps and put in words, for a line of metrics and for people. A run that is resumed begins a new
 * window. Placing experts by their load is for others, who read the counts here.
 */
#pragma once
#include "lib/json.h"

struct expertload;

/* n_layers layers with experts, numbered from first_layer on in the model; n_steps of the window.
 */
struct expertload *expertload_new(int n_layers, int first_layer, int n_experts, int n_steps);
void expertload_free(struct expertload *load);
DEFINE_CLEANUP(struct expertload *, expertload_free)

/* One step: model_expert_counts, n_layers * (n_experts + 1) numbers. The oldest step of a full
 * window is forgotten. */
void expertload_add(struct expertload *load, const int64_t *counts, size_t n);

/* What a layer has seen in the window. */
struct expertload_layer {
    int number;           // in the model
    const int64_t *picks; // [n_experts] pairs (token, slot), dropped ones included; valid until the
                          // next add
    int64_t n_picks, n_dropped;
    double max_violation;  // picks of the busiest expert / mean - 1; 0: even
    double mean_violation; // mean over experts of |picks / mean - 1|
};

int expertload_n_layers(const struct expertload *load);
int expertload_n_experts(const struct expertload *load);
int expertload_n_steps(const struct expertload *load); // in the window, up to its length

/* Layer i, from 0. Violations are 0 before the first step. Source of max_violation: Wang and others
 * ("Auxiliary-loss-free load balancing strategy for mixture-of-experts"), 2024, MaxVio. */
void expertload_layer(const struct expertload *load, int i, struct expertload_layer *ret);

/* {"steps": 100, "layers": [{"layer": 1, "max_violation": 0.31, "mean_violation": 0.12,
 *  "dropped": 0.02, "picks": [812, ...]}, ...]}, dropped as a share of the picks. Caller frees. */
struct json *expertload_json(const struct expertload *load);

/* The same as a table for people, one line a layer, with the busiest and the idlest expert. */
void expertload_text(const struct expertload *load, struct buf *ret);
