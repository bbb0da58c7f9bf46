#include "engine/infer/prefix_file.h"
#include "lib/digest.h"
#include "lib/fileio.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

static const uint32_t NO_PARENT = UINT32_MAX;

/* What a header says beside the owner. */
struct shape {
    uint32_t n_nodes;
    uint64_t index_bytes, pages_at, n_bytes; // of the index; where pages begin; of the file
};

static struct shape shape_of(uint32_t n_nodes, int32_t page_tokens, int64_t page_bytes) {
    uint64_t record = PREFIX_FILE_RECORD_BYTES + 4 * (uint64_t)page_tokens;
    struct shape s = {.n_nodes = n_nodes, .index_bytes = n_nodes * record};
    uint64_t end = PREFIX_FILE_HEADER_BYTES + s.index_bytes;

    s.pages_at = (end + PREFIX_FILE_ALIGN - 1) / PREFIX_FILE_ALIGN * PREFIX_FILE_ALIGN;
    s.n_bytes = s.pages_at + n_nodes * (uint64_t)page_bytes;
    return s;
}

static void check_owner(const struct prefix_file_owner *owner) {
    assert(owner->page_bytes >= 1);
    assert(owner->page_bytes <= PREFIX_FILE_PAGE_BYTES_MAX);
    assert(memchr(owner->kernel_path, 0, PREFIX_FILE_PATH_BYTES));
}

static void put_header(struct buf *b, const struct prefix_file_owner *owner, int32_t page_tokens,
                       const struct shape *s, uint64_t index_sum) {
    char path[PREFIX_FILE_PATH_BYTES] = "";

    memcpy(path, owner->kernel_path, strlen(owner->kernel_path));
    buf_add(b, PREFIX_FILE_MAGIC, strlen(PREFIX_FILE_MAGIC));
    buf_add_u32(b, PREFIX_FILE_VERSION);
    buf_add_u32(b, (uint32_t)page_tokens);
    buf_add(b, owner->weights_hash, sizeof owner->weights_hash);
    buf_add(b, path, sizeof path);
    buf_add_u32(b, owner->cache_dtype);
    buf_add_u32(b, s->n_nodes);
    buf_add_u64(b, (uint64_t)owner->page_bytes);
    buf_add_u64(b, s->n_bytes);
    buf_add_u64(b, 0);
    assert(b->n_bytes == PREFIX_FILE_INDEX_SUM_AT);
    buf_add_u64(b, index_sum);
    assert(b->n_bytes == PREFIX_FILE_HEADER_SUM_AT);
    buf_add_u64(b, digest_xxh3(b->data, b->n_bytes));
    assert(b->n_bytes == PREFIX_FILE_HEADER_BYTES);
}

static void put_record(struct buf *b, const struct prefix *t, int32_t node, int32_t page_tokens,
                       const uint32_t *numbers, uint64_t sum) {
    int32_t parent = prefix_parent(t, node);
    const int32_t *ids = prefix_ids(t, node);

    buf_add_u32(b, parent == PREFIX_NONE ? NO_PARENT : numbers[parent]);
    buf_add_u64(b, prefix_key(t, node));
    buf_add_u64(b, sum);
    for (int32_t i = 0; i < page_tokens; i++)
        buf_add_u32(b, (uint32_t)ids[i]);
}

