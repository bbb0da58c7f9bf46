/* Whatever bytes a trace holds: jobs or an error with a place, never a crash; and what is accepted
 * can be cut, stretched and weighed. */
#include "sim/fixed.h"
#include "sim/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    struct trace trace = {0};
    struct hai_err err = {0};

    int r = trace_parse(data, n_bytes, "fuzz", &trace, &err);
    assert(r <= 0);
    if (r < 0)
        assert(err.text[0] && err.where[0]);
    for (size_t i = 1; r == 0 && i < trace.n; i++)
        assert(trace.jobs[i - 1].submit_us <= trace.jobs[i].submit_us);
    if (r == 0 && trace_stretch_to(&trace, 8, 640, FIXED_ONE, NULL) == 0)
        trace_window(&trace, trace_last_us(&trace) / 2, INT64_MAX);
    assert(trace_load(&trace, 8, 640) >= 0);
    trace_free(&trace);
    return 0;
}
