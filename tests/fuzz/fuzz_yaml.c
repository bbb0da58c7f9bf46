/* Whatever bytes a YAML file holds: documents with positions inside it, or an error with a place;
 * and each document is also valid JSON once dumped. */
#include "lib/yaml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static void check_positions(const struct json *value) {
    assert(json_line(value) > 0);
    assert(json_column(value) > 0);
    for (const struct json *v = json_first(value); v; v = json_next(v)) {
        assert(!json_key(v) || json_key_line(v) > 0);
        check_positions(v);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    _cleanup_(yaml_stream_freep) struct yaml_stream *stream =
        yaml_stream_of_text(data, n_bytes, "fuzz");
    struct hai_err err = {0};
    int r;

    for (;;) {
        _cleanup_(json_freep) struct json *tree = NULL;
        _cleanup_(json_freep) struct json *again = NULL;
        _cleanup_(buf_free) struct buf text = {0};
        r = yaml_stream_next(stream, &tree, &err);
        if (r <= 0)
            break;
        check_positions(tree);
        json_dump(tree, 0, &text);
        r = json_parse(text.data, text.n_bytes, NULL, &again, NULL);
        assert(r == 0);
    }
    assert(r == 0 || (err.text[0] && err.where[0]));
    return 0;
}
