#include "agent/logfile.h"
#include "lib/fileio.h"
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

/* The files of one rank at one moment. */
struct files {
    int fd, old_fd;
    int64_t base; // offset at which the current file begins
    int64_t size, old_size;
};

static void files_close(struct files *f) {
    if (f->fd >= 0)
        close(f->fd);
    if (f->old_fd >= 0)
        close(f->old_fd);
}

/* The highest BASE among RANK.log.BASE, 0 if there is none. */
static int64_t find_base(const char *dir, int64_t rank) {
    DIR *d = opendir(dir);
    int64_t base = 0, number, of;
    int end;

    for (struct dirent *entry; d && (entry = readdir(d));)
        if (sscanf(entry->d_name, "%" SCNd64 ".log.%" SCNd64 "%n", &number, &of, &end) == 2 &&
            number == rank && !entry->d_name[end])
            base = MAX(base, of);
    if (d)
        closedir(d);
    return base;
}

static int64_t size_of(int fd) {
    struct stat st;

    return fd >= 0 && fstat(fd, &st) == 0 ? st.st_size : 0;
}

static int files_open(const char *log_dir, int64_t job, int64_t attempt, int64_t rank,
                      struct files *ret) {
    _cleanup_free_ char *dir = hai_asprintf("%s/%" PRId64 "/%" PRId64, log_dir, job, attempt);
    _cleanup_free_ char *path = hai_asprintf("%s/%" PRId64 ".log", dir, rank);

    // A rotation between the two looks shows in the second: then look again.
    for (int tries = 0; tries < 8; tries++) {
        struct files f = {.old_fd = -1, .base = find_base(dir, rank)};
        f.fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (f.base) {
            _cleanup_free_ char *old = hai_asprintf("%s.%" PRId64, path, f.base);
            f.old_fd = open(old, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        }
        f.size = size_of(f.fd);
        f.old_size = size_of(f.old_fd);
        if (f.fd >= 0 && find_base(dir, rank) == f.base) {
            *ret = f;
            return 0;
        }
        files_close(&f);
        if (f.fd < 0 && !f.base)
            return -ENOENT;
    }
    return -ENOENT;
}

/* Append up to n_bytes from a place in a file; fewer at its end. Returns how many. */
static int64_t append(int fd, int64_t at, int64_t n_bytes, struct buf *ret) {
    size_t before = ret->n_bytes;

    if (fd < 0 || n_bytes <= 0)
        return 0;
    ssize_t n = pread(fd, buf_extend(ret, (size_t)n_bytes), (size_t)n_bytes, at);
    ret->n_bytes = before + (size_t)MAX(n, (ssize_t)0);
    return MAX(n, (ssize_t)0);
}

int64_t logfile_read(const char *log_dir, int64_t job, int64_t attempt, int64_t rank,
                     int64_t offset, size_t n_bytes_max, struct buf *ret, int64_t *ret_offset,
                     int64_t *ret_end) {
    struct files f;

    int r = files_open(log_dir, job, attempt, rank, &f);
    if (r < 0)
        return r;
    int64_t first = f.base - f.old_size;
    int64_t left = (int64_t)n_bytes_max, done = 0;
    offset = MAX(offset, first);
    *ret_offset = offset;
    if (offset < f.base)
        done = append(f.old_fd, offset - first, MIN(left, f.base - offset), ret);
    if (offset + done >= f.base)
        done += append(f.fd, offset + done - f.base,
                       MIN(left - done, f.base + f.size - offset - done), ret);
    *ret_end = f.base + f.size;
    files_close(&f);
    return done;
}

int64_t logfile_tail(const char *log_dir, int64_t job, int64_t attempt, int64_t rank,
                     size_t n_bytes_max, struct buf *ret) {
    int64_t offset, end;

    if (logfile_read(log_dir, job, attempt, rank, INT64_MAX, 0, ret, &offset, &end) < 0)
        return 0;
    int64_t n =
        logfile_read(log_dir, job, attempt, rank, MAX(end - (int64_t)n_bytes_max, (int64_t)0),
                     n_bytes_max, ret, &offset, &end);
    return n < 0 ? 0 : offset + n;
}

int64_t logfile_newest_attempt(const char *log_dir, int64_t job) {
    _cleanup_free_ char *path = hai_asprintf("%s/%" PRId64, log_dir, job);
    DIR *dir = opendir(path);
    int64_t newest = 0, attempt;
    int end;

    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (sscanf(entry->d_name, "%" SCNd64 "%n", &attempt, &end) == 1 && !entry->d_name[end])
            newest = MAX(newest, attempt);
    if (dir)
        closedir(dir);
    return newest;
}
