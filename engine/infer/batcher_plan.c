#include "engine/infer/batcher_impl.h"

static const double PREFILL_LEAST = 1.0 / 8; // of the latency budget, while streams run

static void expire(struct batcher *b) {
    const struct heap_entry *top;

    while ((top = heap_top(&b->deadlines)) != NULL && top->key <= b->now_us)
        batcher_end_request(b, batcher_at(b, top->item), BATCHER_END_TIMED_OUT);
}

/* The latency budget less twice what predictions have been off by of late. */
static double budget_us(const struct batcher *b) {
    double latency_us = (double)b->config.latency_us;

    return latency_us - MIN(2 * b->cost.error_us, latency_us / 4);
}

static double planned_us(const struct batcher *b) {
    return stepcost_predict(&b->cost, (double)b->n_rows_planned, b->n_keys_planned);
}

static void add_rows(struct batcher *b, struct request *r, int32_t n) {
    int32_t from = r->n_cached + r->n_rows;

    r->n_rows += n;
    b->n_rows_planned += n;
    b->n_keys_planned += stepcost_keys(from, n);
}

/* Its rows of this plan go with it. */
static void preempt(struct batcher *b, struct request *r) {
    b->n_rows_planned -= r->n_rows;
    b->n_keys_planned -= stepcost_keys(r->n_cached, r->n_rows);
    r->n_rows = 0;
    heap_remove(&b->prefill, r->slot);
    batcher_preempt(b, r);
}

/* The resident to preempt first; there is one. */
static struct request *worst(const struct batcher *b) {
    struct request *found = NULL;

    for (int32_t i = 0; i < b->config.n_slots; i++) {
        if (b->slots[i] == NONE)
            continue;
        struct request *r = batcher_at(b, b->slots[i]);
        if (!found || batcher_worse(r, found))
            found = r;
    }
    assert(found);
    return found;
}

/* The pending id of a stream, if need be at the cost of who is worse, or of itself. */
static void plan_stream(struct batcher *b, struct request *r) {
    while (batcher_cache_reach(b, r, r->n_cached + 1) <= r->n_cached) {
        struct request *victim = worst(b);
        preempt(b, victim);
        if (victim == r)
            return;
    }
    add_rows(b, r, 1);
}

static void plan_streams(struct batcher *b) {
    for (int32_t i = 0; i < b->config.n_slots; i++) {
        batcher_fetch_ahead(b, i);
        if (b->slots[i] == NONE)
            continue;
        struct request *r = batcher_at(b, b->slots[i]);
        if (batcher_decoding(r))
            plan_stream(b, r);
    }
}

/* Does a decoding step of all residents and r fit into the budget? */
static bool fits_latency(const struct batcher *b, const struct request *r) {
    double n_keys = (double)(b->sum_ids + r->n_ids);

    return stepcost_predict(&b->cost, b->counts.n_resident + 1, n_keys) <= budget_us(b);
}

static bool any_below(const struct batcher *b, int32_t level) {
    int32_t n = 0;

    for (int32_t l = 0; l < level; l++)
        n += b->n_resident[l];
    return n > 0;
}

/* Pages that residents of lower levels have or were promised. */
static int64_t pages_below(const struct batcher *b, int32_t level) {
    int64_t n = 0;

    for (int32_t i = 0; i < b->config.n_slots; i++) {
        if (b->slots[i] == NONE)
            continue;
        const struct request *r = batcher_at(b, b->slots[i]);
        if (r->level < level)
            n += MAX(r->n_pages, r->pages_goal);
    }
    return n;
}

static bool fits(struct batcher *b, struct request *r, int64_t *ret_lacking) {
    bool alone = b->counts.n_resident == 0;

    *ret_lacking = 0;
    if (b->n_free_slots == 0 || (!alone && !fits_latency(b, r)))
        return false;
    // Who did not fit last time is not looked up again before there is more room.
    if (!alone && r->id == b->blocked_id && batcher_cache_available(b) < b->blocked_pages) {
        *ret_lacking = b->blocked_pages - batcher_cache_available(b);
        return false;
    }
    if (batcher_cache_admit(b, r, alone, ret_lacking))
        return true;
    b->blocked_id = r->id;
    b->blocked_pages = batcher_cache_available(b) + *ret_lacking;
    return false;
}

/* Of n ids, how many are of the prompt. */
static int32_t of_prompt(const struct request *r, int32_t n) {
    return MIN(n, r->n_prompt);
}

