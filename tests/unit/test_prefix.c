#include "engine/infer/prefix_file.h"
#include "lib/digest.h"
#include "lib/fileio.h"
#include "tests/unit/test.h"

enum { TOKENS = 4, PAGES = 40, PAGE_BYTES = 96 };

/* A tree over a few pages of 4 tokens, and the pages' bytes. */
struct bench {
    struct pages *pages;
    struct prefix *tree;
    uint8_t bytes[PAGES][PAGE_BYTES];
    int n_put, put_fails_at; // the put of this number fails, 0: none
};

static void bench_start(struct bench *b, int32_t n_pages) {
    *b = (struct bench){0};
    int r = pages_new(n_pages, TOKENS, &b->pages, NULL);
    assert(r == 0);
    b->tree = prefix_new(b->pages, 42);
}

static void bench_end(struct bench *b) {
    int32_t n = pages_count(b->pages);

    prefix_check(b->tree);
    prefix_free(b->tree);
    CHECK_EQ(pages_n_unused(b->pages), n);
    pages_free(b->pages);
}

/* Ids from a text, one letter each. */
static int32_t ids_of(const char *text, int32_t *ret) {
    int32_t n = 0;

    for (; text[n]; n++)
        ret[n] = text[n];
    return n;
}

/* As a sequence does that has computed all of the text: add its whole pages, then let go.
 * Returns the last node. */
static int32_t add(struct bench *b, uint64_t key, const char *text) {
    int32_t ids[256], n = ids_of(text, ids), node = PREFIX_NONE;

    for (int32_t at = 0; at + TOKENS <= n; at += TOKENS) {
        int32_t page = pages_take(b->pages);
        while (page < 0) {
            CHECK(prefix_evict(b->tree) != PREFIX_NONE);
            page = pages_take(b->pages);
        }
        memset(b->bytes[page], ids[at] + ids[at + 1], PAGE_BYTES);
        node = prefix_add(b->tree, key, node, ids + at, page);
        prefix_pin_child(b->tree, node);
        (void)pages_drop(b->pages, page);
    }
    prefix_unpin(b->tree, node);
    prefix_check(b->tree);
    return node;
}

/* The longest cached prefix of a text: whole pages along `node`, then n_part tokens of one more. */
struct hit {
    int32_t node, n_pages;
    int32_t part_page, n_part;
};

static struct hit find(const struct bench *b, uint64_t key, const char *text) {
    int32_t ids[256], n = ids_of(text, ids), at = 0, next;
    struct hit hit = {.node = PREFIX_NONE, .part_page = PREFIX_NONE};

    while (at + TOKENS <= n &&
           (next = prefix_child(b->tree, key, hit.node, ids + at)) != PREFIX_NONE) {
        hit.node = next;
        hit.n_pages++;
        at += TOKENS;
    }
    hit.n_part = prefix_part(b->tree, key, hit.node, ids + at, MIN(n - at, TOKENS), &hit.part_page);
    return hit;
}

static const struct {
    uint64_t key;
    const char *text;
    int n_pages, n_part;
} finds[] = {
    {1, "",               0, 0},
    {1, "abc",            0, 3},
    {1, "abcd",           1, 0},
    {1, "abcde",          1, 1},
    {1, "abcdefghijkl",   3, 0},
    {1, "abcdefghijklmn", 3, 0},
    {1, "abcdefghiXkl",   2, 1},
    {1, "abcdefgXijkl",   1, 3},
    {1, "abcdEFGHij",     2, 2},
    {1, "abcdEFxxxxxx",   1, 2},
    {1, "Xbcdefgh",       0, 0},
    {1, "efgh",           0, 0}, // only from position 0 on
    {2, "abcdefgh",       0, 0}, // another key's
    {2, "wxyzab",         1, 0},
};

