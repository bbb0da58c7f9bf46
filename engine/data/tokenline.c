#include "engine/data/tokenline.h"
#include "lib/json.h"
#include "storage/jsonscan.h"

static int bad(const struct jsonscan *s, struct hai_err *err) {
    return hai_fail(err, -EBADMSG, "byte %zu: expected %s", s->at + 1, s->fault);
}

int tokenline_read_text(const char *json, size_t n_bytes, struct buf *ret, struct hai_err *err) {
    struct jsonscan s = {.text = json, .n_bytes = n_bytes, .zeros = true};

    return jsonscan_string(&s, ret) < 0 || jsonscan_end(&s) < 0 ? bad(&s, err) : 0;
}

int tokenline_read_member(const char *json, size_t n_bytes, const char *name, struct buf *ret,
                          struct hai_err *err) {
    struct jsonscan s = {.text = json, .n_bytes = n_bytes, .zeros = true};
    _cleanup_(buf_free) struct buf key = {0};
    size_t n = 0, name_bytes = strlen(name);
    bool found = false;
    int r = jsonscan_enter(&s, '{');

    while (r == 0 && (r = jsonscan_next(&s, '}', &n)) > 0) {
        r = jsonscan_key(&s, &key);
        bool is = r == 0 && key.n_bytes == name_bytes && !memcmp(key.data, name, name_bytes);
        if (is && found)
            return hai_fail(err, -EBADMSG, "'%s' is there twice", name);
        found |= is;
        if (r == 0)
            r = is ? jsonscan_string(&s, ret) : jsonscan_skip(&s);
    }
    if (r < 0 || jsonscan_end(&s) < 0)
        return bad(&s, err);
    return found ? 0 : hai_fail(err, -EBADMSG, "no member '%s'", name);
}

int tokenline_read_ids(const char *json, size_t n_bytes, struct token_list *ret,
                       struct hai_err *err) {
    struct jsonscan s = {.text = json, .n_bytes = n_bytes};
    size_t n = 0;
    uint64_t id;
    int r = jsonscan_enter(&s, '[');

    while (r == 0 && (r = jsonscan_next(&s, ']', &n)) > 0) {
        r = jsonscan_u64(&s, &id);
        if (r == 0)
            token_list_add(ret, (int32_t)MIN(id, (uint64_t)INT32_MAX));
    }
    return r < 0 || jsonscan_end(&s) < 0 ? bad(&s, err) : 0;
}

/* A JSON string on one line for every reader: what some take for the end of a line is escaped. */
void tokenline_add_text(const struct buf *text, struct buf *ret) {
    static const struct {
        const char *bytes, *escaped;
    } ends[] = {
        {"\xC2\x85",     "\\u0085"},
        {"\xE2\x80\xA8", "\\u2028"},
        {"\xE2\x80\xA9", "\\u2029"}
    };
    _cleanup_(buf_free) struct buf string = {0};

    json_dump_string((const char *)text->data, text->n_bytes, &string);
    const char *p = buf_cstr(&string);
    while (*p) {
        const char *from = p;
        size_t i = 0;
        p += strcspn(p, "\xC2\xE2");
        buf_add(ret, from, (size_t)(p - from));
        while (i < ARRAY_SIZE(ends) && strncmp(p, ends[i].bytes, strlen(ends[i].bytes)) != 0)
            i++;
        if (i < ARRAY_SIZE(ends)) {
            buf_add_str(ret, ends[i].escaped);
            p += strlen(ends[i].bytes);
        } else if (*p)
            buf_add_u8(ret, (uint8_t)*p++);
    }
}

void tokenline_add_ids(const struct token_list *ids, struct buf *ret) {
    buf_add_u8(ret, '[');
    for (size_t i = 0; i < ids->n; i++) {
        if (i)
            buf_add_str(ret, ", ");
        json_dump_int(ids->ids[i], ret);
    }
    buf_add_u8(ret, ']');
}
