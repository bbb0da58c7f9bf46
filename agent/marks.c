#include "agent/marks.h"
#include "lib/fileio.h"
#include "lib/pure/buf.h"
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

enum {
    JOURNAL_BYTES_MAX = 64 << 20,
    COMPACT_LINES = 10000, // removed marks in the journal before it is written anew
};

struct marks {
    char *path;
    int fd;
    struct reconcile_key *keys;
    size_t n_keys, n_keys_max;
    int64_t n_removed;
    struct buf added; // not yet written
    bool torn;        // the journal's end is not known
};

static size_t find(const struct marks *marks, const struct reconcile_key *key) {
    size_t i = 0;

    while (i < marks->n_keys && memcmp(&marks->keys[i], key, sizeof *key))
        i++;
    return i;
}

static void keep(struct marks *marks, const struct reconcile_key *key) {
    if (marks->n_keys == marks->n_keys_max) {
        marks->n_keys_max = MAX(marks->n_keys_max * 2, (size_t)16);
        marks->keys = hai_realloc_array(marks->keys, marks->n_keys_max, sizeof *key);
    }
    marks->keys[marks->n_keys++] = *key;
}

static bool drop(struct marks *marks, const struct reconcile_key *key) {
    size_t i = find(marks, key);

    if (i == marks->n_keys)
        return false;
    marks->keys[i] = marks->keys[--marks->n_keys];
    return true;
}

static void print(struct buf *b, char sign, const struct reconcile_key *key) {
    buf_printf(b, "%c%" PRId64 " %" PRId64 " %" PRId64 "\n", sign, key->job, key->attempt,
               key->epoch);
}

/* Write the journal anew, with live marks only, and go on at its end. */
static int compact(struct marks *marks, struct hai_err *err) {
    _cleanup_(buf_free) struct buf b = {0};

    for (size_t i = 0; i < marks->n_keys; i++)
        print(&b, '+', &marks->keys[i]);
    int r = fileio_replace(marks->path, b.data, b.n_bytes, 0600, err);
    if (r < 0)
        return r;
    int fd = open(marks->path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (fd < 0)
        return hai_fail(err, -errno, "%s: %m", marks->path);
    if (marks->fd >= 0)
        close(marks->fd);
    marks->fd = fd;
    marks->n_removed = 0;
    marks->torn = false;
    buf_clear(&marks->added);
    return 0;
}

static void read_lines(struct marks *marks, const char *text) {
    struct reconcile_key key;
    char sign;

    // A line torn by a crash was not synchronised: nothing was started on its strength.
    for (const char *line = text, *end; (end = strchr(line, '\n')); line = end + 1)
        if (sscanf(line, "%c%" SCNd64 " %" SCNd64 " %" SCNd64, &sign, &key.job, &key.attempt,
                   &key.epoch) == 4) {
            drop(marks, &key);
            if (sign == '+')
                keep(marks, &key);
        }
}

int marks_open(const char *path, void (*fn)(const struct reconcile_key *key, void *data),
               void *data, struct marks **ret, struct hai_err *err) {
    _cleanup_(marks_freep) struct marks *marks = hai_new(struct marks);
    _cleanup_(buf_free) struct buf text = {0};

    marks->fd = -1;
    marks->path = hai_strdup(path);
    int r = fileio_read_file(path, JOURNAL_BYTES_MAX, &text, err);
    if (r < 0 && r != -ENOENT)
        return r;
    read_lines(marks, buf_cstr(&text));
    r = compact(marks, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < marks->n_keys; i++)
        fn(&marks->keys[i], data);
    *ret = TAKE_PTR(marks);
    return 0;
}

void marks_free(struct marks *marks) {
    if (!marks)
        return;
    if (marks->fd >= 0)
        close(marks->fd);
    buf_free(&marks->added);
    free(marks->keys);
    free(marks->path);
    free(marks);
}

void marks_add(struct marks *marks, const struct reconcile_key *key) {
    keep(marks, key);
    print(&marks->added, '+', key);
}

int marks_sync(struct marks *marks, struct hai_err *err) {
    if (!marks->added.n_bytes)
        return 0;
    // After half a line, or a failed fdatasync, nobody knows what is on disk.
    if (marks->torn)
        return compact(marks, err);
    int r = fileio_write_full(marks->fd, marks->added.data, marks->added.n_bytes, FILEIO_HERE, err);
    if (r == 0 && fdatasync(marks->fd) < 0)
        r = hai_fail(err, -errno, "%s: %m", marks->path);
    if (r == 0)
        buf_clear(&marks->added);
    marks->torn = r < 0;
    return r < 0 ? r : 0;
}

void marks_remove(struct marks *marks, const struct reconcile_key *key) {
    struct hai_err err = {0};

    if (!drop(marks, key))
        return;
    print(&marks->added, '-', key); // goes out with the next marks
    if (++marks->n_removed > COMPACT_LINES)
        (void)compact(marks, &err); // else with the next ones
}
