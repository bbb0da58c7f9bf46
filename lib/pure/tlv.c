#include "lib/pure/tlv.h"

static uint64_t zigzag(int64_t v) {
    return ((uint64_t)v << 1) ^ (uint64_t)(v >> 63);
}

static int64_t unzigzag(uint64_t v) {
    return (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
}

static int varint_bytes(uint64_t v) {
    int n = 1;

    while (v >= 0x80) {
        v >>= 7;
        n++;
    }
    return n;
}

static void add_number(struct buf *b, int64_t v) {
    uint64_t z = zigzag(v);

    buf_add_u8(b, (uint8_t)varint_bytes(z));
    buf_add_varint(b, z);
}

static void add_bytes(struct buf *b, const void *data, size_t n_bytes) {
    buf_add_varint(b, n_bytes);
    buf_add(b, data, n_bytes);
}

/* What follows may be of any length, so it is written first and its length put before it. */
static void add_nested(struct buf *b, const struct buf *inner) {
    add_bytes(b, inner->data, inner->n_bytes);
}

static void add_list(const struct schema_field *f, const struct schema_list *list, struct buf *b) {
    _cleanup_(buf_free) struct buf all = {0};
    _cleanup_(buf_free) struct buf one = {0};
    size_t n_bytes = schema_item_bytes(f);

    buf_add_varint(&all, list->n);
    for (size_t i = 0; i < list->n; i++) {
        const void *item = (const char *)list->items + i * n_bytes;
        if (f->type == SCHEMA_LIST_SUB) {
            buf_clear(&one);
            tlv_encode(f->sub(), item, &one);
            add_nested(&all, &one);
        } else if (f->type == SCHEMA_LIST_STR) {
            const char *text = *(char *const *)item;
            add_bytes(&all, text, text ? strlen(text) : 0);
        } else if (f->type == SCHEMA_LIST_PAIR) {
            const struct schema_pair *pair = item;
            add_bytes(&all, pair->key, strlen(pair->key));
            add_bytes(&all, pair->value, strlen(pair->value));
        } else {
            add_number(&all, *(const int64_t *)item);
        }
    }
    add_nested(b, &all);
}

static bool is_absent(const struct schema_field *f, const void *at) {
    switch (f->type) {
    case SCHEMA_I64:
    case SCHEMA_TIME:
    case SCHEMA_DURATION:
    case SCHEMA_SIZE:
        return *(const int64_t *)at == S_ABSENT;
    case SCHEMA_ENUM:
        return *(const int *)at < 0;
    case SCHEMA_STR:
        return *(char *const *)at == NULL;
    case SCHEMA_BLOB:
        return ((const struct schema_blob *)at)->n_bytes == 0;
    case SCHEMA_LIST_SUB:
    case SCHEMA_LIST_STR:
    case SCHEMA_LIST_I64:
    case SCHEMA_LIST_PAIR:
        return ((const struct schema_list *)at)->n == 0;
    default:
        return false;
    }
}

static void add_field(const struct schema_field *f, const void *at, struct buf *b) {
    switch (f->type) {
    case SCHEMA_BOOL:
        add_number(b, *(const bool *)at);
        break;
    case SCHEMA_ENUM:
        add_number(b, *(const int *)at);
        break;
    case SCHEMA_STR:
        add_bytes(b, *(char *const *)at, strlen(*(char *const *)at));
        break;
    case SCHEMA_BLOB: {
        const struct schema_blob *blob = at;
        add_bytes(b, blob->data, blob->n_bytes);
        break;
    }
    case SCHEMA_SUB: {
        _cleanup_(buf_free) struct buf inner = {0};
        tlv_encode(f->sub(), at, &inner);
        add_nested(b, &inner);
        break;
    }
    case SCHEMA_LIST_SUB:
    case SCHEMA_LIST_STR:
    case SCHEMA_LIST_I64:
    case SCHEMA_LIST_PAIR:
        add_list(f, at, b);
        break;
    default:
        assert(f->type != SCHEMA_F64);
        assert(f->type != SCHEMA_JSON);
        add_number(b, *(const int64_t *)at);
    }
}

void tlv_encode(const struct schema *schema, const void *value, struct buf *ret) {
    for (int i = 0; i < schema->n_fields; i++) {
        const struct schema_field *f = &schema->fields[i];
        const void *at = (const char *)value + f->offset;
        if (is_absent(f, at))
            continue;
        buf_add_varint(ret, (uint64_t)i + 1);
        add_field(f, at, ret);
    }
}

static int take_bytes(struct cursor *c, struct cursor *ret) {
    uint64_t n;
    int r = cursor_varint(c, &n);

    if (r < 0)
        return r;
    *ret = (struct cursor){0};
    if (n > cursor_left(c))
        return -EBADMSG;
    ret->n_bytes = n;
    return cursor_bytes(c, n, &ret->data);
}

static int take_text(struct cursor *c, char **ret) {
    struct cursor bytes;
    int r = take_bytes(c, &bytes);

    if (r < 0)
        return r;
    if (memchr(bytes.data, 0, bytes.n_bytes))
        return -EBADMSG;
    *ret = hai_strndup((const char *)bytes.data, bytes.n_bytes);
    return 0;
}

static int take_number(struct cursor *c, int64_t *ret) {
    struct cursor bytes;
    uint64_t v;
    int r = take_bytes(c, &bytes);

    if (r < 0)
        return r;
    r = cursor_varint(&bytes, &v);
    if (r < 0)
        return r;
    if (cursor_left(&bytes))
        return -EBADMSG;
    *ret = unzigzag(v);
    return 0;
}

static int decode_struct(const struct schema *schema, struct cursor c, void *ret);

static int take_item(const struct schema_field *f, struct cursor *c, void *item) {
    struct cursor inner;

    switch (f->type) {
    case SCHEMA_LIST_SUB: {
        int r = take_bytes(c, &inner);
        return r < 0 ? r : decode_struct(f->sub(), inner, item);
    }
    case SCHEMA_LIST_STR:
        return take_text(c, item);
    case SCHEMA_LIST_PAIR: {
        struct schema_pair *pair = item;
        int r = take_text(c, &pair->key);
        return r < 0 ? r : take_text(c, &pair->value);
    }
    default:
        return take_number(c, item);
    }
}

static int take_list(const struct schema_field *f, struct cursor c, struct schema_list *list) {
    size_t n_bytes = schema_item_bytes(f);
    uint64_t n;
    int r = cursor_varint(&c, &n);

    if (r < 0)
        return r;
    if (n > (uint64_t)f->n_max || n > cursor_left(&c))
        return -EBADMSG; // an element takes at least one byte
    for (uint64_t i = 0; i < n; i++) {
        r = take_item(f, &c, schema_list_add(list, n_bytes));
        if (r < 0)
            return r;
    }
    return cursor_left(&c) ? -EBADMSG : 0;
}

static int take_small(const struct schema_field *f, struct cursor *c, void *at) {
    int64_t v;
    int r = take_number(c, &v);

    if (r < 0)
        return r;
    if (f->type == SCHEMA_BOOL) {
        if (v != 0 && v != 1)
            return -EBADMSG;
        *(bool *)at = v;
    } else {
        if (v < 0 || v >= f->enums->n_texts)
            return -EBADMSG;
        *(int *)at = (int)v;
    }
    return 0;
}

static int take_field(const struct schema_field *f, struct cursor *c, void *at) {
    struct cursor inner;
    int r;

    switch (f->type) {
    case SCHEMA_BOOL:
    case SCHEMA_ENUM:
        return take_small(f, c, at);
    case SCHEMA_STR:
        return take_text(c, at);
    case SCHEMA_I64:
    case SCHEMA_TIME:
    case SCHEMA_DURATION:
    case SCHEMA_SIZE:
        return take_number(c, at);
    default:
        break;
    }
    r = take_bytes(c, &inner);
    if (r < 0)
        return r;
    if (f->type == SCHEMA_SUB)
        return decode_struct(f->sub(), inner, at);
    if (f->type == SCHEMA_BLOB) {
        struct schema_blob *blob = at;
        blob->data = hai_alloc(inner.n_bytes);
        blob->n_bytes = inner.n_bytes;
        memcpy(blob->data, inner.data, inner.n_bytes);
        return 0;
    }
    return f->type == SCHEMA_F64 || f->type == SCHEMA_JSON ? -EBADMSG : take_list(f, inner, at);
}

/* Tags must ascend: so no field comes twice and nothing owned is overwritten. */
static int decode_struct(const struct schema *schema, struct cursor c, void *ret) {
    uint64_t last = 0;

    schema_init(schema, ret);
    while (cursor_left(&c)) {
        uint64_t tag;
        struct cursor skipped;
        int r = cursor_varint(&c, &tag);
        if (r < 0)
            return r;
        if (tag <= last)
            return -EBADMSG;
        last = tag;
        if (tag > (uint64_t)schema->n_fields) {
            r = take_bytes(&c, &skipped);
        } else {
            const struct schema_field *f = &schema->fields[tag - 1];
            r = take_field(f, &c, (char *)ret + f->offset);
        }
        if (r < 0)
            return r;
    }
    return 0;
}

int tlv_decode(const struct schema *schema, const void *data, size_t n_bytes, void *ret,
               struct hai_err *err) {
    int r = decode_struct(schema, (struct cursor){data, n_bytes, 0}, ret);

    if (r < 0)
        r = hai_fail(err, r, "%s: the bytes are no encoding of it", schema->name);
    else
        r = schema_check(schema, ret, err);
    if (r < 0)
        schema_free(schema, ret);
    return r;
}
