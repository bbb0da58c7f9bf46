/* bench_sample - microseconds a token of the sampler, one thread, rows like a model's.
 *
 * Each line: median, fastest and slowest of REPETITIONS samples, each over ROWS rows, all
 * different. Processor time of the thread, so that others on the machine count as little as can be.
 */
#include "engine/infer/sample.h"
#include "kernels/philox.h"

#include <stdio.h>
#include <time.h>

enum { REPETITIONS = 15, ROWS = 8 };

static double now_us(void) {
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return 1e6 * (double)t.tv_sec + 1e-3 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Most logits lie in a wide bell, some hundred stand out of it. */
static void fill(float *x, int64_t n, uint32_t row) {
    for (int64_t i = 0; i < n; i++) {
        struct philox_counter at = philox_at(PHILOX_INIT, row, (uint32_t)i, 0);
        uint32_t words[4];
        philox_words(1, &at, words);
        x[i] = (float)(2.5 * philox_normal(words[0], words[1]));
        if (words[2] % 997 == 0)
            x[i] += (float)(10 * philox_uniform(words[3]));
    }
}

static const struct {
    const char *name;
    struct sample_options o;
} cases[] = {
    {"greedy",                        {.temperature = 0, .top_p = 1, .n_logprobs = -1}                  },
    {"temperature",                   {.temperature = 0.8, .top_p = 1, .n_logprobs = -1}                },
    {"temperature top-p top-k",       {.temperature = 0.8, .top_p = 0.95, .top_k = 50, .n_logprobs = -1}},
    {"temperature top-p top-k min-p",
     {.temperature = 0.8, .top_p = 0.95, .top_k = 1000, .min_p = 0.01, .n_logprobs = -1}                },
    {"temperature top-p",             {.temperature = 0.8, .top_p = 0.95, .n_logprobs = -1}             },
    {"temperature min-p",             {.temperature = 0.8, .top_p = 1, .min_p = 0.05, .n_logprobs = -1} },
    {"greedy, 20 logprobs",           {.temperature = 0, .top_p = 1, .n_logprobs = 20}                  },
};

static void measure(struct sample_space *s, const float *rows, int64_t n, size_t c,
                    bool penalties) {
    _cleanup_(sample_history_freep) struct sample_history *h = sample_history_new(8192);
    struct sample_options o = cases[c].o;
    double times[REPETITIONS];
    int64_t sum = 0;

    o.repeat_penalty = penalties ? 1.1 : 1;
    for (int32_t i = 0; i < 4000; i++)
        sample_history_add(h, i * 17);
    for (int i = -1; i < REPETITIONS; i++) {
        double start = now_us();
        for (int row = 0; row < ROWS; row++) {
            struct sample_result result;
            struct hai_err err = {0};
            if (sample_token(s, rows + row * n, &o, h, NULL, row, &result, &err) < 0)
                abort();
            sum += result.id;
        }
        if (i >= 0)
            times[i] = (now_us() - start) / ROWS;
    }
    qsort(times, REPETITIONS, sizeof *times, ascending);
    printf("%-30s %-10s %7lld  %7.1f us  (%.1f to %.1f)  check %lld\n", cases[c].name,
           penalties ? "penalties" : "", (long long)n, times[REPETITIONS / 2], times[0],
           times[REPETITIONS - 1], (long long)sum);
}

int main(void) {
    static const int64_t sizes[] = {129280, 151936};

    for (size_t z = 0; z < ARRAY_SIZE(sizes); z++) {
        int64_t n = sizes[z];
        _cleanup_free_ float *rows = hai_new_array(float, (size_t)(ROWS * n));
        _cleanup_(sample_space_freep) struct sample_space *s = sample_space_new(n);
        for (uint32_t row = 0; row < ROWS; row++)
            fill(rows + row * n, n, row);
        for (size_t c = 0; c < ARRAY_SIZE(cases); c++)
            measure(s, rows, n, c, false);
        measure(s, rows, n, 0, true);
        measure(s, rows, n, 2, true);
    }
    return 0;
}
