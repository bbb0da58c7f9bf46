#include "engine/data/jsonpick.h"
#include "engine/data/tokenizer_impl.h"
#include "engine/data/utf8.h"
#include "lib/digest.h"
#include "lib/fileio.h"
#include "lib/json.h"
#include "storage/jsonscan.h"

#include <sys/stat.h>

/* Bytes that no UTF-8 text has: published vocabularies lack some of them. */
static bool byte_is_never_utf8(int byte) {
    return byte == 0xC0 || byte == 0xC1 || byte >= 0xF5;
}

/* The files write bytes as printable characters: these as themselves, the others from U+0100 on.
 * Source: bytes_to_unicode of OpenAI's GPT-2 encoder.py. */
static bool byte_is_printed(int byte) {
    return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

/* Reading a tokenizer.json: what every part needs. The long lists are read where they stand, the
 * other members by lib/json.h. */
struct reader {
    struct tokenizer *t;
    const char *path;
    struct hai_err *err;
    struct jsonscan scan;
    struct json *small;   // members of the root but the model
    struct json *model;   // members of the model but the long lists
    size_t vocab, merges; // where these begin, 0: not met
    bool has_model, merges_later;
    int16_t from_char[512]; // the byte that a character stands for, -1: none
};

static int unsupported(const struct reader *x, const char *field, const char *value) {
    return hai_fail(x->err, -ENOTSUP, "%s: %s is '%.100s'; this reader does not know it", x->path,
                    field, value);
}

static int malformed(const struct reader *x, const char *what) {
    return hai_fail(x->err, -EBADMSG, "%s: %s", x->path, what);
}

/* A fault of the JSON text itself, with its line. */
static int broken(const struct reader *x) {
    return jsonscan_fail(&x->scan, x->path, x->err);
}

static void byte_table(int16_t ret[512]) {
    uint32_t next = 256;

    for (int i = 0; i < 512; i++)
        ret[i] = -1;
    for (int i = 0; i < 256; i++)
        ret[byte_is_printed(i) ? (uint32_t)i : next++] = (int16_t)i;
}

/* Append the bytes that a token's characters stand for; its own text if one of them stands for
 * none. */
static void add_token_bytes(const struct reader *x, const char *text, size_t n, struct buf *ret) {
    size_t first = ret->n_bytes;
    uint8_t *to = buf_extend(ret, n);
    uint32_t c;

    for (size_t at = 0; at < n;) {
        at += utf8_next(text + at, &c);
        if (c >= 512 || x->from_char[c] < 0) {
            memcpy(ret->data + first, text, n);
            return;
        }
        *to++ = (uint8_t)x->from_char[c];
    }
    ret->n_bytes = (size_t)(to - ret->data);
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

    if (t->n_steps == TOKENIZER_STEPS_MAX)
        return malformed(x, "more than 16 pre_tokenizers");
    int r = split_new(pattern, true, &t->steps[t->n_steps], x->err);
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
    const struct json *pre = json_get(root, "pre_tokenizer");
    bool byte_level = false;

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

/* NFC, a Sequence of such, or nothing. */
static int read_normalizer(const struct reader *x, const struct json *norm) {
    const char *type = json_get_string(norm, "type", "none");

    if (!norm || json_kind(norm) == JSON_KIND_NULL)
        return 0;
    if (hai_streq(type, "NFC")) {
        if (!x->t->nfc)
            x->t->nfc = nfc_new();
        return 0;
    }
    if (!hai_streq(type, "Sequence"))
        return unsupported(x, "normalizer", type);
    for (const struct json *n = first_of(norm, "normalizers"); n; n = json_next(n)) {
        int r = hai_streq(json_get_string(n, "type", ""), "NFC")
                    ? read_normalizer(x, n)
                    : unsupported(x, "normalizer", json_get_string(n, "type", "none"));
        if (r < 0)
            return r;
    }
    return 0;
}

static int read_vocab(struct reader *x) {
    _cleanup_(buf_free) struct buf key = {0}, bytes = {0};
    size_t n = 0;
    uint64_t id;
    int r;

    x->scan.at = x->vocab;
    if (jsonscan_enter(&x->scan, '{') < 0)
        return malformed(x, "model.vocab: expected an object");
    while ((r = jsonscan_next(&x->scan, '}', &n)) > 0) {
        if (jsonscan_key(&x->scan, &key) < 0)
            return broken(x);
        if (jsonscan_u64(&x->scan, &id) < 0)
            return malformed(x, "model.vocab: expected different ids from 0");
        buf_clear(&bytes);
        add_token_bytes(x, (const char *)key.data, key.n_bytes, &bytes);
        r = vocab_add(&x->t->vocab, id < VOCAB_MAX ? (int64_t)id : -1, bytes.data, bytes.n_bytes);
        if (r == -EEXIST)
            return malformed(x, "model.vocab: expected different ids from 0");
        if (r < 0)
            return malformed(x, "vocabulary: expected 1 to 1048576 tokens");
    }
    if (r < 0)
        return broken(x);
    for (int i = 0; i < 256; i++) {
        int32_t byte = vocab_find(&x->t->vocab, &(uint8_t){(uint8_t)i}, 1);
        if (byte < 0 && !byte_is_never_utf8(i))
            return malformed(x, n ? "model.vocab: a byte has no token"
                                  : "vocabulary: expected 1 to 1048576 tokens");
        bpe_set_byte(x->t->bpe, (uint8_t)i, byte);
    }
    return 0;
}

/* A merge as read: its bytes lie in the batch's buffer, the right one's after the left one's. */
struct merge_read {
    size_t at, n_left, n_bytes;
    uint32_t left_hash, right_hash;
    int32_t left, right;
};

/* Merges looked up together: one after another they would wait for memory each time. */
struct batch {
    struct merge_read merges[64];
    size_t n;
    struct buf bytes;
    int32_t rank;   // of the first
    int32_t merged; // the last token that a merge gave
};

static void batch_free(struct batch *b) {
    buf_free(&b->bytes);
}

/* Read "left right" or ["left", "right"]. */
static int read_merge(struct reader *x, struct buf *text, struct batch *b) {
    static const char *const fault = "model.merges: expected \"left right\" or [left, right]";
    struct merge_read *m = &b->merges[b->n++];
    struct jsonscan *s = &x->scan;
    size_t n = 0;

    m->at = b->bytes.n_bytes;
    if (jsonscan_string(s, text) == 0) {
        const char *start = buf_cstr(text), *space = memchr(start, ' ', text->n_bytes);
        if (!space)
            return malformed(x, fault);
        add_token_bytes(x, start, (size_t)(space - start), &b->bytes);
        m->n_left = b->bytes.n_bytes - m->at;
        add_token_bytes(x, space + 1, text->n_bytes - (size_t)(space + 1 - start), &b->bytes);
    } else {
        if (jsonscan_enter(s, '[') < 0)
            return malformed(x, fault);
        for (int i = 0; i < 2; i++) {
            if (jsonscan_next(s, ']', &n) <= 0 || jsonscan_string(s, text) < 0)
                return malformed(x, fault);
            m->n_left = b->bytes.n_bytes - m->at;
            add_token_bytes(x, buf_cstr(text), text->n_bytes, &b->bytes);
        }
        if (jsonscan_next(s, ']', &n) != 0)
            return malformed(x, fault);
    }
    m->n_bytes = b->bytes.n_bytes - m->at;
    m->left_hash = vocab_hash(b->bytes.data + m->at, m->n_left);
    m->right_hash = vocab_hash(b->bytes.data + m->at + m->n_left, m->n_bytes - m->n_left);
    vocab_prefetch(&x->t->vocab, m->left_hash);
    vocab_prefetch(&x->t->vocab, m->right_hash);
    return 0;
}

static int not_there(const struct reader *x, int32_t rank, const uint8_t *bytes, size_t n) {
    return hai_fail(x->err, -EBADMSG, "%s: merge %d: '%.*s' is not in the vocabulary", x->path,
                    rank, (int)MIN(n, (size_t)60), (const char *)bytes);
}

/* The token of a merge's bytes. Files list merges in the order of their tokens, so mostly it is the
 * one after the last, or the same. */
static int32_t merged_token(const struct vocab *v, int32_t last, const uint8_t *bytes, size_t n) {
    if (vocab_is(v, last + 1, bytes, n))
        return last + 1;
    return vocab_is(v, last, bytes, n) ? last : vocab_find(v, bytes, n);
}

static int batch_add(const struct reader *x, struct batch *b) {
    const struct vocab *v = &x->t->vocab;

    for (size_t i = 0; i < b->n; i++) {
        vocab_prefetch_bytes(v, b->merges[i].left_hash);
        vocab_prefetch_bytes(v, b->merges[i].right_hash);
    }
    for (struct merge_read *m = b->merges; m < b->merges + b->n; m++) {
        const uint8_t *left = b->bytes.data + m->at, *right = left + m->n_left;
        m->left = vocab_find_hashed(v, m->left_hash, left, m->n_left);
        m->right = vocab_find_hashed(v, m->right_hash, right, m->n_bytes - m->n_left);
        if (m->left < 0)
            return not_there(x, b->rank + (int32_t)(m - b->merges), left, m->n_left);
        if (m->right < 0)
            return not_there(x, b->rank + (int32_t)(m - b->merges), right, m->n_bytes - m->n_left);
        bpe_prefetch_merge(x->t->bpe, m->left, m->right);
    }
    for (struct merge_read *m = b->merges; m < b->merges + b->n; m++, b->rank++) {
        const uint8_t *both = b->bytes.data + m->at;
        b->merged = merged_token(v, b->merged, both, m->n_bytes);
        if (b->merged < 0)
            return not_there(x, b->rank, both, m->n_bytes);
        bpe_add_merge(x->t->bpe, m->left, m->right, b->merged, b->rank);
    }
    b->n = 0;
    buf_clear(&b->bytes);
    return 0;
}

static int read_merges(struct reader *x) {
    _cleanup_(batch_free) struct batch batch = {.merged = -1};
    _cleanup_(buf_free) struct buf text = {0};
    size_t n = 0;
    int r;

    x->scan.at = x->merges;
    if (jsonscan_enter(&x->scan, '[') < 0)
        return malformed(x, "model.merges: expected a list");
    while ((r = jsonscan_next(&x->scan, ']', &n)) > 0) {
        if (n > VOCAB_MAX)
            return malformed(x, "model.merges: more than 1048576");
        r = read_merge(x, &text, &batch);
        if (r == 0 && batch.n == ARRAY_SIZE(batch.merges))
            r = batch_add(x, &batch);
        if (r < 0)
            return r;
    }
    return r < 0 ? broken(x) : batch_add(x, &batch);
}

/* Add the value that comes next, read by lib/json.h, to an object. */
static int read_small(struct reader *x, const char *key, size_t key_bytes, struct json *to) {
    _cleanup_(json_freep) struct json *value = NULL;
    size_t from = x->scan.at;

    if (jsonscan_skip(&x->scan) < 0)
        return broken(x);
    int r = json_parse(x->scan.text + from, x->scan.at - from, x->path, &value, x->err);
    if (r < 0)
        return r;
    if (!json_try_add(to, key, key_bytes, value))
        return hai_fail(x->err, -EBADMSG, "%s: '%.60s' is there twice", x->path, key);
    (void)TAKE_PTR(value);
    return 0;
}

/* Is the model, as far as its members are known, one that we do? */
static int check_model(const struct reader *x) {
    static const char *const refused[] = {"dropout", "continuing_subword_prefix",
                                          "end_of_word_suffix", "byte_fallback", "unk_token"};

    if (json_get(x->model, "type") && !hai_streq(json_get_string(x->model, "type", ""), "BPE"))
        return unsupported(x, "model.type", json_get_string(x->model, "type", "none"));
    for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
        if (is_set(x->model, refused[i]))
            return unsupported(x, refused[i], "set");
    return 0;
}

/* The vocabulary at once, the merges too if it has been read; else they are for later. */
static int read_list(struct reader *x, bool is_vocab) {
    int r = check_model(x);

    if (r < 0)
        return r;
    if (is_vocab ? x->vocab : x->merges)
        return malformed(x, is_vocab ? "'vocab' is there twice" : "'merges' is there twice");
    *(is_vocab ? &x->vocab : &x->merges) = x->scan.at;
    if (is_vocab)
        return read_vocab(x);
    if (x->vocab)
        return read_merges(x);
    x->merges_later = true;
    return jsonscan_skip(&x->scan) < 0 ? broken(x) : 0;
}

static int read_model(struct reader *x) {
    _cleanup_(buf_free) struct buf key = {0};
    size_t n = 0;
    int r;

    if (x->has_model)
        return malformed(x, "'model' is there twice");
    x->has_model = true;
    if (jsonscan_enter(&x->scan, '{') < 0)
        return malformed(x, "model: expected an object");
    while ((r = jsonscan_next(&x->scan, '}', &n)) > 0) {
        if (jsonscan_key(&x->scan, &key) < 0)
            return broken(x);
        const char *name = buf_cstr(&key);
        bool is_vocab = hai_streq(name, "vocab");
        r = is_vocab || hai_streq(name, "merges") ? read_list(x, is_vocab)
                                                  : read_small(x, name, key.n_bytes, x->model);
        if (r < 0)
            return r;
    }
    if (r < 0)
        return broken(x);
    if (!x->vocab)
        return malformed(x, "vocabulary: expected model.vocab");
    size_t end = x->scan.at;
    r = x->merges_later ? read_merges(x) : 0;
    x->scan.at = end;
    return r < 0 ? r : check_model(x);
}

static int read_members(struct reader *x) {
    _cleanup_(buf_free) struct buf key = {0};
    size_t n = 0;
    int r;

    if (jsonscan_enter(&x->scan, '{') < 0)
        return broken(x);
    while ((r = jsonscan_next(&x->scan, '}', &n)) > 0) {
        if (jsonscan_key(&x->scan, &key) < 0)
            return broken(x);
        const char *name = buf_cstr(&key);
        r = hai_streq(name, "model") ? read_model(x) : read_small(x, name, key.n_bytes, x->small);
        if (r < 0)
            return r;
    }
    if (r < 0 || jsonscan_end(&x->scan) < 0)
        return broken(x);
    return x->has_model ? 0 : malformed(x, "vocabulary: expected model.vocab");
}

static char *normal_text(const struct reader *x, const char *text, bool normalized) {
    _cleanup_(buf_free) struct buf normal = {0};

    if (!normalized || !x->t->nfc)
        return hai_strdup(text);
    nfc_add(x->t->nfc, text, strlen(text), NULL, &normal, NULL);
    return hai_strdup(buf_cstr(&normal));
}

/* The ids of added tokens; those without a place in the vocabulary get one. */
static int read_added(const struct reader *x, const struct json *list) {
    _cleanup_(buf_free) struct buf bytes = {0};
    struct tokenizer *t = x->t;

    t->added.list = hai_new_array(struct added_token, list ? json_count(list) : 0);
    for (const struct json *a = list ? json_first(list) : NULL; a; a = json_next(a)) {
        const char *content = json_get_string(a, "content", "");
        int64_t id = json_get_int(a, "id", -1);
        if (id < 0 || !content[0])
            return malformed(x, "added_tokens: expected id and content");
        if (id >= VOCAB_MAX)
            return malformed(x, "vocabulary: expected 1 to 1048576 tokens");
        if (is_set(a, "single_word") || is_set(a, "lstrip") || is_set(a, "rstrip"))
            return unsupported(x, "single_word, lstrip or rstrip of an added token", "true");
        bool normalized = json_get_bool(a, "normalized", false);
        char *text = normal_text(x, content, normalized);
        t->added.list[t->added.n++] = (struct added_token){
            text, strlen(text), (int32_t)id, normalized, json_get_bool(a, "special", false)};
        buf_clear(&bytes);
        add_token_bytes(x, content, strlen(content), &bytes);
        if (!vocab_has(&t->vocab, id))
            vocab_add(&t->vocab, id, bytes.data, bytes.n_bytes);
    }
    added_sort(&t->added);
    t->kinds = hai_alloc((size_t)t->vocab.n);
    for (size_t i = 0; i < t->added.n; i++)
        t->kinds[t->added.list[i].id] =
            TOKENIZER_ADDED | (t->added.list[i].special ? TOKENIZER_SPECIAL : 0);
    if (is_set(x->model, "ignore_merges"))
        bpe_set_whole_words(t->bpe, &t->vocab, t->kinds);
    return 0;
}

/* The token that a TemplateProcessing puts first; -1: none. */
static int32_t begin_of(const struct tokenizer *t, const struct json *post) {
    int32_t id = -1;

    for (const struct json *p = first_of(post, "processors"); p && id < 0; p = json_next(p))
        id = begin_of(t, p);
    const struct json *first = json_get(first_of(post, "single"), "SpecialToken");
    return id >= 0 || !first ? id : tokenizer_added(t, json_get_string(first, "id", ""));
}

/* The id of a special token that the configuration names by text, or as {"content": text}. */
static int32_t special_id(const struct tokenizer *t, const struct json *config, const char *key) {
    const struct json *v = json_get(config, key);
    const char *text = json_get_string(config, key, json_get_string(v, "content", NULL));

    return text ? tokenizer_added(t, text) : -1;
}

static void read_config(const struct reader *x, const struct json *config) {
    struct tokenizer *t = x->t;

    t->begin = begin_of(t, json_get(x->small, "post_processor"));
    if (json_get(config, "add_bos_token"))
        t->begin =
            json_get_bool(config, "add_bos_token", false) ? special_id(t, config, "bos_token") : -1;
    t->end = special_id(t, config, "eos_token");
}

static int read_all(struct reader *x, const struct json *config) {
    int r = read_members(x);

    if (r == 0)
        r = read_normalizer(x, json_get(x->small, "normalizer"));
    if (r == 0)
        r = read_steps(x, x->small);
    if (r == 0)
        r = read_added(x, json_get(x->small, "added_tokens"));
    if (r == 0)
        read_config(x, config);
    return r;
}

static int read_text(const char *path, const char *text, size_t n_bytes, const struct json *config,
                     struct tokenizer **ret, struct hai_err *err) {
    _cleanup_(tokenizer_freep) struct tokenizer *t = hai_new(struct tokenizer);
    struct reader x = {
        .t = t,
        .path = path,
        .err = err,
        .scan = {.text = text, .n_bytes = n_bytes},
        .small = json_new_object(),
        .model = json_new_object()
    };

    byte_table(x.from_char);
    t->bpe = bpe_new();
    t->begin = t->end = -1;
    int r = read_all(&x, config);
    json_free(x.small);
    json_free(x.model);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(t);
    return 0;
}

int tokenizer_parse(const char *text, size_t n_bytes, struct tokenizer **ret, struct hai_err *err) {
    return read_text("tokenizer.json", text, n_bytes, NULL, ret, err);
}

/* Read a file; digest is taken on from its value. */
static int read_file(const char *path, struct buf *ret, uint64_t *digest, struct hai_err *err) {
    int r = fileio_read_file(path, TOKENIZER_FILE_BYTES_MAX, ret, err);

    if (r == 0)
        *digest = *digest * 31 + digest_xxh3(ret->data, ret->n_bytes);
    return r;
}

/* The folder of a tokenizer, and its file there or elsewhere. */
static void find_files(const char *path, char **ret_dir, char **ret_file) {
    struct stat st;

    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        *ret_dir = hai_strdup(path);
        *ret_file = hai_asprintf("%s/tokenizer.json", path);
        return;
    }
    bool is_file = stat(path, &st) == 0;
    const char *slash = strrchr(path, '/');
    *ret_file = is_file ? hai_strdup(path) : hai_asprintf("%s/tokenizer.json", path);
    *ret_dir = !is_file        ? hai_strdup(path)
               : !slash        ? hai_strdup(".")
               : slash == path ? hai_strdup("/")
                               : hai_strndup(path, (size_t)(slash - path));
}

int tokenizer_read(const char *path, struct tokenizer **ret, struct hai_err *err) {
    static const char *const config_names[] = {"tokenizer_class", "add_bos_token", "bos_token",
                                               "eos_token", NULL};
    _cleanup_(buf_free) struct buf config_text = {0}, text = {0};
    _cleanup_(json_freep) struct json *config = NULL;
    _cleanup_free_ char *dir = NULL, *file = NULL;
    uint64_t digest = 0;
    int r = 0;

    if (hai_streq(path, "bytes")) {
        *ret = tokenizer_new_bytes();
        return 0;
    }
    find_files(path, &dir, &file);
    _cleanup_free_ char *config_path = hai_asprintf("%s/tokenizer_config.json", dir);
    if (access(config_path, F_OK) == 0) {
        r = read_file(config_path, &config_text, &digest, err);
        if (r == 0)
            r = jsonpick(config_text.data, config_text.n_bytes, config_path, config_names, &config,
                         err);
    }
    if (r < 0)
        return r;
    if (hai_streq(json_get_string(config, "tokenizer_class", ""), "bytes")) {
        *ret = tokenizer_new_bytes();
        return 0;
    }
    r = read_file(file, &text, &digest, err);
    if (r == 0)
        r = read_text(file, (const char *)text.data, text.n_bytes, config, ret, err);
    if (r < 0)
        return r;
    (*ret)->dir = TAKE_PTR(dir);
    (*ret)->digest = digest;
    return 0;
}
