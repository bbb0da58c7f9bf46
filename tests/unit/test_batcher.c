/* The batcher under a fake model (batch_world.h): whatever is batched, chunked, found in the cache,
 * preempted or guessed, every request gets the tokens that it gets alone. */
#include "engine/infer/prefix_file.h"
#include "tests/unit/batch_world.h"
#include "tests/unit/test.h"

#include <unistd.h>

static const struct batcher_config base = {
    .n_slots = 16,
    .n_requests_max = 256,
    .n_step_tokens_max = 2048,
    .n_chunk_max = 512,
    .n_drafts_max = 4,
    .n_seq_tokens_max = WORLD_TOKENS_MAX,
    .n_ids_max = 1 << 18,
    .latency_us = 100000,
    .age_us = 5000000,
    .us_step = 1000,
    .us_row = 20,
    .us_key = 0.01,
};

enum { N_REQUESTS = 64, PREFIXES = 4 };

/* Prompts that share beginnings of awkward lengths, of two tenants and four users. */
static struct world_request *make_requests(uint64_t seed, int32_t n, int32_t n_prompt_max,
                                           int32_t n_new_max) {
    struct world_request *requests = hai_new_array(struct world_request, (size_t)n);

    for (int32_t i = 0; i < n; i++) {
        struct world_request *r = &requests[i];
        r->ids = hai_new_array(int32_t, WORLD_TOKENS_MAX);
        r->ask.n_ids = 1 + (int32_t)(world_next(&seed) % (uint64_t)n_prompt_max);
        r->ask.n_new_max = 1 + (int32_t)(world_next(&seed) % (uint64_t)n_new_max);
        r->ask.user = world_next(&seed) % 4;
        r->ask.weight = 1 + (int32_t)r->ask.user % 2;
        r->ask.priority = (int32_t)(world_next(&seed) % 3);
        r->ask.cache_key = r->ask.user % 2;
        r->ask.no_cache = world_next(&seed) % 16 == 0;
        r->at_us = (int64_t)(world_next(&seed) % 300000);
        uint64_t shared = world_next(&seed) % PREFIXES;
        int32_t n_shared = (int32_t)(world_next(&seed) % (uint64_t)r->ask.n_ids + 1);
        for (int32_t j = 0; j < r->ask.n_ids; j++) {
            uint64_t state = shared * 4096 + (uint64_t)j;
            r->ids[j] = (int32_t)(world_next(j < n_shared ? &state : &seed) % WORLD_VOCABULARY);
        }
    }
    return requests;
}

static void free_requests(struct world_request *requests, int32_t n) {
    for (int32_t i = 0; i < n; i++)
        free(requests[i].ids);
    free(requests);
}

static struct world_config world_of(int32_t n_pages, uint64_t seed) {
    return (struct world_config){
        .batcher = base,
        .n_pages = n_pages,
        .page_tokens = 16,
        .us = {1000, 20, 0.01},
        .seed = seed,
    };
}