static void count_admission(struct batcher *b, struct request *r) {
    int32_t n_hit = of_prompt(r, r->n_cached);

    if (!r->admitted) {
        r->n_hit = r->n_charged = n_hit;
        r->admitted_us = b->now_us;
        batcher_lines_charge_admitted(b, r, r->n_prompt - n_hit, BATCHER_COST_PROMPT);
        b->counts.n_hit_tokens += n_hit;
    }
    r->admitted = true;
}

/* Admit the first of the waiting if there is room, or if there would be without those of lower
 * levels, who give way then. */
static bool admit_first(struct batcher *b) {
    int32_t level = batcher_lines_level(b);
    int64_t lacking;

    // Finding out who is first takes time; most steps there is no place for him anyway.
    if (level == NONE || (b->n_free_slots == 0 && !any_below(b, level)))
        return false;
    struct request *r = batcher_lines_first(b);

    if (r->preempted_in == b->n_plans)
        return false;
    while (!fits(b, r, &lacking)) {
        // Whoever went up by waiting takes no place from those who have one already.
        if (!any_below(b, r->priority) || pages_below(b, r->priority) < lacking)
            return false;
        preempt(b, worst(b));
    }
    batcher_lines_admitted(b, r);
    batcher_lines_remove(b, r);
    count_admission(b, r);
    if (batcher_decoding(r))
        plan_stream(b, r);
    return true;
}

/* Drafts, for every stream in turn, while they take no more than their share of what is left. */
static void plan_drafts(struct batcher *b, bool prefill) {
    int64_t rows_left = b->config.n_step_tokens_max - b->n_rows_planned;
    double us_left = budget_us(b) - planned_us(b);

    if (prefill) {
        rows_left /= 2;
        us_left /= 2;
    }
    for (int32_t i = 0; i < b->config.n_slots; i++) {
        struct request *r = b->slots[i] == NONE ? NULL : batcher_at(b, b->slots[i]);
        if (!r || r->n_rows == 0 || r->n_drafts == 0)
            continue;
        int32_t from = r->n_cached + 1, n = (int32_t)MIN(r->n_drafts, rows_left);
        n = (int32_t)stepcost_rows_within(&b->cost, from, n, us_left);
        // Nobody gives way for drafts, and they leave to others what was promised to them.
        if (batcher_pages(b, from + n) - r->n_pages <= batcher_cache_available(b))
            n = batcher_cache_reach(b, r, from + n) - from;
        else
            n = (int32_t)MIN((int64_t)r->n_pages * b->page_tokens - from, n);
        r->n_drafts = n;
        us_left -= b->cost.us[1] * n + b->cost.us[2] * stepcost_keys(from, n);
        rows_left -= n;
        add_rows(b, r, n);
        b->counts.n_drafted += n;
    }
}

/* Residents with prefill to do, by levels. */
static bool find_prefill(struct batcher *b) {
    bool any = false;

    for (int l = 0; l < BATCHER_LEVELS; l++)
        b->prefill_first[l] = NONE;
    for (int32_t i = 0; i < b->config.n_slots; i++) {
        if (b->slots[i] == NONE)
            continue;
        const struct request *r = batcher_at(b, b->slots[i]);
        if (batcher_decoding(r))
            continue;
        b->prefill_next[i] = b->prefill_first[r->level];
        b->prefill_first[r->level] = i;
        any = true;
    }
    return any;
}

/* What prefill may still take. least: nothing of it is planned yet, one row may go beyond us. */
struct room {
    int64_t rows;
    double us;
    bool least;
};

/* How many rows of r to plan now. Those who are worse give way if pages are lacking. 0: none. */
static int32_t chunk_of(struct batcher *b, struct request *r, const struct room *room) {
    int32_t from = r->n_cached + r->n_rows, n_max = b->config.n_chunk_max - r->n_rows;

    n_max = MIN(n_max, r->n_ids - from);
    n_max = MIN(n_max, QUANTUM);
    n_max = (int32_t)MIN((int64_t)n_max, room->rows);
    int32_t n = (int32_t)stepcost_rows_within(&b->cost, from, n_max, room->us);
    n = MAX(n, room->least);
    while (n > 0) {
        int32_t reached = batcher_cache_reach(b, r, from + n);
        if (reached > from)
            return reached - from;
        struct request *victim = worst(b);
        if (victim == r)
            return 0;
        preempt(b, victim);
    }
    return 0;
}

