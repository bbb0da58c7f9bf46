#include "engine/data/fim.h"
#include "engine/data/added.h"
#include "kernels/philox.h"

const char *const fim_names[3] = {"<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"};

int fim_find(const struct tokenizer *t, const char *const names[3], struct fim *ret,
             struct hai_err *err) {
    int32_t ids[3];

    for (int i = 0; i < 3; i++) {
        ids[i] = tokenizer_added(t, names[i]);
        if (ids[i] < 0)
            return hai_fail(err, -ENOTSUP,
                            "the tokenizer has no tokens to fill in the middle: no '%s'", names[i]);
    }
    ret->begin = ids[0];
    ret->hole = ids[1];
    ret->end = ids[2];
    return 0;
}

static size_t place(uint32_t word, const char *text, size_t n_bytes) {
    size_t at = (size_t)(((uint64_t)word * (n_bytes + 1)) >> 32);

    while (at < n_bytes && ((uint8_t)text[at] & 0xC0) == 0x80)
        at++;
    return at;
}

bool fim_cut(const struct fim *fim, int64_t document, const char *text, size_t n_bytes,
             size_t ret[2]) {
    struct philox_counter at =
        philox_at(PHILOX_MIDDLE, (uint32_t)(document >> 32), (uint32_t)document, 0);
    uint32_t words[4];

    assert(n_bytes < UINT32_MAX);
    philox_words(fim->seed, &at, words);
    if (philox_uniform(words[0]) >= fim->rate)
        return false;
    size_t a = place(words[1], text, n_bytes), b = place(words[2], text, n_bytes);
    ret[0] = MIN(a, b);
    ret[1] = MAX(a, b);
    return true;
}

int fim_encode_text(struct tokenizer *t, const char *text, size_t n_bytes, bool special,
                    struct token_list *ret, struct hai_err *err) {
    if (special)
        return tokenizer_encode(t, text, n_bytes, ret, err);
    _cleanup_free_ uint8_t *marks = hai_alloc(n_bytes);
    memset(marks, ADDED_BY_PERSON, n_bytes);
    return tokenizer_encode_marked(t, text, marks, n_bytes, ret, err);
}

int fim_encode(const struct fim *fim, struct tokenizer *t, const char *text, size_t n_bytes,
               const size_t cuts[2], bool special, struct token_list *ret, struct hai_err *err) {
    assert(cuts[0] <= cuts[1]);
    assert(cuts[1] <= n_bytes);
    token_list_add(ret, fim->begin);
    int r = fim_encode_text(t, text, cuts[0], special, ret, err);
    token_list_add(ret, fim->hole);
    if (r == 0)
        r = fim_encode_text(t, text + cuts[1], n_bytes - cuts[1], special, ret, err);
    token_list_add(ret, fim->end);
    if (r == 0)
        r = fim_encode_text(t, text + cuts[0], cuts[1] - cuts[0], special, ret, err);
    return r;
}
