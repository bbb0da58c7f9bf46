/* golden.h - reading the reference values under tests/fixtures/ (see its README).
 */
#pragma once
#include "engine/model/model.h"
#include "lib/json.h"
#include "storage/safetensors.h"

/* One folder of reference values and the model it is about. */
struct golden {
    struct model_config config;
    struct safetensors *tensors;
    struct json *facts; // golden.json
};

/* Open DIR; ends the test program if something is missing: fixtures are part of the tree. */
void golden_open(struct golden *g, const char *dir);
void golden_close(struct golden *g);

/* A tensor by name made of a format; NULL if absent. */
const struct safetensors_tensor *golden_tensor(const struct golden *g, const char *format, ...)
    _printf_(2, 3);

/* facts.tolerance.NAME */
double golden_tolerance(const struct golden *g, const char *name);

/* CHECK that |a - b| <= atol + rtol |b| for n values; prints the largest violation. */
void golden_compare(const char *what, const float *a, const float *b, int64_t n, double atol,
                    double rtol);

enum { GOLDEN_PAGE = 16 }; // tokens of a page

/* A model with DIR's weights in memory, and a cache for two sequences of n_cache_tokens. */
struct model *golden_model(const struct golden *g, const char *dir, enum k_backend backend,
                           const char *path, int64_t n_tokens, int64_t n_seqs, bool training,
                           int64_t n_cache_tokens);

/* Kernel paths to test: (ref, NULL), then those of this processor. Returns their number. */
struct golden_path {
    enum k_backend backend;
    const char *path;
};
int golden_paths(struct golden_path ret[4]);
