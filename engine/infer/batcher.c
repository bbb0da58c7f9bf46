#include "engine/infer/batcher_impl.h"

DEFINE_ENUM(batcher_end, BATCHER_END, BATCHER_ENDS);

struct bound {
    const char *name;
    int64_t value, min, max;
};

static int check_bounds(const struct bound *bounds, size_t n, struct hai_err *err) {
    for (size_t i = 0; i < n; i++)
        if (bounds[i].value < bounds[i].min || bounds[i].value > bounds[i].max)
            return hai_fail(err, -EINVAL, "%s is %lld: from %lld to %lld", bounds[i].name,
                            (long long)bounds[i].value, (long long)bounds[i].min,
                            (long long)bounds[i].max);
    return 0;
}

static int check_config(const struct batcher_config *c, const struct pages *pages,
                        struct hai_err *err) {
    int64_t n_table = c->n_slots * pages_needed(c->n_seq_tokens_max, pages_tokens(pages));
    const struct bound bounds[] = {
        {"n_slots",           c->n_slots,           1,          BATCHER_SLOTS_MAX      },
        {"n_requests_max",    c->n_requests_max,    1,          BATCHER_REQUESTS_MAX   },
        {"n_step_tokens_max", c->n_step_tokens_max, c->n_slots, BATCHER_STEP_TOKENS_MAX},
        {"n_chunk_max",       c->n_chunk_max,       1,          BATCHER_STEP_TOKENS_MAX},
        {"n_drafts_max",      c->n_drafts_max,      0,          BATCHER_DRAFTS_MAX     },
        {"n_seq_tokens_max",  c->n_seq_tokens_max,  2,          BATCHER_TOKENS_MAX     },
        {"n_ids_max",         c->n_ids_max,         1,          PAGES_ROWS_MAX         },
        {"n_swap_pages",      c->n_swap_pages,      0,          BATCHER_SWAP_PAGES_MAX },
        {"latency_us",        c->latency_us,        1,          INT64_C(3600000000)    },
        {"age_us",            c->age_us,            0,          INT64_MAX              },
        {"pages",             pages_count(pages),   1,          INT32_MAX              },
        {"page table",        n_table,              1,          BATCHER_TABLE_MAX      },
    };

    if (!(c->us_step > 0 && c->us_row > 0 && c->us_key > 0 && c->us_swap_page >= 0))
        return hai_fail(err, -EINVAL, "the step model must start from times above 0");
    return check_bounds(bounds, ARRAY_SIZE(bounds), err);
}

static int32_t *new_ints(int64_t n) {
    int32_t *p = hai_new_array(int32_t, (size_t)n);

    return p;
}

static int32_t *new_nones(int64_t n) {
    int32_t *p = new_ints(n);

    memset(p, 0xff, (size_t)n * sizeof *p);
    return p;
}

static void new_lines(struct batcher *b) {
    int32_t n = b->config.n_requests_max;
    uint32_t n_buckets = 16;

    while (n_buckets < (uint32_t)n)
        n_buckets *= 2;
    b->requests = hai_new_array(struct request, (size_t)n);
    for (int32_t i = 0; i < n; i++)
        b->requests[i].next = i + 1 < n ? i + 1 : NONE;
    b->ended_first = b->ended_last = NONE;
    heap_init(&b->deadlines, n);
    b->users = hai_new_array(struct user, (size_t)n);
    b->user_mask = n_buckets - 1;
    b->user_buckets = new_nones(n_buckets);
    b->idle_first = b->idle_last = NONE;
    for (int l = 0; l < BATCHER_LEVELS; l++) {
        heap_init(&b->levels[l].users, n);
        b->levels[l].age_first = b->levels[l].age_last = NONE;
    }
}

static void new_plan(struct batcher *b) {
    const struct batcher_config *c = &b->config;
    int64_t n_rows = c->n_step_tokens_max, n_slots = c->n_slots;

    b->slots = new_nones(n_slots);
    b->free_slots = new_ints(n_slots);
    b->n_free_slots = c->n_slots;
    for (int32_t i = 0; i < c->n_slots; i++)
        b->free_slots[i] = c->n_slots - 1 - i;
    b->table = new_ints(n_slots * b->n_table);
    b->drafts = new_ints(n_slots * c->n_drafts_max);
    heap_init(&b->prefill, c->n_slots);
    b->prefill_next = new_ints(n_slots);
    b->seqs = hai_new_array(struct batcher_seq, (size_t)n_slots);
    b->seq_start = new_ints(n_slots + 1);
    b->kv_length = new_ints(n_slots);
    b->ids = new_ints(n_rows);
    b->next_ids = new_ints(n_rows);
    b->position = new_ints(n_rows);
    b->row = new_ints(n_rows);
    b->logit_row = new_ints(n_rows);
    // In one plan a request is admitted at most once and preempted at most once, after that: IN at
    // most what was swapped before, OUT at most that and the rest of the swap space, COPY one each.
    int64_t n_moves = 3 * (int64_t)c->n_swap_pages + 2 * n_slots + BATCHER_ADMISSIONS_MAX;
    assert(n_moves <= INT32_MAX);
    b->n_moves_max = (int32_t)n_moves;
    b->moves = hai_new_array(struct batcher_move, (size_t)n_moves);
}