TEST(longest_prefix)
{
    struct bench b;

    bench_start(&b, PAGES);
    add(&b, 1, "abcdefghijkl");
    add(&b, 1, "abcdEFGHijklrest");
    add(&b, 2, "wxyz");
    CHECK_EQ(prefix_n_nodes(b.tree), 7);
    // Again: nothing is added, the pages are given back.
    add(&b, 1, "abcdefghijkl");
    CHECK_EQ(prefix_n_nodes(b.tree), 7);
    for (size_t i = 0; i < ARRAY_SIZE(finds); i++) {
        struct hit hit = find(&b, finds[i].key, finds[i].text);
        CHECK_EQ(hit.n_pages, finds[i].n_pages, "%s", finds[i].text);
        CHECK_EQ(hit.n_part, finds[i].n_part, "%s", finds[i].text);
        CHECK_EQ(hit.part_page != PREFIX_NONE, hit.n_part > 0, "%s", finds[i].text);
        int32_t path[8] = {0};
        prefix_path(b.tree, hit.node, path, hit.n_pages);
        if (hit.n_pages > 0)
            CHECK_EQ(path[hit.n_pages - 1], hit.node);
    }
    bench_end(&b);
}

TEST(least_recently_used_goes_first)
{
    struct bench b;
    int32_t ids[64];

    bench_start(&b, 6);
    add(&b, 1, "aaaabbbb");
    add(&b, 1, "aaaacccc");
    add(&b, 1, "dddd");
    // Used again: a and b are younger than c and d.
    struct hit hit = find(&b, 1, "aaaabbbb");
    prefix_pin(b.tree, hit.node);
    CHECK_EQ(prefix_n_pinned(b.tree), 2);
    prefix_unpin(b.tree, hit.node);
    prefix_evict(b.tree);
    CHECK_EQ(find(&b, 1, "aaaacccc").n_pages, 1);
    prefix_evict(b.tree);
    CHECK_EQ(find(&b, 1, "dddd").n_pages, 0);
    // A parent never goes before its children.
    prefix_evict(b.tree);
    CHECK_EQ(find(&b, 1, "aaaabbbb").n_pages, 1);
    // Pinned nodes stay, with all above them.
    int32_t node = add(&b, 1, "aaaaeeeeffff");
    prefix_pin(b.tree, node);
    add(&b, 1, "gggghhhhiiii");
    for (int i = 0; i < 3; i++)
        CHECK(prefix_evict(b.tree) != PREFIX_NONE);
    CHECK_EQ(prefix_n_evictable(b.tree), 0);
    CHECK_EQ(prefix_evict(b.tree), PREFIX_NONE);
    CHECK_EQ(find(&b, 1, "aaaaeeeeffff").n_pages, 3);
    CHECK_EQ(find(&b, 1, "gggg").n_pages, 0);
    prefix_unpin(b.tree, node);
    CHECK_EQ(prefix_child(b.tree, 1, PREFIX_NONE, (ids_of("aaaa", ids), ids)) >= 0, 1);
    bench_end(&b);
}

/* First pages of more keys than there are places for: each key finds its own only. */
TEST(keys_do_not_meet)
{
    struct bench b;

    bench_start(&b, PAGES);
    for (uint64_t key = 0; key < PAGES; key++)
        add(&b, key, (char[]){'a', 'b', (char)key + 1, 'c', 0});
    for (uint64_t key = 0; key < PAGES; key++)
        for (uint64_t other = 0; other < PAGES; other++) {
            char text[] = {'a', 'b', (char)other + 1, 'c', 0};
            struct hit hit = find(&b, key, text);
            CHECK_EQ(hit.n_pages, key == other);
            CHECK_EQ(hit.n_part, key == other ? 0 : 2);
            CHECK(hit.n_part == 0 || prefix_key(b.tree, hit.part_page) == key);
        }
    bench_end(&b);
}

/* Random texts over a small alphabet, beside a list of what was added; evicted ones may be gone,
 * but what is found must be right. */
