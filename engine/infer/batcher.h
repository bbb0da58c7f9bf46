/* batcher.h - continuous batching: which tokens of which sequences run in the next step, and where
 * their keys and values go.
 *
 * The batcher knows requests, users, ids and pages. It has no model, no clock and no memory of
 * tokens' bytes: the engine above it does the steps, chooses tokens, keeps what sampling needs, and
 * says what came out. All memory is allocated by batcher_new. One thread at a time. The same calls
 * give the same plans.
 *
 * A turn of the engine:
 *
 *   batcher_submit, batcher_cancel, ...  what came in meanwhile; batcher_drafts
 *   batcher_plan                         what runs; 0 sequences: nothing to do yet
 *   (the engine)                         plan.moves in order, the step, then sampling from the rows
 *                                        that have logits
 *   batcher_done                         what was chosen, and how long it took
 *   batcher_next_end                     until it says no: who has ended, and why
 *
 * The life of a request. It waits in a line; it is admitted: gets a slot (a row of the page table)
 * and what the prefix cache has of it; it is resident. Of its ids, n_cached have their keys in the
 * cache. If more than one id is not cached, the next of them run as a chunk of prefill, as many as
 * there is room for; if exactly one is not, this id and its draft tokens run in every step (it is
 * decoding, a stream). The row of the last known id gives the next one. Full pages go to the prefix
 * cache at once, so that others can use them, also those who have begun to compute the same.
 * Preemption puts a resident back to the head of its line: its pages are copied to the swap space
 * if that is faster and there is room, otherwise let go of (to the prefix cache, as far as nobody
 * needs them) and computed again.
 *
 * What a token gets never depends on any of this (ENGINE contract of row-invariant inference), only
 * when it comes. One thing for the engine to know: what a multi-token module caches of a position
 * depends on the id after it, so the last one of a page found in the cache may stem from another
 * continuation. Drafts may be worse by that; tokens are not if accepting does not depend on drafts.
 *
 * Time. The step model (stepcost.h) starts from the configuration and learns from batcher_done.
 * While anybody decodes, prefill gets what decoding leaves of latency_us, but at least 1/8 of it
 * and at least one token; so a stream never waits longer than latency_us for others' prefill, as
 * well as steps can be foreseen. Nobody is admitted beside residents if a decoding step of all of
 * them would not fit into latency_us. Drafts take at most half of what decoding leaves while there
 * is prefill to do.
 *
 * Order. Requests wait on levels: their priority at first, one up for every age_us that they wait;
 * a higher level goes first. On a level users take turns by tokens served: start-time fair queuing
 * with virtual token counters. A user's counter on a level grows by COST_PROMPT a prompt token and
 * COST_NEW a new token over his weight, for prompts in whole on admission; tokens found in the
 * cache or computed a second time are free; a user new on a level starts at the counter of who was
 * admitted last. Within a user, first come, first served. Prefill among residents is shared by the
 * same rule, at the grain of 128 tokens, with counters that grow as tokens are computed. Nobody who
 * waits is passed by on account of his size: if the first does not fit, the others wait too.
 * If the first does not fit and residents whose level is below its priority are in the way, they
 * are preempted, lowest level first, then youngest; having gone up by waiting does not count for
 * that, or equals would take turns at throwing each other out. Otherwise residents are preempted
 * only for pages, in the same order, so the oldest of the highest level always goes on.
 *
 * No user starves: with age_us, a request is on the highest level after LEVELS * age_us at the
 * latest (at most PROMOTIONS_MAX go up in one plan). While two users both wait on a level, the
 * tokens that each is served there, by cost over weight, stay within
 *     2 * (COST_PROMPT * longest prompt + (COST_PROMPT + COST_NEW) * tokens of the cache) / weight
 * of each other, of the smaller weight (the bound of virtual token counters). Source: Sheng et al.,
 * Fairness in Serving Large Language Models, 2024; Goyal et al., Start-time Fair Queuing, 1996.
 */
#pragma once
#include "engine/infer/pages.h"
#include "engine/infer/prefix.h"
#include "lib/pure/schema.h"

