/* conversation.h - a line of training data that is a conversation: tokens, and which of them count.
 *
 *   {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
 *
 * and "tools" where there are some; "weight": 0 in an answer keeps it as context only; other
 * members are left alone. The form is the model's (chat.h). What counts is what the model will have
 * to say itself: of every answer the tokens behind the prompt that asks for it, up to the token
 * that ends it. An answer is tokenised apart from its prompt, as it is when a model speaks.
 *
 * The last answer stands behind the prompt of generation, so thoughts in it are there even in forms
 * that leave them out of what was said before (R1, V3.1). Answers before count where the template
 * writes what the prompt of generation asks for, which is not so in those forms.
 */
#pragma once
#include "engine/data/chat.h"

enum { CONVERSATION_MESSAGES_MAX = 1000 };

struct conversation {
    struct token_list ids; // owned
    struct buf counts;     // a byte for each id: 1 if it is to be predicted
};

void conversation_free(struct conversation *c);
void conversation_clear(struct conversation *c); // memory is kept for the next

/* Append a line. -EBADMSG: no JSON object; -EINVAL: it is no list of messages that ends with an
 * answer, the answer is empty, or it does not end the thought that its template begins; errors of
 * chat_render. ret is to be cleared after a failure. */
int conversation_read(const char *text, size_t n_bytes, const struct chat *chat,
                      struct tokenizer *t, struct conversation *ret, struct hai_err *err);