int batcher_new(const struct batcher_config *config, struct pages *pages, struct prefix *prefix,
                struct batcher **ret, struct hai_err *err) {
    int64_t page_tokens = pages_tokens(pages);

    assert(!prefix || prefix_pages(prefix) == pages);
    int r = check_config(config, pages, err);
    if (r < 0)
        return r;
    _cleanup_(batcher_freep) struct batcher *b = hai_new(struct batcher);
    b->config = *config;
    b->pages = pages;
    b->prefix = prefix;
    b->page_tokens = (int32_t)page_tokens;
    b->page_shift = __builtin_ctz((uint32_t)page_tokens);
    b->n_table = (int32_t)pages_needed(config->n_seq_tokens_max, page_tokens);
    b->n_ids_given = 1;
    b->blocked_id = NONE;
    r = pages_new(config->n_ids_max / page_tokens, page_tokens, &b->blocks, err);
    r = r < 0 ? r : pages_new(config->n_swap_pages, 1, &b->swap, err);
    if (r < 0)
        return r;
    b->block_ids = new_ints(config->n_ids_max);
    b->block_next = new_ints(pages_count(b->blocks));
    b->swap_next = new_ints(config->n_swap_pages);
    new_lines(b);
    new_plan(b);
    stepcost_start(&b->cost, config->us_step, config->us_row, config->us_key);
    *ret = TAKE_PTR(b);
    return 0;
}

void batcher_free(struct batcher *b) {
    if (!b)
        return;
    for (int32_t i = 0; b->slots && i < b->config.n_slots; i++)
        if (b->slots[i] != NONE)
            batcher_cache_release(b, batcher_at(b, b->slots[i]));
    void *owned[] = {b->block_ids,    b->block_next, b->swap_next,  b->requests,  b->users,
                     b->user_buckets, b->slots,      b->free_slots, b->table,     b->drafts,
                     b->prefill_next, b->seqs,       b->seq_start,  b->kv_length, b->ids,
                     b->position,     b->next_ids,   b->row,        b->logit_row, b->moves};
    for (size_t i = 0; i < ARRAY_SIZE(owned); i++)
        free(owned[i]);
    for (int l = 0; l < BATCHER_LEVELS; l++)
        heap_free(&b->levels[l].users);
    heap_free(&b->deadlines);
    heap_free(&b->prefill);
    pages_free(b->blocks);
    pages_free(b->swap);
    free(b);
}

static void see_time(struct batcher *b, int64_t now_us) {
    assert(now_us >= b->now_us);
    b->now_us = now_us;
}

static int check_request(const struct batcher *b, const struct batcher_request *q,
                         struct hai_err *err) {
    const struct bound bounds[] = {
        {"weight",      q->weight,      1, BATCHER_WEIGHT_MAX},
        {"priority",    q->priority,    0, BATCHER_LEVELS - 1},
        {"n_ids",       q->n_ids,       1, INT32_MAX         },
        {"n_new_max",   q->n_new_max,   1, INT32_MAX         },
        {"deadline_us", q->deadline_us, 0, INT64_MAX         },
    };
    int64_t n = (int64_t)q->n_ids + q->n_new_max;

    int r = check_bounds(bounds, ARRAY_SIZE(bounds), err);
    if (r < 0)
        return r;
    for (int32_t i = 0; i < q->n_ids; i++)
        if (q->ids[i] < 0)
            return hai_fail(err, -EINVAL, "token %d of the prompt is negative", i);
    if (n > b->config.n_seq_tokens_max)
        return hai_fail(err, -E2BIG, "%lld tokens with the prompt's: a sequence has at most %d",
                        (long long)n, b->config.n_seq_tokens_max);
    if (batcher_pages(b, n) > pages_count(b->pages))
        return hai_fail(err, -E2BIG, "%lld tokens with the prompt's: the cache holds %lld",
                        (long long)n, (long long)pages_count(b->pages) * b->page_tokens);
    if (batcher_pages(b, n) > pages_count(b->blocks))
        return hai_fail(err, -E2BIG, "%lld tokens with the prompt's: all requests have %lld",
                        (long long)n, (long long)b->config.n_ids_max);
    if (b->free_first == NONE)
        return hai_fail(err, -EAGAIN,
                        "%d requests are waiting or running: there is no room for more",
                        b->config.n_requests_max);
    if (b->n_blocks_reserved + batcher_pages(b, n) > pages_count(b->blocks))
        return hai_fail(err, -EAGAIN, "requests have the %lld tokens that there is room for",
                        (long long)b->config.n_ids_max);
    return 0;
}

