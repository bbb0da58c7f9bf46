#include "jobs/promptline.h"
#include "jobs/jsonrules.h"

#include <math.h>

void promptline_free(struct promptline *p) {
    json_free(p->tree);
    token_list_free(&p->ids);
    free(p->schema);
}

int promptline_encode(struct tokenizer *t, const char *text, size_t n_bytes, struct token_list *ret,
                      struct hai_err *err) {
    _cleanup_(token_list_free) struct token_list ids = {0};
    int32_t begin = tokenizer_begin(t);
    size_t n_before = ret->n;
    int r = tokenizer_encode(t, text, n_bytes, &ids, err);

    if (r < 0)
        return r;
    if (begin >= 0 && (!ids.n || ids.ids[0] != begin))
        token_list_add(ret, begin);
    token_list_add_n(ret, ids.ids, ids.n);
    return ret->n > n_before ? 0 : hai_fail(err, -EINVAL, "the prompt is empty; expected text");
}

static int wrong_kind(const struct json *v, const char *wanted, struct hai_err *err) {
    return hai_fail(err, -EINVAL, "%.64s is %s; expected %s", json_key(v),
                    json_kind_name(json_kind(v)), wanted);
}

static int read_whole(const struct json *v, int64_t low, int64_t high, int64_t *ret,
                      struct hai_err *err) {
    if (json_kind(v) != JSON_KIND_INT || json_as_int(v) < low || json_as_int(v) > high)
        return hai_fail(err, -EINVAL, "%.64s: expected a whole number from %lld to %lld",
                        json_key(v), (long long)low, (long long)high);
    *ret = json_as_int(v);
    return 0;
}

static int read_flag(const struct json *v, bool *ret, struct hai_err *err) {
    if (json_kind(v) != JSON_KIND_BOOL)
        return wrong_kind(v, "true or false", err);
    *ret = json_as_bool(v);
    return 0;
}

static int read_ids(const struct json *v, size_t n_max, int32_t id_max, struct token_list *ret,
                    struct hai_err *err) {
    if (json_kind(v) != JSON_KIND_ARRAY || json_count(v) > n_max)
        return hai_fail(err, -EINVAL, "%.64s: expected a list of at most %zu token ids",
                        json_key(v), n_max);
    for (const struct json *x = json_first(v); x; x = json_next(x)) {
        if (json_kind(x) != JSON_KIND_INT || json_as_int(x) < 0 || json_as_int(x) > id_max)
            return hai_fail(err, -EINVAL, "%.64s: expected whole numbers from 0 to %d", json_key(v),
                            id_max);
        token_list_add(ret, (int32_t)json_as_int(x));
    }
    return 0;
}

static int add_stop(const struct json *v, struct sampleargs *a, struct hai_err *err) {
    if (json_kind(v) != JSON_KIND_STRING || a->n_stops == STOP_STRINGS_MAX)
        return hai_fail(err, -EINVAL, "stop: expected a text, or a list of at most %d",
                        STOP_STRINGS_MAX);
    a->stops[a->n_stops++] = json_as_string(v);
    return 0;
}

static int read_stop(const struct json *v, struct sampleargs *a, struct hai_err *err) {
    int r = 0;

    a->n_stops = 0;
    if (json_kind(v) != JSON_KIND_ARRAY)
        return add_stop(v, a, err);
    for (const struct json *x = json_first(v); x && r == 0; x = json_next(x))
        r = add_stop(x, a, err);
    return r;
}

static int read_stop_ids(const struct json *v, struct sampleargs *a, struct hai_err *err) {
    _cleanup_(token_list_free) struct token_list ids = {0};
    int r = read_ids(v, STOP_IDS_MAX, SAMPLE_VOCAB_MAX - 1, &ids, err);

    if (r < 0)
        return r;
    a->n_stop_ids = (int)ids.n;
    for (size_t i = 0; i < ids.n; i++)
        a->stop_ids[i] = ids.ids[i];
    return 0;
}

static int read_bias(const struct json *v, struct sampleargs *a, struct hai_err *err) {
    if (json_kind(v) != JSON_KIND_OBJECT || json_count(v) > SAMPLE_BIASES_MAX)
        return hai_fail(err, -EINVAL, "logit_bias: expected {\"ID\": BIAS, ...}, at most %d",
                        SAMPLE_BIASES_MAX);
    a->options.n_biases = 0;
    for (const struct json *x = json_first(v); x; x = json_next(x)) {
        char *end;
        errno = 0;
        long id = strtol(json_key(x), &end, 10);
        bool number = json_kind(x) == JSON_KIND_INT || json_kind(x) == JSON_KIND_REAL;
        if (end == json_key(x) || *end || errno || id < 0 || id >= SAMPLE_VOCAB_MAX || !number ||
            fabs(json_as_real(x)) > 1e6)
            return hai_fail(err, -EINVAL,
                            "logit_bias: '%.32s'; expected a token id and a bias of at most 1e6",
                            json_key(x));
        a->biases[a->options.n_biases++] =
            (struct sample_bias){(int32_t)id, (float)json_as_real(x)};
    }
    return 0;
}

