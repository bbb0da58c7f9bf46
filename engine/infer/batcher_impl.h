/* batcher_impl.h - the inside of struct batcher, shared by its parts only: batcher.c (requests),
 * batcher_lines.c (who is next), batcher_cache.c (pages of residents), batcher_plan.c (steps).
 */
#pragma once
#include "engine/infer/batcher.h"
#include "engine/infer/heap.h"
#include "engine/infer/stepcost.h"

enum {
    NONE = -1,
    ID_INDEX_BITS = 20, // of a request's number, its place in the table; the rest counts
    LEADERS_MAX = 64,
    QUANTUM = 128,      // rows of prefill before another user's turn
    TAG_UNIT = 1 << 16, // of a counter: one token of cost 1 at weight 1
};

_Static_assert(BATCHER_REQUESTS_MAX <= 1 << ID_INDEX_BITS, "numbers of requests");

enum request_state { REQUEST_FREE, REQUEST_WAITING, REQUEST_RESIDENT, REQUEST_ENDED };

/* ids lie in blocks of page_tokens, so that those of one page of the cache lie together; blocks are
 * counted like pages and linked by block_next. */
struct request {
    // What every step looks at: the first two cache lines or so.
    int64_t id;
    enum request_state state;
    int32_t slot, level, user;
    int32_t n_ids, n_new, n_new_max;
    int32_t n_cached; // ids whose keys the cache has, of residents
    int32_t n_pages;
    int32_t pages_goal;       // pages of the ids at admission, which are promised to it
    int32_t n_drafts, n_rows; // of the plan
    int32_t cached_block;     // of position n_cached
    int32_t last_block;       // of the ids
    int32_t table_from, node,
        n_in_tree;           // n_in_tree: leading pages in the prefix cache, pinned at node
    int32_t tree_block;      // of the last page in the tree, NONE: n_in_tree is 0
    bool no_cache, admitted; // admitted: it was once
    bool borrowed;           // its last page is another's, to be copied before it is written into
    uint64_t key;
    // The swap space, of waiting ones.
    int32_t swap_first, n_swap, n_swap_tokens;
    // Lines: neighbours in its user's line of its level, and in the level by age.
    int32_t line_next, line_before, age_next, age_before;
    int32_t priority, n_prompt, first_block, n_blocks_reserved;
    int64_t preempted_in; // number of the last plan that preempted or moved it
    int64_t level_since_us, arrival_us, admitted_us, end_us;
    int32_t n_charged; // prompt tokens, see batcher_plan.c
    int32_t n_hit, n_preempted;
    enum batcher_end end;
    int32_t next; // free, or ended
};

struct user_level {
    int64_t admitted, served; // counters, see batcher.h
    int64_t total;            // served without what a newcomer is given
    int32_t first, last;      // line
    int32_t n;                // requests waiting or resident
};

struct user {
    uint64_t id;
    int32_t weight;
    int32_t n; // requests waiting or resident
    int32_t chain;
    int32_t idle_next, idle_before; // among those with none
    struct user_level levels[BATCHER_LEVELS];
};

struct level {
    struct heap
        users; // with a line, by counter `admitted`; keys may lag behind, counters only grow
    int64_t admitted, served; // where newcomers start
    int32_t age_first, age_last;
};

struct batcher {
    struct batcher_config config;
    struct pages *pages, *blocks, *swap;
    struct prefix *prefix;
    int32_t page_tokens, page_shift, n_table; // page_tokens is 1 << page_shift
    int64_t now_us;
    int64_t n_plans, n_ids_given; // so far
    bool in_step;
    // Requests.
    struct request *requests; // [n_requests_max]
    int32_t free_first, ended_first, ended_last;
    int64_t n_blocks_reserved;
    int32_t *block_ids;  // [blocks, page_tokens]
    int32_t *block_next; // [blocks]
    int32_t *swap_next;  // [n_swap_pages]
    struct heap deadlines;
    // Lines.
    struct user *users;    // [n_requests_max]
    int32_t *user_buckets; // [user_mask + 1]
    uint32_t user_mask;
    int32_t n_users; // places used so far
    int32_t idle_first, idle_last;
    struct level levels[BATCHER_LEVELS];
    // Residents.
    int32_t *slots;      // [n_slots] request or NONE
    int32_t *free_slots; // [n_slots], a stack
    int32_t n_free_slots;
    int32_t *table;     // [n_slots, n_table]
    int32_t *drafts;    // [n_slots, n_drafts_max]
    int64_t n_promised; // pages that residents will need for the ids they were admitted with
    int32_t n_borrowed;
    int32_t n_resident[BATCHER_LEVELS];
    int32_t n_offered;                 // streams with drafts for the next plan
    int64_t sum_ids;                   // of residents
    int64_t blocked_id, blocked_pages; // who did not fit last, and what he lacked then
    struct heap prefill;
    int32_t *prefill_next;                   // [n_slots]
    int32_t prefill_first[BATCHER_LEVELS];   // slots
    int32_t leaders[LEADERS_MAX], n_leaders; // slots whose next page others could want, too
    // The plan.
    struct stepcost cost;
    struct batcher_seq *seqs;
    int32_t *seq_start, *kv_length, *ids, *next_ids, *position, *row, *logit_row;
    struct batcher_move *moves;
    int32_t n_seqs, n_rows, n_pages_planned, n_decode_rows, n_logits, n_moves, n_moves_max;
    int64_t n_rows_planned;
    double n_keys_planned;
    struct batcher_counts counts;
};

static inline struct request *batcher_at(const struct batcher *b, int32_t index) {
    return &b->requests[index];
}

/* The page of a position; pages that hold n tokens. */
static inline int32_t batcher_page_of(const struct batcher *b, int32_t position) {
    return position >> b->page_shift;
}

