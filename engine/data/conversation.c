#include "engine/data/conversation.h"
#include "engine/data/added.h"

static const char thought_begin[] = "<think>", thought_end[] = "</think>";

void conversation_free(struct conversation *c) {
    token_list_free(&c->ids);
    buf_free(&c->counts);
}

void conversation_clear(struct conversation *c) {
    c->ids.n = 0;
    buf_clear(&c->counts);
}

/* A text as a template writes it. */
struct rendered {
    struct buf text, marks;
};

static void rendered_free(struct rendered *r) {
    buf_free(&r->text);
    buf_free(&r->marks);
}

/* What is read, with all that its parts need. */
struct reading {
    const struct chat *chat;
    struct tokenizer *tokenizer;
    const struct json *tools;
    const struct json *messages;
    struct conversation *ret;
    struct hai_err *err;
};

static bool is_answer(const struct json *message) {
    return hai_streq(json_get_string(message, "role", ""), "assistant");
}

/* The first n messages. */
static int render(const struct reading *x, size_t n, bool prompt, enum chat_thinking thinking,
                  struct rendered *ret) {
    _cleanup_(json_freep) struct json *first = json_new_array();
    _cleanup_(buf_free) struct buf text = {0};

    for (const struct json *m = json_first(x->messages); m && n; m = json_next(m), n--) {
        struct json *copy = NULL;
        buf_clear(&text);
        json_dump(m, 0, &text);
        int r = json_parse(text.data, text.n_bytes, NULL, &copy, x->err);
        if (r < 0)
            return r;
        json_append(first, copy);
    }
    const struct chat_request request = {.messages = first,
                                         .tools = x->tools,
                                         .add_generation_prompt = prompt,
                                         .thinking = thinking,
                                         .now_s = -1};
    buf_clear(&ret->text);
    buf_clear(&ret->marks);
    return chat_render(x->chat, &request, &ret->text, &ret->marks, x->err);
}

static bool begins_with(const struct rendered *whole, const struct rendered *part) {
    return whole->text.n_bytes >= part->text.n_bytes &&
           memcmp(whole->text.data, part->text.data, part->text.n_bytes) == 0;
}

static void copy_of(struct rendered *ret, const struct rendered *from, size_t at) {
    buf_add(&ret->text, from->text.data + at, from->text.n_bytes - at);
    buf_add(&ret->marks, from->marks.data + at, from->marks.n_bytes - at);
}

/* Behind the last byte that a model wrote; `from` if it wrote none after that. */
static size_t answer_end(const struct rendered *r, size_t from) {
    size_t at = r->marks.n_bytes;

    while (at > from && r->marks.data[at - 1] != ADDED_BY_MODEL)
        at--;
    return at;
}

/* How many bytes of an answer the prompt has already: a thought that it has begun. */
static size_t overlap(const struct rendered *prompt, const char *content) {
    size_t begin = strlen(thought_begin), n = prompt->text.n_bytes;
    const char *text = (const char *)prompt->text.data;

    while (n && (text[n - 1] == '\n' || text[n - 1] == ' '))
        n--;
    bool opened = n >= begin && memcmp(text + n - begin, thought_begin, begin) == 0;
    if (!opened || strncmp(content, thought_begin, begin) != 0)
        return 0;
    return begin + strspn(content + begin, " \n");
}

/* The whole text of a conversation whose last answer is not written as the prompt asks for it: the
 * prompt, the answer as it was given, and what the template closes answers with. */
static int put_answer(const struct reading *x, const struct json *last,
                      const struct rendered *prompt, const struct rendered *plain,
                      struct rendered *ret) {
    const char *content = json_get_string(last, "content", "");
    size_t skip = overlap(prompt, content), end = answer_end(plain, 0);

    if (!strstr(content, thought_end))
        return hai_fail(x->err, -EINVAL,
                        "the last answer does not follow from the prompt that its template makes; "
                        "expected %s in it, to end the thought that the prompt begins",
                        thought_end);
    copy_of(ret, prompt, 0);
    buf_add_str(&ret->text, content + skip);
    for (size_t i = 0; i < strlen(content + skip); i++)
        buf_add_u8(&ret->marks, ADDED_BY_MODEL);
    copy_of(ret, plain, end);
    return 0;
}

/* Append the ids of a piece of the text, which do not count. */
static int add_piece(const struct reading *x, const struct rendered *r, size_t from, size_t to) {
    struct conversation *c = x->ret;
    int s = tokenizer_encode_marked(x->tokenizer, (const char *)r->text.data + from,
                                    r->marks.data + from, to - from, &c->ids, x->err);

    while (s == 0 && c->counts.n_bytes < c->ids.n)
        buf_add_u8(&c->counts, 0);
    return s;
}

static size_t count_special(const struct tokenizer *t, const struct token_list *ids, size_t from) {
    size_t n = 0;

    for (size_t i = from; i < ids->n; i++)
        n += tokenizer_is_special(t, ids->ids[i]);
    return n;
}

/* The same of an answer with what closes it: its tokens count, and of the closing ones those up to
 * the first special one, which ends it; all, if there is none. */
