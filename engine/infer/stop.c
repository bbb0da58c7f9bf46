#include "engine/infer/stop.h"

struct stop_string {
    char *bytes;
    int n_bytes;
    int *back; // [n_bytes + 1] the longest start of the string that ends its first i bytes
};

struct stop_rules {
    struct stop_string strings[STOP_STRINGS_MAX];
    int32_t ids[STOP_IDS_MAX];
    int n_strings, n_ids, n_bytes_max;
    bool keep;
};

struct stop {
    const struct stop_rules *rules;
    int matched[STOP_STRINGS_MAX]; // bytes of each string that the text ends with
    int found;
    size_t n_held;
    uint8_t *held; // [n_bytes_max]
};

void stop_rules_free(struct stop_rules *rules) {
    if (!rules)
        return;
    for (int i = 0; i < rules->n_strings; i++) {
        free(rules->strings[i].bytes);
        free(rules->strings[i].back);
    }
    free(rules);
}

/* The string's own overlaps. */
static void find_back(struct stop_string *s) {
    s->back = hai_new_array(int, (size_t)s->n_bytes + 1);
    for (int i = 1, k = 0; i < s->n_bytes; i++) {
        while (k > 0 && s->bytes[i] != s->bytes[k])
            k = s->back[k];
        k += s->bytes[i] == s->bytes[k];
        s->back[i + 1] = k;
    }
}

int stop_rules_new(const char *const *strings, int n_strings, const int32_t *ids, int n_ids,
                   bool keep, struct stop_rules **ret, struct hai_err *err) {
    _cleanup_(stop_rules_freep) struct stop_rules *rules = hai_new(struct stop_rules);

    if (n_strings > STOP_STRINGS_MAX || n_ids > STOP_IDS_MAX)
        return hai_fail(err, -EINVAL, "%d stop strings and %d stop ids; expected at most %d and %d",
                        n_strings, n_ids, STOP_STRINGS_MAX, STOP_IDS_MAX);
    for (int i = 0; i < n_strings; i++) {
        size_t n_bytes = strlen(strings[i]);
        if (n_bytes == 0 || n_bytes > STOP_BYTES_MAX)
            return hai_fail(err, -EINVAL, "a stop string has %zu bytes; expected 1 to %d", n_bytes,
                            STOP_BYTES_MAX);
        struct stop_string *s = &rules->strings[rules->n_strings++];
        s->bytes = hai_strndup(strings[i], n_bytes);
        s->n_bytes = (int)n_bytes;
        find_back(s);
        rules->n_bytes_max = MAX(rules->n_bytes_max, s->n_bytes);
    }
    for (int i = 0; i < n_ids; i++)
        rules->ids[rules->n_ids++] = ids[i];
    rules->keep = keep;
    *ret = TAKE_PTR(rules);
    return 0;
}

bool stop_rules_has_id(const struct stop_rules *rules, int32_t id) {
    for (int i = 0; i < rules->n_ids; i++)
        if (rules->ids[i] == id)
            return true;
    return false;
}

struct stop *stop_new(const struct stop_rules *rules) {
    struct stop *s = hai_new(struct stop);

    *s = (struct stop){.rules = rules, .found = -1};
    s->held = hai_alloc((size_t)rules->n_bytes_max + 1);
    return s;
}

void stop_free(struct stop *s) {
    if (!s)
        return;
    free(s->held);
    free(s);
}

/* One byte more for every string. Returns the longest string that is complete, or -1; *ret_held is
 * the longest start of a string that the text ends with. */
static int advance(struct stop *s, uint8_t byte, size_t *ret_held) {
    int found = -1, held = 0;

    for (int i = 0; i < s->rules->n_strings; i++) {
        const struct stop_string *x = &s->rules->strings[i];
        int k = s->matched[i];
        while (k > 0 && (uint8_t)x->bytes[k] != byte)
            k = x->back[k];
        k += (uint8_t)x->bytes[k] == byte;
        s->matched[i] = k;
        held = MAX(held, k);
        if (k == x->n_bytes && (found < 0 || x->n_bytes > s->rules->strings[found].n_bytes))
            found = i;
    }
    *ret_held = (size_t)held;
    return found;
}

/* Give out the first n of the bytes held. */
static void release(struct stop *s, size_t n, struct buf *ret) {
    buf_add(ret, s->held, n);
    memmove(s->held, s->held + n, s->n_held - n);
    s->n_held -= n;
}

int stop_add(struct stop *s, const void *bytes, size_t n_bytes, struct buf *ret) {
    const uint8_t *p = bytes;

    assert(s->found < 0);
    for (size_t i = 0; i < n_bytes; i++) {
        size_t n_held;
        int found = advance(s, p[i], &n_held);
        s->held[s->n_held++] = p[i];
        if (found >= 0) {
            size_t n = (size_t)s->rules->strings[found].n_bytes;
            release(s, s->n_held - (s->rules->keep ? 0 : n), ret);
            s->n_held = 0;
            s->found = found;
            return 1;
        }
        if (s->n_held > n_held)
            release(s, s->n_held - n_held, ret);
    }
    return 0;
}

void stop_end(struct stop *s, struct buf *ret) {
    release(s, s->n_held, ret);
}

int stop_found(const struct stop *s) {
    return s->found;
}

size_t stop_held(const struct stop *s) {
    return s->n_held;
}
