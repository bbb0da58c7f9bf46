/* answer.h - the text of one answer, as its tokens come: stop rules see bytes, then characters in
 * pieces are put together. All programs that generate get the same text from the same tokens by it.
 */
#pragma once
#include "engine/data/tokenizer.h"
#include "engine/infer/batcher.h"
#include "engine/infer/sample.h"
#include "engine/infer/stop.h"

/* Start with answer_start; its fields are for reading. */
struct answer {
    const struct tokenizer *tokenizer; // NULL: ids are collected only
    const struct stop_rules *rules;
    struct stop *stop;
    struct token_list ids; // the tokens of the answer, end token included, stop ids not
    struct buf pending;    // bytes that may be half a character
};

/* Both outlive the answer. */
void answer_start(struct answer *a, const struct tokenizer *tokenizer,
                  const struct stop_rules *rules);
void answer_free(struct answer *a);

/* One token; what it completes is appended to ret. True: a stop rule ends the answer with it. */
bool answer_add(struct answer *a, int32_t id, struct buf *ret);

/* The end: append what was held back. */
void answer_end(struct answer *a, struct buf *ret);

/* Append "finish_reason": "stop", "usage": {"prompt_tokens": 5, "prompt_cache_hit_tokens": 0,
 * "completion_tokens": 7}. */
void answer_dump_usage(enum batcher_end end, int32_t n_prompt, int32_t n_hit, int32_t n_new,
                       struct buf *ret);

/* Append {"id": 5, "logprob": -0.5, "top": [[5, -0.5], [7, -1.5]]}. */
void answer_dump_logprobs(const struct sample_result *token, struct buf *ret);