enum {
    BATCHER_LEVELS = 8, // priorities 0 (last) to 7
    BATCHER_COST_PROMPT = 1,
    BATCHER_COST_NEW = 2,
    BATCHER_WEIGHT_MAX = 1024,
    BATCHER_DRAFTS_MAX = 32,     // of one sequence in one step
    BATCHER_PROMOTIONS_MAX = 64, // in one plan
    BATCHER_ADMISSIONS_MAX = 64, // in one plan
    BATCHER_SLOTS_MAX = 1 << 16,
    BATCHER_REQUESTS_MAX = 1 << 20,
    BATCHER_STEP_TOKENS_MAX = 1 << 20,
    BATCHER_TOKENS_MAX = 1 << 24, // of one sequence
    BATCHER_SWAP_PAGES_MAX = 1 << 28,
    BATCHER_TABLE_MAX = 1 << 30, // entries of the page tables: slots times pages of a sequence
};

/* Everything that can grow, and how to reckon. Sizes are at least 1 unless noted. */
struct batcher_config {
    int32_t n_slots;           // residents at once
    int32_t n_requests_max;    // waiting, resident and ended but not yet fetched, together
    int32_t n_step_tokens_max; // rows of a step; at least n_slots
    int32_t n_chunk_max;       // rows of prefill that a sequence may have in one step
    int32_t n_drafts_max;      // 0 to BATCHER_DRAFTS_MAX
    int32_t n_seq_tokens_max;  // prompt and new tokens of a request
    int64_t n_ids_max;         // sum over all requests of prompt and max new tokens, in whole pages
    int32_t n_swap_pages;      // 0: preemption is by recompute only
    int64_t latency_us;        // see above
    int64_t age_us;            // 0: levels stay as they are
    double us_step, us_row, us_key; // where the step model starts; see stepcost.h
    double us_swap_page;            // copying one page out or in
};

/* Why a request ended. */
#define BATCHER_ENDS(P, X)                                                                         \
    X(P, LENGTH, "length")       /* it has its n_new_max tokens */                                 \
    X(P, STOP, "stop")           /* the engine said so: end token, stop text, end of a grammar */  \
    X(P, CANCELLED, "cancelled") /* batcher_cancel */                                              \
    X(P, TIMED_OUT, "timed_out") /* its deadline passed */                                         \
    X(P, FAILED, "failed")       /* the engine said so, or the step failed */
DECLARE_ENUM(batcher_end, BATCHER_END, BATCHER_ENDS);

struct batcher_request {
    uint64_t user;
    int32_t weight;      // of the user, 1 to BATCHER_WEIGHT_MAX; his last request's counts
    int32_t priority;    // 0 to BATCHER_LEVELS - 1
    uint64_t cache_key;  // whose prefixes it may use, see prefix.h
    bool no_cache;       // neither uses the prefix cache nor adds to it
    const int32_t *ids;  // the prompt, copied; none negative
    int32_t n_ids;       // at least 1
    int32_t n_new_max;   // at least 1
    int64_t deadline_us; // 0: none
};

/* What has become of a request, when it has ended. */
struct batcher_ending {
    int64_t id;
    enum batcher_end end;
    int32_t n_prompt, n_new;
    int32_t n_hit;       // prompt tokens found in the prefix cache at the first admission
    int32_t n_preempted; // times
    int64_t arrival_us, admitted_us, end_us; // admitted_us is -1 if it never was
};

/* Copies to be done before the step, in this order: a later one may overwrite what an earlier one
 * reads. Whole pages, but of COPY only the first n_tokens tokens matter. */
enum batcher_move_kind {
    BATCHER_COPY, // cache page to cache page
    BATCHER_OUT,  // cache page to swap page
    BATCHER_IN,   // swap page to cache page
};

struct batcher_move {
    enum batcher_move_kind kind;
    int32_t from, to;
    int32_t n_tokens;
};

/* A sequence of a plan. Rows are its own, seq_start[i] up to seq_start[i + 1]. */
struct batcher_seq {
    int64_t id;
    int32_t slot;       // its row of the page table
    int32_t n_logits;   // of its last rows: 0: a chunk before the end; 1; 1 + n_drafts
    int32_t n_drafts;   // draft tokens, its last rows
    int32_t table_from; // entries of its page table from here on may differ from the last plan that
                        // had this slot
};

/* The packed batch, in order of slots. Valid until the next batcher_plan, its table until
 * batcher_done; submitting and cancelling change nothing in it. */
