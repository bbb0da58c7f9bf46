#include "jobs/engineargs.h"
#include "jobs/jobexit.h"
#include "jobs/modelargs.h"

struct engine_options engineargs_defaults(void) {
    struct engine_options o = engine_defaults();

    o.place.n_threads = modelargs_threads();
    o.n_seq_tokens_max = o.n_cache_tokens;
    return o;
}

int engineargs_set(const char *program, int code, const char *text, struct engine_options *o) {
    double x = 0;
    int status;

    switch (code) {
    case ENGINEARGS_BACKEND:
        return modelargs_backend(program, text, &o->place.backend);
    case ENGINEARGS_DTYPE:
        return modelargs_dtype(program, text, &o->place.dtype);
    case ENGINEARGS_THREADS:
        status = modelargs_number(program, "--threads", text, 1, MODEL_THREADS_MAX, true, &x);
        o->place.n_threads = (int)x;
        return status;
    case ENGINEARGS_FAST_PREFILL:
        o->place.fast_prefill = true;
        return 0;
    case ENGINEARGS_SLOTS:
        status = modelargs_number(program, "--slots", text, 1, 4096, true, &x);
        o->n_slots = (int32_t)x;
        o->n_step_tokens_max = MAX(o->n_step_tokens_max, o->n_slots);
        return status;
    case ENGINEARGS_CACHE_TOKENS:
        status = modelargs_number(program, "--cache-tokens", text, 1, BATCHER_TOKENS_MAX, true, &x);
        o->n_cache_tokens = (int64_t)x;
        o->n_seq_tokens_max = (int32_t)x;
        return status;
    case ENGINEARGS_CACHE_DTYPE:
        return modelargs_cache_dtype(program, text, &o->place.cache_dtype);
    case ENGINEARGS_DRAFTS:
        status = schema_enum_parse(&engine_drafts_enum, text);
        if (status >= 0) {
            o->drafts = status;
            return 0;
        }
        return jobexit_usage(program, "--drafts is '%s'; expected none, text or mtp", text);
    default:
        return JOBEXIT_USAGE;
    }
}
