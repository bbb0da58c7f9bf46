/* Whatever bytes a saved prefix cache holds: loaded or refused with a reason, never a crash, and a
 * refusal leaves nothing behind. The checksums are put right first, or hardly any change would come
 * past them. */
#include "engine/infer/prefix_file.h"
#include "lib/digest.h"
#include "lib/fileio.h"

#include <stdio.h>
#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

enum { TOKENS = 4, PAGE_BYTES = 16, PAGES = 6 };

static const struct prefix_file_owner owner = {
    .kernel_path = "ref",
    .page_bytes = PAGE_BYTES,
};

static int put_page(void *userdata, int32_t page, const void *bytes, struct hai_err *err) {
    memcpy((char *)userdata + page * PAGE_BYTES, bytes, PAGE_BYTES);
    return 0;
}

/* Sums of the pages, as far as the index goes, of the index and of the header. */
static void seal(uint8_t *data, size_t n_bytes) {
    const size_t record = PREFIX_FILE_RECORD_BYTES + 4 * TOKENS;
    uint32_t n;
    uint64_t sum;

    if (n_bytes < PREFIX_FILE_HEADER_BYTES)
        return;
    memcpy(&n, data + 84, sizeof n);
    size_t end = PREFIX_FILE_HEADER_BYTES + n * record;
    size_t pages = (end + PREFIX_FILE_ALIGN - 1) / PREFIX_FILE_ALIGN * PREFIX_FILE_ALIGN;
    for (size_t i = 0; i < n && pages + (i + 1) * PAGE_BYTES <= n_bytes; i++) {
        sum = digest_xxh3(data + pages + i * PAGE_BYTES, PAGE_BYTES);
        memcpy(data + PREFIX_FILE_HEADER_BYTES + i * record + 12, &sum, sizeof sum);
    }
    if (end <= n_bytes) {
        sum = digest_xxh3(data + PREFIX_FILE_HEADER_BYTES, n * record);
        memcpy(data + PREFIX_FILE_INDEX_SUM_AT, &sum, sizeof sum);
    }
    sum = digest_xxh3(data, PREFIX_FILE_HEADER_SUM_AT);
    memcpy(data + PREFIX_FILE_HEADER_SUM_AT, &sum, sizeof sum);
}

static void load(const uint8_t *data, size_t n_bytes) {
    char bytes[PAGES * PAGE_BYTES], path[32];
    struct prefix_file_bytes io = {NULL, put_page, bytes};
    struct hai_err err = {0};
    struct pages *pages = NULL;
    _cleanup_(closep) int fd = memfd_create("cache", MFD_CLOEXEC);

    assert(fd >= 0);
    int r = fileio_write_full(fd, data, n_bytes, 0, &err);
    assert(r == 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    r = pages_new(PAGES, TOKENS, &pages, &err);
    assert(r == 0);
    struct prefix *tree = prefix_new(pages, 1);
    r = prefix_file_load(tree, path, &owner, &io, &err);
    assert(r >= 0 || err.text[0]);
    assert(prefix_n_nodes(tree) == MAX(r, 0));
    assert(pages_n_unused(pages) == PAGES - MAX(r, 0));
    prefix_check(tree);
    prefix_free(tree);
    pages_free(pages);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    _cleanup_free_ uint8_t *changed = hai_alloc(n_bytes);

    if (n_bytes > 1 << 20)
        return 0;
    memcpy(changed, data, n_bytes);
    load(data, n_bytes);
    seal(changed, n_bytes);
    load(changed, n_bytes);
    return 0;
}
