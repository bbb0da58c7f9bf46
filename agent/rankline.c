#include "agent/rankline.h"
#include "lib/json.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

enum { WORD_BYTES = 16 }; // of a phase or unit

char *rankline_next(struct buf *in, size_t *at) {
    char *start = (char *)in->data + *at;
    char *end = *at < in->n_bytes ? memchr(start, '\n', in->n_bytes - *at) : NULL;

    if (!end)
        return NULL;
    *end = '\0';
    *at = (size_t)(end + 1 - (char *)in->data);
    return start;
}

static int parse_hello(const char *text, struct rankline *ret, struct hai_err *err) {
    int proto;

    if (sscanf(text, "%d %" SCNd64, &proto, &ret->rank) != 2 || proto != RANK_PROTO)
        return hai_fail(err, -EINVAL, "hello: expected 'hello 1 RANK'");
    return 0;
}

/* The first WORD_BYTES of a text, in whole characters. */
static void set_word(char **ret, const char *value) {
    size_t n = strnlen(value, WORD_BYTES);

    while (!json_is_text(value, n))
        n--;
    free(*ret);
    *ret = hai_strndup(value, n);
}

static void set_number(struct progress_view *p, const char *key, const char *value) {
    double number = strtod(value, NULL);

    if (!isfinite(number))
        return;
    if (!strcmp(key, "step"))
        p->step = MAX((int64_t)strtoll(value, NULL, 10), (int64_t)0);
    else if (!strcmp(key, "steps"))
        p->steps = MAX((int64_t)strtoll(value, NULL, 10), (int64_t)1);
    else if (!strcmp(key, "loss"))
        p->loss = number;
    else if (!strcmp(key, "rate"))
        p->rate = number;
    else if (!strcmp(key, "left_s") && number >= 0 && number < 1e8)
        p->left_us = (int64_t)(number * 1e6);
}

static void parse_progress(char *text, struct progress_view *ret) {
    char *rest = NULL;

    for (char *word = strtok_r(text, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        char *value = strchr(word, '=');
        if (!value)
            continue;
        *value++ = '\0';
        if (!strcmp(word, "unit"))
            set_word(&ret->rate_unit, value);
        else if (!strcmp(word, "phase"))
            set_word(&ret->phase, value);
        else
            set_number(ret, word, value);
    }
}

static int parse_phase(const char *text, struct progress_view *ret, struct hai_err *err) {
    char name[RANK_NAME_MAX + 1];

    if (sscanf(text, "%63s", name) != 1)
        return hai_fail(err, -EINVAL, "phase: expected 'phase NAME SECONDS'");
    set_word(&ret->phase, name);
    return 0;
}

static int parse_commit(const char *text, struct rankline *ret, struct hai_err *err) {
    int dir = 0;

    if (sscanf(text, "%" SCNd64 " %64s %n", &ret->step, ret->digest, &dir) != 2 || !dir ||
        !text[dir])
        return hai_fail(err, -EINVAL, "commit: expected 'commit STEP DIGEST DIR'");
    ret->dir = text + dir;
    return 0;
}

static int parse_gather(const char *text, struct rankline *ret, struct hai_err *err) {
    int hex = 0;

    if (sscanf(text, "%63s%n", ret->round, &hex) != 1 || (text[hex] && text[hex] != ' '))
        return hai_fail(err, -EINVAL, "gather: expected 'gather ROUND HEX', at most %d bytes",
                        RANK_VALUE_MAX);
    ret->hex = text + hex + (text[hex] == ' ');
    return 0;
}

int rankline_parse(char *line, struct rankline *ret, struct hai_err *err) {
    char *text = strchrnul(line, ' ');
    int r = 0;

    *ret = (struct rankline){0};
    // In a report such bytes would make all of it unreadable.
    if (!json_is_text(line, strlen(line)))
        return hai_fail(err, -EINVAL, "not UTF-8");
    if (*text)
        *text++ = '\0';
    schema_init(progress_view_schema(), &ret->progress);
    if (!strcmp(line, "hello")) {
        ret->kind = RANKLINE_HELLO;
        r = parse_hello(text, ret, err);
    } else if (!strcmp(line, "progress")) {
        ret->kind = RANKLINE_PROGRESS;
        parse_progress(text, &ret->progress);
    } else if (!strcmp(line, "phase")) {
        ret->kind = RANKLINE_PROGRESS;
        r = parse_phase(text, &ret->progress, err);
    } else if (!strcmp(line, "commit")) {
        ret->kind = RANKLINE_COMMIT;
        r = parse_commit(text, ret, err);
    } else if (!strcmp(line, "gather")) {
        ret->kind = RANKLINE_GATHER;
        r = parse_gather(text, ret, err);
    } else {
        r = hai_fail(err, -EINVAL, "unknown word");
    }
    if (r < 0)
        rankline_clear(ret);
    return r;
}

void rankline_clear(struct rankline *line) {
    schema_free(progress_view_schema(), &line->progress);
}
