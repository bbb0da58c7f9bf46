#include "engine/data/jsonpick.h"
#include "storage/jsonscan.h"

static bool is_wanted(const char *name, const char *const *names) {
    while (*names && !hai_streq(name, *names))
        names++;
    return *names;
}

static int read_member(struct jsonscan *s, const char *path, const struct buf *key,
                       const char *const *names, struct json *to, struct hai_err *err) {
    _cleanup_(json_freep) struct json *value = NULL;
    const char *name = (const char *)key->data;
    size_t from = s->at;

    if (jsonscan_skip(s) < 0)
        return jsonscan_fail(s, path, err);
    if (!is_wanted(name, names))
        return 0;
    int r = json_parse(s->text + from, s->at - from, path, &value, err);
    if (r < 0)
        return r;
    if (!json_try_add(to, name, key->n_bytes, value))
        return hai_fail(err, -EBADMSG, "%s: '%s' is there twice", path, name);
    (void)TAKE_PTR(value);
    return 0;
}

int jsonpick(const void *text, size_t n_bytes, const char *path, const char *const *names,
             struct json **ret, struct hai_err *err) {
    _cleanup_(json_freep) struct json *picked = json_new_object();
    _cleanup_(buf_free) struct buf key = {0};
    struct jsonscan s = {.text = text, .n_bytes = n_bytes};
    size_t n = 0;
    int r;

    if (jsonscan_enter(&s, '{') < 0)
        return jsonscan_fail(&s, path, err);
    while ((r = jsonscan_next(&s, '}', &n)) > 0) {
        if (jsonscan_key(&s, &key) < 0)
            return jsonscan_fail(&s, path, err);
        buf_cstr(&key);
        r = read_member(&s, path, &key, names, picked, err);
        if (r < 0)
            return r;
    }
    if (r < 0 || jsonscan_end(&s) < 0)
        return jsonscan_fail(&s, path, err);
    *ret = TAKE_PTR(picked);
    return 0;
}