static inline int32_t batcher_pages(const struct batcher *b, int64_t n_tokens) {
    return (int32_t)((n_tokens + b->page_tokens - 1) >> b->page_shift);
}

static inline int32_t batcher_offset(const struct batcher *b, int32_t position) {
    return position & (b->page_tokens - 1);
}

static inline int32_t batcher_index(const struct batcher *b, const struct request *r) {
    return (int32_t)(r - b->requests);
}

static inline int32_t *batcher_table(const struct batcher *b, const struct request *r) {
    return b->table + (int64_t)r->slot * b->n_table;
}

static inline const int32_t *batcher_block(const struct batcher *b, int32_t block) {
    return b->block_ids + (int64_t)block * b->page_tokens;
}

/* Walks over residents know where they will go, and the processor does not: what a slot ahead needs
 * is fetched, first the request, then what it refers to. */
static inline void batcher_fetch_ahead(const struct batcher *b, int32_t slot) {
    enum { AHEAD = 8, LINE = 64 };

    if (slot + 2 * AHEAD >= b->config.n_slots)
        return;
    if (b->slots[slot + 2 * AHEAD] != NONE) {
        const char *r = (const char *)batcher_at(b, b->slots[slot + 2 * AHEAD]);
        __builtin_prefetch(r);
        __builtin_prefetch(r + LINE);
    }
    if (b->slots[slot + AHEAD] == NONE)
        return;
    const struct request *r = batcher_at(b, b->slots[slot + AHEAD]);
    __builtin_prefetch(&b->users[r->user]);
    __builtin_prefetch(&b->users[r->user].levels[r->level]);
    __builtin_prefetch(batcher_block(b, r->last_block) + batcher_offset(b, r->n_ids));
    __builtin_prefetch(batcher_table(b, r) + batcher_page_of(b, r->n_cached));
}

/* A stream: its pending id is the only one that is not cached. */
static inline bool batcher_decoding(const struct request *r) {
    return r->n_ids - r->n_cached == 1;
}

/* Is a worse than b: the one to preempt of the two? */
static inline bool batcher_worse(const struct request *a, const struct request *b) {
    return a->level != b->level ? a->level < b->level : a->id > b->id;
}

/* batcher_lines.c */

/* The user's place, made if he is not known. There is always one: as many as requests. */
int32_t batcher_lines_user(struct batcher *b, uint64_t id);
int32_t batcher_lines_find(const struct batcher *b, uint64_t id); // NONE: not known

/* A request begins or ends to count as its user's on its level. */
void batcher_lines_enter(struct batcher *b, struct request *r);
void batcher_lines_leave(struct batcher *b, struct request *r);

/* Put a request into its line: at its place by age of numbers, found from the front or the back. */
void batcher_lines_push(struct batcher *b, struct request *r, bool from_front);
void batcher_lines_remove(struct batcher *b, struct request *r);

/* The highest level on which anybody waits, NONE; and who is next, if there is somebody. */
int32_t batcher_lines_level(const struct batcher *b);
struct request *batcher_lines_first(struct batcher *b);

/* It is being admitted: newcomers start where its user is. */
void batcher_lines_admitted(struct batcher *b, const struct request *r);

/* Count n tokens of a cost for admission, or as computed. */
void batcher_lines_charge_admitted(struct batcher *b, const struct request *r, int64_t n,
                                   int32_t cost);
void batcher_lines_charge_served(struct batcher *b, const struct request *r, int64_t n,
                                 int32_t cost);

/* Those who have waited for age_us on a level go up. */
void batcher_lines_promote(struct batcher *b);

/* batcher_cache.c */

/* Pages that could be given to a new resident, less what others were promised. May be negative. */
int64_t batcher_cache_available(const struct batcher *b);

/* Make room in the pages of a resident for its first n_tokens tokens, and make the page that is
 * written next its own. Returns for how many tokens there is room now, at most n_tokens. */
int32_t batcher_cache_reach(struct batcher *b, struct request *r, int32_t n_tokens);

/* Admit a waiting request that fits as far as slots and time go: what the prefix cache has of it is
 * pinned and listed, swapped pages are moved in. False: pages are lacking, nothing has changed;
 * more may be had by preemption, `*ret_lacking` of them. alone: nobody is resident. */
bool batcher_cache_admit(struct batcher *b, struct request *r, bool alone, int64_t *ret_lacking);

/* Take over the pages that the prefix cache has got since r came to where it is: others compute the
 * same. Its own page of the first of them is given back. */
void batcher_cache_catch_up(struct batcher *b, struct request *r);

/* Is the page that q computes next the same as r's, and worth waiting for? */
bool batcher_cache_same_next(const struct batcher *b, const struct request *r,
                             const struct request *q);

/* A resident gives its pages and slot back; its state is the caller's. */
void batcher_cache_release(struct batcher *b, struct request *r);
void batcher_cache_release_swap(struct batcher *b, struct request *r);

/* Copy a resident's cached tokens to the swap space, if that is sensible and there is room. */
void batcher_cache_swap_out(struct batcher *b, struct request *r);

/* n rows are cached now; ids for them are known. Full pages go to the prefix cache. */
void batcher_cache_advance(struct batcher *b, struct request *r, int32_t n);

/* Give back pages beyond the cached tokens. */
void batcher_cache_cut(struct batcher *b, struct request *r);

/* batcher.c */

/* One more id at the end; a block is reserved for it. */
void batcher_append(struct batcher *b, struct request *r, int32_t id);

void batcher_end_request(struct batcher *b, struct request *r, enum batcher_end end);

/* Back to the head of its line. */
void batcher_preempt(struct batcher *b, struct request *r);
