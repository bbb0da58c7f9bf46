/* Whatever a rank says: lines taken apart within their bounds, or words to refuse them with. */
#include "agent/rankline.h"
#include "lib/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static void look(const char *line, size_t n_bytes, const struct rankline *said) {
    const struct progress_view *p = &said->progress;

    assert(p->step == S_ABSENT || p->step >= 0);
    assert(!p->phase || json_is_text(p->phase, strlen(p->phase)));
    assert(!p->rate_unit || json_is_text(p->rate_unit, strlen(p->rate_unit)));
    if (said->kind == RANKLINE_COMMIT)
        assert(said->dir >= line && said->dir + strlen(said->dir) <= line + n_bytes);
    if (said->kind == RANKLINE_GATHER)
        assert(said->hex >= line && said->hex + strlen(said->hex) <= line + n_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    _cleanup_(buf_free) struct buf in = {0};
    size_t at = 0, before = 0;

    buf_add(&in, data, n_bytes);
    for (char *line; (line = rankline_next(&in, &at)); before = at) {
        struct hai_err err = {0};
        struct rankline said;
        assert(line == (char *)in.data + before);
        int r = rankline_parse(line, &said, &err);
        assert(r == 0 || (r == -EINVAL && err.text[0]));
        if (r < 0)
            continue;
        look(line, at - before - 1, &said);
        rankline_clear(&said);
    }
    assert(at == before);
    assert(at <= n_bytes);
    return 0;
}
