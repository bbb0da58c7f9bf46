#include "storage/gguf.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct {
    const char *name;
    uint32_t number;
    int64_t n_elements;
    size_t n_bytes;
} types[] = {
#define X(name, number, n_elements, n_bytes) {#name, number, n_elements, n_bytes},
    GGUF_TYPES(X)
#undef X
};

/* Types of values in files, and how many bytes they take; texts and arrays differ. */
enum { TYPE_STRING = 8, TYPE_ARRAY = 9, TYPE_COUNT = 13 };

static const struct {
    enum gguf_kind kind;
    size_t n_bytes;
} value_types[TYPE_COUNT] = {
    {GGUF_UINT,   1 },
    {GGUF_INT,    1 },
    {GGUF_UINT,   2 },
    {GGUF_INT,    2 },
    {GGUF_UINT,   4 },
    {GGUF_INT,    4 },
    {GGUF_FLOAT,  4 },
    {GGUF_BOOL,   1 },
    {GGUF_STRING, 8 },
    {GGUF_ARRAY,  12},
    {GGUF_UINT,   8 },
    {GGUF_INT,    8 },
    {GGUF_FLOAT,  8 },
};

enum { ALIGN_DEFAULT = 32, ALIGN_MAX = 1 << 16, MAGIC = 0x46554747 };

#define NAME_SHOWN "%.120s"

struct gguf {
    char *path;
    const uint8_t *bytes;
    size_t n_bytes;
    bool mapped;
    struct gguf_value *values; // keys owned, in order of names
    size_t n_values;
    struct gguf_tensor *tensors; // names owned, in order of names
    size_t n_tensors;
};

const char *gguf_type_name(enum gguf_type type) {
    assert(type < GGUF_TYPE_COUNT);
    return types[type].name;
}

int64_t gguf_block_elements(enum gguf_type type) {
    assert(type < GGUF_TYPE_COUNT);
    return types[type].n_elements;
}

size_t gguf_block_bytes(enum gguf_type type) {
    assert(type < GGUF_TYPE_COUNT);
    return types[type].n_bytes;
}

void gguf_free(struct gguf *g) {
    if (!g)
        return;
    for (size_t i = 0; i < g->n_values; i++)
        free((char *)(uintptr_t)g->values[i].key);
    for (size_t i = 0; i < g->n_tensors; i++)
        free((char *)(uintptr_t)g->tensors[i].name);
    if (g->mapped)
        munmap((void *)(uintptr_t)g->bytes, g->n_bytes);
    free(g->values);
    free(g->tensors);
    free(g->path);
    free(g);
}

/* What is left to read. */
struct cursor {
    const uint8_t *at, *end;
};

static uint64_t little(const uint8_t *p, size_t n) {
    uint64_t x = 0;

    for (size_t i = n; i-- > 0;)
        x = x << 8 | p[i];
    return x;
}

static bool take(struct cursor *c, size_t n, uint64_t *ret) {
    if ((size_t)(c->end - c->at) < n)
        return false;
    *ret = little(c->at, n);
    c->at += n;
    return true;
}

static bool take_text(struct cursor *c, const char **ret, size_t *ret_n) {
    uint64_t n;

    if (!take(c, 8, &n) || n > (uint64_t)(c->end - c->at))
        return false;
    *ret = (const char *)c->at;
    *ret_n = (size_t)n;
    c->at += n;
    return true;
}

static int cut_short(const struct gguf *g, const char *what, struct hai_err *err) {
    return hai_fail(err, -EBADMSG, "%s: " NAME_SHOWN ": the file is cut short there", g->path,
                    what);
}

