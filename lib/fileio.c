#include "lib/fileio.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>

enum {
    READ_STEP_BYTES = 64 << 10,
    TREE_DEPTH_MAX = 256, // each level holds one descriptor
    TMP_TRIES_MAX = 100,
};

int fileio_read_full(int fd, void *data, size_t n_bytes, int64_t offset, struct hai_err *err) {
    size_t done = 0;

    while (done < n_bytes) {
        char *at = (char *)data + done;
        ssize_t n = offset < 0 ? read(fd, at, n_bytes - done)
                               : pread(fd, at, n_bytes - done, offset + (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return hai_fail(err, -errno, "reading %zu bytes: %m", n_bytes);
        if (n == 0)
            return hai_fail(err, -ENODATA, "ends after %zu of %zu bytes", done, n_bytes);
        done += (size_t)n;
    }
    return 0;
}

int fileio_write_full(int fd, const void *data, size_t n_bytes, int64_t offset,
                      struct hai_err *err) {
    size_t done = 0;

    while (done < n_bytes) {
        const char *at = (const char *)data + done;
        ssize_t n = offset < 0 ? write(fd, at, n_bytes - done)
                               : pwrite(fd, at, n_bytes - done, offset + (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return hai_fail(err, -errno, "writing %zu bytes: %m", n_bytes);
        done += (size_t)n;
    }
    return 0;
}

int fileio_read_end(int fd, const char *path, size_t n_bytes_max, struct buf *ret,
                    struct hai_err *err) {
    size_t before = ret->n_bytes;

    for (;;) {
        size_t have = ret->n_bytes;
        void *at = buf_extend(ret, READ_STEP_BYTES);
        ssize_t n = read(fd, at, READ_STEP_BYTES);
        int e = errno;
        ret->n_bytes = have + (n > 0 ? (size_t)n : 0);
        if (n < 0 && e == EINTR)
            continue;
        if (n == 0)
            return 0;
        if (n < 0 || ret->n_bytes - before > n_bytes_max) {
            ret->n_bytes = before;
            if (n < 0)
                return hai_fail(err, -e, "%s: %s", path, strerrordesc_np(e));
            return hai_fail(err, -EFBIG, "%s: longer than %zu bytes", path, n_bytes_max);
        }
    }
}

int fileio_read_file(const char *path, size_t n_bytes_max, struct buf *ret, struct hai_err *err) {
    if (strcmp(path, "-") == 0)
        return fileio_read_end(STDIN_FILENO, "standard input", n_bytes_max, ret, err);
    _cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return hai_fail(err, -errno, "%s: %m", path);
    return fileio_read_end(fd, path, n_bytes_max, ret, err);
}

/* The directory that holds path; the caller frees it. */
static char *parent_of(const char *path) {
    const char *slash = strrchr(path, '/');

    if (!slash)
        return hai_strdup(".");
    return slash == path ? hai_strdup("/") : hai_strndup(path, (size_t)(slash - path));
}

int fileio_sync_dir(const char *path, struct hai_err *err) {
    _cleanup_(closep) int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 || fsync(fd) < 0)
        return hai_fail(err, -errno, "%s: %m", path);
    return 0;
}

/* A new file beside path. Not mkstemp: the name must tell a person what it was to become. */
static int tmp_open(const char *path, char **ret_name, struct hai_err *err) {
    for (int i = 0; i < TMP_TRIES_MAX; i++) {
        _cleanup_free_ char *name = hai_asprintf("%s.tmp-%d-%d", path, (int)getpid(), i);
        int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd >= 0) {
            *ret_name = TAKE_PTR(name);
            return fd;
        }
        if (errno != EEXIST)
            return hai_fail(err, -errno, "%s: %m", name);
    }
    return hai_fail(err, -EEXIST, "%s: too many temporary files beside it", path);
}

int fileio_replace(const char *path, const void *data, size_t n_bytes, mode_t mode,
                   struct hai_err *err) {
    _cleanup_free_ char *name = NULL;
    _cleanup_(closep) int fd = tmp_open(path, &name, err);

    if (fd < 0)
        return fd;
    int r = fileio_write_full(fd, data, n_bytes, FILEIO_HERE, err);
    if (r < 0)
        hai_err_prefix(err, "%s: ", path);
    else if (fchmod(fd, mode) < 0 || fsync(fd) < 0 || rename(name, path) < 0)
        r = hai_fail(err, -errno, "%s: %m", path);
    if (r < 0) {
        (void)unlink(name);
        return r;
    }
    _cleanup_free_ char *parent = parent_of(path);
    return fileio_sync_dir(parent, err);
}

/* That the name of a directory lasts. Where its parent may be written and not read, all of the file
 * system is synced; where it may not be written either, or the directory itself is not ours to
 * read, somebody else made it and sees to it. */
static int sync_name(const char *path, struct hai_err *err) {
    _cleanup_free_ char *parent = parent_of(path);
    int r = fileio_sync_dir(parent, err);

    if (r != -EACCES)
        return r;
    if (access(parent, W_OK) < 0)
        return 0;
    _cleanup_(closep) int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == EACCES)
        return 0;
    return fd < 0 || syncfs(fd) < 0 ? hai_fail(err, -errno, "%s: %m", path) : 0;
}

/* 1: made, 0: it was there. */
static int make_dir(const char *path, mode_t mode, bool durable, struct hai_err *err) {
    if (mkdir(path, mode) == 0) {
        int r = durable ? sync_name(path, err) : 0;
        return r < 0 ? r : 1;
    }
    return errno == EEXIST ? 0 : hai_fail(err, -errno, "%s: %m", path);
}

static int make_dirs(const char *path, mode_t mode, bool durable, struct hai_err *err) {
    _cleanup_free_ char *part = hai_strdup(path);
    size_t n_there = 0; // bytes of the deepest part that was there
    struct stat st;
    int r = 0;

    for (size_t n = strlen(part); n > 1 && part[n - 1] == '/'; n--)
        part[n - 1] = 0; // parent_of would take the text behind the last slash for a name
    for (char *at = part; r >= 0; at++) {
        bool last = !*at;
        if (!last && (at == part || *at != '/' || at[-1] == '/'))
            continue;
        *at = 0;
        r = make_dir(part, mode, durable, err);
        if (r == 0)
            n_there = strlen(part);
        if (last)
            break;
        *at = '/';
    }
    if (r < 0)
        return r;
    if (stat(path, &st) < 0)
        return hai_fail(err, -errno, "%s: %m", path);
    if (!S_ISDIR(st.st_mode))
        return hai_fail(err, -ENOTDIR, "%s: not a directory", path);
    if (!durable || !n_there)
        return 0;
    part[n_there] = 0;
    return sync_name(part, err); // perhaps its maker was killed before he did
}

int fileio_mkdir_p(const char *path, mode_t mode, struct hai_err *err) {
    return make_dirs(path, mode, false, err);
}

int fileio_mkdir_durable(const char *path, mode_t mode, struct hai_err *err) {
    return make_dirs(path, mode, true, err);
}

static void closedirp(DIR **dir) {
    if (*dir)
        closedir(*dir);
}

static int remove_at(int dir_fd, const char *name, int depth, struct hai_err *err);

static int remove_children(int dir_fd, const char *name, int depth, struct hai_err *err) {
    int first = 0;

    if (depth >= TREE_DEPTH_MAX)
        return hai_fail(err, -ELOOP, "%s: more than %d directories deep", name, TREE_DEPTH_MAX);
    int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return hai_fail(err, -errno, "%s: %m", name);
    _cleanup_(closedirp) DIR *dir = fdopendir(fd);
    if (!dir) {
        int e = errno;
        close(fd);
        return hai_fail(err, -e, "%s: %s", name, strerrordesc_np(e));
    }
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        int r = remove_at(fd, entry->d_name, depth + 1, first < 0 ? NULL : err);
        if (r < 0 && first == 0)
            first = r;
    }
    return first;
}

static int remove_at(int dir_fd, const char *name, int depth, struct hai_err *err) {
    if (unlinkat(dir_fd, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return hai_fail(err, -errno, "%s: %m", name);
    int r = remove_children(dir_fd, name, depth, err);
    if (r < 0)
        return r;
    if (unlinkat(dir_fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
        return hai_fail(err, -errno, "%s: %m", name);
    return 0;
}

int fileio_remove_tree(const char *path, struct hai_err *err) {
    int r = remove_at(AT_FDCWD, path, 0, err);

    if (r < 0)
        hai_err_prefix(err, "removing %s: ", path);
    return r;
}

int fileio_lock(const char *path, int *ret, struct hai_err *err) {
    _cleanup_(closep) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        return hai_fail(err, -errno, "%s: %m", path);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK ? hai_fail(err, -EBUSY, "%s: locked by another process", path)
                                    : hai_fail(err, -errno, "%s: %m", path);
    *ret = TAKE_FD(fd);
    return 0;
}