struct batcher_plan {
    int32_t n_seqs, n_tokens, n_logits, n_moves;
    const struct batcher_seq *seqs; // [n_seqs]
    const int32_t *seq_start;       // [n_seqs + 1], rows
    const int32_t *kv_length;       // [n_seqs] keys of each, the new rows' included
    const int32_t *ids;             // [n_tokens]
    const int32_t *next_ids;  // [n_tokens] the id after each in its sequence, drafts included;
                              // -1: not known yet
    const int32_t *position;  // [n_tokens] in its sequence
    const int32_t *row;       // [n_tokens] of the cache: page * page_tokens + offset
    const int32_t *logit_row; // [n_logits] rows whose logits are needed, ascending
    const int32_t *table;     // [n_slots, n_table] page numbers; seqs[i].slot is i's row
    int32_t n_table;          // pages of the longest sequence that there can be
    int32_t n_pages;          // and of the longest in this plan
    const struct batcher_move *moves;
    int32_t n_decode_rows; // pending ids and drafts of streams; the others are prefill
    double predicted_us;
};

/* What came out of a sequence of the plan that had logits. Row j of its logits gives the token
 * after its j-th; drafts are accepted from the front. */
struct batcher_result {
    int32_t token;      // the next id after the accepted drafts
    int32_t n_accepted; // 0 to n_drafts
    bool stop;          // the request ends here; token is not looked at
    bool failed;        // the request ends here, too: no token came but the accepted ones, and its
                        // rows of this step are not reused
};

struct batcher;

/* pages, prefix: borrowed and shared with nobody else who takes pages; prefix may be NULL.
 * -EINVAL: a setting out of bounds, said which. */
int batcher_new(const struct batcher_config *config, struct pages *pages, struct prefix *prefix,
                struct batcher **ret, struct hai_err *err);
void batcher_free(struct batcher *b);
DEFINE_CLEANUP(struct batcher *, batcher_free)

/* Put a request into its line. Numbers grow; none is used twice.
 * -EINVAL: a field out of bounds; -E2BIG: it can never run: longer than n_seq_tokens_max or than
 * the whole cache; -EAGAIN: n_requests_max or n_ids_max is reached, later there may be room. */
int batcher_submit(struct batcher *b, const struct batcher_request *request, int64_t now_us,
                   int64_t *ret_id, struct hai_err *err);

/* End a request, waiting or resident, between any two calls. Its pages are given to nobody before
 * the next plan, so a step that is under way may go on writing them. -ENOENT: it has ended already,
 * or never was. */
int batcher_cancel(struct batcher *b, int64_t id, int64_t now_us);

/* The same, as failed. */
int batcher_fail(struct batcher *b, int64_t id, int64_t now_us);

/* Propose the tokens that may follow the last known id of a sequence that decodes. For the next
 * plan only; more than n_drafts_max or than the request has left are cut, and so are those that
 * there is no room for. -ENOENT: not decoding. */
int batcher_drafts(struct batcher *b, int64_t id, const int32_t *ids, int32_t n_ids);

/* Decide the next step. now_us never goes back. Between a plan with sequences and its done no other
 * plan may be made. Returns n_seqs. */
int batcher_plan(struct batcher *b, int64_t now_us, struct batcher_plan *ret);

/* Tables in order of the plan's sequences [n_seqs, n_pages], for kernels that do not go by slots.
 * Entries beyond a sequence's pages are 0: a page that there is, and nobody reads there. */
void batcher_tables(const struct batcher *b, int32_t *ret);

/* The step of the last plan was done. results [n_seqs], those without logits are not looked at.
 * step_us: how long it took, 0: not measured. */
void batcher_done(struct batcher *b, const struct batcher_result *results, int64_t now_us,
                  int64_t step_us);

/* The step of the last plan, or one of its moves, was not done or not whole: every sequence that
 * was part of it ends as failed. */
void batcher_done_failed(struct batcher *b, int64_t now_us);

/* The next request that has ended, in the order of their ends; its number is then free. False: none
 * is left. */
bool batcher_next_end(struct batcher *b, struct batcher_ending *ret);

struct batcher_counts {
    int32_t n_waiting, n_resident, n_decoding, n_ended; // ended: not fetched yet
    int32_t n_swapped;                                  // waiting with pages in the swap space
    int64_t n_steps, n_prompt_tokens, n_new_tokens;     // computed, since the start
    int64_t n_hit_tokens, n_recomputed_tokens, n_preempted, n_drafted, n_accepted;
    int64_t n_swapped_out, n_swapped_in; // requests, each time that pages of them were copied
};
void batcher_count(const struct batcher *b, struct batcher_counts *ret);

/* Cost over weight that a user has been served on a level, in 1/65536; 0 if he is not known (any
 * more). For tests and metrics. */
int64_t batcher_served(const struct batcher *b, uint64_t user, int32_t level);

/* Assert what must be true of lists, pages and counts. Between steps; time of everything. */
void batcher_check(const struct batcher *b);
