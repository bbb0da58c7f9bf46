#include "scheduler/masking.h"

#include "lib/json.h"
#include "scheduler/core/quota.h"
#include <stdio.h>

/* Members that name nodes, and those that are sentences of hai's. */
static const char *const masked[] = {
    "node",    "nodes",  "node_names", "message", "starts", "sooner", "last_fault",
    "address", "health", "reason",     "error",   "hint",   "where",
};

/* The job that a text is about. */
struct about {
    const struct state *state;
    const struct job *job;    // NULL: none that the state has
    const struct json *names; // or the nodes of one that it has no more
    struct buf seen;          // numbers of nodes that a job without nodes will start on
};

bool masking_needed(const struct state *state, const char *user, enum scope scope) {
    return scope < SCOPE_OPERATE && user[0] && quota_external(state, user);
}

static bool is_masked(const char *key) {
    for (size_t i = 0; key && i < ARRAY_SIZE(masked); i++)
        if (!strcmp(masked[i], key))
            return true;
    return false;
}

/* The position of a node in the job's allocation, -1: it is not in it. */
static int64_t position_of(struct about *about, int node, const char *name, bool starts) {
    int64_t n = 0;

    if (about->job && about->job->r.allocs.n) {
        for (size_t i = 0; i < about->job->r.allocs.n; i++)
            if (about->job->r.allocs.items[i].node == node)
                return (int64_t)i;
        return -1;
    }
    for (const struct json *one = json_first(about->names); one; one = json_next(one), n++)
        if (json_kind(one) == JSON_KIND_STRING && !strcmp(json_as_string(one), name))
            return n;
    if (!starts)
        return -1;
    const int *seen = (const int *)(const void *)about->seen.data;
    size_t n_seen = about->seen.n_bytes / sizeof node;
    for (size_t i = 0; i < n_seen; i++)
        if (seen[i] == node)
            return (int64_t)i;
    buf_add(&about->seen, &node, sizeof node);
    return (int64_t)n_seen;
}

static bool in_name(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
}

static void add_word(struct about *about, const char *word, size_t n, bool starts,
                     struct buf *ret) {
    size_t n_name = n;

    while (n_name && (word[n_name - 1] == '.' || word[n_name - 1] == '-')) // ends a sentence
        n_name--;
    _cleanup_free_ char *name = hai_strndup(word, n_name);
    int node = state_node_find(about->state, name);
    size_t n_host = strcspn(name, ".");
    if (node < 0 && n_host < n_name) { // a1.example.com
        name[n_name = n_host] = '\0';
        node = state_node_find(about->state, name);
    }
    if (node < 0) {
        buf_add(ret, word, n);
        return;
    }
    int64_t position = position_of(about, node, name, starts);
    if (position < 0)
        buf_add_str(ret, "a node");
    else
        buf_printf(ret, "node-%lld", (long long)position + 1);
    buf_add(ret, word + n_name, n - n_name);
}

static struct json *mask_text(struct about *about, const char *text) {
    _cleanup_(buf_free) struct buf out = {0};
    bool starts = strstr(text, "starts now on") != NULL;

    while (*text) {
        size_t n = 0;
        while (in_name(text[n]))
            n++;
        if (n)
            add_word(about, text, n, starts, &out);
        else
            buf_add(&out, text, n = 1);
        text += n;
    }
    return json_new_string(buf_cstr(&out));
}

static struct json *copy(struct about *about, const struct json *from, bool mask);

/* Members of an object may be about another job than the object around it. */
static struct json *copy_object(const struct about *around, const struct json *from) {
    struct about about = *around;
    struct json *ret = json_new_object();
    int64_t id = json_get_int(from, "job", json_get_int(from, "id", 0));
    const struct json *names = json_get(from, "node_names");

    about.seen = (struct buf){0};
    if (id) {
        about.job = state_job_find(around->state, id);
        about.names = NULL;
    }
    if (json_count(names))
        about.names = names;
    bool event = json_get(from, "at") && json_get(from, "kind"); // a node may have caused it
    for (const struct json *one = json_first(from); one; one = json_next(one))
        json_add(ret, json_key(one),
                 copy(&about, one,
                      is_masked(json_key(one)) || (event && !strcmp(json_key(one), "user"))));
    buf_free(&about.seen);
    return ret;
}

static struct json *copy_array(struct about *about, const struct json *from, bool mask) {
    struct json *ret = json_new_array();

    for (const struct json *one = json_first(from); one; one = json_next(one))
        json_append(ret, copy(about, one, mask));
    return ret;
}

static struct json *copy(struct about *about, const struct json *from, bool mask) {
    switch (json_kind(from)) {
    case JSON_KIND_BOOL:
        return json_new_bool(json_as_bool(from));
    case JSON_KIND_INT:
        return json_new_int(json_as_int(from));
    case JSON_KIND_REAL:
        return json_new_real(json_as_real(from));
    case JSON_KIND_STRING:
        return mask ? mask_text(about, json_as_string(from))
                    : json_new_string(json_as_string(from));
    case JSON_KIND_ARRAY:
        return copy_array(about, from, mask);
    case JSON_KIND_OBJECT:
        return copy_object(about, from);
    default:
        return json_new_null();
    }
}

int masking_apply(const struct state *state, struct buf *text, struct hai_err *err) {
    struct about about = {.state = state};
    _cleanup_(json_freep) struct json *tree = NULL;
    bool line = text->n_bytes && text->data[text->n_bytes - 1] == '\n';

    int r = json_parse(text->data, text->n_bytes, NULL, &tree, err);
    if (r < 0)
        return r;
    _cleanup_(json_freep) struct json *masked_tree = copy(&about, tree, false);
    buf_clear(text);
    json_dump(masked_tree, 0, text);
    if (line)
        buf_add_str(text, "\n");
    return 0;
}
