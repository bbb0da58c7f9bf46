/* What a request's callbacks may do while a step is under way: stop in the middle of right guesses,
 * submit, cancel, take their time. And what they are told when a pass fails. */
#include "tests/unit/engine_client.h"

#include <unistd.h>

static const char *const plain_model = "tests/fixtures/models/llama_mha";
static const char *const guess_model = "tests/fixtures/models/dsv3";

/* Two at a time. */
static const struct client_way plain = {"plain", 2,     64, 64, 512, 0, ENGINE_DRAFTS_NONE,
                                        true,    false, 1};

/* A request whose answer is one token over and over: every guess is right once it has begun. Its
 * prompt begins with what the client has there, so that it waits for nobody who computes the same.
 */
static void submit_constant(struct engine *e, struct client *c) {
    static const struct sample_bias one = {10, 1e4F};
    struct engine_request request;
    struct hai_err err = {0};

    c->n_prompt = 20;
    for (int i = 1; i < c->n_prompt; i++)
        c->prompt[i] = 10 + (i < 10 ? i : 0);
    request = client_request(c, 0);
    request.n_new_max = CLIENT_NEW_TOKENS;
    request.sample.biases = &one;
    request.sample.n_biases = 1;
    CHECK_EQ(engine_submit(e, &request, &c->id, &err), 0, "%s", err.text);
}

static struct engine *guessing_engine(enum engine_drafts drafts) {
    struct client_way way = plain;

    way.drafts = drafts;
    return client_engine(drafts == ENGINE_DRAFTS_MTP ? guess_model : plain_model, &way);
}

/* Enough at every place among the accepted guesses: what came counts, and nothing beyond it. */
TEST(enough_in_mid_guess)
{
    static const enum engine_drafts kinds[] = {ENGINE_DRAFTS_TEXT, ENGINE_DRAFTS_MTP};

    for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
        struct engine *e = guessing_engine(kinds[k]);
        struct batcher_counts counts;
        int64_t n_all = 0;
        for (int stop_at = 1; stop_at <= 12; stop_at++) {
            struct client c = {.stop_at = stop_at};
            submit_constant(e, &c);
            client_steps(e);
            n_all += stop_at;
            batcher_count(engine_batcher(e), &counts);
            CHECK_EQ(c.n, stop_at, "%zu", k);
            CHECK_EQ(c.end, BATCHER_END_STOP, "%zu: at %d", k, stop_at);
            CHECK_EQ(counts.n_new_tokens, n_all, "%zu: at %d", k, stop_at);
            batcher_check(engine_batcher(e));
        }
        CHECK(counts.n_accepted > 12, "%zu: %lld guesses", k, (long long)counts.n_accepted);
        CHECK(counts.n_hit_tokens > 0, "%zu", k);
        engine_free(e);
    }
}

/* Cancelled by a callback of its own or of another: no token after that, wherever it was. */
struct cancelling {
    struct engine *engine;
    struct client *victim;
    int at; // of the canceller's tokens; 0: in its end
    int r;
};

static void cancel_at_token(struct client *c, void *userdata) {
    struct cancelling *what = userdata;

    if (c->n != what->at)
        return;
    what->r = engine_cancel(what->engine, what->victim->id);
    what->victim->done = true;
    CHECK_EQ(engine_cancel(what->engine, what->victim->id), -ENOENT, "twice");
}

static void cancel_at_end(struct client *c, void *userdata) {
    struct cancelling *what = userdata;

    CHECK(c->ended, "");
    if (what->at == 0)
        what->r = engine_cancel(what->engine, what->victim->id);
}

TEST(cancelled_in_mid_guess)
{
    for (int at = 1; at <= 12; at++) {
        struct engine *e = guessing_engine(ENGINE_DRAFTS_TEXT);
        struct cancelling what = {.engine = e, .at = at, .r = 1};
        struct client c = {.at_token = cancel_at_token, .userdata = &what};
        what.victim = &c;
        submit_constant(e, &c);
        client_steps(e);
        CHECK_EQ(what.r, 0, "at %d", at);
        CHECK_EQ(c.n, at, "");
        CHECK(c.ended && c.end == BATCHER_END_CANCELLED, "at %d: %s", at, c.why);
        batcher_check(engine_batcher(e));
        engine_free(e);
    }
}

