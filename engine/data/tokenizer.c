#include "engine/data/tokenizer.h"
#include "engine/data/bpe.h"
#include "engine/data/utf8.h"
#include "lib/digest.h"
#include "lib/fileio.h"
#include "lib/json.h"
#include "lib/regex.h"

#include <stdio.h>

enum {
    STEPS_MAX = 16,
    VOCAB_MAX = 1 << 20,
    FILE_BYTES_MAX = 64 << 20,
    BYTES_BEGIN = 256, // of the tokenizer of bytes
    BYTES_END,
    BYTES_COUNT,
};

/* A token that is looked for in the text before anything else. */
struct added {
    char *text;
    size_t n_bytes;
    int32_t id;
    bool normalized; // looked for in a second pass, between the others
    bool special;
};

struct token {
    uint8_t *bytes; // owned; NULL: no such id
    size_t n_bytes;
    bool special;
};

struct tokenizer {
    char *dir; // where the files are; NULL: bytes
    struct token *tokens;
    int32_t n_vocab;
    int32_t begin, end;
    uint64_t digest;
    struct bpe *bpe;                // NULL: bytes
    struct regex *steps[STEPS_MAX]; // each cuts what the one before left into words
    int n_steps;
    struct added *added;
    size_t n_added;
    bool starts[2][256]; // does an added token of this pass begin with that byte?
};

void tokenizer_free(struct tokenizer *t) {
    if (!t)
        return;
    for (int32_t i = 0; i < t->n_vocab; i++)
        free(t->tokens[i].bytes);
    for (int i = 0; i < t->n_steps; i++)
        regex_free(t->steps[i]);
    for (size_t i = 0; i < t->n_added; i++)
        free(t->added[i].text);
    bpe_free(t->bpe);
    free(t->tokens);
    free(t->added);
    free(t->dir);
    free(t);
}

static void token_set(struct tokenizer *t, int32_t id, const void *bytes, size_t n_bytes) {
    struct token *token = &t->tokens[id];

    free(token->bytes);
    token->bytes = hai_alloc(n_bytes);
    if (n_bytes)
        memcpy(token->bytes, bytes, n_bytes);
    token->n_bytes = n_bytes;
}

struct tokenizer *tokenizer_new_bytes(void) {
    struct tokenizer *t = hai_new(struct tokenizer);

    t->n_vocab = BYTES_COUNT;
    t->begin = BYTES_BEGIN;
    t->end = BYTES_END;
    t->tokens = hai_new_array(struct token, BYTES_COUNT);
    for (int i = 0; i < 256; i++)
        token_set(t, i, &(uint8_t){(uint8_t)i}, 1);
    for (int i = BYTES_BEGIN; i < BYTES_COUNT; i++) {
        token_set(t, i, "", 0);
        t->tokens[i].special = true;
    }
    return t;
}

/* The files write bytes as printable characters: these as themselves, the others from U+0100 on.
 * Source: bytes_to_unicode of OpenAI's GPT-2 encoder.py. */