static const struct {
    const char *name;
    int32_t n_slots, n_chunk_max, n_pages, page_tokens, n_swap_pages, draft_bits;
    bool cold;    // no prefix cache
    int preempts; // 1: some must be, 0: nobody may be, -1: either
} ways[] = {
    {"alone",                     1,  512, 200, 16, 0,   0,   true,  false},
    {"alone, with drafts",        1,  512, 200, 16, 0,   160, true,  false},
    {"alone, cache",              1,  512, 200, 16, 0,   0,   false, 0    },
    {"batched",                   16, 512, 999, 16, 0,   0,   true,  false},
    {"batched, cache",            16, 512, 999, 16, 0,   0,   false, 0    },
    {"chunks of 1",               16, 1,   999, 16, 0,   0,   false, 0    },
    {"chunks of 7",               16, 7,   999, 16, 0,   0,   false, 0    },
    {"chunks of 64",              16, 64,  999, 16, 0,   0,   false, 0    },
    {"drafts",                    16, 512, 999, 16, 0,   160, false, 0    },
    {"drafts, cold, chunks of 7", 16, 7,   999, 16, 0,   160, true,  false},
    {"few pages",                 16, 512, 40,  16, 0,   0,   false, 1    },
    {"few pages, cold",           16, 64,  40,  16, 0,   0,   true,  true },
    {"few pages, drafts",         16, 64,  40,  16, 0,   160, false, 1    },
    {"fewest pages",              16, 7,   27,  16, 0,   100, false, -1   },
    {"swap",                      16, 512, 40,  16, 400, 0,   false, 1    },
    {"swap, cold",                16, 64,  40,  16, 400, 0,   true,  true },
    {"little swap, drafts",       16, 64,  40,  16, 30,  160, false, 1    },
    {"pages of 1",                16, 64,  600, 1,  300, 100, false, 1    },
    {"pages of 64",               16, 64,  12,  64, 20,  100, false, 1    },
};

TEST(same_tokens_however_they_run)
{
    for (size_t i = 0; i < ARRAY_SIZE(ways); i++)
        for (uint64_t seed = 1; seed <= 4; seed++) {
            struct world_config config = world_of(ways[i].n_pages, seed);
            struct world w;
            config.batcher.n_slots = ways[i].n_slots;
            config.batcher.n_chunk_max = ways[i].n_chunk_max;
            config.batcher.n_swap_pages = ways[i].n_swap_pages;
            config.page_tokens = ways[i].page_tokens;
            config.draft_bits = ways[i].draft_bits;
            config.cold = ways[i].cold;
            struct world_request *requests = make_requests(seed, N_REQUESTS, 370, 50);
            for (int32_t j = 0; j < N_REQUESTS && ways[i].preempts == 0; j++)
                requests[j].ask.priority = 0;
            world_start(&w, &config, requests, N_REQUESTS);
            world_run(&w);
            CHECK_EQ(w.n_ended, N_REQUESTS, "%s", ways[i].name);
            struct batcher_counts c;
            batcher_count(w.batcher, &c);
            // What the row is about has happened.
            if (ways[i].preempts >= 0)
                CHECK_EQ(c.n_preempted > 0, ways[i].preempts, "%s: preempted", ways[i].name);
            CHECK_EQ(c.n_hit_tokens > 0, !ways[i].cold, "%s: hits", ways[i].name);
            CHECK_EQ(c.n_accepted > 0 && c.n_drafted > c.n_accepted, ways[i].draft_bits > 0,
                     "%s: drafts", ways[i].name);
            CHECK_EQ(w.n_moves[BATCHER_COPY] > 0, !ways[i].cold && ways[i].page_tokens > 1,
                     "%s: copies", ways[i].name);
            CHECK_EQ(w.n_moves[BATCHER_OUT] > 0, ways[i].n_swap_pages > 0, "%s: moved out",
                     ways[i].name);
            CHECK_EQ(w.n_moves[BATCHER_IN] > 0, ways[i].n_swap_pages > 0, "%s: moved in",
                     ways[i].name);
            world_end(&w, ways[i].name);
            free_requests(requests, N_REQUESTS);
            if (test_failed()) {
                printf("%s, seed %llu\n", ways[i].name, (unsigned long long)seed);
                return;
            }
        }
}

