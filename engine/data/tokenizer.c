#include "engine/data/tokenizer.h"
#include "engine/data/tokenizer_impl.h"
#include "engine/data/utf8.h"
#include "lib/fileio.h"

enum { BYTES_BEGIN = 256, BYTES_END, BYTES_COUNT }; // of the tokenizer of bytes

void tokenizer_free(struct tokenizer *t) {
    if (!t)
        return;
    for (int i = 0; i < t->n_steps; i++)
        split_free(t->steps[i]);
    added_free(&t->added);
    bpe_free(t->bpe);
    nfc_free(t->nfc);
    vocab_free(&t->vocab);
    buf_free(&t->normal);
    buf_free(&t->normal_marks);
    free(t->kinds);
    free(t->dir);
    free(t);
}

struct tokenizer *tokenizer_new_bytes(void) {
    struct tokenizer *t = hai_new(struct tokenizer);

    t->begin = BYTES_BEGIN;
    t->end = BYTES_END;
    t->kinds = hai_alloc(BYTES_COUNT);
    for (int i = 0; i < BYTES_COUNT; i++) {
        int r = vocab_add(&t->vocab, i, &(uint8_t){(uint8_t)i}, i < 256);
        assert(r == 0);
        t->kinds[i] = i >= BYTES_BEGIN ? TOKENIZER_SPECIAL : 0;
    }
    return t;
}

int32_t tokenizer_n_vocab(const struct tokenizer *t) {
    return t->vocab.n;
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

int32_t tokenizer_added(const struct tokenizer *t, const char *text) {
    for (size_t i = 0; i < t->added.n; i++)
        if (hai_streq(t->added.list[i].text, text))
            return t->added.list[i].id;
    return -1;
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id) {
    return id >= 0 && id < t->vocab.n && t->kinds[id] & TOKENIZER_SPECIAL;
}

/* Cut valid UTF-8 by the steps from number `step` on; words go to the merger. */
static int encode_words(struct tokenizer *t, int step, const char *text, size_t n_bytes,
                        struct token_list *ret) {
    size_t done = 0, from, to;
    int r;

    if (step == t->n_steps) {
        bpe_encode(t->bpe, (const uint8_t *)text, n_bytes, ret);
        return 0;
    }
    while ((r = split_find(t->steps[step], text, n_bytes, done, &from, &to)) > 0) {
        r = from > done ? encode_words(t, step + 1, text + done, from - done, ret) : 0;
        if (r == 0)
            r = encode_words(t, step + 1, text + from, to - from, ret);
        if (r < 0)
            return r;
        done = to;
    }
    if (r < 0)
        return r;
    return done < n_bytes ? encode_words(t, step + 1, text + done, n_bytes - done, ret) : 0;
}

static int encode_part(struct tokenizer *t, int pass, const char *text, const uint8_t *marks,
                       size_t n_bytes, struct token_list *ret);

/* Text between the added tokens of the first pass: normalised, then the second pass. Runs of UTF-8
 * go that way, single bytes that are none straight to the merger. */
static int encode_normal(struct tokenizer *t, const char *text, const uint8_t *marks,
                         size_t n_bytes, struct token_list *ret) {
    int r = 0;

    while (r == 0 && n_bytes) {
        size_t n = utf8_valid(text, n_bytes);
        if (t->nfc && !nfc_is_plain(t->nfc, text, n)) {
            buf_clear(&t->normal);
            buf_clear(&t->normal_marks);
            nfc_add(t->nfc, text, n, marks, &t->normal, &t->normal_marks);
            r = encode_part(t, 1, (const char *)t->normal.data, marks ? t->normal_marks.data : NULL,
                            t->normal.n_bytes, ret);
        } else if (n)
            r = encode_part(t, 1, text, marks, n, ret);
        if (n < n_bytes)
            bpe_encode(t->bpe, (const uint8_t *)text + n++, 1, ret);
        text += n;
        marks = marks ? marks + n : NULL;
        n_bytes -= n;
    }
    return r;
}

/* Cut the added tokens of one pass out of a text. */
static int encode_part(struct tokenizer *t, int pass, const char *text, const uint8_t *marks,
                       size_t n_bytes, struct token_list *ret) {
    size_t done = 0;
    int r = 0;

    for (size_t at = 0; r == 0 && at <= n_bytes;) {
        const struct added_token *a = NULL;
        if (!added_any(&t->added, pass))
            at = n_bytes;
        if (at < n_bytes) {
            a = added_at(&t->added, pass, text + at, n_bytes - at, marks ? marks + at : NULL);
            if (!a) {
                at++;
                continue;
            }
        }
        if (at > done)
            r = pass ? encode_words(t, 0, text + done, at - done, ret)
                     : encode_normal(t, text + done, marks ? marks + done : NULL, at - done, ret);
        if (!a)
            break;
        token_list_add(ret, a->id);
        done = at += a->n_bytes;
    }
    return r;
}

int tokenizer_encode_marked(struct tokenizer *t, const char *text, const uint8_t *marks,
                            size_t n_bytes, struct token_list *ret, struct hai_err *err) {
    if (t->bpe) {
        int r = encode_part(t, 0, text, marks, n_bytes, ret);
        return r < 0 ? hai_fail(err, r, "the tokenizer's split pattern gave up on this text") : 0;
    }
    for (size_t i = 0; i < n_bytes; i++)
        token_list_add(ret, (uint8_t)text[i]);
    return 0;
}

int tokenizer_encode(struct tokenizer *t, const char *text, size_t n_bytes, struct token_list *ret,
                     struct hai_err *err) {
    return tokenizer_encode_marked(t, text, NULL, n_bytes, ret, err);
}

int tokenizer_add_bytes(const struct tokenizer *t, int32_t id, struct buf *ret) {
    if (!vocab_has(&t->vocab, id))
        return -EINVAL;
    buf_add(ret, t->vocab.bytes.data + t->vocab.tokens[id].at, t->vocab.tokens[id].n_bytes);
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
                            t->vocab.n - 1);
    }
    utf8_add_lossy(ret, bytes.data, bytes.n_bytes);
    return 0;
}

int tokenizer_export(const struct tokenizer *t, const char *dir, struct hai_err *err) {
    static const char bytes_config[] = "{\"tokenizer_class\": \"bytes\"}\n";
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json",
                                        "chat_template.jinja"};

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
        int r = fileio_read_file(from, TOKENIZER_FILE_BYTES_MAX, &text, err);
        if (r == 0)
            r = fileio_replace(to, text.data, text.n_bytes, 0644, err);
        if (r < 0)
            return r;
    }
    return 0;
}
