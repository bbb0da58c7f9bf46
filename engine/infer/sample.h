/* sample.h - the next token from a row of logits.
 *
 * The rules and their order are vLLM's (its V1 sampler; names and ranges are OpenAI's where OpenAI
 * has them):
 *
 *   1. logprobs are taken: of the row as the model gave it, before every rule
 *   2. mask: tokens whose bit is 0 are out (constrained output, engine/infer/grammar.h)
 *   3. bias: logit += bias[id]
 *   4. repeat_penalty r, for tokens of prompt and output: logit > 0 ? logit / r : logit * r
 *      (Keskar et al., 2019)
 *   5. frequency_penalty, presence_penalty, for tokens of the output, seen n times:
 *      logit -= frequency * n + presence
 *   6. temperature 0: the largest logit, the lowest id of equals; 7 to 10 change nothing then
 *   7. temperature T: weight = exp((logit - largest) / T)
 *   8. min_p: weights below min_p times the largest are out
 *   9. top_k: all but the k largest are out; of equals the lower ids stay
 *  10. top_p: of what is left, the fewest largest that together have at least the share top_p stay
 *      (Holtzman et al., 2020); of equals the lower ids stay
 *  11. a draw among what is left, by weight, in ascending order of ids
 *
 * The random number is Philox at (seed, position) and nothing else: a token depends on the row, the
 * rules, the history, the seed and the position, never on other requests, earlier calls, batch or
 * machine (exp and log are kmath's, bit for bit).
 *
 * Speculation. A draft for a position is accepted if and only if it equals the token that is drawn
 * there from the target's own row, under all rules, with that position's random number; else that
 * token takes its place (sample_verify). So what comes out is the very sequence of plain decoding
 * with the same seed, not only the same distribution, and for any draft: the drawn token is the
 * output in both cases, the draft decides only how many positions one forward pass settles. Given
 * p (the target after the rules) and a draft drawn from q by other random numbers, it is accepted
 * with probability sum p q; a drafter that draws by sample_token from its own row with the same
 * seed, position and rules shares the random number and is accepted far more often, and with
 * temperature 0 always when both agree on the largest. Row-invariant inference gives the target the
 * same row with or without speculation.
 */
#pragma once
#include "lib/base.h"

enum {
    SAMPLE_LOGPROBS_MAX = 20, // OpenAI's limit of top_logprobs
    SAMPLE_BIASES_MAX = 1024, // of one request
    SAMPLE_VOCAB_MAX = 1 << 24,
};

struct sample_bias {
    int32_t id;
    float bias; // finite, or -infinity: never
};

struct sample_options {
    double temperature;       // 0: greedy; up to 1000
    int32_t top_k;            // 0: all
    double top_p;             // (0, 1]; 1: all
    double min_p;             // [0, 1]; 0: all
    double repeat_penalty;    // (0, 100]; 1: none
    double frequency_penalty; // [-100, 100]; 0: none
    double presence_penalty;  // [-100, 100]; 0: none
    uint64_t seed;
    const struct sample_bias *biases; // one an id; of two, both are added
    int32_t n_biases;
    int32_t n_logprobs; // -1: none; 0: of the chosen token; n: and of the n likeliest
};

/* Greedy, with no rule on. */
struct sample_options sample_defaults(void);

/* Are all values in their ranges and ids below n_vocab? -EINVAL names the first that is not. */
int sample_check(const struct sample_options *options, int64_t n_vocab, struct hai_err *err);

/* What a request has seen, for the penalties: ids of the prompt, and how often each was put out. */
struct sample_history;

/* n_tokens_max: of prompt and output together; memory for all of them is taken at once. */
struct sample_history *sample_history_new(int64_t n_tokens_max);
void sample_history_free(struct sample_history *h);
DEFINE_CLEANUP(struct sample_history *, sample_history_free)

void sample_history_add_prompt(struct sample_history *h, const int32_t *ids, int64_t n);
void sample_history_add(struct sample_history *h, int32_t id);     // one token put out
int64_t sample_history_count(const struct sample_history *h);      // tokens put out
void sample_history_cut(struct sample_history *h, int64_t n_kept); // forget the later outputs

/* Scratch for rows of n_vocab logits. One a thread; requests share it, nothing stays in it. */
struct sample_space;
struct sample_space *sample_space_new(int64_t n_vocab);
void sample_space_free(struct sample_space *s);
DEFINE_CLEANUP(struct sample_space *, sample_space_free)

struct sample_logprob {
    int32_t id;
    double logprob; // natural logarithm
};

struct sample_result {
    int32_t id;
    int32_t n_top;                                  // min(n_logprobs, n_vocab), 0 without
    double logprob;                                 // of id; 0 if n_logprobs is -1
    struct sample_logprob top[SAMPLE_LOGPROBS_MAX]; // descending; of equals the lower id first
};

/* Choose the token of one position.
 *
 * logits    [n_vocab] of the space; not changed
 * options   within their ranges (sample_check)
 * history   NULL: nothing seen. Not changed: the caller adds the token
 * mask      bits of allowed ids, 64 a word from the lowest, [ceil(n_vocab / 64)]; NULL: all
 * position  of the token to come: the number of tokens before it
 *
 * Does not allocate. -EDOM: a logit is NaN, the largest is infinite, or no token is left. */
int sample_token(struct sample_space *s, const float *logits, const struct sample_options *options,
                 const struct sample_history *history, const uint64_t *mask, int64_t position,
                 struct sample_result *ret, struct hai_err *err);

/* What sample_verify asks at every position. mask: the mask of the token to come; *ret stays NULL
 * for none. take: a token was taken, the last one too; 1 ends the sequence with it. Both return 0
 * or a negative errno. */
struct sample_hooks {
    int (*mask)(void *userdata, const uint64_t **ret, struct hai_err *err);
    int (*take)(void *userdata, int32_t id, struct hai_err *err);
    void *userdata;
};

/* Settle as many positions as drafts hold: see "Speculation" above.
 *
 * rows      [n_drafts + 1, n_vocab]: row i follows the draft tokens before i
 * drafts    [n_drafts] proposals for position, position + 1, ...
 * history   gets the tokens taken; may be NULL
 * hooks     NULL: no masks and no end
 * ret       [n_drafts + 1]
 *
 * Returns the number of tokens taken, 1 to n_drafts + 1: the accepted drafts and, unless one ended
 * the sequence, the token drawn after them. A negative errno as sample_token ends the request:
 * tokens before the bad row are in history by then. */
int sample_verify(struct sample_space *s, const float *rows, const int32_t *drafts, int n_drafts,
                  const struct sample_options *options, struct sample_history *history,
                  const struct sample_hooks *hooks, int64_t position, struct sample_result *ret,
                  struct hai_err *err);
