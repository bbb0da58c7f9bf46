#include "tests/unit/batch_world.h"
#include "tests/unit/test.h"

uint64_t world_next(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u; // SplitMix64, Steele and others, 2014
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static uint64_t mix(uint64_t a, uint64_t b) {
    uint64_t state = a * 31 + b;

    return world_next(&state);
}

/* What the cache holds of a token, from what it holds of the one before. */
static uint64_t cell_of(uint64_t before, int32_t id, int32_t position) {
    return mix(mix(before, (uint64_t)id), (uint64_t)position);
}

static uint64_t cell_start(uint64_t key) {
    return mix(key, 77);
}

static int32_t token_of(uint64_t sum) {
    return (int32_t)(mix(sum, 5) % WORLD_VOCABULARY);
}

int32_t world_expect(uint64_t key, const int32_t *prompt, int32_t n_prompt, int32_t n_max,
                     int32_t *ret) {
    uint64_t cell = cell_start(key), sum = 0;
    int32_t n = 0;

    for (int32_t p = 0;; p++) {
        int32_t id = p < n_prompt ? prompt[p] : ret[p - n_prompt];
        cell = cell_of(cell, id, p);
        sum += cell;
        if (p + 1 < n_prompt)
            continue;
        ret[n++] = token_of(sum);
        if (n == n_max || ret[n - 1] == WORLD_STOP)
            return n;
    }
}

void world_start(struct world *w, const struct world_config *config, struct world_request *requests,
                 int32_t n) {
    struct hai_err err = {0};
    size_t n_cells = (size_t)config->n_pages * (size_t)config->page_tokens;
    size_t n_swapped = (size_t)config->batcher.n_swap_pages * (size_t)config->page_tokens;

    *w = (struct world){.config = *config, .requests = requests, .n_requests = n};
    w->random = config->seed;
    int r = pages_new(config->n_pages, config->page_tokens, &w->pages, &err);
    assert(r == 0);
    w->prefix = config->cold ? NULL : prefix_new(w->pages, config->seed);
    r = batcher_new(&config->batcher, w->pages, w->prefix, &w->batcher, &err);
    if (r < 0)
        printf("%s\n", err.text);
    assert(r == 0);
    w->cells = hai_new_array(uint64_t, n_cells);
    w->swapped = hai_new_array(uint64_t, n_swapped);
}

static struct world_request *request_of(struct world *w, int64_t id) {
    for (int32_t i = 0; i < w->n_requests; i++)
        if (w->requests[i].id == id)
            return &w->requests[i];
    return NULL;
}

static void do_moves(struct world *w) {
    size_t n = (size_t)w->config.page_tokens;

    for (int32_t i = 0; i < w->plan.n_moves; i++) {
        const struct batcher_move *m = &w->plan.moves[i];
        const uint64_t *from =
            (m->kind == BATCHER_IN ? w->swapped : w->cells) + (size_t)m->from * n;
        uint64_t *to = (m->kind == BATCHER_OUT ? w->swapped : w->cells) + (size_t)m->to * n;
        w->n_moves[m->kind]++;
        CHECK(m->n_tokens > 0 && m->n_tokens <= (int32_t)n);
        // What is not asked for is spoilt, as whole pages need not be copied.
        memset(to, 0xee, n * sizeof *to);
        memcpy(to, from, (size_t)m->n_tokens * sizeof *to);
    }
}

static int32_t row_of(const struct world *w, int32_t seq, int32_t position) {
    const struct batcher_plan *p = &w->plan;
    int32_t n = w->config.page_tokens;

    return p->table[(int64_t)p->seqs[seq].slot * p->n_table + position / n] * n + position % n;
}

/* Rows are where the page table says, alone there, in order, and within all limits. */
static void check_seq(struct world *w, int32_t i, uint8_t *written) {
    const struct batcher_plan *p = &w->plan;
    const struct batcher_seq *seq = &p->seqs[i];
    const struct world_request *r = request_of(w, seq->id);
    int32_t from = p->seq_start[i], n = p->seq_start[i + 1] - from;
    int32_t first = p->kv_length[i] - n;

    CHECK(r && !r->ended && n > 0 && first >= 0);
    CHECK(seq->n_drafts <= w->config.batcher.n_drafts_max);
    CHECK(n == 1 + seq->n_drafts || n <= w->config.batcher.n_chunk_max);
    CHECK_EQ(seq->n_logits > 0, p->kv_length[i] - seq->n_drafts == r->n_ids);
    for (int32_t j = 0; j < n; j++) {
        CHECK_EQ(p->position[from + j], first + j);
        CHECK_EQ(p->row[from + j], row_of(w, i, first + j));
        CHECK_EQ(pages_holders(w->pages, p->row[from + j] / w->config.page_tokens), 1);
        CHECK_EQ(written[p->row[from + j]]++, 0);
        if (first + j < r->n_ids)
            CHECK_EQ(p->ids[from + j], r->ids[first + j]);
        int32_t next = j + 1 < n ? p->ids[from + j + 1] : -1;
        if (first + j + 1 < r->n_ids)
            next = r->ids[first + j + 1];
        CHECK_EQ(p->next_ids[from + j], next);
    }
}

/* Packed tables say the same as those by slots. */
static void check_tables(struct world *w) {
    const struct batcher_plan *p = &w->plan;
    size_t n = (size_t)p->n_seqs * (size_t)p->n_pages;
    _cleanup_free_ int32_t *tables = hai_new_array(int32_t, n);

    batcher_tables(w->batcher, tables);
    for (int32_t i = 0; i < p->n_seqs; i++)
        for (int32_t j = 0; j * w->config.page_tokens < p->kv_length[i]; j++)
            CHECK_EQ(tables[i * p->n_pages + j] * w->config.page_tokens,
                     row_of(w, i, j * w->config.page_tokens));
}

static void check_plan(struct world *w) {
    const struct batcher_plan *p = &w->plan;
    size_t n_cells = (size_t)w->config.n_pages * (size_t)w->config.page_tokens;
    _cleanup_free_ uint8_t *written = hai_new_array(uint8_t, n_cells);
    int32_t n_logits = 0;

    CHECK_EQ(p->seq_start[0], 0);
    CHECK_EQ(p->seq_start[p->n_seqs], p->n_tokens);
    CHECK(p->n_tokens <= w->config.batcher.n_step_tokens_max);
    for (int32_t i = 0; i < p->n_seqs; i++) {
        check_seq(w, i, written);
        for (int32_t j = p->seqs[i].n_logits; j > 0; j--)
            CHECK_EQ(p->logit_row[n_logits++], p->seq_start[i + 1] - j);
    }
    CHECK_EQ(n_logits, p->n_logits);
    check_tables(w);
}

/* Write the cells of a sequence's rows. */
static void run_seq(struct world *w, int32_t i) {
    const struct batcher_plan *p = &w->plan;
    uint64_t key = request_of(w, p->seqs[i].id)->ask.cache_key;

    for (int32_t j = p->seq_start[i]; j < p->seq_start[i + 1]; j++) {
        int32_t at = p->position[j];
        uint64_t before = at == 0 ? cell_start(key) : w->cells[row_of(w, i, at - 1)];
        w->cells[p->row[j]] = cell_of(before, p->ids[j], at);
    }
}

/* The token after position `at`, from all that the cache holds up to it. */
static int32_t choose(const struct world *w, int32_t seq, int32_t at) {
    uint64_t sum = 0;

    for (int32_t p = 0; p <= at; p++)
        sum += w->cells[row_of(w, seq, p)];
    return token_of(sum);
}

static void take(struct world *w, int32_t i, struct batcher_result *result) {
    const struct batcher_plan *p = &w->plan;
    struct world_request *r = request_of(w, p->seqs[i].id);
    int32_t row = p->seq_start[i + 1] - p->seqs[i].n_logits, at = p->position[row];
    int32_t n_drafts = p->seqs[i].n_drafts;

    *result = (struct batcher_result){0};
    for (int32_t j = 0; j <= n_drafts; j++, row++, at++) {
        int32_t token = choose(w, i, at);
        bool stop = token == WORLD_STOP;
        r->ids[r->n_ids++] = token;
        result->stop = stop;
        result->token = token;
        result->n_accepted = j;
        if (stop || j == n_drafts || p->ids[row + 1] != token)
            return;
    }
}

static void submit_due(struct world *w) {
    struct hai_err err = {0};

    for (int32_t i = 0; i < w->n_requests; i++) {
        struct world_request *r = &w->requests[i];
        if (r->id == 0 && r->at_us <= w->now_us) {
            r->ask.ids = r->ids;
            r->n_ids = r->ask.n_ids;
            int code = batcher_submit(w->batcher, &r->ask, w->now_us, &r->id, &err);
            CHECK(code == 0 || code == -EAGAIN, "%s", err.text);
            r->id = code < 0 ? 0 : r->id;
        }
        if (r->id > 0 && !r->ended && r->cancel_us > 0 && r->cancel_us <= w->now_us) {
            CHECK_EQ(batcher_cancel(w->batcher, r->id, w->now_us), 0);
            CHECK_EQ(batcher_cancel(w->batcher, r->id, w->now_us), -ENOENT);
            r->cancel_us = 0;
        }
    }
}

static void fetch_ends(struct world *w) {
    struct batcher_ending e;

    while (batcher_next_end(w->batcher, &e)) {
        struct world_request *r = request_of(w, e.id);
        CHECK(r && !r->ended);
        r->ended = true;
        r->ending = e;
        w->n_ended++;
    }
}

/* Right tokens, foreseen without the cache, and now and then a wrong one. */
static void propose(struct world *w) {
    for (int32_t i = 0; i < w->n_requests; i++) {
        struct world_request *r = &w->requests[i];
        int32_t drafts[BATCHER_DRAFTS_MAX], n_max = w->config.batcher.n_drafts_max;
        if (r->id == 0 || r->ended || r->n_ids == r->ask.n_ids ||
            (int32_t)(world_next(&w->random) % 256) >= w->config.draft_bits)
            continue;
        int32_t n = world_expect(r->ask.cache_key, r->ids, r->n_ids, n_max, drafts);
        if ((int32_t)(world_next(&w->random) % 256) < w->config.draft_bits)
            drafts[world_next(&w->random) % (uint64_t)n] = 3;
        int code = batcher_drafts(w->batcher, r->id, drafts, n);
        CHECK(code == 0 || code == -ENOENT);
    }
}

bool world_step(struct world *w) {
    struct batcher_plan *p = &w->plan;

    submit_due(w);
    if (w->config.draft_bits > 0)
        propose(w);
    int n = batcher_plan(w->batcher, w->now_us, p);
    fetch_ends(w);
    if (n == 0)
        return false;
    check_plan(w);
    if (w->look)
        w->look(w, w->userdata);
    do_moves(w);
    // In any order: sequences of one step do not see each other.
    bool backwards = world_next(&w->random) % 2;
    double n_keys = 0;
    for (int32_t i = 0; i < n; i++)
        run_seq(w, backwards ? n - 1 - i : i);
    for (int32_t j = 0; j < p->n_tokens; j++)
        n_keys += p->position[j] + 1;
    _cleanup_free_ struct batcher_result *results = hai_new_array(struct batcher_result, (size_t)n);
    for (int32_t i = 0; i < n; i++)
        if (p->seqs[i].n_logits > 0)
            take(w, i, &results[i]);
    const double *us = w->config.us;
    w->step_us = (int64_t)(us[0] + us[1] * p->n_tokens + us[2] * n_keys);
    w->now_us += w->step_us;
    // Things happen during a step, too.
    if (world_next(&w->random) % 4 == 0)
        submit_due(w);
    w->n_steps++;
    batcher_done(w->batcher, results, w->now_us, w->step_us);
    fetch_ends(w);
    batcher_check(w->batcher);
    return true;
}

void world_run(struct world *w) {
    while (w->n_ended < w->n_requests && !test_failed())
        if (!world_step(w))
            w->now_us += 1000;
}

static void check_output(const struct world_request *r, const char *name) {
    int32_t expected[WORLD_TOKENS_MAX], n_new = r->n_ids - r->ask.n_ids;
    int32_t n = world_expect(r->ask.cache_key, r->ids, r->ask.n_ids, r->ask.n_new_max, expected);
    bool whole = r->ending.end == BATCHER_END_STOP || r->ending.end == BATCHER_END_LENGTH;

    if (whole) {
        CHECK_EQ(n_new, n, "%s", name);
        CHECK_EQ(r->ending.n_new, n, "%s", name);
        CHECK_EQ(r->ending.end == BATCHER_END_STOP, expected[n - 1] == WORLD_STOP, "%s", name);
    }
    CHECK(n_new <= n, "%s", name);
    for (int32_t i = 0; i < n_new; i++)
        if (!CHECK_EQ(r->ids[r->ask.n_ids + i], expected[i], "%s: token %d", name, i))
            return;
}

void world_end(struct world *w, const char *name) {
    struct batcher_counts counts;

    for (int32_t i = 0; i < w->n_requests; i++)
        if (w->requests[i].ended)
            check_output(&w->requests[i], name);
    batcher_count(w->batcher, &counts);
    if (w->n_ended == w->n_requests) {
        CHECK_EQ(counts.n_waiting + counts.n_resident + counts.n_swapped + counts.n_ended, 0);
        int32_t n_nodes = w->prefix ? prefix_n_nodes(w->prefix) : 0;
        CHECK_EQ(pages_n_unused(w->pages) + n_nodes, w->config.n_pages, "%s", name);
        CHECK_EQ(w->prefix ? prefix_n_pinned(w->prefix) : 0, 0, "%s", name);
    }
    batcher_free(w->batcher);
    prefix_free(w->prefix);
    CHECK_EQ(pages_n_unused(w->pages), w->config.n_pages, "%s", name);
    pages_free(w->pages);
    free(w->cells);
    free(w->swapped);
}
