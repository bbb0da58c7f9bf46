/* Whatever a source file holds: a scan of it in every language and an order with each file once;
 * whatever a line of JSON holds: a text or a reason. */
#include "engine/data/imports.h"
#include "engine/data/tokenline.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static const char *const paths[] = {"a.py",        "b/c.py", "b/__init__.py", "d.c",
                                    "include/e.h", "f.js",   "b/g.ts",        "README"};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    const char *text = (const char *)data;
    const size_t n = ARRAY_SIZE(paths);
    bool seen[ARRAY_SIZE(paths)] = {false};
    size_t order[ARRAY_SIZE(paths)];
    _cleanup_(imports_freep) struct imports *m = imports_new(paths, n);
    _cleanup_(buf_free) struct buf member = {0};
    struct hai_err err = {0};

    for (size_t i = 0; i < n; i++) {
        imports_scan(m, i, text, n_bytes);
        assert(imports_count(m, i) < n);
        assert(!imports_has(m, i, i));
    }
    imports_order(m, order);
    for (size_t i = 0; i < n; i++) {
        assert(order[i] < n);
        assert(!seen[order[i]]);
        seen[order[i]] = true;
    }
    int r = tokenline_read_member(text, n_bytes, "text", &member, &err);
    assert(r == 0 || err.text[0]);
    // The first line of the seed, and changes of it.
    const char *feed = memchr(text, '\n', n_bytes);
    r = tokenline_read_member(text, feed ? (size_t)(feed - text) : 0, "text", &member, &err);
    assert(r == 0 || err.text[0]);
    return 0;
}
