#include "engine/train/expertload.h"

#include <inttypes.h>
#include <math.h>

struct expertload {
    int n_layers, first_layer, n_experts, n_steps;
    int64_t n_added;
    size_t n_counts; // of a step
    int64_t *steps;  // [n_steps, n_counts], step i of the run at i % n_steps
    int64_t *sums;   // [n_counts] over the window
};

struct expertload *expertload_new(int n_layers, int first_layer, int n_experts, int n_steps) {
    struct expertload *load = hai_new(struct expertload);

    assert(n_layers >= 0);
    assert(n_experts > 0);
    assert(n_steps > 0);
    *load = (struct expertload){n_layers, first_layer, n_experts, n_steps, 0, 0, NULL, NULL};
    load->n_counts = (size_t)n_layers * ((size_t)n_experts + 1);
    load->steps = hai_new_array(int64_t, (size_t)n_steps * load->n_counts + 1);
    load->sums = hai_new_array(int64_t, load->n_counts + 1);
    return load;
}

void expertload_free(struct expertload *load) {
    if (!load)
        return;
    free(load->steps);
    free(load->sums);
    free(load);
}

void expertload_add(struct expertload *load, const int64_t *counts, size_t n) {
    int64_t *step = load->steps + (size_t)(load->n_added++ % load->n_steps) * load->n_counts;

    assert(n == load->n_counts);
    for (size_t i = 0; i < n; i++) {
        load->sums[i] += counts[i] - step[i];
        step[i] = counts[i];
    }
}

int expertload_n_layers(const struct expertload *load) {
    return load->n_layers;
}

int expertload_n_experts(const struct expertload *load) {
    return load->n_experts;
}

int expertload_n_steps(const struct expertload *load) {
    return (int)MIN(load->n_added, (int64_t)load->n_steps);
}

void expertload_layer(const struct expertload *load, int i, struct expertload_layer *ret) {
    const int64_t *picks = load->sums + (size_t)i * (size_t)load->n_experts;
    int64_t sum = 0, most = 0;
    double distance = 0;

    assert(i >= 0);
    assert(i < load->n_layers);
    for (int e = 0; e < load->n_experts; e++) {
        sum += picks[e];
        most = MAX(most, picks[e]);
    }
    double mean = sum ? (double)sum / load->n_experts : 1;
    for (int e = 0; sum && e < load->n_experts; e++)
        distance += fabs((double)picks[e] / mean - 1);
    *ret = (struct expertload_layer){
        .number = load->first_layer + i,
        .picks = picks,
        .n_picks = sum,
        .n_dropped = load->sums[load->n_layers * load->n_experts + i],
        .max_violation = sum ? (double)most / mean - 1 : 0,
        .mean_violation = distance / load->n_experts,
    };
}

static double dropped_share(const struct expertload_layer *layer) {
    return layer->n_picks ? (double)layer->n_dropped / (double)layer->n_picks : 0;
}

struct json *expertload_json(const struct expertload *load) {
    struct json *root = json_new_object();

    json_add_int(root, "steps", expertload_n_steps(load));
    struct json *layers = json_add(root, "layers", json_new_array());
    for (int i = 0; i < load->n_layers; i++) {
        struct json *entry = json_append(layers, json_new_object());
        struct expertload_layer layer;
        expertload_layer(load, i, &layer);
        json_add_int(entry, "layer", layer.number);
        json_add_real(entry, "max_violation", layer.max_violation);
        json_add_real(entry, "mean_violation", layer.mean_violation);
        json_add_real(entry, "dropped", dropped_share(&layer));
        struct json *picks = json_add(entry, "picks", json_new_array());
        for (int e = 0; e < load->n_experts; e++)
            json_append(picks, json_new_int(layer.picks[e]));
    }
    return root;
}

/* The expert with the most picks, or with the fewest; of equals the first. */
static int extreme(const struct expertload *load, const int64_t *picks, bool most) {
    int found = 0;

    for (int e = 1; e < load->n_experts; e++)
        if (most ? picks[e] > picks[found] : picks[e] < picks[found])
            found = e;
    return found;
}

void expertload_text(const struct expertload *load, struct buf *ret) {
    buf_printf(ret, "load of %d experts over %d steps, as times the mean\n", load->n_experts,
               expertload_n_steps(load));
    buf_printf(ret, "layer  busiest           idlest            mean distance  dropped\n");
    for (int i = 0; i < load->n_layers; i++) {
        struct expertload_layer layer;
        expertload_layer(load, i, &layer);
        double mean = layer.n_picks ? (double)layer.n_picks / load->n_experts : 1;
        int busy = extreme(load, layer.picks, true), idle = extreme(load, layer.picks, false);
        buf_printf(ret, "%5d  %5.2f (expert %3d)  %5.2f (expert %3d)  %13.3f  %5.1f %%\n",
                   layer.number, (double)layer.picks[busy] / mean, busy,
                   (double)layer.picks[idle] / mean, idle, layer.mean_violation,
                   100 * dropped_share(&layer));
    }
}
