/* benchrun.h - how fast a model runs here: prefill, decoding, many requests, the first token.
 *
 * What is measured, exactly:
 *   prefill  n tokens in pieces of at most 512, the last one's logits; at a context of C tokens
 *            the cache holds random keys and values for them, nothing was computed: the time of
 *            attention does not depend on what they are
 *   decode   one token at a time with the likeliest chosen, from that context on
 *   requests that many at once through the serving engine, prompts all different, greedy, no prefix
 *            cache: from the first submission to the last token
 *   first    from before fork to the first line of `hai-generate` with 16 token ids. Warm: the
 *            files were just read. Cold: the kernel was asked to forget their pages, and mincore
 *            says that it did; where it did not, there is no cold figure
 * Each is done once unmeasured (but for first), then repeated; medians, least and most are given.
 */
#pragma once
#include "engine/infer/engine.h"
#include "jobs/progress.h"

enum {
    BENCHRUN_CONTEXTS_MAX = 16,
    BENCHRUN_REPEATS_MAX = 100,
    BENCHRUN_FIRST_TOKENS = 16,
};

struct benchrun_options {
    const char *model;
    struct engine_options engine; // place, cache and slots of it
    int64_t contexts[BENCHRUN_CONTEXTS_MAX];
    int n_contexts;
    int64_t n_prefill, n_decode;
    int n_repeats;
    int n_requests; // 0: not measured
    bool first;     // measure the first token
};

/* Of all repetitions; n is 0 where nothing was measured. */
struct benchrun_spread {
    int n;
    double median, least, most;
};

struct benchrun_result {
    struct model_config config;
    char kernel_path[32];
    double n_params, token_bytes; // of matrices read a token
    int64_t weight_bytes;         // in files
    struct benchrun_spread prefill[BENCHRUN_CONTEXTS_MAX],
        decode[BENCHRUN_CONTEXTS_MAX]; // tokens/s
    struct benchrun_spread cold_s, warm_s;
    const char *no_cold;                        // why there is no cold figure
    struct benchrun_spread requests;            // new tokens/s of all
    struct benchrun_spread first_s, gap_s;      // of each request; gaps between its tokens
    int64_t peak_rss_bytes, peak_private_bytes; // of this process; private: not of mapped files
};

/* -EINVAL: a context too long for the model; errors of loading. */
int benchrun_all(const struct benchrun_options *o, struct progress *progress,
                 struct benchrun_result *ret, struct hai_err *err);