static bool byte_is_printed(int byte) {
    return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

/* Bytes that no UTF-8 text has: published vocabularies lack some of them. */
static bool byte_is_never_utf8(int byte) {
    return byte == 0xC0 || byte == 0xC1 || byte >= 0xF5;
}

static void byte_table(int16_t from_char[512], uint32_t to_char[256]) {
    uint32_t next = 256;

    for (int i = 0; i < 512; i++)
        from_char[i] = -1;
    for (int i = 0; i < 256; i++) {
        to_char[i] = byte_is_printed(i) ? (uint32_t)i : next++;
        from_char[to_char[i]] = (int16_t)i;
    }
}

/* The bytes that a token's characters stand for; its own text if one of them stands for none. */
static void token_bytes(const int16_t from_char[512], const char *text, struct buf *ret) {
    size_t n = strlen(text);
    uint32_t c;

    buf_clear(ret);
    for (size_t at = 0; at < n;) {
        at += utf8_read(text + at, n - at, &c);
        if (c >= 512 || from_char[c] < 0) {
            buf_clear(ret);
            buf_add_str(ret, text);
            return;
        }
        buf_add_u8(ret, (uint8_t)from_char[c]);
    }
}

/* Reading a tokenizer.json: what every part needs. */
struct reader {
    struct tokenizer *t;
    const char *path;
    struct hai_err *err;
};

static int unsupported(const struct reader *x, const char *field, const char *value) {
    return hai_fail(x->err, -ENOTSUP, "%s: %s is '%.100s'; this reader does not know it", x->path,
                    field, value);
}

static int malformed(const struct reader *x, const char *what) {
    return hai_fail(x->err, -EBADMSG, "%s: %s", x->path, what);
}

/* The first element of a list that may be absent. */
static const struct json *first_of(const struct json *object, const char *key) {
    const struct json *list = json_get(object, key);
    return list ? json_first(list) : NULL;
}

static bool is_set(const struct json *object, const char *key) {
    const struct json *v = json_get(object, key);
    return v && json_kind(v) != JSON_KIND_NULL &&
           !(json_kind(v) == JSON_KIND_BOOL && !json_as_bool(v)) &&
           !(json_kind(v) == JSON_KIND_STRING && !json_as_string(v)[0]);
}

static int step_add(const struct reader *x, const char *pattern) {
    struct tokenizer *t = x->t;

    if (t->n_steps == STEPS_MAX)
        return malformed(x, "more than 16 pre_tokenizers");
    int r = regex_new(pattern, &t->steps[t->n_steps], x->err);
    if (r < 0) {
        hai_err_prefix(x->err, "%s: ", x->path);
        return r;
    }
    t->n_steps++;
    return 0;
}

static int read_split(const struct reader *x, const struct json *step) {
    const char *pattern = json_get_string(json_get(step, "pattern"), "Regex", NULL);
    const char *behavior = json_get_string(step, "behavior", "");

    if (!pattern)
        return unsupported(x, "pattern of a Split", "not a Regex");
    if (!hai_streq(behavior, "Isolated"))
        return unsupported(x, "behavior of a Split", behavior);
    if (is_set(step, "invert"))
        return unsupported(x, "invert of a Split", "true");
    return step_add(x, pattern);
}

static int read_step(const struct reader *x, const struct json *step) {
    const char *type = json_get_string(step, "type", "");

    if (hai_streq(type, "Split"))
        return read_split(x, step);
    if (hai_streq(type, "Digits"))
        return step_add(x, is_set(step, "individual_digits") ? "\\p{N}" : "\\p{N}+");
    if (hai_streq(type, "ByteLevel")) {
        if (is_set(step, "add_prefix_space") || json_get_bool(step, "use_regex", true))
            return unsupported(x, "add_prefix_space or use_regex of ByteLevel", "true");
        return 0;
    }
    return unsupported(x, "pre_tokenizer", type);
}

static int read_steps(const struct reader *x, const struct json *root) {
    const struct json *pre = json_get(root, "pre_tokenizer"), *norm = json_get(root, "normalizer");
    bool byte_level = false;

    if (is_set(root, "normalizer") && (!hai_streq(json_get_string(norm, "type", ""), "Sequence") ||
                                       first_of(norm, "normalizers")))
        return unsupported(x, "normalizer", json_get_string(norm, "type", "?"));
    if (!hai_streq(json_get_string(pre, "type", ""), "Sequence"))
        return unsupported(x, "pre_tokenizer", json_get_string(pre, "type", "none"));
    for (const struct json *s = first_of(pre, "pretokenizers"); s; s = json_next(s)) {
        int r = read_step(x, s);
        if (r < 0)
            return r;
        byte_level |= hai_streq(json_get_string(s, "type", ""), "ByteLevel");
    }
    return byte_level ? 0 : unsupported(x, "pre_tokenizer", "without ByteLevel");
}

static int read_vocab(const struct reader *x, const struct json *vocab) {
    static const char *const fault = "model.vocab: expected different ids from 0";
    _cleanup_(buf_free) struct buf bytes = {0};
    struct tokenizer *t = x->t;
    int16_t from_char[512];
    uint32_t to_char[256];

    byte_table(from_char, to_char);
    if (!vocab || json_kind(vocab) != JSON_KIND_OBJECT)
        return malformed(x, "model.vocab: expected an object");
    for (const struct json *v = json_first(vocab); v; v = json_next(v)) {
        int64_t id = json_kind(v) == JSON_KIND_INT ? json_as_int(v) : -1;
        if (id < 0 || id >= t->n_vocab || t->tokens[id].bytes)
            return malformed(x, fault);
        token_bytes(from_char, json_key(v), &bytes);
        token_set(t, (int32_t)id, bytes.data, bytes.n_bytes);
    }
    for (int i = 0; i < 256; i++) {
        char text[5] = {0};
        utf8_write(to_char[i], text);
        int64_t id = json_get_int(vocab, text, -1);
        if (id < 0 && !byte_is_never_utf8(i))
            return malformed(x, "model.vocab: a byte has no token");
        bpe_set_byte(t->bpe, (uint8_t)i, (int32_t)id);
    }
    return 0;
}

/* A merge is "left right" or ["left", "right"]. */
static int read_merges(const struct reader *x, const struct json *model) {
    const struct json *vocab = json_get(model, "vocab");
    _cleanup_(buf_free) struct buf text = {0};
    int32_t rank = 0;

    for (const struct json *m = first_of(model, "merges"); m; m = json_next(m), rank++) {
        const struct json *first = json_first(m);
        const char *left = NULL, *right = NULL;
        buf_clear(&text);
        if (json_kind(m) == JSON_KIND_STRING) {
            buf_add_str(&text, json_as_string(m));
            char *space = strchr((char *)buf_cstr(&text), ' ');
            if (space) {
                *space = 0;
                left = (char *)text.data;
                right = space + 1;
            }
        } else if (json_count(m) == 2 && json_kind(first) == JSON_KIND_STRING &&
                   json_kind(json_next(first)) == JSON_KIND_STRING) {
            left = json_as_string(first);
            right = json_as_string(json_next(first));
        }
        if (!left)
            return malformed(x, "model.merges: expected \"left right\" or [left, right]");
        _cleanup_free_ char *both = hai_asprintf("%s%s", left, right);
        int64_t a = json_get_int(vocab, left, -1), b = json_get_int(vocab, right, -1);
        int64_t merged = json_get_int(vocab, both, -1);
        if (a < 0 || b < 0 || merged < 0)
            return hai_fail(x->err, -EBADMSG, "%s: merge %d: '%.60s' is not in the vocabulary",
                            x->path, rank,
                            a < 0   ? left
                            : b < 0 ? right
                                    : both);
        bpe_add_merge(x->t->bpe, (int32_t)a, (int32_t)b, (int32_t)merged, rank);
    }
    return 0;
}

static int read_model(const struct reader *x, const struct json *model) {
    static const char *const refused[] = {"dropout",
                                          "continuing_subword_prefix",
                                          "end_of_word_suffix",
                                          "byte_fallback",
                                          "ignore_merges",
                                          "unk_token"};

    if (!hai_streq(json_get_string(model, "type", ""), "BPE"))
        return unsupported(x, "model.type", json_get_string(model, "type", "none"));
    for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
        if (is_set(model, refused[i]))
            return unsupported(x, refused[i], "set");
    int r = read_vocab(x, json_get(model, "vocab"));
    return r < 0 ? r : read_merges(x, model);
}

static int read_added(const struct reader *x, const struct json *list) {
    struct tokenizer *t = x->t;

    t->added = hai_new_array(struct added, list ? json_count(list) : 0);
    for (const struct json *a = list ? json_first(list) : NULL; a; a = json_next(a)) {
        const char *text = json_get_string(a, "content", "");
        int64_t id = json_get_int(a, "id", -1);
        if (id < 0 || id >= t->n_vocab || !text[0])
            return malformed(x, "added_tokens: expected id and content");
        if (is_set(a, "single_word") || is_set(a, "lstrip") || is_set(a, "rstrip"))
            return unsupported(x, "single_word, lstrip or rstrip of an added token", "true");
        bool normalized = json_get_bool(a, "normalized", false);
        t->added[t->n_added++] = (struct added){hai_strdup(text), strlen(text), (int32_t)id,
                                                normalized, json_get_bool(a, "special", false)};
        t->starts[normalized][(uint8_t)text[0]] = true;
        if (!t->tokens[id].bytes)
            token_set(t, (int32_t)id, text, strlen(text));
        t->tokens[id].special = json_get_bool(a, "special", false);
    }
    return 0;
}

/* One more than the highest id, or what is wrong. */
static int count_vocab(const struct reader *x, const struct json *root) {
    int64_t n = 0;

    for (const struct json *v = first_of(json_get(root, "model"), "vocab"); v; v = json_next(v))
        if (json_kind(v) == JSON_KIND_INT)
            n = MAX(n, MIN(json_as_int(v), INT64_C(1) << 30) + 1);
    for (const struct json *a = first_of(root, "added_tokens"); a; a = json_next(a))
        n = MAX(n, MIN(json_get_int(a, "id", -1), INT64_C(1) << 30) + 1);
    if (n < 1 || n > VOCAB_MAX)
        return malformed(x, "vocabulary: expected 1 to 1048576 tokens");
    return (int)n;
}

/* Read a file; digest is taken on from its value. */
static int read_json(const char *path, struct json **ret, uint64_t *digest, struct hai_err *err) {
    _cleanup_(buf_free) struct buf text = {0};
    int r = fileio_read_file(path, FILE_BYTES_MAX, &text, err);

    if (r == 0)
        *digest = *digest * 31 + digest_xxh3(text.data, text.n_bytes);
    return r < 0 ? r : json_parse(text.data, text.n_bytes, path, ret, err);
}

/* The id of a special token that the configuration names by text, or as {"content": text}. */
static int32_t special_id(const struct tokenizer *t, const struct json *config, const char *key) {
    const struct json *v = json_get(config, key);
    const char *text = json_get_string(config, key, json_get_string(v, "content", NULL));

    for (size_t i = 0; text && i < t->n_added; i++)
        if (hai_streq(t->added[i].text, text))
            return t->added[i].id;
    return -1;
}

static int read_config(const struct reader *x, const struct json *config) {
    struct tokenizer *t = x->t;

    if (json_get_bool(config, "add_bos_token", false))
        t->begin = special_id(t, config, "bos_token");
    t->end = special_id(t, config, "eos_token");
    return 0;
}

static int read_bpe(const char *path, const struct json *root, const struct json *config,
                    struct tokenizer *t, struct hai_err *err) {
    const struct reader x = {t, path, err};
    int r = count_vocab(&x, root);

    if (r < 0)
        return r;
    t->n_vocab = r;
    t->tokens = hai_new_array(struct token, (size_t)r);
    t->bpe = bpe_new();
    t->begin = t->end = -1;
    r = read_model(&x, json_get(root, "model"));
    if (r == 0)
        r = read_steps(&x, root);
    if (r == 0)
        r = read_added(&x, json_get(root, "added_tokens"));
    return r < 0 ? r : read_config(&x, config);
}

int tokenizer_read(const char *dir, struct tokenizer **ret, struct hai_err *err) {
    _cleanup_(json_freep) struct json *config = NULL, *root = NULL;
    uint64_t digest = 0;
    int r;

    if (hai_streq(dir, "bytes")) {
        *ret = tokenizer_new_bytes();
        return 0;
    }
    _cleanup_free_ char *path = hai_asprintf("%s/tokenizer.json", dir);
    _cleanup_free_ char *config_path = hai_asprintf("%s/tokenizer_config.json", dir);
    if (access(config_path, F_OK) == 0 && (r = read_json(config_path, &config, &digest, err)) < 0)
        return r;
    if (hai_streq(json_get_string(config, "tokenizer_class", ""), "bytes")) {
        *ret = tokenizer_new_bytes();
        return 0;
    }
    _cleanup_(tokenizer_freep) struct tokenizer *t = hai_new(struct tokenizer);
    t->dir = hai_strdup(dir);
    r = read_json(path, &root, &digest, err);
    if (r == 0)
        r = read_bpe(path, root, config, t, err);
    if (r < 0)
        return r;
    t->digest = digest;
    *ret = TAKE_PTR(t);
    return 0;
}

int tokenizer_check(const char *text, size_t n_bytes, struct hai_err *err) {
    _cleanup_(tokenizer_freep) struct tokenizer *t = hai_new(struct tokenizer);
    _cleanup_(json_freep) struct json *root = NULL;
    int r = json_parse(text, n_bytes, "tokenizer.json", &root, err);

    return r < 0 ? r : read_bpe("tokenizer.json", root, NULL, t, err);
}

int32_t tokenizer_n_vocab(const struct tokenizer *t) {
    return t->n_vocab;
}

uint64_t tokenizer_digest(const struct tokenizer *t) {
    return t->digest;
}

int32_t tokenizer_begin(const struct tokenizer *t) {
    return t->begin;
}

int32_t tokenizer_end(const struct tokenizer *t) {
    return t->end;
}

/* Cut valid UTF-8 by the steps from number `step` on; words go to the merger. */
static int encode_words(struct tokenizer *t, int step, const char *text, size_t n_bytes,
                        struct token_list *ret) {
    size_t done = 0, search = 0, from, to;
    int r;

    if (step == t->n_steps) {
        bpe_encode(t->bpe, (const uint8_t *)text, n_bytes, ret);
        return 0;
    }
    while ((r = regex_find(t->steps[step], text, n_bytes, search, &from, &to)) > 0) {
        if (to == from) { // an empty match cuts nothing; look on after the next character
            uint32_t c;
            if (from == n_bytes)
                break;
            search = from + utf8_read(text + from, n_bytes - from, &c);
            continue;
        }
        r = from > done ? encode_words(t, step + 1, text + done, from - done, ret) : 0;
        if (r == 0)
            r = encode_words(t, step + 1, text + from, to - from, ret);
        if (r < 0)
            return r;
        done = search = to;
    }
    if (r < 0)
        return r;
    return done < n_bytes ? encode_words(t, step + 1, text + done, n_bytes - done, ret) : 0;
}

/* Text without added tokens: runs of UTF-8, and single bytes that are none. */
static int encode_plain(struct tokenizer *t, const char *text, size_t n_bytes,
                        struct token_list *ret) {
    while (n_bytes) {
        size_t n = utf8_valid(text, n_bytes);
        int r = n ? encode_words(t, 0, text, n, ret) : 0;
        if (r < 0)
            return r;
        if (n < n_bytes)
            bpe_encode(t->bpe, (const uint8_t *)text + n++, 1, ret);
        text += n;
        n_bytes -= n;
    }
    return 0;
}

/* The longest added token of this pass that the text begins with, or NULL. */
static const struct added *added_at(const struct tokenizer *t, int pass, const char *text,
                                    size_t n_bytes) {
    const struct added *best = NULL;

    if (!t->starts[pass][(uint8_t)text[0]])
        return NULL;
    for (size_t i = 0; i < t->n_added; i++) {
        const struct added *a = &t->added[i];
        if (a->normalized == pass && a->n_bytes <= n_bytes && !memcmp(a->text, text, a->n_bytes) &&
            (!best || a->n_bytes > best->n_bytes))
            best = a;
    }
    return best;
}

/* Added tokens that are not normalised are cut out first, the others from what is left. */
static int encode_pass(struct tokenizer *t, int pass, const char *text, size_t n_bytes,
                       struct token_list *ret) {
    size_t done = 0;
    int r = 0;

    if (pass == 2)
        return encode_plain(t, text, n_bytes, ret);
    for (size_t at = 0; r == 0 && at < n_bytes;) {
        const struct added *a = added_at(t, pass, text + at, n_bytes - at);
        if (!a) {
            at++;
            continue;
        }
        r = encode_pass(t, pass + 1, text + done, at - done, ret);
        token_list_add(ret, a->id);
        done = at += a->n_bytes;
    }
    return r < 0 ? r : encode_pass(t, pass + 1, text + done, n_bytes - done, ret);
}

int tokenizer_encode(struct tokenizer *t, const char *text, size_t n_bytes, struct token_list *ret,
                     struct hai_err *err) {
    if (t->bpe) {
        int r = encode_pass(t, 0, text, n_bytes, ret);
        return r < 0 ? hai_fail(err, r, "the tokenizer's split pattern gave up on this text") : 0;
    }
    for (size_t i = 0; i < n_bytes; i++)
        token_list_add(ret, (uint8_t)text[i]);
    return 0;
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id) {
    return id >= 0 && id < t->n_vocab && t->tokens[id].special;
}

int tokenizer_add_bytes(const struct tokenizer *t, int32_t id, struct buf *ret) {
    if (id < 0 || id >= t->n_vocab || !t->tokens[id].bytes)
        return -EINVAL;
    buf_add(ret, t->tokens[id].bytes, t->tokens[id].n_bytes);
    return 0;
}

int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                     struct buf *ret, struct hai_err *err) {
    _cleanup_(buf_free) struct buf bytes = {0};

    for (size_t i = 0; i < n; i++) {
        if (skip_special && tokenizer_is_special(t, ids[i]))
            continue;
        if (tokenizer_add_bytes(t, ids[i], &bytes) < 0)
            return hai_fail(err, -EINVAL, "token id %d; the tokenizer has 0 to %d", ids[i],
                            t->n_vocab - 1);
    }
    utf8_add_lossy(ret, bytes.data, bytes.n_bytes);
    return 0;
}

int tokenizer_export(const struct tokenizer *t, const char *dir, struct hai_err *err) {
    static const char bytes_config[] = "{\"tokenizer_class\": \"bytes\"}\n";
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json"};

    if (!t->dir) {
        _cleanup_free_ char *to = hai_asprintf("%s/%s", dir, names[1]);
        return fileio_replace(to, bytes_config, strlen(bytes_config), 0644, err);
    }
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        _cleanup_(buf_free) struct buf text = {0};
        _cleanup_free_ char *from = hai_asprintf("%s/%s", t->dir, names[i]);
        _cleanup_free_ char *to = hai_asprintf("%s/%s", dir, names[i]);
        if (i && access(from, F_OK) < 0)
            continue;
        int r = fileio_read_file(from, FILE_BYTES_MAX, &text, err);
        if (r == 0)
            r = fileio_replace(to, text.data, text.n_bytes, 0644, err);
        if (r < 0)
            return r;
    }
    return 0;
}
