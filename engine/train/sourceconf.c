#include "engine/train/sourceconf.h"

#include <math.h>
#include <stdio.h>

static void stage_free(struct sourceconf_stage *stage) {
    for (int i = 0; i < stage->n_sources; i++) {
        free(stage->sources[i].path);
        free(stage->sources[i].middle);
    }
    free(stage->sources);
}

void sourceconf_free(struct sourceconf *conf) {
    for (int i = 0; i < conf->n; i++)
        stage_free(&conf->stages[i]);
    free(conf->stages);
    *conf = (struct sourceconf){0};
}

struct reader {
    const char *file;
    struct hai_err *err;
};

static int fail(const struct reader *x, const struct json *v, const char *expected) {
    char where[HAI_ERR_WHERE_BYTES];
    _cleanup_(buf_free) struct buf text = {0};

    json_dump(v, 0, &text);
    (void)snprintf(where, sizeof where, "%s:%d:%d", x->file, json_line(v), json_column(v));
    return hai_fail_at(x->err, -EINVAL, "bad_value", where, NULL, "data: %.100s; expected %s",
                       buf_cstr(&text), expected);
}

/* No other members than these. */
static int check_members(const struct reader *x, const struct json *v, const char *const *names,
                         const char *expected) {
    if (json_kind(v) != JSON_KIND_OBJECT)
        return fail(x, v, expected);
    for (const struct json *m = json_first(v); m; m = json_next(m)) {
        const char *const *name = names;
        while (*name && !hai_streq(*name, json_key(m)))
            name++;
        if (!*name)
            return fail(x, v, expected);
    }
    return 0;
}

/* A number in its bounds; ret is left as it is where there is none. */
static int read_number(const struct reader *x, const struct json *v, double low, double high,
                       const char *expected, double *ret) {
    if (!v)
        return 0;
    if (json_kind(v) != JSON_KIND_INT && json_kind(v) != JSON_KIND_REAL)
        return fail(x, v, expected);
    if (!(json_as_real(v) >= low && json_as_real(v) <= high))
        return fail(x, v, expected);
    *ret = json_as_real(v);
    return 0;
}

static int read_source(const struct reader *x, const struct json *v,
                       struct sourceconf_source *ret) {
    static const char *const names[] = {"path", "middle", "weight", NULL};
    static const char expected[] = "path, weight and middle only, path at least";
    const char *path = json_get_string(v, "path", ""), *middle = json_get_string(v, "middle", NULL);
    double weight = 1;
    int r = check_members(x, v, names, expected);

    if (r == 0 && (!path[0] || !middle != !json_get(v, "middle")))
        r = fail(x, v, expected);
    if (r == 0)
        r = read_number(x, json_get(v, "weight"), 1e-12, 1e12, "a weight above 0", &weight);
    if (r < 0)
        return r;
    *ret = (struct sourceconf_source){hai_strdup(path), middle ? hai_strdup(middle) : NULL, weight};
    return 0;
}

static int read_sources(const struct reader *x, const struct json *v,
                        struct sourceconf_stage *ret) {
    int r = 0;

    if (json_kind(v) != JSON_KIND_ARRAY || !json_count(v) || json_count(v) > SOURCECONF_SOURCES_MAX)
        return fail(x, v, "a list of {path: FOLDER, weight: NUMBER}");
    ret->sources = hai_new_array(struct sourceconf_source, json_count(v));
    for (const struct json *s = json_first(v); r == 0 && s; s = json_next(s)) {
        r = read_source(x, s, &ret->sources[ret->n_sources]);
        ret->n_sources += r == 0;
    }
    return r;
}

static bool has_middle(const struct sourceconf_stage *stage) {
    for (int i = 0; i < stage->n_sources; i++)
        if (stage->sources[i].middle)
            return true;
    return false;
}

static int read_stage(const struct reader *x, const struct json *v, bool last,
                      struct sourceconf_stage *ret) {
    static const char *const names[] = {"tokens", "fim", "sources", NULL};
    const struct json *sources = json_get(v, "sources");
    double tokens = 0;
    int r = check_members(x, v, names, "a stage with sources, tokens and fim");

    if (r == 0 && !sources)
        r = fail(x, v, "sources in a stage");
    if (r == 0)
        r = read_number(x, json_get(v, "tokens"), 1, 1e15, "tokens from 1 to 1e15", &tokens);
    if (r == 0 && !last && tokens < 1)
        r = fail(x, v, "tokens in every stage but the last");
    if (r == 0 && last && tokens >= 1)
        r = fail(x, v, "no tokens in the last stage, which goes on to the end of the run");
    if (r == 0)
        r = read_number(x, json_get(v, "fim"), 0, 1, "fim from 0 to 1", &ret->fim);
    if (r == 0)
        r = read_sources(x, sources, ret);
    if (r == 0 && ret->fim > 0 && !has_middle(ret))
        r = fail(x, v, "a middle in one of its sources, or no fim");
    ret->tokens = (int64_t)tokens;
    return r;
}

static int begin(const struct reader *x, const struct json *value, size_t n,
                 struct sourceconf *ret) {
    if (ret->n)
        return fail(x, value, "either sources or stages");
    ret->stages = hai_new_array(struct sourceconf_stage, n);
    return 0;
}

int sourceconf_read_sources(const struct json *value, const char *file, struct sourceconf *ret,
                            struct hai_err *err) {
    const struct reader x = {file, err};
    int r = begin(&x, value, 1, ret);

    return r < 0 ? r : read_sources(&x, value, &ret->stages[ret->n++]);
}

int sourceconf_read_stages(const struct json *value, const char *file, struct sourceconf *ret,
                           struct hai_err *err) {
    const struct reader x = {file, err};

    if (json_kind(value) != JSON_KIND_ARRAY || !json_count(value) ||
        json_count(value) > SOURCECONF_STAGES_MAX)
        return fail(&x, value, "a list of stages");
    int r = begin(&x, value, json_count(value), ret);
    for (const struct json *v = json_first(value); r == 0 && v; v = json_next(v))
        r = read_stage(&x, v, !json_next(v), &ret->stages[ret->n++]);
    return r;
}
