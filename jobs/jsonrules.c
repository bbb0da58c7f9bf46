#include "jobs/jsonrules.h"
#include "lib/fileio.h"

struct jsonrules {
    struct grammar_vocab *vocab;
    struct grammar *grammar;
    struct grammar_match *match;
    uint64_t *mask;
    struct sample_hooks hooks;
};

void jsonrules_free(struct jsonrules *rules) {
    if (!rules)
        return;
    grammar_match_free(rules->match);
    grammar_free(rules->grammar);
    grammar_vocab_free(rules->vocab);
    free(rules->mask);
    free(rules);
}

static int give_mask(void *userdata, const uint64_t **ret, struct hai_err *err) {
    struct jsonrules *rules = userdata;

    grammar_match_mask(rules->match, rules->mask);
    *ret = rules->mask;
    return 0;
}

static int take(void *userdata, int32_t id, struct hai_err *err) {
    struct jsonrules *rules = userdata;

    if (grammar_match_token(rules->match, id) < 0)
        return hai_fail(err, -EBADMSG, "token %d is not of the grammar", id);
    return grammar_match_closed(rules->match);
}

/* Rows of the model that have no token of the tokenizer, and special ones, have no bytes. */
struct grammar_vocab *jsonrules_vocab(const struct tokenizer *t,
                                      const struct model_config *config) {
    int32_t n = MAX(tokenizer_n_vocab(t), (int32_t)config->n_vocab), n_ends = 0;
    _cleanup_free_ struct grammar_token *tokens = hai_new_array(struct grammar_token, (size_t)n);
    _cleanup_free_ size_t *from = hai_new_array(size_t, (size_t)n);
    int32_t ends[ARRAY_SIZE(config->eos_tokens) + 1];
    _cleanup_(buf_free) struct buf bytes = {0};

    for (int32_t id = 0; id < n; id++) {
        from[id] = bytes.n_bytes;
        if (id < tokenizer_n_vocab(t) && !tokenizer_is_special(t, id))
            tokenizer_add_bytes(t, id, &bytes);
        tokens[id].n_bytes = (uint32_t)(bytes.n_bytes - from[id]);
    }
    for (int32_t id = 0; id < n; id++)
        tokens[id].bytes = bytes.data + from[id];
    for (int i = 0; i < config->n_eos_tokens; i++)
        ends[n_ends++] = config->eos_tokens[i];
    if (tokenizer_end(t) >= 0)
        ends[n_ends++] = tokenizer_end(t);
    return grammar_vocab_new(tokens, n, ends, n_ends);
}

int jsonrules_new(const struct tokenizer *tokenizer, const struct model_config *config,
                  const char *schema_path, struct jsonrules **ret, struct hai_err *err) {
    _cleanup_(jsonrules_freep) struct jsonrules *rules = hai_new(struct jsonrules);
    _cleanup_(buf_free) struct buf text = {0};
    int r = 0;

    if (schema_path)
        r = fileio_read_file(schema_path, GRAMMAR_SCHEMA_BYTES_MAX, &text, err);
    else
        buf_add_str(&text, JSONRULES_OBJECT);
    if (r < 0)
        return r;
    rules->vocab = jsonrules_vocab(tokenizer, config);
    r = grammar_new(rules->vocab, buf_cstr(&text), text.n_bytes, NULL, &rules->grammar, err);
    if (r < 0) {
        hai_err_prefix(err, "%s: ", schema_path ? schema_path : "JSON");
        return r;
    }
    rules->match = grammar_match_new(rules->grammar);
    rules->mask = hai_new_array(uint64_t, grammar_vocab_words(rules->vocab));
    rules->hooks = (struct sample_hooks){give_mask, take, rules};
    *ret = TAKE_PTR(rules);
    return 0;
}

const struct sample_hooks *jsonrules_hooks(const struct jsonrules *rules) {
    return &rules->hooks;
}
