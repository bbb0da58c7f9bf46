#include "engine/convert/ggufwords.h"
#include "engine/data/split.h"
#include "engine/data/utf8.h"
#include "lib/json.h"

/* Kinds of tokens, as llama.cpp numbers them. */
enum { TOKEN_NORMAL = 1, TOKEN_CONTROL = 3, TOKEN_USER = 4, TOKEN_UNUSED = 5 };

/* The letters that LLM's pre-tokenizer joins: those with two cases, as its published pattern lists
 * them. */
static const uint32_t cased[][2] = {
    {0x41,    0x5a   },
    {0x61,    0x7a   },
    {0xb5,    0xb5   },
    {0xc0,    0xd6   },
    {0xd8,    0xf6   },
    {0xf8,    0x1ba  },
    {0x1bc,   0x1bf  },
    {0x1c4,   0x293  },
    {0x295,   0x2af  },
    {0x370,   0x373  },
    {0x376,   0x376  },
    {0x377,   0x377  },
    {0x37b,   0x37d  },
    {0x37f,   0x37f  },
    {0x386,   0x386  },
    {0x388,   0x38a  },
    {0x38c,   0x38c  },
    {0x38e,   0x3a1  },
    {0x3a3,   0x3f5  },
    {0x3f7,   0x481  },
    {0x48a,   0x52f  },
    {0x531,   0x556  },
    {0x10a0,  0x10c5 },
    {0x13a0,  0x13f5 },
    {0x13f8,  0x13fd },
    {0x1c90,  0x1cba },
    {0x1cbd,  0x1cbf },
    {0x1d00,  0x1d2b },
    {0x1d6b,  0x1d77 },
    {0x1d79,  0x1d9a },
    {0x1e00,  0x1f15 },
    {0x1f18,  0x1f1d },
    {0x1f20,  0x1f45 },
    {0x1f48,  0x1f4d },
    {0x1f50,  0x1f57 },
    {0x1f59,  0x1f59 },
    {0x1f5b,  0x1f5b },
    {0x1f5d,  0x1f5d },
    {0x1f5f,  0x1f7d },
    {0x1f80,  0x1fb4 },
    {0x1fb6,  0x1fbc },
    {0x1fbe,  0x1fbe },
    {0x1fc2,  0x1fc4 },
    {0x1fc6,  0x1fcc },
    {0x1fd0,  0x1fd3 },
    {0x1fd6,  0x1fdb },
    {0x1fe0,  0x1fec },
    {0x1ff2,  0x1ff4 },
    {0x1ff6,  0x1ffc },
    {0x2102,  0x2102 },
    {0x2107,  0x2107 },
    {0x210a,  0x2113 },
    {0x2115,  0x2115 },
    {0x2119,  0x211d },
    {0x2124,  0x2124 },
    {0x2126,  0x2126 },
    {0x2128,  0x2128 },
    {0x212a,  0x212d },
    {0x212f,  0x2134 },
    {0x2139,  0x2139 },
    {0x213c,  0x213f },
    {0x2145,  0x2149 },
    {0x214e,  0x214e },
    {0x2183,  0x2183 },
    {0x2184,  0x2184 },
    {0x2c00,  0x2c7b },
    {0x2c7e,  0x2ce4 },
    {0x2ceb,  0x2cee },
    {0x2cf2,  0x2cf2 },
    {0x2cf3,  0x2cf3 },
    {0xa640,  0xa66d },
    {0xa680,  0xa69b },
    {0xa722,  0xa76f },
    {0xa771,  0xa787 },
    {0xa78b,  0xa78e },
    {0xab70,  0xabbf },
    {0xfb00,  0xfb06 },
    {0xfb13,  0xfb17 },
    {0xff21,  0xff3a },
    {0xff41,  0xff5a },
    {0x10400, 0x1044f},
    {0x104b0, 0x104d3},
    {0x104d8, 0x104fb},
    {0x10c80, 0x10cb2},
    {0x10cc0, 0x10cf2},
    {0x118a0, 0x118df},
    {0x1e900, 0x1e943}
};

static const char han[] = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+";
static const char cased_mark[] = "cased";   // stands for the pattern of cased letters
static const char digits_mark[] = "digits"; // every digit alone

/* The steps that names of pre-tokenizers stand for, from the published tokenizer.json files. */
static const struct pre_tokenizer {
    const char *name;
    bool nfc;
    bool llama3; // whole words need no merges; a text begins with the begin token unless said
    const char *steps[7];
} pre_tokenizers[] = {
    {"deepseek-v3",
     false,                     false,
     {"\\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", SPLIT_V3}                     },
    {"deepseek-llm",
     false,                     false,
     {"[\r\n]", cased_mark, "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
      "\\s+$", han, digits_mark}                                                                 },
    {"deepseek-coder",   false, false, {"[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", han, digits_mark}},
    {"qwen2",            true,  false, {SPLIT_QWEN2}                                             },
    {"deepseek-r1-qwen", true,  false, {SPLIT_QWEN2}                                             },
    {"llama-bpe",        false, true,  {SPLIT_LLAMA3}                                            },
    {"llama3",           false, true,  {SPLIT_LLAMA3}                                            },
    {"llama-v3",         false, true,  {SPLIT_LLAMA3}                                            },
};