static void append(struct batcher *b, struct request *r, int32_t id) {
    assert(id >= 0);
    if (batcher_offset(b, r->n_ids) == 0) {
        int32_t block = pages_take(b->blocks);
        assert(block >= 0);
        *(r->n_ids == 0 ? &r->first_block : &b->block_next[r->last_block]) = block;
        r->last_block = block;
    }
    b->block_ids[(int64_t)r->last_block * b->page_tokens + batcher_offset(b, r->n_ids)] = id;
    r->n_ids++;
}

void batcher_append(struct batcher *b, struct request *r, int32_t id) {
    append(b, r, id);
    b->sum_ids++;
}

int batcher_submit(struct batcher *b, const struct batcher_request *q, int64_t now_us,
                   int64_t *ret_id, struct hai_err *err) {
    int code = check_request(b, q, err);

    if (code < 0)
        return code;
    see_time(b, now_us);
    struct request *r = batcher_at(b, b->free_first);
    b->free_first = r->next;
    *r = (struct request){
        .id = b->n_ids_given++ << ID_INDEX_BITS | batcher_index(b, r),
        .state = REQUEST_WAITING,
        .no_cache = q->no_cache,
        .user = batcher_lines_user(b, q->user),
        .priority = q->priority,
        .level = q->priority,
        .slot = NONE,
        .key = q->cache_key,
        .n_prompt = q->n_ids,
        .n_new_max = q->n_new_max,
        .n_blocks_reserved = batcher_pages(b, (int64_t)q->n_ids + q->n_new_max),
        .node = PREFIX_NONE,
        .tree_block = NONE,
        .swap_first = NONE,
        .arrival_us = now_us,
        .admitted_us = -1,
        .preempted_in = -1,
    };
    for (int32_t i = 0; i < q->n_ids; i++)
        append(b, r, q->ids[i]);
    b->n_blocks_reserved += r->n_blocks_reserved;
    b->users[r->user].weight = q->weight;
    batcher_lines_enter(b, r);
    batcher_lines_push(b, r, false);
    if (q->deadline_us > 0)
        heap_set(&b->deadlines, batcher_index(b, r), q->deadline_us, r->id);
    *ret_id = r->id;
    return 0;
}

/* NULL: ended, or never was. */
static struct request *find(const struct batcher *b, int64_t id) {
    int64_t index = id & ((1 << ID_INDEX_BITS) - 1);

    if (id < 0 || index >= b->config.n_requests_max)
        return NULL;
    struct request *r = batcher_at(b, (int32_t)index);
    bool lives = r->state == REQUEST_WAITING || r->state == REQUEST_RESIDENT;
    return lives && r->id == id ? r : NULL;
}

void batcher_end_request(struct batcher *b, struct request *r, enum batcher_end end) {
    int32_t i = batcher_index(b, r);

    if (r->state == REQUEST_RESIDENT)
        batcher_cache_release(b, r);
    else
        batcher_lines_remove(b, r);
    batcher_cache_release_swap(b, r);
    batcher_lines_leave(b, r);
    heap_remove(&b->deadlines, i);
    for (int32_t block = r->first_block, n = batcher_pages(b, r->n_ids); n > 0; n--) {
        int32_t next = b->block_next[block];
        (void)pages_drop(b->blocks, block);
        block = next;
    }
    b->n_blocks_reserved -= r->n_blocks_reserved;
    r->state = REQUEST_ENDED;
    r->end = end;
    r->end_us = b->now_us;
    r->next = NONE;
    *(b->ended_last == NONE ? &b->ended_first : &batcher_at(b, b->ended_last)->next) = i;
    b->ended_last = i;
    b->counts.n_ended++;
}

