/* promptline.h - one line of a file of prompts: a JSON object that says what is to be generated.
 *
 *   {"prompt": "Once"}                         a text, continued
 *   {"token_ids": [1, 2]}                      ids, continued as they are
 *   {"messages": [{"role": "user", ...}]}      a chat, answered; with "tools", "thinking"
 *
 * and beside one of these: "id", any value, which is given back; "max_tokens", "temperature",
 * "seed", "top_k", "top_p", "min_p", "repeat_penalty", "frequency_penalty", "presence_penalty",
 * "logprobs", "logit_bias" ({"17": -1.5}), "stop" (a text or a list), "stop_ids", "keep_stop",
 * "ignore_eos", "json_object", "json_schema" (the schema itself), "priority" (0 to 7). What is
 * absent is as the command line said. A field that is not known is an error.
 */
#pragma once
#include "engine/data/chat.h"
#include "jobs/sampleargs.h"

enum {
    PROMPTLINE_BYTES_MAX = 64 << 20,
    PROMPTLINE_NEW_MAX = 1 << 24, // of max_tokens
};

struct promptline {
    struct json *tree;     // the line, owned
    struct token_list ids; // of the prompt, owned, not empty
    char *schema;          // text, owned; NULL: output is free
    int64_t n_new_max;
    int32_t priority;
    bool ignore_eos;
    struct sampleargs sample; // texts lie in the tree or come from the defaults
};
void promptline_free(struct promptline *p);

/* Append the ids of a prompt, with the begin token where the model's configuration asks for one and
 * the text does not bring it. -EINVAL: no text. */
int promptline_encode(struct tokenizer *t, const char *text, size_t n_bytes, struct token_list *ret,
                      struct hai_err *err);

/* Read a line. t and c may be NULL: then texts, or chats, are refused with that. defaults: what the
 * command line said; only numbers, stops and the schema of it are looked at. ret may own something
 * after a failure, too. -EBADMSG: no JSON object; -EINVAL: a field is unknown or out of range;
 * errors of encoding and of templates. */
int promptline_read(const char *text, size_t n_bytes, const struct promptline *defaults,
                    struct tokenizer *t, const struct chat *c, struct promptline *ret,
                    struct hai_err *err);