/* A name of a key or tensor, zero-terminated: printable ASCII, so it can be shown and compared. */
static int take_name(const struct gguf *g, struct cursor *c, const char *what, char **ret,
                     struct hai_err *err) {
    const char *text;
    size_t n;

    if (!take_text(c, &text, &n))
        return cut_short(g, what, err);
    if (n == 0 || n > GGUF_NAME_BYTES_MAX)
        return hai_fail(err, -EBADMSG, "%s: %s of %zu bytes; expected 1 to %d", g->path, what, n,
                        GGUF_NAME_BYTES_MAX);
    for (size_t i = 0; i < n; i++)
        if (text[i] <= ' ' || text[i] > '~')
            return hai_fail(err, -EBADMSG, "%s: %s with a byte that is no printable ASCII", g->path,
                            what);
    *ret = hai_strndup(text, n);
    return 0;
}

/* A value without texts and arrays. */
static struct gguf_value plain_value(uint32_t type, uint64_t bits) {
    struct gguf_value v = {.kind = value_types[type].kind, .number = bits};
    size_t n_bytes = value_types[type].n_bytes;

    if (v.kind == GGUF_INT && n_bytes < 8 && bits >> (8 * n_bytes - 1))
        v.number |= ~(uint64_t)0 << 8 * n_bytes;
    if (v.kind == GGUF_FLOAT && n_bytes == 8)
        memcpy(&v.real, &bits, sizeof v.real);
    if (v.kind == GGUF_FLOAT && n_bytes == 4) {
        uint32_t half = (uint32_t)bits;
        float f;
        memcpy(&f, &half, sizeof f);
        v.real = (double)f;
        v.narrow = true;
    }
    return v;
}

/* Step over the items of an array. */
static bool skip_items(struct cursor *c, uint32_t type, uint64_t n) {
    const char *text;
    size_t n_text;

    if (type != TYPE_STRING) {
        if (n > (uint64_t)(c->end - c->at) / value_types[type].n_bytes)
            return false;
        c->at += n * value_types[type].n_bytes;
        return true;
    }
    for (uint64_t i = 0; i < n; i++)
        if (!take_text(c, &text, &n_text))
            return false;
    return true;
}

static int take_array(const struct gguf *g, struct cursor *c, struct gguf_value *v,
                      struct hai_err *err) {
    uint64_t type, n;

    if (!take(c, 4, &type) || !take(c, 8, &n))
        return cut_short(g, v->key, err);
    if (type >= TYPE_COUNT || type == TYPE_ARRAY)
        return hai_fail(err, -EBADMSG, "%s: " NAME_SHOWN ": an array of type %" PRIu64, g->path,
                        v->key, type);
    if (n > GGUF_ITEMS_MAX)
        return hai_fail(err, -EFBIG, "%s: " NAME_SHOWN ": %" PRIu64 " items; at most %d", g->path,
                        v->key, n, GGUF_ITEMS_MAX);
    v->item_type = (uint32_t)type;
    v->n = n;
    v->items = c->at;
    return skip_items(c, v->item_type, n) ? 0 : cut_short(g, v->key, err);
}

static int take_value(const struct gguf *g, struct cursor *c, struct gguf_value *ret,
                      struct hai_err *err) {
    const char *key = ret->key;
    uint64_t type, bits;

    if (!take(c, 4, &type))
        return cut_short(g, key, err);
    if (type >= TYPE_COUNT)
        return hai_fail(err, -EBADMSG, "%s: " NAME_SHOWN ": a value of type %" PRIu64, g->path, key,
                        type);
    ret->kind = value_types[type].kind;
    if (type == TYPE_ARRAY)
        return take_array(g, c, ret, err);
    if (type == TYPE_STRING)
        return take_text(c, &ret->text, &ret->n_bytes) ? 0 : cut_short(g, key, err);
    if (!take(c, value_types[type].n_bytes, &bits))
        return cut_short(g, key, err);
    *ret = plain_value((uint32_t)type, bits);
    ret->key = key;
    if (ret->kind == GGUF_BOOL && bits > 1)
        return hai_fail(err, -EBADMSG, "%s: " NAME_SHOWN ": a truth value of %" PRIu64, g->path,
                        key, bits);
    return 0;
}

