/* chat.h - a conversation as the text and the token ids that a model was trained on.
 *
 * The form is the Jinja template that comes with the model (chat_template.jinja, or chat_template
 * of tokenizer_config.json), or one of ours where none does (chat_form.h). Special tokens that the
 * template writes are tokens; the same characters in a message are text, so that no message can
 * forge a turn. What a message of role assistant says may hold <think> and </think>.
 */
#pragma once
#include "engine/data/tokenizer.h"
#include "lib/json.h"

struct chat;

/* Read a model's form. path as in tokenizer_read; form names one of ours, NULL: as the files say.
 * -ENOENT: the files bring none and none of ours fits. */
int chat_open(const char *path, const struct tokenizer *t, const char *form, struct chat **ret,
              struct hai_err *err);
void chat_free(struct chat *c);
DEFINE_CLEANUP(struct chat *, chat_free)

/* Where the form comes from: a file, or "built in: NAME". */
const char *chat_source(const struct chat *c);

enum chat_thinking { CHAT_THINKING_DEFAULT, CHAT_THINKING_ON, CHAT_THINKING_OFF };

struct chat_request {
    const struct json *messages; // a list of {"role", "content", ...}
    const struct json *tools;    // a list, or NULL
    bool add_generation_prompt;  // the assistant is to speak next
    enum chat_thinking thinking; // for templates that know the choice
    int64_t now_s;               // for templates that name the day; negative: they do without
};

/* Append the text; ret_marks, which may be NULL, as tokenizer_encode_marked wants them. -EINVAL:
 * the template refuses the messages. */
int chat_render(const struct chat *c, const struct chat_request *request, struct buf *ret,
                struct buf *ret_marks, struct hai_err *err);

/* Append the ids of the same. The template writes the begin token itself. */
int chat_encode(const struct chat *c, struct tokenizer *t, const struct chat_request *request,
                struct token_list *ret, struct hai_err *err);

/* Append the ids that ask for the text between prefix and suffix (Coder, Coder-V2, V3: "fill in the
 * middle"), after the begin token where the model has one. -ENOTSUP: the tokenizer has no such
 * tokens. */
int chat_encode_middle(struct tokenizer *t, const char *prefix, size_t prefix_bytes,
                       const char *suffix, size_t suffix_bytes, struct token_list *ret,
                       struct hai_err *err);
