#include "jobs/talk.h"
#include "engine/data/added.h"
#include "jobs/answer.h"
#include "lib/fileio.h"

/* A place in the conversation up to which text and tokens are known: an end of prompt or answer. */
struct cut {
    size_t n_bytes, n_ids;
};

struct talk {
    struct tokenizer *tokenizer;
    struct chat *chat;
    struct engine *engine;
    int64_t n_tokens_max; // of prompt and answer
    struct json *messages;
    // What the engine's cache has of the conversation: a text, who wrote each byte, and its tokens.
    struct buf text, marks;
    struct token_list ids;
    struct cut *cuts; // ascending
    size_t n_cuts;
};

void talk_free(struct talk *t) {
    if (!t)
        return;
    engine_free(t->engine);
    chat_free(t->chat);
    tokenizer_free(t->tokenizer);
    json_free(t->messages);
    buf_free(&t->text);
    buf_free(&t->marks);
    token_list_free(&t->ids);
    free(t->cuts);
    free(t);
}

int talk_open(const char *dir, const struct engine_options *options, const char *form,
              struct talk **ret, struct hai_err *err) {
    _cleanup_(talk_freep) struct talk *t = hai_new(struct talk);

    t->messages = json_new_array();
    int r = tokenizer_read(dir, &t->tokenizer, err);
    if (r == 0)
        r = chat_open(dir, t->tokenizer, form, &t->chat, err);
    if (r == 0)
        r = engine_open(dir, options, &t->engine, err);
    if (r < 0)
        return r;
    t->n_tokens_max = MIN((int64_t)options->n_seq_tokens_max,
                          model_config_of(engine_model(t->engine))->n_position);
    *ret = TAKE_PTR(t);
    return 0;
}

int talk_n_messages(const struct talk *t) {
    return (int)json_count(t->messages);
}

static struct json *new_message(const char *role, const char *text, size_t n_bytes) {
    struct json *m = json_new_object();

    json_add_string(m, "role", role);
    json_add(m, "content", json_new_string_n(text, n_bytes));
    return m;
}

/* A copy of the first n messages. */
static struct json *copy_messages(const struct json *messages, size_t n) {
    _cleanup_(buf_free) struct buf text = {0};
    struct hai_err ignored = {0};
    struct json *all, *copy = json_new_array();

    json_dump(messages, 0, &text);
    int r = json_parse(text.data, text.n_bytes, NULL, &all, &ignored);
    assert(r == 0);
    for (const struct json *m = json_first(all); m && n; m = json_next(m), n--) {
        struct json *to = json_append(copy, json_new_object());
        for (const struct json *v = json_first(m); v; v = json_next(v))
            json_add(to, json_key(v),
                     json_new_string_n(json_as_string(v), json_as_string_bytes(v)));
    }
    json_free(all);
    return copy;
}

static const char *role_of(const struct json *message) {
    return json_get_string(message, "role", "");
}

static int check_text(const char *text, struct hai_err *err) {
    return json_is_text(text, strlen(text)) ? 0 : hai_fail(err, -EINVAL, "the text is not UTF-8");
}

void talk_clear(struct talk *t) {
    const struct json *first = json_first(t->messages);
    bool keep = first && hai_streq(role_of(first), "system");
    struct json *messages = copy_messages(t->messages, keep);

    json_free(t->messages);
    t->messages = messages;
}

int talk_system(struct talk *t, const char *text, struct hai_err *err) {
    int r = text ? check_text(text, err) : 0;

    if (r < 0)
        return r;
    json_free(t->messages);
    t->messages = json_new_array();
    if (text && *text)
        json_append(t->messages, new_message("system", text, strlen(text)));
    return 0;
}

/* The messages to answer: those there are and the text, or without it up to the last question. */
static int asked(const struct talk *t, const char *text, struct json **ret, struct hai_err *err) {
    size_t n = json_count(t->messages), i = 0, n_kept = text ? n : 0;
    int r = text ? check_text(text, err) : 0;

    if (r < 0)
        return r;
    for (const struct json *m = json_first(t->messages); m && !text; m = json_next(m), i++)
        if (hai_streq(role_of(m), "user"))
            n_kept = i + 1;
    if (!text && !n_kept)
        return hai_fail(err, -ENODATA, "nothing was asked yet");
    *ret = copy_messages(t->messages, n_kept);
    if (text)
        json_append(*ret, new_message("user", text, strlen(text)));
    return 0;
}

/* The last place up to which a text is what is known, and of the same writers: the same bytes from
 * another one may be other tokens. Later places are forgotten. */
