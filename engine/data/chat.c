#include "engine/data/chat.h"
#include "engine/data/added.h"
#include "engine/data/chat_form.h"
#include "engine/data/fim.h"
#include "engine/data/jinja.h"
#include "engine/data/jsonpick.h"
#include "lib/fileio.h"

#include <sys/stat.h>

enum { TEMPLATE_BYTES_MAX = 1 << 20, CONFIG_BYTES_MAX = 64 << 20 };

struct chat {
    char *source;
    bool built_in; // takes plain text only
    struct jinja *usual;
    struct jinja *with_tools; // NULL: the usual one
    struct json *words;       // bos_token and the like
};

/* Texts of tokenizer_config.json that templates may name. */
static const char *const words[] = {"bos_token", "eos_token", "pad_token", "unk_token"};
static const char *const config_names[] = {"bos_token", "eos_token",     "pad_token",
                                           "unk_token", "chat_template", NULL};

void chat_free(struct chat *c) {
    if (!c)
        return;
    jinja_free(c->usual);
    jinja_free(c->with_tools);
    json_free(c->words);
    free(c->source);
    free(c);
}

const char *chat_source(const struct chat *c) {
    return c->source;
}

/* The folder of a path that may be a file's. */
static char *folder_of(const char *path) {
    const char *slash = strrchr(path, '/');
    struct stat st;

    if (stat(path, &st) < 0 || S_ISDIR(st.st_mode))
        return hai_strdup(path);
    return !slash ? hai_strdup(".") : hai_strndup(path, MAX((size_t)(slash - path), (size_t)1));
}

/* Some members of a JSON file; none if there is no file. */
static int read_config(const char *dir, const char *name, const char *const *names,
                       struct json **ret, struct hai_err *err) {
    _cleanup_free_ char *path = hai_asprintf("%s/%s", dir, name);
    _cleanup_(buf_free) struct buf text = {0};

    if (access(path, F_OK) < 0) {
        *ret = json_new_object();
        return 0;
    }
    int r = fileio_read_file(path, CONFIG_BYTES_MAX, &text, err);
    return r < 0 ? r : jsonpick(text.data, text.n_bytes, path, names, ret, err);
}

/* Tokens are named by text or as {"content": text}; one that is none has no text. */
static struct json *read_words(const struct json *config) {
    struct json *ret = json_new_object();

    for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
        const struct json *v = json_get(config, words[i]);
        json_add_string(ret, words[i],
                        json_get_string(config, words[i], json_get_string(v, "content", NULL)));
    }
    return ret;
}

static int read_template(struct chat *c, const char *text, struct jinja **ret,
                         struct hai_err *err) {
    return jinja_new(text, strlen(text), c->source, ret, err);
}

/* One template, or a list of {"name", "template"}: "default" and "tool_use" are known. */
static int read_templates(struct chat *c, const struct json *templates, struct hai_err *err) {
    int r = 0;

    if (json_kind(templates) == JSON_KIND_STRING)
        return read_template(c, json_as_string(templates), &c->usual, err);
    for (const struct json *t = json_first(templates); r == 0 && t; t = json_next(t)) {
        const char *name = json_get_string(t, "name", ""),
                   *text = json_get_string(t, "template", "");
        struct jinja **to = hai_streq(name, "default")    ? &c->usual
                            : hai_streq(name, "tool_use") ? &c->with_tools
                                                          : NULL;
        if (to && !*to)
            r = read_template(c, text, to, err);
    }
    if (r == 0 && !c->usual)
        r = hai_fail(err, -EBADMSG, "%s: expected text, or a list with a template 'default'",
                     c->source);
    return r;
}

static int read_builtin(struct chat *c, enum chat_form form, struct hai_err *err) {
    c->built_in = true;
    c->source = hai_asprintf("built in: %s", chat_form_name(form));
    return read_template(c, chat_form_template(form), &c->usual, err);
}

/* The id that ends a model's texts, by config.json; -1: not known, or several. */
static int read_end(const char *dir, int32_t *ret, struct hai_err *err) {
    static const char *const names[] = {"eos_token_id", NULL};
    _cleanup_(json_freep) struct json *config = NULL;
    int r = read_config(dir, "config.json", names, &config, err);

    *ret = r == 0 ? (int32_t)MIN(json_get_int(config, "eos_token_id", -1), INT64_C(1) << 30) : -1;
    return r;
}