/* Requests that are cancelled or run out of time, at any moment. */
TEST(cancelled_at_any_time)
{
    int32_t n_ends[BATCHER_END_COUNT] = {0};

    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct world_config config = world_of(48, seed);
        struct world w;
        config.batcher.n_swap_pages = seed % 3 == 0 ? 100 : 0;
        config.batcher.n_chunk_max = 64;
        config.draft_bits = 60;
        struct world_request *requests = make_requests(seed, N_REQUESTS, 370, 50);
        uint64_t random = seed;
        for (int32_t i = 0; i < N_REQUESTS; i++) {
            int64_t at_us = requests[i].at_us + (int64_t)(world_next(&random) % 400000);
            if (i % 3 == 0)
                requests[i].cancel_us = at_us;
            else if (i % 3 == 1)
                requests[i].ask.deadline_us = at_us;
        }
        world_start(&w, &config, requests, N_REQUESTS);
        world_run(&w);
        for (int32_t i = 0; i < N_REQUESTS; i++) {
            const struct world_request *r = &requests[i];
            n_ends[r->ending.end]++;
            if (r->ending.end == BATCHER_END_TIMED_OUT)
                CHECK(r->ending.end_us >= r->ask.deadline_us);
        }
        world_end(&w, "cancelled");
        free_requests(requests, N_REQUESTS);
        if (test_failed()) {
            printf("seed %llu\n", (unsigned long long)seed);
            return;
        }
    }
    CHECK(n_ends[BATCHER_END_CANCELLED] > 100);
    CHECK(n_ends[BATCHER_END_TIMED_OUT] > 100);
    CHECK(n_ends[BATCHER_END_LENGTH] > 100);
    CHECK_STR(batcher_end_text(BATCHER_END_TIMED_OUT), "timed_out");
}

static uint64_t digest_of(const struct batcher_plan *p) {
    uint64_t state = 1;

    for (int32_t i = 0; i < p->n_tokens; i++)
        state ^= world_next(&state) + (uint64_t)p->row[i] * 7 + (uint64_t)p->ids[i];
    for (int32_t i = 0; i < p->n_seqs; i++)
        state ^= world_next(&state) + (uint64_t)p->seqs[i].id;
    return state;
}

static void add_digest(struct world *w, void *userdata) {
    uint64_t *sum = userdata;

    *sum = *sum * 31 + digest_of(&w->plan);
}

TEST(same_calls_same_plans)
{
    uint64_t sums[2] = {0};

    for (int i = 0; i < 2; i++) {
        struct world_config config = world_of(40, 5);
        struct world w;
        config.batcher.n_swap_pages = 50;
        config.draft_bits = 100;
        struct world_request *requests = make_requests(5, N_REQUESTS, 370, 50);
        world_start(&w, &config, requests, N_REQUESTS);
        w.look = add_digest;
        w.userdata = &sums[i];
        world_run(&w);
        world_end(&w, "same");
        free_requests(requests, N_REQUESTS);
    }
    CHECK_EQ(sums[0], sums[1]);
}

/* The same prompt many times: at once it is computed about once, afterwards not at all, and by
 * another tenant again. */
TEST(shared_prompts_are_computed_once)
{
    enum { N = 24, N_PROMPT = 320 };
    struct world_config config = world_of(999, 1);
    struct world_request *requests = make_requests(1, N, N_PROMPT, 10);
    struct batcher_counts c;
    int64_t before = 0;
    struct world w;

    config.batcher.n_chunk_max = 64;
    config.batcher.n_step_tokens_max = 128;
    for (int32_t i = 0; i < N; i++) {
        requests[i].ask.n_ids = N_PROMPT;
        requests[i].ask.cache_key = i < 16 ? 5 : 6;
        requests[i].ask.no_cache = false;
        requests[i].ask.priority = 0;
        requests[i].ask.user = 1;
        requests[i].at_us = i / 8 * 10000000;
        memcpy(requests[i].ids, requests[0].ids, N_PROMPT * sizeof(int32_t));
    }
    world_start(&w, &config, requests, N);
    static const int64_t computed_max[] = {N_PROMPT + 8 * 16, 8, N_PROMPT + 8 * 16};
    for (int turn = 0; turn < 3; turn++) {
        while (w.n_ended < 8 * (turn + 1) && !test_failed())
            if (!world_step(&w))
                w.now_us += 1000;
        batcher_count(w.batcher, &c);
        CHECK(c.n_prompt_tokens - before <= computed_max[turn], "%d: %lld", turn,
              (long long)(c.n_prompt_tokens - before));
        CHECK(c.n_prompt_tokens - before >= (turn == 1 ? 0 : N_PROMPT), "%d: %lld", turn,
              (long long)(c.n_prompt_tokens - before));
        before = c.n_prompt_tokens;
    }
    world_end(&w, "shared prompts");
    free_requests(requests, N);
}