static int read_schema(const struct json *v, struct promptline *p, struct hai_err *err) {
    _cleanup_(buf_free) struct buf text = {0};
    bool any = false;

    if (hai_streq(json_key(v), "json_object")) {
        int r = read_flag(v, &any, err);
        if (r < 0 || !any)
            return r;
        buf_add_str(&text, JSONRULES_OBJECT);
    } else {
        json_dump(v, 0, &text);
    }
    free(p->schema);
    p->schema = hai_strdup(buf_cstr(&text));
    return 0;
}

static int read_option(const struct json *v, struct promptline *p, struct hai_err *err) {
    const char *key = json_key(v);
    int64_t whole = p->priority;

    if (hai_streq(key, "max_tokens"))
        return read_whole(v, 1, PROMPTLINE_NEW_MAX, &p->n_new_max, err);
    if (hai_streq(key, "priority")) {
        int r = read_whole(v, 0, 7, &whole, err);
        p->priority = (int32_t)whole;
        return r;
    }
    if (hai_streq(key, "stop"))
        return read_stop(v, &p->sample, err);
    if (hai_streq(key, "stop_ids"))
        return read_stop_ids(v, &p->sample, err);
    if (hai_streq(key, "logit_bias"))
        return read_bias(v, &p->sample, err);
    if (hai_streq(key, "keep_stop"))
        return read_flag(v, &p->sample.keep_stop, err);
    if (hai_streq(key, "ignore_eos"))
        return read_flag(v, &p->ignore_eos, err);
    if (hai_streq(key, "json_object") || hai_streq(key, "json_schema"))
        return read_schema(v, p, err);
    bool number = json_kind(v) == JSON_KIND_INT || json_kind(v) == JSON_KIND_REAL;
    int r = sampleargs_number(&p->sample, key, number ? json_as_real(v) : NAN, err);
    if (r == -ENOENT)
        return hai_fail(err, -EINVAL, "unknown field '%.64s'", key);
    return r < 0 && !number ? wrong_kind(v, "a number", err) : r;
}

static int read_chat(const struct json *tree, struct tokenizer *t, const struct chat *c,
                     struct promptline *p, struct hai_err *err) {
    const struct json *thinking = json_get(tree, "thinking");
    struct chat_request request = {.messages = json_get(tree, "messages"),
                                   .tools = json_get(tree, "tools"),
                                   .add_generation_prompt = true,
                                   .now_s = -1};
    bool on = false;

    if (!t || !c)
        return hai_fail(err, -ENOTSUP, "messages: the model has no chat template");
    if (thinking && read_flag(thinking, &on, err) < 0)
        return -EINVAL;
    if (thinking)
        request.thinking = on ? CHAT_THINKING_ON : CHAT_THINKING_OFF;
    return chat_encode(c, t, &request, &p->ids, err);
}

static int read_prompt(struct tokenizer *t, const struct chat *c, struct promptline *p,
                       struct hai_err *err) {
    const struct json *text = json_get(p->tree, "prompt"), *ids = json_get(p->tree, "token_ids");
    bool chat = json_get(p->tree, "messages");

    if (!!text + !!ids + chat != 1)
        return hai_fail(err, -EINVAL, "expected one of prompt, token_ids and messages");
    if (!chat && (json_get(p->tree, "tools") || json_get(p->tree, "thinking")))
        return hai_fail(err, -EINVAL, "tools and thinking are for messages");
    if (chat)
        return read_chat(p->tree, t, c, p, err);
    if (ids) {
        int r = read_ids(ids, PROMPTLINE_NEW_MAX, INT32_MAX, &p->ids, err);
        return r < 0 || p->ids.n ? r : hai_fail(err, -EINVAL, "token_ids is empty");
    }
    if (json_kind(text) != JSON_KIND_STRING)
        return wrong_kind(text, "text", err);
    if (!t)
        return hai_fail(err, -ENOTSUP, "prompt: the model has no tokenizer");
    return promptline_encode(t, json_as_string(text), json_as_string_bytes(text), &p->ids, err);
}

int promptline_read(const char *text, size_t n_bytes, const struct promptline *defaults,
                    struct tokenizer *t, const struct chat *c, struct promptline *ret,
                    struct hai_err *err) {
    static const char *const others[] = {"id",    "prompt",   "token_ids", "messages",
                                         "tools", "thinking", NULL};
    int r;

    *ret = *defaults;
    ret->tree = NULL;
    ret->ids = (struct token_list){0};
    ret->schema = hai_strdup(defaults->schema);
    r = json_parse(text, n_bytes, NULL, &ret->tree, err);
    if (r < 0)
        return r;
    if (json_kind(ret->tree) != JSON_KIND_OBJECT)
        return hai_fail(err, -EBADMSG, "expected an object with prompt, token_ids or messages");
    for (const struct json *v = json_first(ret->tree); v && r == 0; v = json_next(v)) {
        int i = 0;
        while (others[i] && !hai_streq(others[i], json_key(v)))
            i++;
        if (!others[i])
            r = read_option(v, ret, err);
    }
    return r < 0 ? r : read_prompt(t, c, ret, err);
}