static bool is_text(const struct gguf_value *v, const char *text) {
    return v && v->kind == GGUF_STRING && v->n_bytes == strlen(text) &&
           memcmp(v->text, text, v->n_bytes) == 0;
}

static void add_string(struct buf *ret, const char *text) {
    json_dump_string(text, strlen(text), ret);
}

static void add_code_point(struct buf *ret, uint32_t c) {
    char text[4];

    buf_add(ret, text, utf8_write(c, text));
}

static void cased_pattern(struct buf *ret) {
    buf_add_str(ret, "\\s?[");
    for (size_t i = 0; i < ARRAY_SIZE(cased); i++) {
        add_code_point(ret, cased[i][0]);
        if (cased[i][1] != cased[i][0])
            buf_add_u8(ret, '-');
        if (cased[i][1] != cased[i][0])
            add_code_point(ret, cased[i][1]);
    }
    buf_add_str(ret, "]+");
}

static void add_step(struct buf *ret, const char *step) {
    _cleanup_(buf_free) struct buf pattern = {0};

    if (step == digits_mark) {
        buf_add_str(ret, "{\"type\":\"Digits\",\"individual_digits\":true},");
        return;
    }
    if (step == cased_mark)
        cased_pattern(&pattern);
    else
        buf_add_str(&pattern, step);
    buf_add_str(ret, "{\"type\":\"Split\",\"pattern\":{\"Regex\":");
    json_dump_string((const char *)pattern.data, pattern.n_bytes, ret);
    buf_add_str(ret, "},\"behavior\":\"Isolated\",\"invert\":false},");
}

/* NULL: the name is not known, or absent. */
static const struct pre_tokenizer *find_pre_tokenizer(const struct gguf *g) {
    const struct gguf_value *pre = gguf_find(g, "tokenizer.ggml.pre");

    for (size_t i = 0; i < ARRAY_SIZE(pre_tokenizers); i++)
        if (is_text(pre, pre_tokenizers[i].name))
            return &pre_tokenizers[i];
    return NULL;
}

static int add_pre_tokenizer(const struct gguf *g, struct buf *ret, struct hai_err *err) {
    const struct gguf_value *pre = gguf_find(g, "tokenizer.ggml.pre");
    const struct pre_tokenizer *found = find_pre_tokenizer(g);

    if (!found)
        return hai_fail(err, -ENOTSUP, "%s: tokenizer.ggml.pre is %.*s, which is not known",
                        gguf_path(g),
                        pre && pre->kind == GGUF_STRING ? (int)MIN(pre->n_bytes, (size_t)60) : 6,
                        pre && pre->kind == GGUF_STRING ? pre->text : "absent");
    buf_add_str(ret,
                found->nfc ? ",\n \"normalizer\":{\"type\":\"NFC\"}" : ",\n \"normalizer\":null");
    buf_add_str(ret, ",\n \"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[");
    for (size_t k = 0; k < ARRAY_SIZE(found->steps) && found->steps[k]; k++)
        add_step(ret, found->steps[k]);
    buf_add_str(ret, "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,"
                     "\"use_regex\":false}]},\n \"post_processor\":null,\n "
                     "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,"
                     "\"trim_offsets\":true,\"use_regex\":true}");
    return 0;
}

/* A list of texts, or -EINVAL. */
static int find_texts(const struct gguf *g, const char *key, const struct gguf_value **ret,
                      struct hai_err *err) {
    const struct gguf_value *v = gguf_find(g, key);
    const uint8_t *at;

    if (!v || v->kind != GGUF_ARRAY)
        return hai_fail(err, -EINVAL, "%s: %s: expected a list of texts", gguf_path(g), key);
    at = v->items;
    for (uint64_t i = 0; i < v->n; i++) {
        struct gguf_value item = gguf_next(v, &at);
        if (item.kind != GGUF_STRING || !json_is_text(item.text, item.n_bytes))
            return hai_fail(err, -EINVAL, "%s: %s: item %llu is no text in UTF-8", gguf_path(g),
                            key, (unsigned long long)i);
    }
    *ret = v;
    return 0;
}