static struct cut cut_back(struct talk *t, const struct buf *text, const struct buf *marks) {
    while (t->n_cuts) {
        struct cut last = t->cuts[t->n_cuts - 1];
        if (last.n_bytes <= text->n_bytes && memcmp(t->text.data, text->data, last.n_bytes) == 0 &&
            memcmp(t->marks.data, marks->data, last.n_bytes) == 0)
            return last;
        t->n_cuts--;
    }
    return (struct cut){0};
}

/* The prompt's tokens: those that are in the cache, and the others from the text. */
static int encode(struct talk *t, const struct json *messages, enum chat_thinking thinking,
                  struct buf *ret_text, struct buf *ret_marks, struct token_list *ret,
                  struct hai_err *err) {
    const struct chat_request request = {
        .messages = messages, .add_generation_prompt = true, .thinking = thinking, .now_s = -1};

    int r = chat_render(t->chat, &request, ret_text, ret_marks, err);
    if (r < 0)
        return r;
    struct cut known = cut_back(t, ret_text, ret_marks);
    token_list_add_n(ret, t->ids.ids, known.n_ids);
    return tokenizer_encode_marked(t->tokenizer, buf_cstr(ret_text) + known.n_bytes,
                                   ret_marks->data + known.n_bytes,
                                   ret_text->n_bytes - known.n_bytes, ret, err);
}

/* One answer in progress. */
struct turn {
    struct answer answer;
    struct talk_answer *ret;
    void (*said)(void *userdata, const char *text, size_t n_bytes);
    void *userdata;
    int64_t start_us, first_us, last_us;
    bool ended;
    struct hai_err err;
};

static void say(struct turn *turn, size_t n_before) {
    const struct buf *text = &turn->ret->text;

    if (text->n_bytes > n_before)
        turn->said(turn->userdata, (const char *)text->data + n_before, text->n_bytes - n_before);
}

static int take(void *userdata, int64_t id, const struct sample_result *token) {
    struct turn *turn = userdata;
    size_t n_before = turn->ret->text.n_bytes;
    bool ends = answer_add(&turn->answer, token->id, &turn->ret->text);

    turn->last_us = engine_now_us();
    if (!turn->first_us)
        turn->first_us = turn->last_us;
    say(turn, n_before);
    return ends;
}

static void end(void *userdata, const struct batcher_ending *ending, const struct hai_err *err) {
    struct turn *turn = userdata;
    struct talk_answer *ret = turn->ret;
    size_t n_before = ret->text.n_bytes;

    answer_end(&turn->answer, &ret->text);
    say(turn, n_before);
    ret->end = ending->end;
    ret->n_prompt = ending->n_prompt;
    ret->n_hit = ending->n_hit;
    ret->n_new = ending->n_new;
    if (turn->first_us) {
        ret->first_s = (double)(turn->first_us - turn->start_us) / 1e6;
        ret->new_s = (double)(turn->last_us - turn->first_us) / 1e6;
    }
    turn->err = *err;
    turn->ended = true;
}

static int generate(struct talk *t, const struct token_list *ids, const struct talk_options *o,
                    const volatile int *stop, struct turn *turn, struct hai_err *err) {
    int64_t n_left = t->n_tokens_max - (int64_t)ids->n, id;

    if (n_left < 1)
        return hai_fail_at(err, -E2BIG, NULL, NULL, NULL,
                           "the conversation has %zu tokens; there is room for %lld with an answer",
                           ids->n, (long long)t->n_tokens_max);
    const struct engine_request request = {.weight = 1,
                                           .ids = ids->ids,
                                           .n_ids = (int32_t)ids->n,
                                           .n_new_max = (int32_t)MIN(n_left, o->n_new_max),
                                           .sample = o->sample.options,
                                           .ignore_eos = o->ignore_eos,
                                           .take = take,
                                           .end = end,
                                           .userdata = turn};
    turn->start_us = engine_now_us();
    int r = engine_submit(t->engine, &request, &id, err);
    while (r >= 0 && !turn->ended) {
        if (*stop)
            (void)engine_cancel(t->engine, id);
        r = engine_step(t->engine, err);
    }
    if (r >= 0 && turn->ret->end == BATCHER_END_FAILED) {
        *err = turn->err;
        r = -EIO;
    }
    return MIN(r, 0);
}

static void add_cut(struct talk *t) {
    t->cuts = hai_realloc_array(t->cuts, t->n_cuts + 1, sizeof *t->cuts);
    t->cuts[t->n_cuts++] = (struct cut){t->text.n_bytes, t->ids.n};
}