/* Pages first, as the index holds their sums; then index and header. */
static int write_all(int fd, const struct prefix *t, const struct prefix_file_owner *owner,
                     const struct shape *s, const struct prefix_file_bytes *bytes,
                     struct hai_err *err) {
    int32_t n_nodes = prefix_n_nodes(t), page_tokens = pages_tokens(prefix_pages(t));
    _cleanup_free_ int32_t *list = hai_new_array(int32_t, (size_t)n_nodes);
    _cleanup_free_ uint32_t *numbers =
        hai_new_array(uint32_t, (size_t)pages_count(prefix_pages(t)));
    _cleanup_free_ void *page = hai_alloc((size_t)owner->page_bytes);
    _cleanup_(buf_free) struct buf index = {0}, header = {0};
    int r = 0;

    prefix_list(t, list);
    for (uint32_t i = 0; i < s->n_nodes && r >= 0; i++) {
        int64_t at = (int64_t)s->pages_at + (int64_t)i * owner->page_bytes;
        r = bytes->get(bytes->userdata, list[i], page, err);
        if (r < 0)
            return r;
        numbers[list[i]] = i;
        put_record(&index, t, list[i], page_tokens, numbers,
                   digest_xxh3(page, (size_t)owner->page_bytes));
        r = fileio_write_full(fd, page, (size_t)owner->page_bytes, at, err);
    }
    if (r < 0)
        return r;
    assert(index.n_bytes == s->index_bytes);
    put_header(&header, owner, page_tokens, s, digest_xxh3(index.data, index.n_bytes));
    // An empty tree has no page that would make the file as long as it says.
    if (ftruncate(fd, (off_t)s->n_bytes) < 0)
        return hai_fail(err, -errno, "%m");
    r = fileio_write_full(fd, index.data, index.n_bytes, PREFIX_FILE_HEADER_BYTES, err);
    if (r < 0)
        return r;
    return fileio_write_full(fd, header.data, header.n_bytes, 0, err);
}

int prefix_file_save(const struct prefix *t, const char *path,
                     const struct prefix_file_owner *owner, int32_t n_pages_max,
                     const struct prefix_file_bytes *bytes, struct hai_err *err) {
    int32_t n_nodes = MIN(prefix_n_nodes(t), n_pages_max);
    struct shape s = shape_of((uint32_t)n_nodes, pages_tokens(prefix_pages(t)), owner->page_bytes);
    _cleanup_free_ char *name = hai_asprintf("%s.new", path);

    check_owner(owner);
    assert(n_pages_max >= 0);
    _cleanup_(closep) int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return hai_fail(err, -errno, "%s: %m", name);
    int r = write_all(fd, t, owner, &s, bytes, err);
    if (r < 0)
        hai_err_prefix(err, "%s: ", path);
    else if (fsync(fd) < 0 || rename(name, path) < 0)
        r = hai_fail(err, -errno, "%s: %m", path);
    if (r < 0) {
        (void)unlink(name);
        return r;
    }
    const char *slash = strrchr(path, '/');
    _cleanup_free_ char *dir = slash ? hai_strndup(path, (size_t)(slash - path) + 1) : NULL;
    r = fileio_sync_dir(dir ? dir : ".", err);
    return r < 0 ? r : n_nodes;
}

static int differs(struct hai_err *err, const char *path, const char *what) {
    return hai_fail(err, -EMEDIUMTYPE, "%s: a prefix cache of another %s", path, what);
}

static int lies(struct hai_err *err, const char *path, const char *what) {
    return hai_fail(err, -EBADMSG, "%s: %s", path, what);
}