/* Somebody computes the very page that r needs next in this step: r waits for it. */
static bool follows(const struct batcher *b, const struct request *r) {
    if (!b->prefix || r->no_cache)
        return false;
    for (int32_t i = 0; i < b->n_leaders; i++) {
        int32_t q = b->slots[b->leaders[i]];
        if (q != NONE && batcher_cache_same_next(b, r, batcher_at(b, q)))
            return true;
    }
    return false;
}

/* r's turn: what others have computed for it, then rows of its own. */
static int32_t serve(struct batcher *b, struct request *r, struct room *room) {
    if (r->n_rows == 0) {
        batcher_cache_catch_up(b, r);
        r->n_charged = MAX(r->n_charged, of_prompt(r, r->n_cached));
        if (follows(b, r))
            return 0;
    }
    int32_t n = chunk_of(b, r, room);
    if (n == 0)
        return 0;
    // Only who gets rows is waited for, so that somebody goes on.
    if (r->n_rows == 0 && b->n_leaders < LEADERS_MAX)
        b->leaders[b->n_leaders++] = r->slot;
    int32_t end = r->n_cached + r->n_rows + n, n_new = of_prompt(r, end) - r->n_charged;
    room->us -= b->cost.us[1] * n + b->cost.us[2] * stepcost_keys(end - n, n);
    room->rows -= n;
    room->least = false;
    add_rows(b, r, n);
    n_new = MAX(n_new, 0);
    batcher_lines_charge_served(b, r, n_new, BATCHER_COST_PROMPT);
    r->n_charged += n_new;
    b->counts.n_prompt_tokens += n_new;
    b->counts.n_recomputed_tokens += n - n_new;
    return n;
}

/* Users take turns by what they were served; of one user the oldest goes first. */
static void prefill_level(struct batcher *b, int32_t l, struct room *room) {
    const struct heap_entry *top;

    for (int32_t i = b->prefill_first[l]; i != NONE; i = b->prefill_next[i]) {
        if (b->slots[i] == NONE)
            continue;
        const struct request *r = batcher_at(b, b->slots[i]);
        heap_set(&b->prefill, i, b->users[r->user].levels[l].served, r->id);
    }
    while (room->rows > 0 && (top = heap_top(&b->prefill)) != NULL) {
        int32_t slot = top->item;
        struct request *r = batcher_at(b, b->slots[slot]);
        const struct user_level *ul = &b->users[r->user].levels[l];
        if (top->key != ul->served) {
            heap_set(&b->prefill, slot, ul->served, r->id);
            continue;
        }
        b->levels[l].served = MAX(b->levels[l].served, ul->served);
        bool served = serve(b, r, room) > 0;
        if (served && r->n_cached + r->n_rows < r->n_ids && r->n_rows < b->config.n_chunk_max)
            heap_set(&b->prefill, slot, ul->served, r->id);
        else
            heap_remove(&b->prefill, slot);
        // Whoever is left without may still leave time and pages to those who need less.
        if (!served && room->us < b->cost.us[1] && !room->least)
            break;
    }
    while ((top = heap_top(&b->prefill)) != NULL)
        heap_remove(&b->prefill, top->item);
}

static void plan_prefill(struct batcher *b, double streams_us, bool streams) {
    struct room room = {
        .rows = b->config.n_step_tokens_max - b->n_rows_planned,
        .us = (double)INT64_MAX,
        .least = true,
    };

    if (streams) {
        // Drafts count as prefill here: both are what makes a stream wait beyond its own rows.
        double left = budget_us(b) - streams_us, drafts_us = planned_us(b) - streams_us;
        room.us = MAX(left, PREFILL_LEAST * (double)b->config.latency_us) - drafts_us;
    }
    for (int32_t l = BATCHER_LEVELS - 1; l >= 0; l--)
        prefill_level(b, l, &room);
}