static int read_form(struct chat *c, const char *dir, const struct tokenizer *t, const char *form,
                     const struct json *config, struct hai_err *err) {
    _cleanup_free_ char *path = hai_asprintf("%s/chat_template.jinja", dir);
    _cleanup_(buf_free) struct buf text = {0};
    enum chat_form guess;
    int32_t end;
    int r;

    if (form) {
        r = chat_form_parse(form, &guess, err);
        return r < 0 ? r : read_builtin(c, guess, err);
    }
    if (access(path, F_OK) == 0) {
        c->source = TAKE_PTR(path);
        r = fileio_read_file(c->source, TEMPLATE_BYTES_MAX, &text, err);
        return r < 0 ? r
                     : jinja_new((const char *)text.data, text.n_bytes, c->source, &c->usual, err);
    }
    const struct json *templates = json_get(config, "chat_template");
    if (templates && json_kind(templates) != JSON_KIND_NULL) {
        c->source = hai_asprintf("%s/tokenizer_config.json: chat_template", dir);
        return read_templates(c, templates, err);
    }
    r = read_end(dir, &end, err);
    if (r == 0)
        r = chat_form_guess(t, end, &guess, err);
    if (r == -ENOENT)
        hai_err_prefix(err, "%s: ", dir);
    return r < 0 ? r : read_builtin(c, guess, err);
}

int chat_open(const char *path, const struct tokenizer *t, const char *form, struct chat **ret,
              struct hai_err *err) {
    _cleanup_(chat_freep) struct chat *c = hai_new(struct chat);
    _cleanup_(json_freep) struct json *config = NULL;
    _cleanup_free_ char *dir = folder_of(path);
    int r = read_config(dir, "tokenizer_config.json", config_names, &config, err);

    if (r == 0)
        r = read_form(c, dir, t, form, config, err);
    if (r < 0)
        return r;
    c->words = read_words(config);
    *ret = TAKE_PTR(c);
    return 0;
}

/* A copy of a tree. */
static struct json *copy_of(const struct json *v) {
    _cleanup_(buf_free) struct buf text = {0};
    struct json *copy = NULL;

    json_dump(v, 0, &text);
    int r = json_parse(text.data, text.n_bytes, NULL, &copy, NULL);
    assert(r == 0);
    return copy;
}

static uint8_t mark_of(const struct json *object, uint8_t mark) {
    return hai_streq(json_get_string(object, "role", ""), "assistant") ? ADDED_BY_MODEL : mark;
}

static int check_messages(const struct chat *c, const struct json *messages, struct hai_err *err) {
    int number = 1;

    if (!messages || json_kind(messages) != JSON_KIND_ARRAY)
        return hai_fail(err, -EINVAL, "messages: expected a list");
    for (const struct json *m = json_first(messages); m; m = json_next(m), number++) {
        if (!json_get_string(m, "role", NULL))
            return hai_fail(err, -EINVAL, "message %d: expected a block with a role", number);
        if (c->built_in && !json_get_string(m, "content", NULL))
            return hai_fail(err, -EINVAL, "message %d: expected text as its content", number);
    }
    return 0;
}

int chat_render(const struct chat *c, const struct chat_request *request, struct buf *ret,
                struct buf *ret_marks, struct hai_err *err) {
    _cleanup_(json_freep) struct json *values = json_new_object(), *trusted = copy_of(c->words);
    _cleanup_(buf_free) struct buf marks = {0};
    bool has_tools = json_count(request->tools) > 0;
    int r = check_messages(c, request->messages, err);

    if (r < 0)
        return r;
    json_add(values, "messages", copy_of(request->messages));
    json_add(values, "tools", has_tools ? copy_of(request->tools) : json_new_null());
    json_add(values, "documents", json_new_null());
    json_add_bool(trusted, "add_generation_prompt", request->add_generation_prompt);
    if (request->thinking != CHAT_THINKING_DEFAULT) {
        json_add_bool(trusted, "thinking", request->thinking == CHAT_THINKING_ON);
        json_add_bool(trusted, "enable_thinking", request->thinking == CHAT_THINKING_ON);
    }
    const struct jinja_input input = {.values = values,
                                      .mark = ADDED_BY_PERSON,
                                      .mark_of = mark_of,
                                      .trusted = trusted,
                                      .now_s = request->now_s};
    return jinja_render(has_tools && c->with_tools ? c->with_tools : c->usual, &input, ret,
                        ret_marks ? ret_marks : &marks, err);
}

int chat_encode(const struct chat *c, struct tokenizer *t, const struct chat_request *request,
                struct token_list *ret, struct hai_err *err) {
    _cleanup_(buf_free) struct buf text = {0}, marks = {0};
    int r = chat_render(c, request, &text, &marks, err);

    return r < 0 ? r
                 : tokenizer_encode_marked(t, buf_cstr(&text), marks.data, text.n_bytes, ret, err);
}

int chat_encode_middle(struct tokenizer *t, const char *prefix, size_t prefix_bytes,
                       const char *suffix, size_t suffix_bytes, struct token_list *ret,
                       struct hai_err *err) {
    struct fim fim = {0};
    int r = fim_find(t, fim_names, &fim, err);

    if (r < 0)
        return r;
    if (tokenizer_begin(t) >= 0)
        token_list_add(ret, tokenizer_begin(t));
    token_list_add(ret, fim.begin);
    r = fim_encode_text(t, prefix, prefix_bytes, false, ret, err);
    token_list_add(ret, fim.hole);
    if (r == 0)
        r = fim_encode_text(t, suffix, suffix_bytes, false, ret, err);
    token_list_add(ret, fim.end);
    return r;
}