/* Is it whole, and ours? The sizes it claims are checked before anything is allocated for them. */
static int read_header(struct cursor *c, const char *path, uint64_t file_bytes,
                       const struct prefix_file_owner *owner, int32_t page_tokens,
                       struct shape *ret, uint64_t *ret_index_sum, struct hai_err *err) {
    uint64_t sum = digest_xxh3(c->data, PREFIX_FILE_HEADER_SUM_AT), page_bytes, n_bytes, zero, said;
    uint32_t version, tokens, dtype, n_nodes;
    const uint8_t *magic, *hash, *kernel_path;
    int r = cursor_bytes(c, strlen(PREFIX_FILE_MAGIC), &magic);

    r = r < 0 ? r : cursor_u32(c, &version);
    r = r < 0 ? r : cursor_u32(c, &tokens);
    r = r < 0 ? r : cursor_bytes(c, PREFIX_FILE_HASH_BYTES, &hash);
    r = r < 0 ? r : cursor_bytes(c, PREFIX_FILE_PATH_BYTES, &kernel_path);
    r = r < 0 ? r : cursor_u32(c, &dtype);
    r = r < 0 ? r : cursor_u32(c, &n_nodes);
    r = r < 0 ? r : cursor_u64(c, &page_bytes);
    r = r < 0 ? r : cursor_u64(c, &n_bytes);
    r = r < 0 ? r : cursor_u64(c, &zero);
    r = r < 0 ? r : cursor_u64(c, ret_index_sum);
    r = r < 0 ? r : cursor_u64(c, &said);
    if (r < 0 || memcmp(magic, PREFIX_FILE_MAGIC, strlen(PREFIX_FILE_MAGIC)) != 0)
        return lies(err, path, "not a prefix cache");
    if (version != PREFIX_FILE_VERSION)
        return differs(err, path, "version of the format");
    if (said != sum || zero != 0)
        return lies(err, path, "the header is damaged");
    if (memcmp(hash, owner->weights_hash, PREFIX_FILE_HASH_BYTES) != 0)
        return differs(err, path, "model");
    if (strncmp((const char *)kernel_path, owner->kernel_path, PREFIX_FILE_PATH_BYTES) != 0)
        return differs(err, path, "kernel path or choice of --fast-prefill");
    if (dtype != owner->cache_dtype)
        return differs(err, path, "type of keys and values");
    if (tokens != (uint32_t)page_tokens || page_bytes != (uint64_t)owner->page_bytes)
        return differs(err, path, "size of pages");
    if (n_nodes > PAGES_ROWS_MAX)
        return lies(err, path, "more pages than there can be");
    *ret = shape_of(n_nodes, page_tokens, owner->page_bytes);
    if (n_bytes != ret->n_bytes || file_bytes != ret->n_bytes)
        return lies(err, path, "not as long as its header says");
    return 0;
}

struct record {
    int32_t parent; // node, PREFIX_NONE
    uint64_t key, sum;
    int32_t ids[PAGES_TOKENS_MAX];
};

/* nodes: of the records before this one. */
static int read_record(struct cursor *c, const struct prefix *t, uint32_t number,
                       const int32_t *nodes, struct record *ret, struct hai_err *err) {
    int32_t n = pages_tokens(prefix_pages(t));
    uint32_t parent = 0, id = 0;

    int r = cursor_u32(c, &parent);
    r = r < 0 ? r : cursor_u64(c, &ret->key);
    r = r < 0 ? r : cursor_u64(c, &ret->sum);
    for (int32_t i = 0; i < n && r >= 0; i++) {
        r = cursor_u32(c, &id);
        if (r >= 0 && id > INT32_MAX)
            r = hai_fail(err, -EBADMSG, "record %u: a negative token id", number);
        ret->ids[i] = (int32_t)id;
    }
    if (r < 0)
        return r;
    if (parent != NO_PARENT && parent >= number)
        return hai_fail(err, -EBADMSG, "record %u: its parent does not come before it", number);
    ret->parent = parent == NO_PARENT ? PREFIX_NONE : nodes[parent];
    if (ret->parent != PREFIX_NONE && prefix_key(t, ret->parent) != ret->key)
        return hai_fail(err, -EBADMSG, "record %u: its parent has another key", number);
    return 0;
}

struct loading {
    struct prefix *t;
    const struct prefix_file_owner *owner;
    const struct prefix_file_bytes *bytes;
    int fd;
    int32_t *nodes; // [n_nodes] of each record
    int32_t *added; // [n_nodes] of them, those that the tree did not have
    int32_t n_added;
    void *page;
};