struct gguf_value gguf_next(const struct gguf_value *array, const uint8_t **at) {
    struct cursor c = {*at, *at + SIZE_MAX / 4};
    struct gguf_value v = {.kind = GGUF_STRING};
    uint64_t bits = 0;

    if (array->item_type == TYPE_STRING) {
        c.end = c.at + 8;
        (void)take(&c, 8, &bits);
        v.text = (const char *)c.at;
        v.n_bytes = (size_t)bits;
        *at = c.at + bits;
        return v;
    }
    size_t n = value_types[array->item_type].n_bytes;
    bits = little(*at, n);
    *at += n;
    return plain_value(array->item_type, bits);
}

static int take_tensor(const struct gguf *g, struct cursor *c, struct gguf_tensor *t,
                       uint64_t *ret_offset, struct hai_err *err) {
    uint64_t n_dims, size, type, n_elements = 1;

    if (!take(c, 4, &n_dims))
        return cut_short(g, t->name, err);
    if (n_dims < 1 || n_dims > GGUF_DIMS_MAX)
        return hai_fail(err, -EBADMSG, "%s: " NAME_SHOWN ": %" PRIu64 " dimensions; 1 to %d",
                        g->path, t->name, n_dims, GGUF_DIMS_MAX);
    t->n_dims = (int)n_dims;
    for (int i = 0; i < GGUF_DIMS_MAX; i++) {
        size = 1;
        if (i < t->n_dims && !take(c, 8, &size))
            return cut_short(g, t->name, err);
        if (size < 1 || size > INT64_MAX || __builtin_mul_overflow(n_elements, size, &n_elements))
            return hai_fail(err, -EBADMSG, "%s: " NAME_SHOWN ": its shape is empty or overflows",
                            g->path, t->name);
        t->shape[i] = (int64_t)size;
    }
    if (!take(c, 4, &type) || !take(c, 8, ret_offset))
        return cut_short(g, t->name, err);
    int k = 0;
    while (k < GGUF_TYPE_COUNT && types[k].number != type)
        k++;
    if (k == GGUF_TYPE_COUNT)
        return hai_fail(err, -ENOTSUP, "%s: " NAME_SHOWN ": type %" PRIu64 " is not known", g->path,
                        t->name, type);
    t->type = (enum gguf_type)k;
    if (t->shape[0] % types[k].n_elements)
        return hai_fail(err, -EBADMSG,
                        "%s: " NAME_SHOWN ": rows of %" PRId64 " are no whole blocks of %s",
                        g->path, t->name, t->shape[0], types[k].name);
    if (__builtin_mul_overflow(n_elements / (uint64_t)types[k].n_elements, types[k].n_bytes,
                               &t->n_bytes))
        return hai_fail(err, -EBADMSG, "%s: " NAME_SHOWN ": its shape overflows", g->path, t->name);
    return 0;
}

static int compare_key(const void *a, const void *b) {
    return strcmp(((const struct gguf_value *)a)->key, ((const struct gguf_value *)b)->key);
}

static int compare_name(const void *a, const void *b) {
    return strcmp(((const struct gguf_tensor *)a)->name, ((const struct gguf_tensor *)b)->name);
}

static int compare_place(const void *a, const void *b) {
    const struct gguf_tensor *x = *(void *const *)a, *y = *(void *const *)b;

    return x->data < y->data ? -1 : x->data > y->data;
}

static int read_values(struct gguf *g, struct cursor *c, uint64_t n, struct hai_err *err) {
    g->values = hai_new_array(struct gguf_value, (size_t)n);
    for (uint64_t i = 0; i < n; i++) {
        char *key = NULL;
        int r = take_name(g, c, "a key", &key, err);
        if (r < 0)
            return r;
        g->values[g->n_values++] = (struct gguf_value){.key = key};
        r = take_value(g, c, &g->values[i], err);
        if (r < 0)
            return r;
    }
    if (n)
        qsort(g->values, (size_t)n, sizeof *g->values, compare_key);
    for (size_t i = 1; i < g->n_values; i++)
        if (hai_streq(g->values[i].key, g->values[i - 1].key))
            return hai_fail(err, -EBADMSG, "%s: key " NAME_SHOWN " comes twice", g->path,
                            g->values[i].key);
    return 0;
}

