/* talk.h - a conversation with a model in this process: messages, the next answer piece by piece,
 * saving and loading.
 *
 * The prefix cache makes a turn cost what is new in it. What the model has said goes back to it as
 * the tokens that it chose, not as its text encoded again (which may give others), as long as the
 * template puts the text unchanged before what follows; otherwise, as where thoughts of earlier
 * turns are left out, the cache is good up to the first difference.
 */
#pragma once
#include "engine/data/chat.h"
#include "engine/infer/engine.h"
#include "jobs/sampleargs.h"

enum { TALK_FILE_BYTES_MAX = 64 << 20 };

struct talk;

/* Load the model of DIR. form as chat_open. */
int talk_open(const char *dir, const struct engine_options *options, const char *form,
              struct talk **ret, struct hai_err *err);
void talk_free(struct talk *t);
DEFINE_CLEANUP(struct talk *, talk_free)

struct talk_options {
    struct sampleargs sample;
    int64_t n_new_max; // fewer if the model or the cache has no room for them
    enum chat_thinking thinking;
    bool ignore_eos;
};

struct talk_answer {
    struct buf text; // owned
    enum batcher_end end;
    int32_t n_prompt, n_hit, n_new; // tokens; n_hit of the prompt came from the cache
    double first_s, new_s;          // to the first token, and from there to the last
};

/* Ask and get the answer; both become part of the conversation.
 *
 * text   UTF-8 without zero bytes; NULL: ask the last question again, its answer is forgotten
 * said   each piece of the text as it comes, whole characters
 * stop   looked at between steps: not 0 ends the answer there (BATCHER_END_CANCELLED)
 *
 * After a failure the conversation is as before. -EINVAL: the text is no UTF-8, or the template
 * refuses the messages; -E2BIG: too long; -ENODATA: nothing was asked yet. */
int talk_ask(struct talk *t, const char *text, struct talk_options *options,
             void (*said)(void *userdata, const char *text, size_t n_bytes), void *userdata,
             const volatile int *stop, struct talk_answer *ret, struct hai_err *err);

/* Forget all messages but the system's. */
void talk_clear(struct talk *t);

/* Set the system's message, or with NULL or "" none. The conversation begins anew. */
int talk_system(struct talk *t, const char *text, struct hai_err *err);

/* The messages as {"messages": [...]}; loading replaces those there are. -EBADMSG: not such a file.
 */
int talk_save(const struct talk *t, const char *path, struct hai_err *err);
int talk_load(struct talk *t, const char *path, struct hai_err *err);
int talk_n_messages(const struct talk *t);
