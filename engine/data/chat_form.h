/* chat_form.h - chat templates of our own, for the series whose files bring none.
 *
 * Written from what their publications say of the forms; messages with roles system, user and
 * assistant. Tool calls are left to templates that come with a model.
 */
#pragma once
#include "engine/data/tokenizer.h"

enum chat_form {
    CHAT_FORM_LLM,   // LLM, MoE, Math, V2, Coder-V2
    CHAT_FORM_CODER, // Coder v1 instruct
    CHAT_FORM_V3,    // V2.5 and V3
    CHAT_FORM_R1,    // R1 and its distillations
    CHAT_FORM_V31,   // V3.1: thinking or not
    CHAT_FORM_COUNT,
};

const char *chat_form_name(enum chat_form form);     // "llm", "coder", ...
const char *chat_form_template(enum chat_form form); // Jinja

/* By name; -EINVAL with the names. */
int chat_form_parse(const char *name, enum chat_form *ret, struct hai_err *err);

/* The form of a model, by the special tokens it has. end is the id that ends its texts, -1: not
 * known. -ENOENT: none fits. */
int chat_form_guess(const struct tokenizer *t, int32_t end, enum chat_form *ret,
                    struct hai_err *err);
