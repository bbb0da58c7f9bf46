#include "engine/train/stepmetrics.h"
#include "kernels/peak.h"
#include "lib/json.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

double stepmetrics_peak(void) {
    double best = 0;

    for (int i = 0; i < 3; i++)
        best = fmax(best, k_peak(NULL, 1, false));
    return best;
}

int64_t stepmetrics_memory(void) {
    FILE *f = fopen("/proc/self/statm", "re");
    long long size = 0, resident = 0;

    if (!f)
        return 0;
    if (fscanf(f, "%lld %lld", &size, &resident) != 2)
        resident = 0;
    fclose(f);
    return resident * sysconf(_SC_PAGESIZE);
}

static void add_balance(const struct model_losses *losses, struct json *line) {
    const double *parts = losses->balance_parts;

    json_add_real(line, "balance", losses->balance);
    if (parts[K_BALANCE_DEVICE] == 0 && parts[K_BALANCE_COMMUNICATION] == 0)
        return;
    json_add_real(line, "balance_expert", parts[K_BALANCE_EXPERT]);
    json_add_real(line, "balance_device", parts[K_BALANCE_DEVICE]);
    json_add_real(line, "balance_communication", parts[K_BALANCE_COMMUNICATION]);
}

static void add_load(const struct expertload *load, struct json *line) {
    double worst = 0;

    for (int i = 0; i < expertload_n_layers(load); i++) {
        struct expertload_layer layer;
        expertload_layer(load, i, &layer);
        worst = fmax(worst, layer.max_violation);
    }
    json_add_real(line, "load_violation", worst);
    json_add(line, "load", expertload_json(load));
}

void stepmetrics_line(const struct stepmetrics *step, struct buf *b) {
    const struct trainer_report *r = step->report;
    _cleanup_(json_freep) struct json *line = json_new_object();
    int64_t memory = stepmetrics_memory();

    json_add_int(line, "step", r->step);
    json_add_int(line, "samples", r->samples);
    json_add_real(line, "loss", r->losses.total);
    json_add_real(line, "cross_entropy", r->losses.ce);
    if (r->has_mtp)
        json_add_real(line, "mtp", r->losses.mtp);
    if (r->has_experts)
        add_balance(&r->losses, line);
    json_add_real(line, "grad_norm", r->norm);
    json_add_real(line, "lr", r->rate);
    json_add_real(line, "step_s", step->step_s);
    json_add_real(line, "tokens_per_s", (double)step->tokens / step->step_s);
    if (step->utilisation > 0)
        json_add_real(line, "utilisation", step->utilisation);
    json_add_real(line, "communication", r->comm_s / step->step_s);
    if (memory)
        json_add_int(line, "memory_bytes", memory);
    if (step->load)
        add_load(step->load, line);
    if (r->verdict)
        json_add_string(line, "skipped", r->spike);
    json_dump(line, 0, b);
    buf_add(b, "\n", 1);
}