TEST(random_trees)
{
    struct bench b;
    uint64_t state = 3;

    bench_start(&b, 24);
    for (int i = 0; i < 4000 && !test_failed(); i++) {
        char text[25] = "";
        state = state * 6364136223846793005u + 1442695040888963407u;
        int n = 4 + (int)(state >> 40) % 20;
        for (int j = 0; j < n; j++)
            text[j] = (char)('a' + (state >> (8 + 2 * j) & 1));
        uint64_t key = state >> 61;
        if (state >> 33 & 1) {
            add(&b, key, text);
            CHECK_EQ(find(&b, key, text).n_pages, n / TOKENS, "%s", text);
            continue;
        }
        struct hit hit = find(&b, key, text);
        int32_t path[8];
        prefix_path(b.tree, hit.node, path, hit.n_pages);
        for (int at = 0; at < hit.n_pages * TOKENS; at++)
            CHECK_EQ(prefix_ids(b.tree, path[at / TOKENS])[at % TOKENS], text[at], "%s", text);
        for (int at = 0; at < hit.n_part; at++)
            CHECK_EQ(prefix_ids(b.tree, hit.part_page)[at], text[hit.n_pages * TOKENS + at]);
        prefix_check(b.tree);
    }
    bench_end(&b);
}

static int get_page(void *userdata, int32_t page, void *ret, struct hai_err *err) {
    struct bench *b = userdata;

    memcpy(ret, b->bytes[page], PAGE_BYTES);
    return 0;
}

static int put_page(void *userdata, int32_t page, const void *bytes, struct hai_err *err) {
    struct bench *b = userdata;

    memcpy(b->bytes[page], bytes, PAGE_BYTES);
    if (++b->n_put == b->put_fails_at)
        return hai_fail(err, -EIO, "the device is gone");
    return 0;
}

static const struct prefix_file_owner owner = {
    .weights_hash = {1, 2, 3},
    .kernel_path = "avx2",
    .cache_dtype = 2,
    .page_bytes = PAGE_BYTES,
};

static const char *scratch(char *ret, size_t n_bytes) {
    const char *dir = getenv("TMPDIR");

    snprintf(ret, n_bytes, "%s/test_prefix.%d", dir ? dir : "/tmp", (int)getpid());
    return ret;
}

static int save(struct bench *b, const char *path, int32_t n_max) {
    struct prefix_file_bytes bytes = {get_page, put_page, b};
    struct hai_err err = {0};
    int r = prefix_file_save(b->tree, path, &owner, n_max, &bytes, &err);

    CHECK(r >= 0, "%s", err.text);
    return r;
}

static int load(struct bench *b, const char *path, const struct prefix_file_owner *who,
                struct hai_err *err) {
    struct prefix_file_bytes bytes = {get_page, put_page, b};

    return prefix_file_load(b->tree, path, who, &bytes, err);
}

static void add_some(struct bench *b) {
    add(b, 1, "oldesttt");
    add(b, 1, "abcdefghijkl");
    add(b, 7, "abcdwxyz");
    prefix_pin(b->tree, add(b, 1, "abcdpinn"));
}