/* What the cache has now: the prompt and the answer without an end token. */
static void remember(struct talk *t, const struct buf *text, const struct buf *marks,
                     const struct token_list *ids, const struct answer *answer,
                     const struct buf *said) {
    const struct model_config *config = model_config_of(engine_model(t->engine));
    size_t n = answer->ids.n;

    for (int i = 0; i < config->n_eos_tokens && n; i++)
        if (config->eos_tokens[i] == answer->ids.ids[n - 1]) {
            n--;
            break;
        }
    buf_clear(&t->text);
    buf_add(&t->text, text->data, text->n_bytes);
    buf_clear(&t->marks);
    buf_add(&t->marks, marks->data, marks->n_bytes);
    t->ids.n = 0;
    token_list_add_n(&t->ids, ids->ids, ids->n);
    add_cut(t);
    if (stop_found(answer->stop) >= 0)
        return; // the tokens say more than the text
    buf_add(&t->text, said->data, said->n_bytes);
    if (said->n_bytes)
        memset(buf_extend(&t->marks, said->n_bytes), ADDED_BY_MODEL, said->n_bytes);
    token_list_add_n(&t->ids, answer->ids.ids, n);
    add_cut(t);
}

/* The answer as a message: JSON has no zero bytes in texts. */
static struct json *answer_message(const struct buf *said) {
    _cleanup_(buf_free) struct buf text = {0};

    for (size_t i = 0; i < said->n_bytes; i++)
        if (said->data[i])
            buf_add_u8(&text, said->data[i]);
        else
            buf_add_str(&text, "\xEF\xBF\xBD");
    return new_message("assistant", buf_cstr(&text), text.n_bytes);
}

int talk_ask(struct talk *t, const char *text, struct talk_options *options,
             void (*said)(void *userdata, const char *text, size_t n_bytes), void *userdata,
             const volatile int *stop, struct talk_answer *ret, struct hai_err *err) {
    _cleanup_(json_freep) struct json *messages = NULL;
    _cleanup_(stop_rules_freep) struct stop_rules *rules = NULL;
    _cleanup_(token_list_free) struct token_list ids = {0};
    _cleanup_(buf_free) struct buf rendered = {0}, marks = {0};
    struct turn turn = {.ret = ret, .said = said, .userdata = userdata};

    int r = sampleargs_rules(&options->sample, &rules, err);
    if (r == 0)
        r = asked(t, text, &messages, err);
    if (r == 0)
        r = encode(t, messages, options->thinking, &rendered, &marks, &ids, err);
    if (r == 0 && !ids.n)
        r = hai_fail(err, -EINVAL, "the template makes nothing of these messages");
    if (r < 0)
        return r;
    *ret = (struct talk_answer){0};
    answer_start(&turn.answer, t->tokenizer, rules);
    r = generate(t, &ids, options, stop, &turn, err);
    if (r == 0) {
        remember(t, &rendered, &marks, &ids, &turn.answer, &ret->text);
        json_append(messages, answer_message(&ret->text));
        json_free(t->messages);
        t->messages = TAKE_PTR(messages);
    } else {
        buf_free(&ret->text);
    }
    answer_free(&turn.answer);
    return r;
}

int talk_save(const struct talk *t, const char *path, struct hai_err *err) {
    _cleanup_(buf_free) struct buf text = {0};

    buf_add_str(&text, "{\"messages\": ");
    json_dump(t->messages, 0, &text);
    buf_add_str(&text, "}\n");
    return fileio_replace(path, text.data, text.n_bytes, 0600, err);
}

static bool is_message(const struct json *m) {
    if (json_kind(m) != JSON_KIND_OBJECT || !json_get(m, "role") || !json_get(m, "content"))
        return false;
    for (const struct json *v = json_first(m); v; v = json_next(v))
        if (json_kind(v) != JSON_KIND_STRING)
            return false;
    return true;
}

int talk_load(struct talk *t, const char *path, struct hai_err *err) {
    _cleanup_(buf_free) struct buf text = {0};
    _cleanup_(json_freep) struct json *tree = NULL;
    int r = fileio_read_file(path, TALK_FILE_BYTES_MAX, &text, err);

    if (r == 0)
        r = json_parse(text.data, text.n_bytes, path, &tree, err);
    if (r < 0)
        return r;
    const struct json *messages = json_get(tree, "messages");
    if (!messages || json_kind(messages) != JSON_KIND_ARRAY)
        return hai_fail(err, -EBADMSG, "%s: expected {\"messages\": [...]}", path);
    for (const struct json *m = json_first(messages); m; m = json_next(m))
        if (!is_message(m))
            return hai_fail(err, -EBADMSG, "%s: expected messages of role and content, texts",
                            path);
    json_free(t->messages);
    t->messages = copy_messages(messages, json_count(messages));
    return 0;
}
