/* bench_batcher - what planning a step costs, at the sizes that serving is built for.
 *
 * bench-batcher [STEPS]
 * Every case has 1,000 slots and 10,000 requests waiting, of 500 users. One thread; CPU times of
 * single calls: median, 99th percentile and longest of STEPS (2,000) steps after the slots have
 * filled.
 */
#include "engine/infer/batcher.h"

#include <stdio.h>
#include <time.h>

enum { N_SLOTS = 1000, N_WAITING = 10000, PAGE_TOKENS = 64, IDS_MAX = 1 << 20 };

static const struct {
    const char *name;
    int32_t n_prompt, n_new, n_drafts, n_pages;
    bool cache;
} cases[] = {
    {"streams of 4,000 tokens",         3000,  100000, 0, 2000000, true },
    {"streams with 3 drafts",           3000,  100000, 3, 2000000, true },
    {"streams of 100,000 tokens",       99000, 100000, 0, 4000000, true },
    {"4 requests end and start a step", 300,   250,    0, 100000,  true },
    {"the same, pages are short",       300,   250,    0, 6000,    true },
    {"the same, no prefix cache",       300,   250,    0, 6000,    false},
};

static int64_t now_ns(void) {
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static uint64_t next(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u; // SplitMix64, Steele and others, 2014
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static int ascending(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

static void show(const char *name, int64_t *ns, int n) {
    qsort(ns, (size_t)n, sizeof *ns, ascending);
    printf("  %-8s median %7.1f us   p99 %7.1f us   longest %7.1f us\n", name,
           (double)ns[n / 2] / 1e3, (double)ns[n * 99 / 100] / 1e3, (double)ns[n - 1] / 1e3);
}

struct bench {
    size_t which;
    struct pages *pages;
    struct prefix *prefix;
    struct batcher *batcher;
    uint64_t random;
    int64_t now_us;
    int32_t *ids;
    struct batcher_result *results;
};

/* Prompts of a user begin alike, by a third. Lengths vary by a half. */
static bool submit(struct bench *b) {
    uint64_t user = next(&b->random) % 500;
    struct batcher_request q = {
        .user = user,
        .weight = 1,
        .priority = (int32_t)(next(&b->random) % 4),
        .ids = b->ids,
        .n_ids = cases[b->which].n_prompt / 2,
        .n_new_max = cases[b->which].n_new / 2,
    };
    int64_t id;

    q.n_ids += (int32_t)(next(&b->random) % (uint64_t)cases[b->which].n_prompt);
    q.n_new_max += (int32_t)(next(&b->random) % (uint64_t)cases[b->which].n_new);
    for (int32_t i = 0; i < q.n_ids; i++)
        b->ids[i] = (int32_t)(i < q.n_ids / 3 ? user : next(&b->random) % 100000);
    int r = batcher_submit(b->batcher, &q, b->now_us, &id, NULL);
    return r == 0;
}

static void start(struct bench *b, size_t which) {
    struct batcher_config config = {
        .n_slots = N_SLOTS,
        .n_requests_max = N_SLOTS + N_WAITING,
        .n_step_tokens_max = 8192,
        .n_chunk_max = 2048,
        .n_drafts_max = 4,
        .n_seq_tokens_max = 1 << 20,
        .n_ids_max = PAGES_ROWS_MAX,
        .latency_us = 100000,
        .age_us = 10000000,
        .us_step = 5000,
        .us_row = 5,
        .us_key = 0.0001,
    };
    struct hai_err err = {0};

    *b = (struct bench){.which = which, .random = 1};
    int r = pages_new(cases[which].n_pages, PAGE_TOKENS, &b->pages, &err);
    assert(r == 0);
    b->prefix = cases[which].cache ? prefix_new(b->pages, 1) : NULL;
    r = batcher_new(&config, b->pages, b->prefix, &b->batcher, &err);
    assert(r == 0);
    b->ids = hai_new_array(int32_t, IDS_MAX);
    b->results = hai_new_array(struct batcher_result, N_SLOTS);
}

static void end(struct bench *b) {
    batcher_free(b->batcher);
    prefix_free(b->prefix);
    pages_free(b->pages);
    free(b->ids);
    free(b->results);
}

/* Long prompts are not computed here, so there need not be as many of them waiting. */
static void refill(struct bench *b) {
    struct batcher_counts c;
    int32_t n = cases[b->which].n_prompt > 10000 ? 0 : N_WAITING;

    batcher_count(b->batcher, &c);
    for (int32_t i = c.n_waiting + c.n_resident; i < N_SLOTS + n && submit(b); i++)
        ;
}

static void drafts(struct bench *b, const struct batcher_plan *plan) {
    static const int32_t ids[4] = {1, 2, 3, 4};

    for (int32_t i = 0; i < plan->n_seqs; i++)
        (void)batcher_drafts(b->batcher, plan->seqs[i].id, ids, cases[b->which].n_drafts);
}

static void run(size_t which, int n_steps) {
    _cleanup_free_ int64_t *plans = hai_new_array(int64_t, (size_t)n_steps);
    _cleanup_free_ int64_t *dones = hai_new_array(int64_t, (size_t)n_steps);
    struct batcher_plan plan = {0};
    struct batcher_ending e;
    struct batcher_counts c = {0};
    struct bench b;
    int64_t n_tokens = 0, n_preempted = 0;

    start(&b, which);
    for (int i = -100000; i < n_steps; i++) {
        refill(&b);
        // The slots are full: from here on it counts.
        if (i < 0 && (c.n_decoding >= N_SLOTS * 9 / 10 || i == -100000 + 20000)) {
            i = 0;
            n_preempted = c.n_preempted;
        }
        if (cases[which].n_drafts > 0)
            drafts(&b, &plan);
        int64_t t = now_ns();
        batcher_plan(b.batcher, b.now_us, &plan);
        plans[MAX(i, 0)] = now_ns() - t;
        for (int32_t j = 0; j < plan.n_seqs; j++)
            b.results[j].token = (int32_t)(next(&b.random) % 100000);
        double us = 5000 + 5 * plan.n_tokens;
        b.now_us += (int64_t)us;
        t = now_ns();
        batcher_done(b.batcher, b.results, b.now_us, (int64_t)us);
        dones[MAX(i, 0)] = now_ns() - t;
        n_tokens += i >= 0 ? plan.n_tokens : 0;
        while (batcher_next_end(b.batcher, &e))
            ;
        batcher_count(b.batcher, &c);
    }
    printf("%s: %d decoding, %d resident, %d waiting, %lld rows a step, %.2f preempted a step\n",
           cases[which].name, c.n_decoding, c.n_resident, c.n_waiting,
           (long long)n_tokens / n_steps, (double)(c.n_preempted - n_preempted) / n_steps);
    show("plan", plans, n_steps);
    show("done", dones, n_steps);
    end(&b);
}

int main(int argc, char **argv) {
    int n_steps = argc > 1 ? atoi(argv[1]) : 2000;

    if (n_steps < 1)
        return 2;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        run(i, n_steps);
    return 0;
}
