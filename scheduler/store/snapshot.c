#include "scheduler/store/snapshot.h"

#include "lib/digest.h"
#include "lib/fileio.h"
#include "lib/programs.h"
#include <dirent.h>
#include <stdio.h>

static const char magic[8] = "HAISNAP1";

enum {
    HEAD_BYTES = sizeof magic + (STORE_ID_BYTES - 1) + 8 + 8 + DIGEST_SHA256_BYTES,
    SNAPSHOT_BYTES_MAX = 1 << 30,
};

static char *dir_of(const struct store *store) {
    return hai_asprintf("%s/snapshots", store_dir(store));
}

static char *path_of(const struct store *store, int64_t index) {
    return hai_asprintf("%s/snapshots/%lld.snap", store_dir(store), (long long)index);
}

int snapshot_write(const struct store *store, int64_t index, const void *data, size_t n_bytes,
                   struct hai_err *err) {
    _cleanup_free_ char *dir = dir_of(store);
    _cleanup_free_ char *path = path_of(store, index);
    _cleanup_(buf_free) struct buf file = {0};
    uint8_t sha[DIGEST_SHA256_BYTES];

    if (n_bytes > SNAPSHOT_BYTES_MAX - HEAD_BYTES)
        return hai_fail(err, -EFBIG, "%s: the state has %zu bytes; a snapshot holds at most %d",
                        path, n_bytes, SNAPSHOT_BYTES_MAX - HEAD_BYTES);
    int r = fileio_mkdir_durable(dir, 0700, err);
    if (r < 0)
        return r;
    digest_sha256(data, n_bytes, sha);
    buf_add(&file, magic, sizeof magic);
    buf_add(&file, store_id(store), STORE_ID_BYTES - 1);
    buf_add_u64(&file, (uint64_t)index);
    buf_add_u64(&file, n_bytes);
    buf_add(&file, sha, sizeof sha);
    buf_add(&file, data, n_bytes);
    return fileio_replace(path, file.data, file.n_bytes, 0600, err);
}

static _Noreturn void write_in_child(const struct store *store, int64_t index,
                                     void (*encode)(const void *state, struct buf *ret),
                                     const void *state) {
    struct buf data = {0};
    struct hai_err err = {0};

    encode(state, &data);
    if (snapshot_write(store, index, data.data, data.n_bytes, &err) < 0) {
        fprintf(stderr, "hai-schedd: snapshot: %s\n", hai_err_text(&err));
        _exit(1);
    }
    _exit(0);
}

pid_t snapshot_start(const struct store *store, int64_t index,
                     void (*encode)(const void *state, struct buf *ret), const void *state) {
    pid_t pid = programs_fork();

    if (pid == 0)
        write_in_child(store, index, encode, state);
    return pid;
}

static int newest_first(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return x < y ? 1 : x > y ? -1 : 0;
}

int snapshot_list(const struct store *store, int64_t **ret, struct hai_err *err) {
    _cleanup_free_ char *path = dir_of(store);
    _cleanup_free_ int64_t *list = NULL;
    int n = 0, n_max = 0;
    DIR *dir = opendir(path);

    *ret = NULL;
    if (!dir && errno == ENOENT)
        return 0;
    if (!dir)
        return hai_fail(err, -errno, "%s: %m", path);
    for (struct dirent *item; (item = readdir(dir));) {
        char *end;
        long long index = strtoll(item->d_name, &end, 10);
        if (end == item->d_name || strcmp(end, ".snap") != 0)
            continue; // a temporary file of a writer that was killed
        if (n == n_max) {
            n_max = n_max ? 2 * n_max : 8;
            list = hai_realloc_array(list, (size_t)n_max, sizeof *list);
        }
        list[n++] = index;
    }
    closedir(dir);
    if (n)
        qsort(list, (size_t)n, sizeof *list, newest_first);
    *ret = TAKE_PTR(list);
    return n;
}

int64_t snapshot_prune(const struct store *store, struct hai_err *err) {
    _cleanup_free_ int64_t *list = NULL;
    int n = snapshot_list(store, &list, err);

    if (n < 0)
        return n;
    for (int i = SNAPSHOTS_KEPT; i < n; i++) {
        _cleanup_free_ char *path = path_of(store, list[i]);
        if (unlink(path) < 0 && errno != ENOENT)
            return hai_fail(err, -errno, "%s: %m", path);
    }
    return n < SNAPSHOTS_KEPT ? 0 : list[SNAPSHOTS_KEPT - 1];
}

int snapshot_read(const struct store *store, int64_t index, struct buf *ret, struct hai_err *err) {
    _cleanup_free_ char *path = path_of(store, index);
    _cleanup_(buf_free) struct buf file = {0};
    uint8_t sha[DIGEST_SHA256_BYTES];
    const uint8_t *id, *digest;
    uint64_t got_index, n_bytes;
    int r = fileio_read_file(path, SNAPSHOT_BYTES_MAX, &file, err);

    if (r < 0)
        return r;
    struct cursor c = {file.data, file.n_bytes, 0};
    if (file.n_bytes < HEAD_BYTES || memcmp(file.data, magic, sizeof magic) != 0)
        return hai_fail(err, -EBADMSG, "%s: not a snapshot", path);
    c.at = sizeof magic;
    if (cursor_bytes(&c, STORE_ID_BYTES - 1, &id) < 0 || cursor_u64(&c, &got_index) < 0 ||
        cursor_u64(&c, &n_bytes) < 0 || cursor_bytes(&c, sizeof sha, &digest) < 0)
        return hai_fail(err, -EBADMSG, "%s: ends too early", path);
    if (memcmp(id, store_id(store), STORE_ID_BYTES - 1) != 0)
        return hai_fail(err, -EBADMSG, "%s: belongs to another store", path);
    if ((int64_t)got_index != index || n_bytes != cursor_left(&c))
        return hai_fail(err, -EBADMSG, "%s: ends too early", path);
    digest_sha256(file.data + HEAD_BYTES, n_bytes, sha);
    if (memcmp(sha, digest, sizeof sha) != 0)
        return hai_fail(err, -EBADMSG, "%s: damaged (digest)", path);
    buf_clear(ret);
    buf_add(ret, file.data + HEAD_BYTES, n_bytes);
    return 0;
}
