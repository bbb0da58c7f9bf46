#include "jobs/answer.h"
#include "engine/data/utf8.h"
#include "lib/json.h"

void answer_start(struct answer *a, const struct tokenizer *tokenizer,
                  const struct stop_rules *rules) {
    *a = (struct answer){.tokenizer = tokenizer, .rules = rules, .stop = stop_new(rules)};
}

void answer_free(struct answer *a) {
    stop_free(a->stop);
    token_list_free(&a->ids);
    buf_free(&a->pending);
}

bool answer_add(struct answer *a, int32_t id, struct buf *ret) {
    _cleanup_(buf_free) struct buf bytes = {0};
    bool stopped = false;

    if (stop_rules_has_id(a->rules, id))
        return true;
    token_list_add(&a->ids, id);
    // A model may have more rows than its tokenizer has tokens; those have no text.
    if (a->tokenizer && !tokenizer_is_special(a->tokenizer, id)) {
        tokenizer_add_bytes(a->tokenizer, id, &bytes);
        stopped = stop_add(a->stop, bytes.data, bytes.n_bytes, &a->pending);
        utf8_add_stream(ret, &a->pending);
    }
    return stopped;
}

void answer_end(struct answer *a, struct buf *ret) {
    if (stop_found(a->stop) < 0)
        stop_end(a->stop, &a->pending);
    utf8_add_lossy(ret, a->pending.data, a->pending.n_bytes);
    buf_clear(&a->pending);
}

void answer_dump_usage(enum batcher_end end, int32_t n_prompt, int32_t n_hit, int32_t n_new,
                       struct buf *ret) {
    buf_printf(ret,
               "\"finish_reason\": \"%s\", \"usage\": {\"prompt_tokens\": %d, "
               "\"prompt_cache_hit_tokens\": %d, \"completion_tokens\": %d}",
               batcher_end_text(end), n_prompt, n_hit, n_new);
}

void answer_dump_logprobs(const struct sample_result *token, struct buf *ret) {
    buf_printf(ret, "{\"id\": %d, \"logprob\": ", token->id);
    json_dump_real(token->logprob, ret);
    buf_add_str(ret, ", \"top\": [");
    for (int i = 0; i < token->n_top; i++) {
        buf_printf(ret, "%s[%d, ", i ? ", " : "", token->top[i].id);
        json_dump_real(token->top[i].logprob, ret);
        buf_add_str(ret, "]");
    }
    buf_add_str(ret, "]}");
}