/* Ids, positions and cache rows of a sequence, page by page. */
static void emit_rows(struct batcher *b, const struct request *r) {
    const int32_t *table = batcher_table(b, r), *from = NULL;
    const int32_t *drafts = b->drafts + (int64_t)r->slot * b->config.n_drafts_max;
    int32_t block = r->cached_block, n = b->page_tokens, at = b->n_rows;
    int32_t end = r->n_cached + r->n_rows;

    for (int32_t p = r->n_cached; p < end;) {
        int32_t page = batcher_page_of(b, p), page_end = MIN((page + 1) * n, end);
        int32_t row = table[page] * n + batcher_offset(b, p);
        if (p < r->n_ids)
            from = batcher_block(b, block);
        for (int32_t i = 0; i < page_end - p; i++) {
            b->position[at + i] = p + i;
            b->row[at + i] = row + i;
        }
        for (; p < MIN(page_end, r->n_ids); p++)
            b->ids[at++] = from[batcher_offset(b, p)];
        for (; p < page_end; p++)
            b->ids[at++] = drafts[p - r->n_ids];
        if (p < r->n_ids)
            block = b->block_next[block];
    }
    for (int32_t i = b->n_rows + 1; i < at; i++)
        b->next_ids[i - 1] = b->ids[i];
    b->next_ids[at - 1] = NONE;
    // A chunk has moved to the block of its end by now.
    if (end < r->n_ids && batcher_offset(b, end) == 0)
        b->next_ids[at - 1] = *batcher_block(b, block);
    else if (end < r->n_ids)
        b->next_ids[at - 1] = from[batcher_offset(b, end)];
    b->n_rows = at;
    b->n_pages_planned = MAX(b->n_pages_planned, batcher_pages(b, end));
}

static void emit(struct batcher *b, struct request *r) {
    bool ends = r->n_cached + r->n_rows >= r->n_ids;
    struct batcher_seq *seq = &b->seqs[b->n_seqs];

    *seq = (struct batcher_seq){.id = r->id, .slot = r->slot, .table_from = r->table_from};
    r->table_from = r->n_pages;
    if (batcher_decoding(r)) {
        seq->n_drafts = r->n_drafts;
        b->n_decode_rows += r->n_rows;
    }
    seq->n_logits = ends ? 1 + seq->n_drafts : 0;
    emit_rows(b, r);
    for (int32_t i = b->n_rows - seq->n_logits; i < b->n_rows; i++)
        b->logit_row[b->n_logits++] = i;
    b->kv_length[b->n_seqs++] = r->n_cached + r->n_rows;
    b->seq_start[b->n_seqs] = b->n_rows;
}

int batcher_plan(struct batcher *b, int64_t now_us, struct batcher_plan *ret) {
    assert(!b->in_step);
    assert(now_us >= b->now_us);
    b->now_us = now_us;
    b->n_plans++;
    b->n_seqs = b->n_rows = b->n_decode_rows = b->n_logits = b->n_moves = 0;
    b->n_rows_planned = b->n_leaders = b->n_pages_planned = 0;
    b->n_keys_planned = 0;
    expire(b);
    batcher_lines_promote(b);
    plan_streams(b);
    for (int i = 0; i < BATCHER_ADMISSIONS_MAX && admit_first(b); i++)
        ;
    double streams_us = planned_us(b);
    bool streams = b->n_rows_planned > 0, prefill = find_prefill(b);
    if (b->n_offered > 0)
        plan_drafts(b, prefill);
    b->n_offered = 0;
    if (prefill)
        plan_prefill(b, streams_us, streams);
    b->seq_start[0] = 0;
    for (int32_t i = 0; i < b->config.n_slots; i++) {
        struct request *r = b->slots[i] == NONE ? NULL : batcher_at(b, b->slots[i]);
        if (r && r->n_rows > 0)
            emit(b, r);
    }
    assert(b->n_rows == b->n_rows_planned);
    assert(b->n_seqs > 0 || b->counts.n_resident == 0);
    b->in_step = b->n_seqs > 0;
    *ret = (struct batcher_plan){
        .n_seqs = b->n_seqs,
        .n_tokens = b->n_rows,
        .n_logits = b->n_logits,
        .n_moves = b->n_moves,
        .seqs = b->seqs,
        .seq_start = b->seq_start,
        .kv_length = b->kv_length,
        .ids = b->ids,
        .next_ids = b->next_ids,

        .position = b->position,
        .row = b->row,
        .logit_row = b->logit_row,
        .table = b->table,
        .n_table = b->n_table,
        .n_pages = b->n_pages_planned,

        .moves = b->moves,
        .n_decode_rows = b->n_decode_rows,
        .predicted_us = planned_us(b),
    };
    return b->n_seqs;
}

void batcher_tables(const struct batcher *b, int32_t *ret) {
    for (int32_t i = 0; i < b->n_seqs; i++, ret += b->n_pages_planned) {
        size_t n = (size_t)batcher_pages(b, b->kv_length[i]), n_all = (size_t)b->n_pages_planned;
        memcpy(ret, b->table + (int64_t)b->seqs[i].slot * b->n_table, n * sizeof *ret);
        memset(ret + n, 0, (n_all - n) * sizeof *ret);
    }
}