/* Slots are in order of admission: the first can cancel the second before its row is looked at, the
 * second the first after it; a third waits. */
TEST(cancelled_by_others)
{
    for (int k = 0; k < 12; k++) {
        int from = k % 2, victim = k / 2 % 3, at = k / 6 ? 3 : 0;
        if (from == victim)
            continue;
        struct engine *e = guessing_engine(ENGINE_DRAFTS_TEXT);
        struct client c[3] = {0};
        struct cancelling what = {.engine = e, .victim = &c[victim], .at = at, .r = 1};
        c[from].at_token = cancel_at_token;
        c[from].at_end = cancel_at_end;
        c[from].userdata = &what;
        c[from].stop_at = 8; // in time for the others
        for (int i = 0; i < 3; i++) {
            c[i].prompt[0] = i;
            submit_constant(e, &c[i]);
        }
        client_steps(e);
        CHECK_EQ(what.r, 0, "%d", k);
        for (int i = 0; i < 3; i++) {
            enum batcher_end end = i == victim ? BATCHER_END_CANCELLED
                                   : i == from ? BATCHER_END_STOP
                                               : BATCHER_END_LENGTH;
            CHECK(c[i].ended && c[i].end == end, "%d: %d: %s", k, i, batcher_end_text(c[i].end));
            CHECK_EQ(c[i].n == CLIENT_NEW_TOKENS, end == BATCHER_END_LENGTH, "%d: %d", k, i);
        }
        batcher_check(engine_batcher(e));
        engine_free(e);
    }
}

/* One that has its last token is not cancelled any more. */
TEST(cancelled_too_late)
{
    struct engine *e = guessing_engine(ENGINE_DRAFTS_NONE);
    struct client c[2] = {[0].stop_at = 3};
    struct cancelling what = {.engine = e, .victim = &c[0], .at = 3, .r = 1};

    c[1].at_token = cancel_at_token;
    c[1].userdata = &what;
    c[1].prompt[0] = 1;
    submit_constant(e, &c[0]);
    submit_constant(e, &c[1]);
    client_steps(e);
    CHECK_EQ(what.r, -ENOENT, "");
    CHECK_EQ(c[0].end, BATCHER_END_STOP, "");
    engine_free(e);
}

/* Submitting from callbacks. */
struct chain {
    struct engine *engine;
    struct client *next;
    int at;
};

static void submit_at_token(struct client *c, void *userdata) {
    struct chain *chain = userdata;

    if (c->n == chain->at)
        client_submit(chain->engine, chain->next, 5);
}

static void submit_at_end(struct client *c, void *userdata) {
    struct chain *chain = userdata;

    CHECK(c->ended, "");
    if (!chain->at)
        client_submit(chain->engine, chain->next, 5);
}

TEST(submitted_by_callbacks)
{
    struct client want = {
        .prompt = {4, 5, 6},
          .n_prompt = 3
    };
    struct engine *e = client_engine(plain_model, &plain);

    client_run(e, &want, 0, 0);
    client_submit(e, &want, 5);
    client_steps(e);
    for (int at = 0; at <= 3; at++) {
        struct client c = {.at_token = submit_at_token, .at_end = submit_at_end};
        struct client next = {
            .prompt = {4, 5, 6},
              .n_prompt = 3
        };
        struct chain chain = {e, &next, at};
        c.userdata = &chain;
        submit_constant(e, &c);
        client_steps(e);
        CHECK(c.ended && c.end == BATCHER_END_LENGTH, "");
        client_compare(&next, &want, plain_model, "submitted by another", at);
    }
    engine_free(e);
}

/* A step in which nothing runs but somebody ends is not idle if his end submits. */
TEST(submitted_by_an_end_alone)
{
    struct engine *e = client_engine(plain_model, &plain);
    struct client next = {
        .prompt = {4, 5, 6},
          .n_prompt = 3
    };
    struct client c = {.at_end = submit_at_end};
    struct chain chain = {e, &next, 0};
    struct hai_err err = {0};

    c.userdata = &chain;
    submit_constant(e, &c);
    CHECK_EQ(engine_cancel(e, c.id), 0, "");
    CHECK_EQ(engine_step(e, &err), 1, "%s", err.text);
    CHECK_EQ(c.end, BATCHER_END_CANCELLED, "");
    CHECK_EQ(next.n, 1, "");
    client_steps(e);
    CHECK(next.ended && next.end == BATCHER_END_LENGTH, "");
    engine_free(e);
}