void batcher_preempt(struct batcher *b, struct request *r) {
    batcher_cache_swap_out(b, r);
    batcher_cache_release(b, r);
    r->state = REQUEST_WAITING;
    r->preempted_in = b->n_plans;
    r->n_preempted++;
    b->counts.n_preempted++;
    batcher_lines_push(b, r, true);
}

static int end_by_id(struct batcher *b, int64_t id, int64_t now_us, enum batcher_end end) {
    struct request *r = find(b, id);

    see_time(b, now_us);
    if (!r)
        return -ENOENT;
    batcher_end_request(b, r, end);
    return 0;
}

int batcher_cancel(struct batcher *b, int64_t id, int64_t now_us) {
    return end_by_id(b, id, now_us, BATCHER_END_CANCELLED);
}

int batcher_fail(struct batcher *b, int64_t id, int64_t now_us) {
    return end_by_id(b, id, now_us, BATCHER_END_FAILED);
}

int batcher_drafts(struct batcher *b, int64_t id, const int32_t *ids, int32_t n_ids) {
    struct request *r = find(b, id);

    assert(!b->in_step);
    assert(n_ids >= 0);
    if (!r || r->state != REQUEST_RESIDENT || !batcher_decoding(r))
        return -ENOENT;
    // The last token that it may have needs no draft: it is what the row before it gives.
    int32_t n_max = MIN(b->config.n_drafts_max, r->n_new_max - r->n_new - 1);
    r->n_drafts = MIN(n_ids, n_max);
    b->n_offered++;
    for (int32_t i = 0; i < r->n_drafts; i++)
        assert(ids[i] >= 0);
    if (r->n_drafts > 0)
        memcpy(b->drafts + (int64_t)r->slot * b->config.n_drafts_max, ids,
               (size_t)r->n_drafts * sizeof *ids);
    return 0;
}

/* What came out of a sequence: its drafts' fate, its next id, or its end. Rows that failed give no
 * token, and nobody may find them in the prefix cache. */
static void take_result(struct batcher *b, struct request *r, const struct batcher_seq *seq,
                        int32_t n_rows, const struct batcher_result *result) {
    const int32_t *drafts = b->drafts + (int64_t)r->slot * b->config.n_drafts_max;
    int32_t n = result->n_accepted, n_new = n + !result->failed;

    assert(n >= 0);
    assert(n <= seq->n_drafts);
    for (int32_t i = 0; i < n; i++)
        batcher_append(b, r, drafts[i]);
    if (!result->stop && !result->failed)
        batcher_append(b, r, result->token);
    if (!result->failed)
        batcher_cache_advance(b, r, n_rows - seq->n_drafts + n);
    r->n_new += n_new;
    b->counts.n_new_tokens += n_new;
    b->counts.n_accepted += n;
    batcher_lines_charge_admitted(b, r, n_new, BATCHER_COST_NEW);
    batcher_lines_charge_served(b, r, n_new, BATCHER_COST_NEW);
    if (result->failed)
        batcher_end_request(b, r, BATCHER_END_FAILED);
    else if (result->stop)
        batcher_end_request(b, r, BATCHER_END_STOP);
    else if (r->n_new >= r->n_new_max)
        batcher_end_request(b, r, BATCHER_END_LENGTH);
    else
        batcher_cache_cut(b, r);
}

void batcher_done(struct batcher *b, const struct batcher_result *results, int64_t now_us,
                  int64_t step_us) {
    assert(b->in_step);
    see_time(b, now_us);
    b->in_step = false;
    b->counts.n_steps++;
    if (step_us > 0)
        stepcost_observe(&b->cost, (double)b->n_rows, b->n_keys_planned, (double)step_us);
    for (int32_t i = 0; i < b->n_seqs; i++) {
        batcher_fetch_ahead(b, b->seqs[i].slot);
        const struct batcher_seq *seq = &b->seqs[i];
        int32_t n_rows = b->seq_start[i + 1] - b->seq_start[i];
        struct request *r = find(b, seq->id);
        // It may have been cancelled meanwhile.
        if (!r)
            continue;
        r->n_rows = r->n_drafts = 0;
        if (seq->n_logits > 0)
            take_result(b, r, seq, n_rows, &results[i]);
        else
            batcher_cache_advance(b, r, n_rows);
    }
}

void batcher_done_failed(struct batcher *b, int64_t now_us) {
    assert(b->in_step);
    see_time(b, now_us);
    b->in_step = false;
    for (int32_t i = 0; i < b->config.n_requests_max; i++) {
        struct request *r = batcher_at(b, i);
        bool lives = r->state == REQUEST_WAITING || r->state == REQUEST_RESIDENT;
        bool moved = r->preempted_in == b->n_plans && (r->n_swap > 0 || r->slot != NONE);
        if (lives && (moved || r->n_rows > 0))
            batcher_end_request(b, r, BATCHER_END_FAILED);
    }
}

