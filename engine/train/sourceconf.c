#include "engine/train/sourceconf.h"

#include <math.h>
#include <stdio.h>

void sourceconf_free(struct sourceconf *conf) {
    for (int i = 0; i < conf->n; i++)
        free((char *)(uintptr_t)conf->items[i].dir);
    free(conf->items);
    *conf = (struct sourceconf){0};
}

static int fail(const struct json *v, const char *file, struct hai_err *err, const char *expected) {
    char where[HAI_ERR_WHERE_BYTES];
    _cleanup_(buf_free) struct buf text = {0};

    json_dump(v, 0, &text);
    (void)snprintf(where, sizeof where, "%s:%d:%d", file, json_line(v), json_column(v));
    return hai_fail_at(err, -EINVAL, "bad_value", where, NULL, "sources: %.100s; expected %s",
                       buf_cstr(&text), expected);
}

static bool is_number(const struct json *v) {
    return json_kind(v) == JSON_KIND_INT || json_kind(v) == JSON_KIND_REAL;
}

static int read_one(const struct json *v, const char *file, struct packing_source *ret,
                    struct hai_err *err) {
    const char *path = json_get_string(v, "path", "");
    const struct json *weight = json_get(v, "weight");

    if (!path[0])
        return fail(v, file, err, "{path: FOLDER, weight: NUMBER}");
    for (const struct json *m = json_first(v); m; m = json_next(m))
        if (!hai_streq(json_key(m), "path") && !hai_streq(json_key(m), "weight"))
            return fail(v, file, err, "path and weight only");
    if (weight &&
        (!is_number(weight) || !(json_as_real(weight) > 0) || isinf(json_as_real(weight))))
        return fail(weight, file, err, "a weight above 0");
    *ret = (struct packing_source){hai_strdup(path), weight ? json_as_real(weight) : 1};
    return 0;
}

int sourceconf_read(const struct json *value, const char *file, struct sourceconf *ret,
                    struct hai_err *err) {
    int r = 0;

    sourceconf_free(ret);
    if (json_kind(value) != JSON_KIND_ARRAY || !json_count(value) ||
        json_count(value) > PACKING_SOURCES_MAX)
        return fail(value, file, err, "a list of {path: FOLDER, weight: NUMBER}");
    ret->items = hai_new_array(struct packing_source, json_count(value));
    for (const struct json *v = json_first(value); r == 0 && v; v = json_next(v)) {
        r = read_one(v, file, &ret->items[ret->n], err);
        ret->n += r == 0;
    }
    return r;
}