/* Kernels whose embedding, the first operator of every pass, fails the n-th time from now. */
static const struct k_table *whole;
static struct k_table broken;
static int fails_in;

static int embed_fails(struct k_ctx *ctx, const struct k_embed *a) {
    if (--fails_in == 0)
        return -EIO;
    ctx->table = whole;
    int r = k_embed(ctx, a);
    ctx->table = &broken;
    return r;
}

/* Who was part of a failed pass is told why, and nobody else ends. */
static void check_failing(enum engine_drafts drafts, int n_until, int n_new) {
    struct engine *e = guessing_engine(drafts);
    struct k_ctx *ctx = model_ctx(engine_model(e));
    struct client c[3] = {0};
    struct batcher_counts counts;
    struct hai_err err = {0};

    whole = ctx->table;
    broken = *whole;
    broken.embed = embed_fails;
    ctx->table = &broken;
    fails_in = n_until;
    for (int i = 0; i < 3; i++) {
        c[i].prompt[0] = i;
        submit_constant(e, &c[i]);
    }
    CHECK_EQ(engine_step(e, &err), -EIO, "");
    CHECK(strstr(err.text, "operator"), "%s", err.text);
    for (int i = 0; i < 2; i++) {
        CHECK(c[i].ended && c[i].end == BATCHER_END_FAILED, "%d", i);
        CHECK_STR(c[i].why, err.text, "%d", i);
        CHECK_EQ(c[i].n, n_new, "%d", i);
    }
    batcher_count(engine_batcher(e), &counts);
    CHECK_EQ(counts.n_new_tokens, 2 * n_new, "");
    CHECK_EQ(c[2].n, 0, "");
    client_steps(e);
    CHECK(c[2].ended && c[2].end == BATCHER_END_LENGTH, "");
    batcher_check(engine_batcher(e));
    engine_free(e);
}

TEST(failed_pass)
{ check_failing(ENGINE_DRAFTS_NONE, 1, 0); }

/* Its tokens were given before the guesses were to be made: they count. */
TEST(failed_guesses)
{ check_failing(ENGINE_DRAFTS_MTP, 2, 1); }

/* A choice that fails has its own reason, beside others that go on. */
TEST(failed_choice)
{
    struct engine *e = client_engine(plain_model, &plain);
    struct client c[2] = {
        {.prompt = {4, 5, 6}, .n_prompt = 3},
        {.prompt = {4, 5, 6}, .n_prompt = 3}
    };
    struct engine_request request = client_request(&c[0], 5);
    struct hai_err err = {0};
    _cleanup_free_ struct sample_bias *biases = hai_new_array(struct sample_bias, 512);

    for (int i = 0; i < 512; i++)
        biases[i] = (struct sample_bias){i, -__builtin_inff()};
    request.sample.biases = biases;
    request.sample.n_biases = 512;
    CHECK_EQ(engine_submit(e, &request, &c[0].id, &err), 0, "%s", err.text);
    client_submit(e, &c[1], 5);
    client_steps(e);
    CHECK(c[0].ended && c[0].end == BATCHER_END_FAILED && c[0].n == 0, "%s", c[0].why);
    CHECK(c[1].ended && c[1].end == BATCHER_END_LENGTH, "");
    engine_free(e);
}

static void dawdle(struct client *c, void *userdata) {
    CHECK(c && !userdata, "");
    (void)usleep(600000);
}

/* The latency budget is about passes: with slow callbacks two still run at once. */
TEST(slow_callbacks_are_not_slow_passes)
{
    struct engine_options options = engine_defaults();
    struct client c[3] = {
        [0] = {.at_token = dawdle, .stop_at = 2}
    };
    struct engine *e = NULL;
    struct hai_err err = {0};

    options.n_seq_tokens_max = 128;
    options.latency_us = 400000;
    CHECK_EQ(engine_open(plain_model, &options, &e, &err), 0, "%s", err.text);
    for (int i = 0; i < 3; i++) {
        c[i].prompt[0] = i;
        submit_constant(e, &c[i]);
        if (i == 0)
            client_steps(e);
    }
    CHECK_EQ(engine_step(e, &err), 2, "");
    engine_free(e);
}