static int add_answer(const struct reading *x, const struct rendered *r, size_t from, size_t to) {
    struct conversation *c = x->ret;
    _cleanup_(token_list_free) struct token_list closing = {0};
    const struct rendered part = {
        .marks = {.data = r->marks.data, .n_bytes = to}
    };
    size_t first = c->ids.n, end = answer_end(&part, from);
    int s = tokenizer_encode_marked(x->tokenizer, (const char *)r->text.data + end,
                                    r->marks.data + end, to - end, &closing, x->err);
    if (s == 0)
        s = add_piece(x, r, from, to);
    if (s < 0)
        return s;
    // The closing is the same behind the answer; counted from the end, as it may have melted into
    // the answer before its first special token.
    size_t left = count_special(x->tokenizer, &closing, 0), last = c->ids.n;
    for (size_t seen = 0; seen < left && last > first; last--)
        seen += tokenizer_is_special(x->tokenizer, c->ids.ids[last - 1]);
    for (size_t i = first; i < last + (left > 0); i++)
        c->counts.data[i] = 1;
    return 0;
}

static enum chat_thinking thinking_of(const struct json *message) {
    return strstr(json_get_string(message, "content", ""), thought_end) ? CHAT_THINKING_ON
                                                                        : CHAT_THINKING_OFF;
}

/* The text as a whole; *ret_from: where the last answer begins. */
static int write_whole(const struct reading *x, size_t n, const struct json *last,
                       struct rendered *ret, size_t *ret_from) {
    _cleanup_(rendered_free) struct rendered prompt = {0}, plain = {0};
    int r = render(x, n - 1, true, thinking_of(last), &prompt);

    if (r == 0)
        r = render(x, n, false, thinking_of(last), &plain);
    if (r < 0)
        return r;
    *ret_from = prompt.text.n_bytes;
    if (!begins_with(&plain, &prompt))
        return put_answer(x, last, &prompt, &plain, ret);
    copy_of(ret, &plain, 0);
    return 0;
}

/* Does answer `number` stand in the whole as its own prompt asks for it? Then from and to. */
static int find_answer(const struct reading *x, size_t number, const struct json *message,
                       const struct rendered *whole, size_t *ret_from, size_t *ret_to) {
    _cleanup_(rendered_free) struct rendered prompt = {0}, plain = {0};
    int r = render(x, number, true, thinking_of(message), &prompt);

    if (r == 0)
        r = render(x, number + 1, false, thinking_of(message), &plain);
    if (r < 0)
        return r;
    *ret_from = prompt.text.n_bytes;
    *ret_to = plain.text.n_bytes;
    return begins_with(&plain, &prompt) && begins_with(whole, &plain) &&
           answer_end(&plain, *ret_from) > *ret_from;
}

static bool is_context(const struct json *message) {
    return json_get_int(message, "weight", 1) == 0;
}

static int encode(const struct reading *x, size_t n, const struct json *last) {
    _cleanup_(rendered_free) struct rendered whole = {0};
    size_t at = 0, number = 0, from = 0, to = 0, last_from = 0;
    int r = write_whole(x, n, last, &whole, &last_from);

    for (const struct json *m = json_first(x->messages); r == 0 && m != last;
         m = json_next(m), number++) {
        if (!is_answer(m) || is_context(m))
            continue;
        r = find_answer(x, number, m, &whole, &from, &to);
        if (r <= 0 || from < at)
            continue;
        r = add_piece(x, &whole, at, from);
        if (r == 0)
            r = add_answer(x, &whole, from, to);
        at = to;
    }
    if (r == 0 && last_from < at)
        r = hai_fail(x->err, -EINVAL, "the template moves answers");
    if (r == 0 && answer_end(&whole, last_from) == last_from)
        r = hai_fail(x->err, -EINVAL, "the last answer is empty");
    if (r == 0)
        r = add_piece(x, &whole, at, last_from);
    if (r < 0)
        return r;
    return is_context(last) ? add_piece(x, &whole, last_from, whole.text.n_bytes)
                            : add_answer(x, &whole, last_from, whole.text.n_bytes);
}

int conversation_read(const char *text, size_t n_bytes, const struct chat *chat,
                      struct tokenizer *t, struct conversation *ret, struct hai_err *err) {
    _cleanup_(json_freep) struct json *root = NULL;
    const struct json *last = NULL;
    int r = json_parse(text, n_bytes, NULL, &root, err);

    if (r < 0)
        return r;
    const struct json *messages = json_get(root, "messages");
    if (!messages || json_kind(messages) != JSON_KIND_ARRAY || !json_count(messages) ||
        json_count(messages) > CONVERSATION_MESSAGES_MAX)
        return hai_fail(err, -EINVAL, "'messages': expected a list of 1 to %d messages",
                        CONVERSATION_MESSAGES_MAX);
    for (const struct json *m = json_first(messages); m; m = json_next(m))
        last = m;
    if (json_kind(last) != JSON_KIND_OBJECT || !is_answer(last))
        return hai_fail(err, -EINVAL,
                        "the last message is of role '%.40s'; expected an answer, of "
                        "role 'assistant'",
                        json_get_string(last, "role", ""));
    const struct reading x = {chat, t, json_get(root, "tools"), messages, ret, err};
    return encode(&x, json_count(messages), last);
}
