#include "tests/unit/golden.h"

#include "engine/model/load.h"
#include "lib/fileio.h"
#include "tests/unit/test.h"

#include <math.h>
#include <stdarg.h>

static void must(int r, const struct hai_err *err) {
    if (r >= 0)
        return;
    fprintf(stderr, "fixture: %s\n", hai_err_text(err));
    exit(1);
}

void golden_open(struct golden *g, const char *dir) {
    _cleanup_free_ char *tensors = hai_asprintf("%s/golden.safetensors", dir);
    _cleanup_free_ char *facts = hai_asprintf("%s/golden.json", dir);
    _cleanup_(buf_free) struct buf text = {0};
    struct hai_err err = {0};

    *g = (struct golden){0};
    must(config_read(dir, &g->config, &err), &err);
    must(safetensors_open(tensors, &g->tensors, &err), &err);
    must(fileio_read_file(facts, 1 << 22, &text, &err), &err);
    must(json_parse(text.data, text.n_bytes, facts, &g->facts, &err), &err);
}

void golden_close(struct golden *g) {
    safetensors_free(g->tensors);
    json_free(g->facts);
}

const struct safetensors_tensor *golden_tensor(const struct golden *g, const char *format, ...) {
    char name[256];
    va_list ap;

    va_start(ap, format);
    (void)vsnprintf(name, sizeof name, format, ap);
    va_end(ap);
    return safetensors_find(g->tensors, name);
}

double golden_tolerance(const struct golden *g, const char *name) {
    const struct json *value = json_get(json_get(g->facts, "tolerance"), name);

    if (!value) {
        fprintf(stderr, "fixture: no tolerance %s\n", name);
        exit(1);
    }
    return json_as_real(value);
}

void golden_compare(const char *what, const float *a, const float *b, int64_t n, double atol,
                    double rtol) {
    double worst = -INFINITY;
    int64_t at = 0;

    for (int64_t i = 0; i < n; i++) {
        double excess = fabs((double)a[i] - (double)b[i]) - atol - rtol * fabs((double)b[i]);
        if (!isnan(worst) && !(excess <= worst)) { // once NaN, it stays
            worst = excess;
            at = i;
        }
    }
    CHECK(worst <= 0, "%s: element %lld is %.9g, expected %.9g", what, (long long)at, (double)a[at],
          (double)b[at]);
}

struct model *golden_model(const struct golden *g, const char *dir, enum k_backend backend,
                           const char *path, int64_t n_tokens, int64_t n_seqs, bool training,
                           int64_t n_cache_tokens) {
    struct model_options options = {
        .backend = backend,
        .path = path,
        .n_tokens_max = n_tokens,
        .n_seqs_max = n_seqs,
        .training = training,
        .n_cache_pages = n_cache_tokens ? 2 * n_cache_tokens / GOLDEN_PAGE : 0,
        .n_seq_pages = n_cache_tokens / GOLDEN_PAGE,
        .page_tokens = n_cache_tokens ? GOLDEN_PAGE : 0,
    };
    struct model *model = NULL;
    struct hai_err err = {0};

    must(model_new(&g->config, &options, &model, &err), &err);
    must(load_model(model, dir, &err), &err);
    return model;
}

int golden_paths(struct golden_path ret[4]) {
    static const char *const paths[] = {"avx2", "avx512", "amx"};
    struct k_ctx ctx;
    int n = 1;

    ret[0] = (struct golden_path){K_BACKEND_REF, NULL};
    for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
        if (k_ctx_init(&ctx, K_BACKEND_CPU, paths[i], NULL) == 0)
            ret[n++] = (struct golden_path){K_BACKEND_CPU, paths[i]};
    return n;
}