static int read_alignment(const struct gguf *g, uint64_t *ret, struct hai_err *err) {
    const struct gguf_value *v = gguf_find(g, "general.alignment");

    *ret = v ? v->number : ALIGN_DEFAULT;
    if (v && (v->kind != GGUF_UINT || *ret < 8 || *ret > ALIGN_MAX || *ret & (*ret - 1)))
        return hai_fail(err, -EBADMSG,
                        "%s: general.alignment is %" PRIu64 "; expected a power of two from 8 to "
                        "%d",
                        g->path, *ret, ALIGN_MAX);
    return 0;
}

static uint64_t round_up(uint64_t x, uint64_t align) {
    return (x + align - 1) & ~(align - 1);
}

/* Tensors must follow each other with padding alone between them, to the end of the file. */
static int check_cover(const struct gguf *g, const uint8_t *data, uint64_t align,
                       struct hai_err *err) {
    _cleanup_free_ const struct gguf_tensor **order =
        hai_new_array(const struct gguf_tensor *, g->n_tensors);
    uint64_t end = 0, n_data = (uint64_t)(g->bytes + g->n_bytes - data);

    for (size_t i = 0; i < g->n_tensors; i++)
        order[i] = &g->tensors[i];
    if (g->n_tensors)
        qsort(order, g->n_tensors, sizeof *order, compare_place);
    for (size_t i = 0; i < g->n_tensors; i++) {
        uint64_t at = (uint64_t)(order[i]->data - data);
        if (at < end)
            return hai_fail(err, -EBADMSG, "%s: tensors %.100s and %.100s overlap", g->path,
                            order[i - 1]->name, order[i]->name);
        if (at != round_up(end, align))
            return hai_fail(err, -EBADMSG,
                            "%s: %" PRIu64 " bytes before tensor " NAME_SHOWN
                            " belong to no tensor",
                            g->path, at - end, order[i]->name);
        end = at + order[i]->n_bytes;
    }
    if (n_data > round_up(end, align))
        return hai_fail(err, -EBADMSG, "%s: %" PRIu64 " bytes after the last tensor", g->path,
                        n_data - end);
    return 0;
}

static int read_tensors(struct gguf *g, struct cursor *c, uint64_t n, struct hai_err *err) {
    _cleanup_free_ uint64_t *offsets = hai_new_array(uint64_t, (size_t)n);
    uint64_t align;

    int r = read_alignment(g, &align, err);
    if (r < 0)
        return r;
    g->tensors = hai_new_array(struct gguf_tensor, (size_t)n);
    for (uint64_t i = 0; i < n; i++) {
        char *name = NULL;
        r = take_name(g, c, "a tensor's name", &name, err);
        if (r < 0)
            return r;
        g->tensors[g->n_tensors++] = (struct gguf_tensor){.name = name};
        r = take_tensor(g, c, &g->tensors[i], &offsets[i], err);
        if (r < 0)
            return r;
    }
    uint64_t data_at = round_up((uint64_t)(c->at - g->bytes), align);
    if (n && data_at > g->n_bytes)
        return cut_short(g, "the data", err);
    for (uint64_t i = 0; i < n; i++) {
        struct gguf_tensor *t = &g->tensors[i];
        uint64_t n_data = g->n_bytes - data_at;
        if (offsets[i] % align || offsets[i] > n_data || t->n_bytes > n_data - offsets[i])
            return hai_fail(err, -EBADMSG,
                            "%s: " NAME_SHOWN ": %zu bytes at %" PRIu64
                            " are unaligned or outside the file's %" PRIu64 " bytes of data",
                            g->path, t->name, t->n_bytes, offsets[i], n_data);
        t->data = g->bytes + data_at + offsets[i];
    }
    r = n ? check_cover(g, g->bytes + data_at, align, err) : 0;
    if (r < 0)
        return r;
    if (n)
        qsort(g->tensors, (size_t)n, sizeof *g->tensors, compare_name);
    for (size_t i = 1; i < g->n_tensors; i++)
        if (hai_streq(g->tensors[i].name, g->tensors[i - 1].name))
            return hai_fail(err, -EBADMSG, "%s: tensor " NAME_SHOWN " comes twice", g->path,
                            g->tensors[i].name);
    return 0;
}