/* The tokens of the vocabulary, or those beside it, each with its kind. */
static void add_tokens(struct buf *ret, const struct gguf_value *tokens,
                       const struct gguf_value *kinds, bool beside) {
    const uint8_t *at = tokens->items, *kind_at = kinds ? kinds->items : NULL;
    const char *before = "";

    for (uint64_t id = 0; id < tokens->n; id++) {
        struct gguf_value token = gguf_next(tokens, &at);
        int64_t kind = kinds ? (int64_t)gguf_next(kinds, &kind_at).number : TOKEN_NORMAL;
        bool added = kind == TOKEN_CONTROL || kind == TOKEN_USER;
        if (kind == TOKEN_UNUSED || added != beside)
            continue;
        buf_add_str(ret, before);
        before = ",\n  ";
        if (beside)
            buf_printf(ret, "{\"id\":%llu,\"content\":", (unsigned long long)id);
        json_dump_string(token.text, token.n_bytes, ret);
        if (beside)
            buf_printf(ret,
                       ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
                       "\"normalized\":false,\"special\":%s}",
                       kind == TOKEN_CONTROL ? "true" : "false");
        else
            buf_printf(ret, ":%llu", (unsigned long long)id);
    }
}

int ggufwords_tokenizer(const struct gguf *g, struct buf *ret, struct hai_err *err) {
    const struct gguf_value *model = gguf_find(g, "tokenizer.ggml.model"), *tokens, *merges;
    const struct gguf_value *kinds = gguf_find(g, "tokenizer.ggml.token_type");
    const char *before = "";

    if (!is_text(model, "gpt2"))
        return hai_fail(err, -ENOTSUP, "%s: tokenizer.ggml.model is not gpt2 (byte-level BPE)",
                        gguf_path(g));
    int r = find_texts(g, "tokenizer.ggml.tokens", &tokens, err);
    if (r == 0)
        r = find_texts(g, "tokenizer.ggml.merges", &merges, err);
    if (r < 0)
        return r;
    if (kinds) {
        const uint8_t *at = kinds->items;
        if (kinds->kind != GGUF_ARRAY || kinds->n != tokens->n ||
            (kinds->n && gguf_next(kinds, &at).kind != GGUF_INT))
            return hai_fail(err, -EINVAL,
                            "%s: tokenizer.ggml.token_type: expected a number for each token",
                            gguf_path(g));
    }
    buf_add_str(ret, "{\"version\":\"1.0\",\n \"truncation\":null,\n \"padding\":null,\n "
                     "\"added_tokens\":[");
    add_tokens(ret, tokens, kinds, true);
    buf_add_str(ret, "]");
    r = add_pre_tokenizer(g, ret, err);
    if (r < 0)
        return r;
    buf_add_str(ret, ",\n \"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
                     "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,"
                     "\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":");
    buf_add_str(ret, find_pre_tokenizer(g)->llama3 ? "true" : "false");
    buf_add_str(ret, ",\n  \"vocab\":{");
    add_tokens(ret, tokens, kinds, false);
    buf_add_str(ret, "},\n  \"merges\":[");
    const uint8_t *at = merges->items;
    for (uint64_t i = 0; i < merges->n; i++, before = ",\n  ") {
        struct gguf_value merge = gguf_next(merges, &at);
        buf_add_str(ret, before);
        json_dump_string(merge.text, merge.n_bytes, ret);
    }
    buf_add_str(ret, "]}}\n");
    return 0;
}

/* The text of the token that a key numbers. */
static bool find_token(const struct gguf *g, const char *key, struct gguf_value *ret) {
    const struct gguf_value *v = gguf_find(g, key), *tokens;
    struct hai_err err;

    if (!v || v->kind != GGUF_UINT || find_texts(g, "tokenizer.ggml.tokens", &tokens, &err) < 0 ||
        v->number >= tokens->n)
        return false;
    const uint8_t *at = tokens->items;
    for (uint64_t i = 0; i <= v->number; i++)
        *ret = gguf_next(tokens, &at);
    return true;
}

int ggufwords_config(const struct gguf *g, struct buf *ret, struct hai_err *err) {
    static const char *const keys[][2] = {
        {"tokenizer.ggml.bos_token_id",     "bos_token"},
        {"tokenizer.ggml.eos_token_id",     "eos_token"},
        {"tokenizer.ggml.padding_token_id", "pad_token"},
    };
    const struct gguf_value *add = gguf_find(g, "tokenizer.ggml.add_bos_token");
    const struct gguf_value *chat = gguf_find(g, "tokenizer.chat_template");
    const struct pre_tokenizer *pre = find_pre_tokenizer(g);
    struct gguf_value token;
    bool begins = add ? add->number == 1 : pre && pre->llama3;

    buf_printf(ret, "{\n \"add_bos_token\": %s", begins ? "true" : "false");
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        if (find_token(g, keys[i][0], &token)) {
            buf_add_str(ret, ",\n ");
            add_string(ret, keys[i][1]);
            buf_add_str(ret, ": ");
            json_dump_string(token.text, token.n_bytes, ret);
        }
    if (chat && (chat->kind != GGUF_STRING || !json_is_text(chat->text, chat->n_bytes)))
        return hai_fail(err, -EINVAL, "%s: tokenizer.chat_template is no text in UTF-8",
                        gguf_path(g));
    if (chat) {
        buf_add_str(ret, ",\n \"chat_template\": ");
        json_dump_string(chat->text, chat->n_bytes, ret);
    }
    buf_add_str(ret, "\n}\n");
    return 0;
}