TEST(saved_and_loaded)
{
    struct bench b, c;
    struct hai_err err = {0};
    char path[256];

    bench_start(&b, PAGES);
    add_some(&b);
    CHECK_EQ(save(&b, scratch(path, sizeof path), PAGES), 8);
    bench_start(&c, PAGES);
    CHECK_EQ(load(&c, path, &owner, &err), 8, "%s", err.text);
    prefix_check(c.tree);
    CHECK_EQ(find(&c, 1, "abcdefghijkl").n_pages, 3);
    CHECK_EQ(find(&c, 7, "abcdwxyz").n_pages, 2);
    int32_t list[PAGES];
    prefix_list(c.tree, list);
    for (int i = 0; i < 8; i++)
        CHECK_EQ(c.bytes[list[i]][PAGE_BYTES - 1],
                 (uint8_t)(prefix_ids(c.tree, list[i])[0] + prefix_ids(c.tree, list[i])[1]));
    // The order of eviction is kept: what was used last before goes last.
    prefix_evict(c.tree);
    prefix_evict(c.tree);
    CHECK_EQ(find(&c, 1, "oldesttt").n_pages, 0);
    CHECK_EQ(prefix_n_nodes(c.tree), 6);
    // Loaded again: what is there stays, the rest comes back.
    CHECK_EQ(load(&c, path, &owner, &err), 2);
    CHECK_EQ(find(&c, 1, "oldesttt").n_pages, 2);
    bench_end(&c);
    // Into fewer pages: the most recent ones.
    bench_start(&c, 3);
    CHECK_EQ(load(&c, path, &owner, &err), 3);
    CHECK_EQ(find(&c, 1, "abcdpinn").n_pages, 2);
    bench_end(&c);
    // Of a part only.
    CHECK_EQ(save(&b, path, 4), 4);
    bench_start(&c, PAGES);
    CHECK_EQ(load(&c, path, &owner, &err), 4);
    CHECK_EQ(find(&c, 7, "abcdwxyz").n_pages, 2);
    bench_end(&c);
    // An empty tree.
    bench_start(&c, 1);
    CHECK_EQ(save(&c, path, 4), 0);
    CHECK_EQ(load(&c, path, &owner, &err), 0);
    bench_end(&c);
    bench_end(&b);
    (void)unlink(path);
}

static void other_model(struct prefix_file_owner *o) {
    o->weights_hash[31] = 1;
}

static void other_path(struct prefix_file_owner *o) {
    o->kernel_path[3] = 0;
}

static void other_dtype(struct prefix_file_owner *o) {
    o->cache_dtype = 3;
}

static void other_bytes(struct prefix_file_owner *o) {
    o->page_bytes = PAGE_BYTES + 8;
}

static const struct {
    void (*change)(struct prefix_file_owner *);
    const char *reason;
} strangers[] = {
    {other_model, "model"                  },
    {other_path,  "kernel path"            },
    {other_dtype, "type of keys and values"},
    {other_bytes, "size of pages"          },
};

TEST(of_another_model_is_refused)
{
    struct bench b, c;
    char path[256];

    bench_start(&b, PAGES);
    add_some(&b);
    save(&b, scratch(path, sizeof path), PAGES);
    bench_start(&c, PAGES);
    for (size_t i = 0; i < ARRAY_SIZE(strangers); i++) {
        struct hai_err err = {0};
        struct prefix_file_owner other = owner;
        strangers[i].change(&other);
        CHECK_EQ(load(&c, path, &other, &err), -EMEDIUMTYPE);
        CHECK(strstr(err.text, strangers[i].reason), "%s", err.text);
    }
    struct hai_err err = {0};
    CHECK_EQ(load(&c, "/nonexistent/cache", &owner, &err), -ENOENT);
    CHECK_EQ(prefix_n_nodes(c.tree), 0);
    bench_end(&c);
    bench_end(&b);
    (void)unlink(path);
}

static void put_u64(struct buf *file, size_t at, uint64_t v) {
    memcpy(file->data + at, &v, sizeof v);
}

/* Checksums as a liar would set them. */
static void seal(struct buf *file, size_t index_bytes) {
    put_u64(file, PREFIX_FILE_INDEX_SUM_AT,
            digest_xxh3(file->data + PREFIX_FILE_HEADER_BYTES, index_bytes));
    put_u64(file, PREFIX_FILE_HEADER_SUM_AT, digest_xxh3(file->data, PREFIX_FILE_HEADER_SUM_AT));
}

static void refused(struct bench *c, const struct buf *file, const char *path, const char *what) {
    struct hai_err err = {0};
    int32_t n_nodes = prefix_n_nodes(c->tree), n_unused = pages_n_unused(c->pages);
    int r = fileio_replace(path, file->data, file->n_bytes, 0600, &err);

    assert(r == 0);
    r = load(c, path, &owner, &err);
    CHECK(r == -EBADMSG || r == -EMEDIUMTYPE || r == -ENODATA, "%s: %d", what, r);
    CHECK(err.text[0], "%s", what);
    CHECK_EQ(prefix_n_nodes(c->tree), n_nodes, "%s", what);
    CHECK_EQ(pages_n_unused(c->pages), n_unused, "%s", what);
}

