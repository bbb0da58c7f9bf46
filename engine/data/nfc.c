#include "engine/data/nfc.h"
#include "engine/data/charclass.h"
#include "engine/data/utf8.h"

#include <utf8proc.h>

enum {
    PLAIN = 1,
    JOINING_INDEX = 0x8000,
    PARTS_MAX = 18, // characters that one is made of, more than any has
    CLASSES = 256,  // of combining characters
};

struct nfc {
    struct charclass *chars;
    int32_t *parts, *sorted; // scratch: characters of a stretch of text
    size_t n_parts_max;
};

/* The vowels and finals of Hangul join by rule, not by table. */
static bool is_hangul_tail(uint32_t c) {
    return (c >= 0x1161 && c <= 0x1175) || (c >= 0x11A8 && c <= 0x11C2);
}

static bool is_plain(uint32_t c) {
    const utf8proc_property_t *p = utf8proc_get_property((utf8proc_int32_t)c);
    char text[5] = {0};

    if (!c)
        return true; // ends the text that the library reads
    if (p->combining_class || is_hangul_tail(c) ||
        (p->comb_index != UINT16_MAX && p->comb_index >= JOINING_INDEX))
        return false;
    utf8_write(c, text);
    _cleanup_free_ uint8_t *whole = utf8proc_NFC((const uint8_t *)text);
    return whole && !strcmp((const char *)whole, text);
}

static void fill(void *userdata, uint32_t first, uint8_t ret[CHARCLASS_BLOCK]) {
    for (uint32_t i = 0; i < CHARCLASS_BLOCK; i++)
        ret[i] = is_plain(first + i) ? PLAIN : 0;
}

struct nfc *nfc_new(void) {
    struct nfc *nfc = hai_new(struct nfc);

    nfc->chars = charclass_new(fill, NULL);
    return nfc;
}

void nfc_free(struct nfc *nfc) {
    if (!nfc)
        return;
    charclass_free(nfc->chars);
    free(nfc->parts);
    free(nfc->sorted);
    free(nfc);
}

/* The end of the plain text from a place; ret_last receives where its last character begins. */
static size_t plain_run(const struct nfc *nfc, const char *text, size_t n_bytes, size_t at,
                        size_t *ret_last) {
    uint32_t c;

    *ret_last = at;
    while (at < n_bytes) {
        size_t n = utf8_next(text + at, &c);
        // U+0300 is the first that is not plain.
        if (c >= 0x300 && !(charclass_of(nfc->chars, c) & PLAIN))
            break;
        *ret_last = at;
        at += n;
    }
    return at;
}

bool nfc_is_plain(struct nfc *nfc, const char *text, size_t n_bytes) {
    size_t last;

    return plain_run(nfc, text, n_bytes, 0, &last) == n_bytes;
}

static void add_marks(struct buf *ret, const uint8_t *marks, size_t n_from, size_t n_to) {
    uint8_t highest = 0;

    for (size_t i = 0; i < n_from; i++)
        highest = MAX(highest, marks[i]);
    if (n_to)
        memset(buf_extend(ret, n_to), highest, n_to);
}

static size_t class_of(int32_t c) {
    utf8proc_propval_t class = utf8proc_get_property(c)->combining_class;

    assert(class >= 0);
    assert(class < CLASSES);
    return (size_t) class;
}

/* Characters in the order of their classes, those of one class as they stand. Counted, as the
 * library's own way of moving them one place at a time takes quadratic time. */
static void sort_run(int32_t *parts, size_t n, int32_t *scratch) {
    size_t first[CLASSES + 1] = {0};
    bool sorted = true;

    for (size_t i = 0; i < n; i++) {
        first[class_of(parts[i]) + 1]++;
        sorted &= !i || class_of(parts[i - 1]) <= class_of(parts[i]);
    }
    if (sorted)
        return;
    for (size_t i = 1; i < CLASSES; i++)
        first[i] += first[i - 1];
    for (size_t i = 0; i < n; i++)
        scratch[first[class_of(parts[i])]++] = parts[i];
    memcpy(parts, scratch, n * sizeof *parts);
}

/* Each run of combining characters. */
static void sort_parts(int32_t *parts, size_t n, int32_t *scratch) {
    for (size_t at = 0, end; at < n; at = end) {
        for (end = at; end < n && class_of(parts[end]);)
            end++;
        if (end - at > 1)
            sort_run(parts + at, end - at, scratch);
        end += end == at;
    }
}

/* The characters of a text, taken apart. */
static size_t take_apart(struct nfc *nfc, const char *text, size_t n_bytes) {
    size_t n = 0;
    uint32_t c;

    for (size_t at = 0; at < n_bytes;) {
        if (n + PARTS_MAX >= nfc->n_parts_max) {
            nfc->n_parts_max = 2 * (n + PARTS_MAX);
            nfc->parts = hai_realloc_array(nfc->parts, nfc->n_parts_max, sizeof *nfc->parts);
            nfc->sorted = hai_realloc_array(nfc->sorted, nfc->n_parts_max, sizeof *nfc->sorted);
        }
        at += utf8_next(text + at, &c);
        utf8proc_ssize_t n_parts =
            utf8proc_decompose_char((utf8proc_int32_t)c, nfc->parts + n, PARTS_MAX,
                                    UTF8PROC_STABLE | UTF8PROC_COMPOSE, NULL);
        assert(n_parts > 0);
        assert(n_parts <= PARTS_MAX);
        n += (size_t)n_parts;
    }
    return n;
}

static void add_normal(struct nfc *nfc, const char *text, size_t n_bytes, const uint8_t *marks,
                       struct buf *ret, struct buf *ret_marks) {
    size_t n = take_apart(nfc, text, n_bytes);

    sort_parts(nfc->parts, n, nfc->sorted);
    // Joined, and as UTF-8 in the same place, with a zero behind: of a character four bytes at
    // most.
    utf8proc_ssize_t n_normal =
        utf8proc_reencode(nfc->parts, (utf8proc_ssize_t)n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    assert(n_normal >= 0);
    buf_add(ret, nfc->parts, (size_t)n_normal);
    if (marks)
        add_marks(ret_marks, marks, n_bytes, (size_t)n_normal);
}

void nfc_add(struct nfc *nfc, const char *text, size_t n_bytes, const uint8_t *marks,
             struct buf *ret, struct buf *ret_marks) {
    size_t done = 0, last, next;
    uint32_t c;

    while (done < n_bytes) {
        size_t end = plain_run(nfc, text, n_bytes, done, &last);
        size_t keep = end == n_bytes ? end : last; // the last one may join what follows
        buf_add(ret, text + done, keep - done);
        if (marks)
            buf_add(ret_marks, marks + done, keep - done);
        for (next = end; next < n_bytes; next += utf8_next(text + next, &c))
            if (plain_run(nfc, text, next + utf8_next(text + next, &c), next, &last) > next)
                break;
        if (next > keep)
            add_normal(nfc, text + keep, next - keep, marks ? marks + keep : NULL, ret, ret_marks);
        done = next;
    }
}
