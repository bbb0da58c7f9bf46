/* Whatever a line of prompts holds: a request whose options are in their ranges, or an error. */
#include "jobs/promptline.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    static struct tokenizer *t;
    static struct chat *c;
    struct promptline defaults = {.n_new_max = 16};
    struct promptline line = {0};
    struct hai_err err = {0};

    if (!t) {
        int r = tokenizer_read("tests/fixtures/tokenizer/tiny", &t, &err);
        assert(r == 0);
        r = chat_open("tests/fixtures/tokenizer/tiny", t, NULL, &c, &err);
        assert(r == 0);
    }
    sampleargs_init(&defaults.sample);
    int r = promptline_read((const char *)data, n_bytes, &defaults, t, c, &line, &err);
    if (r < 0) {
        assert(err.text[0]);
    } else {
        struct stop_rules *rules = NULL;
        assert(line.ids.n >= 1);
        assert(line.n_new_max >= 1);
        // Only ids of biases may still be outside the vocabulary.
        r = sampleargs_rules(&line.sample, &rules, &err);
        if (r == 0) {
            r = sample_check(&line.sample.options, SAMPLE_VOCAB_MAX, &err);
            assert(r == 0);
        }
        stop_rules_free(rules);
    }
    promptline_free(&line);
    return 0;
}