/* Every byte of header, index and pages, changed one at a time; and every length. */
TEST(damage_is_refused)
{
    struct bench b, c;
    struct hai_err err = {0};
    _cleanup_(buf_free) struct buf file = {0};
    char path[256];

    bench_start(&b, PAGES);
    add(&b, 1, "abcdefgh");
    save(&b, scratch(path, sizeof path), PAGES);
    int r = fileio_read_file(path, 1 << 20, &file, &err);
    assert(r == 0);
    bench_start(&c, PAGES);
    add(&c, 1, "abcdzzzz");
    size_t index_end = PREFIX_FILE_HEADER_BYTES + 2 * (PREFIX_FILE_RECORD_BYTES + 4 * TOKENS);
    for (size_t i = 0; i < file.n_bytes; i++) {
        // Between the index and the pages, and the page that the tree has already, nothing counts.
        if (i >= index_end && i < PREFIX_FILE_ALIGN + PAGE_BYTES)
            continue;
        char what[32];
        snprintf(what, sizeof what, "byte %zu", i);
        file.data[i] ^= 0x10;
        refused(&c, &file, path, what);
        file.data[i] ^= 0x10;
    }
    for (size_t n = file.n_bytes; n-- > 0; n = n > 300 ? n - 97 : n) {
        struct buf part = {file.data, n, n};
        refused(&c, &part, path, "cut");
    }
    bench_end(&c);
    bench_end(&b);
    (void)unlink(path);
}

static const struct {
    const char *what;
    size_t at;
    uint32_t value;
} lies[] = {
    {"pages beyond the file",      84,                            1000      },
    {"more pages than can be",     84,                            0xffffffff},
    {"a parent after its child",   PREFIX_FILE_HEADER_BYTES + 36, 1         },
    {"a parent that is not there", PREFIX_FILE_HEADER_BYTES + 36, 99        },
    {"a key unlike its parent's",  PREFIX_FILE_HEADER_BYTES + 40, 5         },
    {"a negative id",              PREFIX_FILE_HEADER_BYTES + 20, 0x80000000},
    {"bytes for later use",        104,                           1         },
};

TEST(lies_are_refused)
{
    struct bench b, c;
    struct hai_err err = {0};
    _cleanup_(buf_free) struct buf file = {0};
    char path[256];

    bench_start(&b, PAGES);
    add(&b, 1, "abcdefgh");
    save(&b, scratch(path, sizeof path), PAGES);
    int r = fileio_read_file(path, 1 << 20, &file, &err);
    assert(r == 0);
    bench_start(&c, PAGES);
    for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
        uint32_t was;
        memcpy(&was, file.data + lies[i].at, sizeof was);
        memcpy(file.data + lies[i].at, &lies[i].value, sizeof was);
        seal(&file, 2 * (PREFIX_FILE_RECORD_BYTES + 4 * TOKENS));
        refused(&c, &file, path, lies[i].what);
        memcpy(file.data + lies[i].at, &was, sizeof was);
    }
    seal(&file, 2 * (PREFIX_FILE_RECORD_BYTES + 4 * TOKENS));
    r = fileio_replace(path, file.data, file.n_bytes, 0600, &err);
    assert(r == 0);
    // The second page cannot be put in place: the first goes again.
    c.n_put = 0;
    c.put_fails_at = 2;
    CHECK_EQ(load(&c, path, &owner, &err), -EIO);
    CHECK_EQ(prefix_n_nodes(c.tree), 0);
    CHECK_EQ(pages_n_unused(c.pages), PAGES);
    CHECK_EQ(load(&c, path, &owner, &err), 2);
    bench_end(&c);
    bench_end(&b);
    (void)unlink(path);
}
