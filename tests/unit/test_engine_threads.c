/* The engine on several threads, small enough for the thread sanitizer (suite `threads`): files
 * read ahead, pieces of every operator of decoding and prefill, experts, guesses; and the bits of
 * one. */
#include "tests/unit/engine_client.h"

enum { REQUESTS = 6 };

static void run_as(const char *dir, const struct client_way *way, struct client *clients) {
    struct engine *e = client_engine(dir, way);

    client_prompts(clients, REQUESTS);
    client_run(e, clients, 0, REQUESTS);
    batcher_check(engine_batcher(e));
    engine_free(e);
}

static void check_threads(const char *dir, enum engine_drafts drafts, bool fast_prefill) {
    const struct client_way one = {"one thread", 1,     64,    64, 256,  0,
                                   drafts,       false, false, 1,  NULL, fast_prefill};
    const struct client_way several = {"three threads", 4,    64,    64, 1024, 8,
                                       drafts,          true, false, 3,  NULL, fast_prefill};
    _cleanup_free_ struct client *want = hai_new_array(struct client, REQUESTS);
    _cleanup_free_ struct client *got = hai_new_array(struct client, REQUESTS);

    run_as(dir, &one, want);
    run_as(dir, &several, got);
    for (int i = 0; i < REQUESTS && !fast_prefill; i++)
        client_compare(&got[i], &want[i], dir, several.name, i);
}

TEST(grouped_queries)
{ check_threads("tests/fixtures/models/llama_gqa", ENGINE_DRAFTS_TEXT, false); }

TEST(latent_with_experts)
{ check_threads("tests/fixtures/models/dsv3", ENGINE_DRAFTS_MTP, false); }

TEST(latent_expanded)
{ check_threads("tests/fixtures/models/dsv3", ENGINE_DRAFTS_NONE, true); }