static int read_all(struct gguf *g, struct hai_err *err) {
    struct cursor c = {g->bytes, g->bytes + g->n_bytes};
    uint64_t magic, version, n_tensors, n_values;

    if (!take(&c, 4, &magic) || magic != MAGIC || !take(&c, 4, &version))
        return hai_fail(err, -EBADMSG, "%s: not a GGUF file", g->path);
    if (version != 2 && version != 3)
        return hai_fail(err, -ENOTSUP, "%s: GGUF version %" PRIu64 "; expected 2 or 3", g->path,
                        version);
    if (!take(&c, 8, &n_tensors) || !take(&c, 8, &n_values))
        return cut_short(g, "the header", err);
    if (n_tensors > GGUF_TENSORS_MAX || n_values > GGUF_KEYS_MAX)
        return hai_fail(err, -EFBIG,
                        "%s: %" PRIu64 " tensors and %" PRIu64 " keys; at most %d and %d", g->path,
                        n_tensors, n_values, GGUF_TENSORS_MAX, GGUF_KEYS_MAX);
    int r = read_values(g, &c, n_values, err);
    return r < 0 ? r : read_tensors(g, &c, n_tensors, err);
}

int gguf_open_bytes(const void *bytes, size_t n_bytes, struct gguf **ret, struct hai_err *err) {
    _cleanup_(gguf_freep) struct gguf *g = hai_new(struct gguf);

    g->path = hai_strdup("bytes");
    g->bytes = bytes;
    g->n_bytes = n_bytes;
    int r = read_all(g, err);
    if (r == 0)
        *ret = TAKE_PTR(g);
    return r;
}

static void fd_closep(int *fd) {
    if (*fd >= 0)
        close(*fd);
}

int gguf_open(const char *path, struct gguf **ret, struct hai_err *err) {
    _cleanup_(gguf_freep) struct gguf *g = hai_new(struct gguf);
    _cleanup_(fd_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;

    g->path = hai_strdup(path);
    if (fd < 0 || fstat(fd, &st) < 0)
        return hai_fail(err, -errno, "%s: %m", path);
    if (!S_ISREG(st.st_mode) || st.st_size == 0)
        return hai_fail(err, -EBADMSG, "%s: not a GGUF file", path);
    void *bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED)
        return hai_fail(err, -errno, "%s: mapping %lld bytes: %m", path, (long long)st.st_size);
    g->bytes = bytes;
    g->n_bytes = (size_t)st.st_size;
    g->mapped = true;
    int r = read_all(g, err);
    if (r == 0)
        *ret = TAKE_PTR(g);
    return r;
}

const char *gguf_path(const struct gguf *g) {
    return g->path;
}

size_t gguf_n_values(const struct gguf *g) {
    return g->n_values;
}

const struct gguf_value *gguf_value_at(const struct gguf *g, size_t i) {
    assert(i < g->n_values);
    return &g->values[i];
}

const struct gguf_value *gguf_find(const struct gguf *g, const char *key) {
    const struct gguf_value wanted = {.key = key};

    return g->n_values ? bsearch(&wanted, g->values, g->n_values, sizeof wanted, compare_key)
                       : NULL;
}

size_t gguf_n_tensors(const struct gguf *g) {
    return g->n_tensors;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i) {
    assert(i < g->n_tensors);
    return &g->tensors[i];
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name) {
    const struct gguf_tensor wanted = {.name = name};

    return g->n_tensors ? bsearch(&wanted, g->tensors, g->n_tensors, sizeof wanted, compare_name)
                        : NULL;
}