static int get_page(void *userdata, int32_t page, void *ret, struct hai_err *err) {
    struct world *w = userdata;
    size_t n = (size_t)w->config.page_tokens;

    memcpy(ret, w->cells + (size_t)page * n, n * sizeof *w->cells);
    return 0;
}

static int put_page(void *userdata, int32_t page, const void *bytes, struct hai_err *err) {
    struct world *w = userdata;
    size_t n = (size_t)w->config.page_tokens;

    memcpy(w->cells + (size_t)page * n, bytes, n * sizeof *w->cells);
    return 0;
}

/* Two lives of a server: the second finds what the first has saved, and says the same. */
TEST(cache_from_disk)
{
    struct prefix_file_owner owner = {.kernel_path = "ref", .page_bytes = 16 * sizeof(uint64_t)};
    const char *dir = getenv("TMPDIR");
    struct hai_err err = {0};
    int64_t n_hit[2], n_computed[2];
    char path[256];

    snprintf(path, sizeof path, "%s/test_batcher.%d", dir ? dir : "/tmp", (int)getpid());
    for (int life = 0; life < 2; life++) {
        struct world_config config = world_of(1600, 9);
        struct batcher_counts c;
        struct world w;
        struct prefix_file_bytes bytes = {get_page, put_page, &w};
        struct world_request *requests = make_requests(9, N_REQUESTS, 370, 50);
        world_start(&w, &config, requests, N_REQUESTS);
        if (life == 1)
            CHECK(prefix_file_load(w.prefix, path, &owner, &bytes, &err) > 100, "%s", err.text);
        world_run(&w);
        batcher_count(w.batcher, &c);
        n_hit[life] = c.n_hit_tokens;
        n_computed[life] = c.n_prompt_tokens;
        if (life == 0)
            CHECK(prefix_file_save(w.prefix, path, &owner, 1600, &bytes, &err) > 100, "%s",
                  err.text);
        world_end(&w, "from disk");
        free_requests(requests, N_REQUESTS);
    }
    CHECK(n_hit[1] > 2 * n_hit[0], "%lld, %lld", (long long)n_hit[0], (long long)n_hit[1]);
    CHECK(n_computed[1] < n_computed[0] / 2);
    (void)unlink(path);
}

/* One prompt of a million tokens, and again: all of it but the last token comes from the cache. */
TEST(a_million_tokens)
{
    enum { N = 1000000 };
    struct world_config config = world_of(16000, 1);
    struct world_request requests[2] = {0};
    struct world w;

    config.page_tokens = 64;
    config.batcher.n_seq_tokens_max = 1 << 20;
    config.batcher.n_ids_max = 1 << 22;
    config.batcher.n_step_tokens_max = config.batcher.n_chunk_max = 1 << 17;
    for (int32_t i = 0; i < 2; i++) {
        requests[i].ids = hai_new_array(int32_t, N + 8);
        for (int32_t j = 0; j < N; j++)
            requests[i].ids[j] = j * 7 % WORLD_VOCABULARY;
        requests[i].ask = (struct batcher_request){.weight = 1, .n_ids = N, .n_new_max = 3};
        requests[i].at_us = i * INT64_C(100000000);
    }
    world_start(&w, &config, requests, 2);
    world_run(&w);
    CHECK_EQ(requests[0].ending.n_hit, 0);
    CHECK_EQ(requests[1].ending.n_hit, N - 1);
    world_end(&w, "a million");
    free(requests[0].ids);
    free(requests[1].ids);
}