/* Bytes of page number `number` of the file into an unused page, and its record into the tree. */
static int load_page(struct loading *l, int64_t at, uint32_t number, const struct record *record,
                     struct hai_err *err) {
    struct pages *pages = prefix_pages(l->t);
    size_t n_bytes = (size_t)l->owner->page_bytes;

    int r = fileio_read_full(l->fd, l->page, n_bytes, at, err);
    if (r < 0)
        return r;
    if (digest_xxh3(l->page, n_bytes) != record->sum)
        return hai_fail(err, -EBADMSG, "record %u: its page is damaged", number);
    int32_t page = pages_take(pages);
    assert(page >= 0);
    r = l->bytes->put(l->bytes->userdata, page, l->page, err);
    if (r >= 0) {
        l->nodes[number] = prefix_restore(l->t, record->key, record->parent, record->ids, page);
        assert(l->nodes[number] == page);
        l->added[l->n_added++] = page;
    }
    (void)pages_drop(pages, page);
    return r;
}

static int load_all(struct loading *l, const struct shape *s, struct cursor *c,
                    struct hai_err *err) {
    _cleanup_free_ struct record *record = hai_new(struct record);

    for (uint32_t i = 0; i < s->n_nodes; i++) {
        int r = read_record(c, l->t, i, l->nodes, record, err);
        if (r < 0)
            return r;
        l->nodes[i] = prefix_child(l->t, record->key, record->parent, record->ids);
        if (l->nodes[i] != PREFIX_NONE)
            continue;
        if (pages_n_unused(prefix_pages(l->t)) == 0)
            break;
        int64_t at = (int64_t)s->pages_at + (int64_t)i * l->owner->page_bytes;
        r = load_page(l, at, i, record, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int load_from(struct prefix *t, int fd, const char *path,
                     const struct prefix_file_owner *owner, const struct prefix_file_bytes *bytes,
                     struct hai_err *err) {
    uint8_t header[PREFIX_FILE_HEADER_BYTES];
    struct cursor c = {header, sizeof header, 0};
    struct shape s = {0};
    struct stat st;
    uint64_t index_sum = 0;

    if (fstat(fd, &st) < 0)
        return hai_fail(err, -errno, "%s: %m", path);
    if (st.st_size < PREFIX_FILE_HEADER_BYTES)
        return lies(err, path, "not a prefix cache");
    int r = fileio_read_full(fd, header, sizeof header, 0, err);
    if (r < 0)
        return r;
    r = read_header(&c, path, (uint64_t)st.st_size, owner, pages_tokens(prefix_pages(t)), &s,
                    &index_sum, err);
    if (r < 0)
        return r;
    _cleanup_free_ uint8_t *index = hai_alloc(s.index_bytes);
    r = fileio_read_full(fd, index, s.index_bytes, PREFIX_FILE_HEADER_BYTES, err);
    if (r < 0)
        return r;
    if (digest_xxh3(index, s.index_bytes) != index_sum)
        return lies(err, path, "the index is damaged");
    _cleanup_free_ int32_t *nodes = hai_new_array(int32_t, s.n_nodes);
    _cleanup_free_ int32_t *added = hai_new_array(int32_t, s.n_nodes);
    _cleanup_free_ void *page = hai_alloc((size_t)owner->page_bytes);
    struct loading l = {t, owner, bytes, fd, nodes, added, 0, page};
    c = (struct cursor){index, s.index_bytes, 0};
    r = load_all(&l, &s, &c, err);
    if (r >= 0)
        return l.n_added;
    // Children come after their parents.
    while (l.n_added > 0)
        prefix_remove(t, added[--l.n_added]);
    hai_err_prefix(err, "%s: ", path);
    return r;
}

int prefix_file_load(struct prefix *t, const char *path, const struct prefix_file_owner *owner,
                     const struct prefix_file_bytes *bytes, struct hai_err *err) {
    check_owner(owner);
    _cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return hai_fail(err, -errno, "%s: %m", path);
    return load_from(t, fd, path, owner, bytes, err);
}
