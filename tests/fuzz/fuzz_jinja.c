/* Whatever a chat template holds: text or an error, never a crash, within the limits. */
#include "engine/data/jinja.h"
#include "engine/data/utf8.h"

static const char values[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"be brief\"}, {\"role\": \"user\", "
    "\"content\": \"hi <|User|>\\n\"}, {\"role\": \"assistant\", \"content\": "
    "\"<think>a</think>b\", "
    "\"tool_calls\": [{\"type\": \"function\", \"function\": {\"name\": \"f\", \"arguments\": "
    "{\"x\": 1.5, \"y\": [null, true]}}}]}], \"tools\": null, \"x\": 3}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    static struct json *v; // parsed once
    _cleanup_(jinja_freep) struct jinja *j = NULL;
    _cleanup_(buf_free) struct buf out = {0}, marks = {0};
    struct hai_err err = {0};

    if (!v) {
        int r = json_parse(values, strlen(values), NULL, &v, NULL);
        assert(r == 0);
    }
    if (jinja_new((const char *)data, n_bytes, "t", &j, &err) < 0) {
        assert(err.text[0]);
        return 0;
    }
    const struct jinja_input input = {.values = v, .mark = 1, .now_s = 0};
    int r = jinja_render(j, &input, &out, &marks, &err);
    assert(r == 0 || err.text[0]);
    assert(out.n_bytes == marks.n_bytes);
    assert(utf8_valid((const char *)out.data, out.n_bytes) == out.n_bytes);
    return 0;
}