bool batcher_next_end(struct batcher *b, struct batcher_ending *ret) {
    if (b->ended_first == NONE)
        return false;
    int32_t i = b->ended_first;
    struct request *r = batcher_at(b, i);
    *ret = (struct batcher_ending){
        .id = r->id,
        .end = r->end,
        .n_prompt = r->n_prompt,
        .n_new = r->n_new,
        .n_hit = r->n_hit,
        .n_preempted = r->n_preempted,
        .arrival_us = r->arrival_us,
        .admitted_us = r->admitted_us,
        .end_us = r->end_us,
    };
    b->ended_first = r->next;
    if (r->next == NONE)
        b->ended_last = NONE;
    r->state = REQUEST_FREE;
    r->next = b->free_first;
    b->free_first = i;
    b->counts.n_ended--;
    return true;
}

void batcher_count(const struct batcher *b, struct batcher_counts *ret) {
    *ret = b->counts;
    ret->n_decoding = 0;
    for (int32_t i = 0; i < b->config.n_slots; i++)
        ret->n_decoding += b->slots[i] != NONE && batcher_decoding(batcher_at(b, b->slots[i]));
}

int64_t batcher_served(const struct batcher *b, uint64_t user, int32_t level) {
    int32_t i = batcher_lines_find(b, user);

    assert(level >= 0);
    assert(level < BATCHER_LEVELS);
    return i == NONE ? 0 : b->users[i].levels[level].total;
}

static void check_resident(const struct batcher *b, const struct request *r, int32_t *held) {
    int32_t *table = batcher_table(b, r), n_whole = batcher_page_of(b, r->n_cached);

    assert(r->n_cached < r->n_ids);
    assert((int64_t)r->n_pages * b->page_tokens >= r->n_cached);
    assert(r->n_pages <= b->n_table);
    assert(!batcher_decoding(r) || r->n_pages == batcher_pages(b, r->n_cached));
    assert(r->n_in_tree <= n_whole);
    for (int32_t i = 0; i < r->n_pages; i++)
        held[table[i]]++;
    int32_t node = r->node;
    for (int32_t i = r->n_in_tree; i-- > 0; node = prefix_parent(b->prefix, node))
        assert(node == table[i]);
    assert(node == NONE);
}

void batcher_check(const struct batcher *b) {
    int64_t n_swapped = 0, n_blocks = 0, n_promised = 0, n_borrowed = 0, sum_ids = 0;
    int32_t n_waiting = 0, n_pages = pages_count(b->pages);
    _cleanup_free_ int32_t *held = hai_new_array(int32_t, (size_t)n_pages);

    for (int32_t i = 0; i < b->config.n_requests_max; i++) {
        const struct request *r = batcher_at(b, i);
        if (r->state != REQUEST_WAITING && r->state != REQUEST_RESIDENT)
            continue;
        n_blocks += batcher_pages(b, r->n_ids);
        n_swapped += r->n_swap;
        n_waiting += r->state == REQUEST_WAITING;
        assert(r->n_swap == batcher_pages(b, r->n_swap_tokens));
        assert((r->state == REQUEST_RESIDENT) == (r->slot != NONE));
        if (r->state == REQUEST_WAITING)
            continue;
        assert(r->n_swap == 0);
        assert(b->slots[r->slot] == i);
        check_resident(b, r, held);
        n_promised += MAX(r->pages_goal - r->n_pages, 0) + r->borrowed;
        n_borrowed += r->borrowed;
        sum_ids += r->n_ids;
    }
    assert(n_waiting == b->counts.n_waiting);
    assert(n_blocks == pages_count(b->blocks) - pages_n_unused(b->blocks));
    assert(n_swapped == pages_count(b->swap) - pages_n_unused(b->swap));
    assert(n_promised == b->n_promised);
    assert(n_borrowed == b->n_borrowed);
    assert(sum_ids == b->sum_ids);
    if (b->prefix) {
        prefix_check(b->prefix);
        _cleanup_free_ int32_t *nodes = new_ints(prefix_n_nodes(b->prefix));
        prefix_list(b->prefix, nodes);
        for (int32_t i = 0; i < prefix_n_nodes(b->prefix); i++)
            held[nodes[i]]++;
    }
    for (int32_t i = 0; i < n_pages; i++)
        assert(held[i] == pages_holders(b->pages, i));
}
