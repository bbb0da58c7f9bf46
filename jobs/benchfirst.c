#include "jobs/benchfirst.h"
#include "lib/fileio.h"
#include "lib/programs.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

/* Pages of a file, and how many of them are in memory. */
static int count_pages(int fd, size_t n_bytes, int64_t *n, int64_t *n_in) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), n_pages = (n_bytes + page - 1) / page;
    void *map = mmap(NULL, n_bytes, PROT_READ, MAP_SHARED, fd, 0);
    _cleanup_free_ unsigned char *in = hai_alloc(n_pages + 1);

    if (map == MAP_FAILED)
        return -errno;
    int r = mincore(map, n_bytes, in) < 0 ? -errno : 0;
    munmap(map, n_bytes);
    for (size_t i = 0; i < n_pages && r == 0; i++)
        *n_in += in[i] & 1;
    *n += (int64_t)n_pages;
    return r;
}

static DIR *open_dir(const char *dir, struct hai_err *err) {
    DIR *d = opendir(dir);

    if (!d)
        hai_fail(err, -errno, "%s: %m", dir);
    return d;
}

int benchfirst_forget(const char *dir, double *ret_left, struct hai_err *err) {
    int64_t n = 0, n_in = 0;
    DIR *d = open_dir(dir, err);
    int r = 0;

    if (!d)
        return err->r;
    for (struct dirent *e; r == 0 && (e = readdir(d));) {
        _cleanup_free_ char *path = hai_asprintf("%s/%s", dir, e->d_name);
        _cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
        struct stat st;
        if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || !st.st_size)
            continue;
        (void)fdatasync(fd); // pages not yet written cannot go
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        r = count_pages(fd, (size_t)st.st_size, &n, &n_in);
        if (r < 0)
            hai_fail(err, r, "%s: %m", path);
    }
    closedir(d);
    if (r == 0)
        *ret_left = n ? (double)n_in / (double)n : 1;
    return r;
}

static double now_s(void) {
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int benchfirst_run(char *const *argv, double *ret_s, struct hai_err *err) {
    int ends[2], status;
    char bytes[4096];
    ssize_t n, n_first;

    if (pipe2(ends, O_CLOEXEC) < 0)
        return hai_fail(err, -errno, "a pipe: %m");
    double start_s = now_s();
    pid_t pid = programs_fork();
    if (pid == 0) {
        if (dup2(ends[1], STDOUT_FILENO) >= 0)
            execv(argv[0], argv);
        _exit(127);
    }
    close(ends[1]);
    n = n_first = pid < 0 ? 0 : read(ends[0], bytes, sizeof bytes);
    *ret_s = now_s() - start_s;
    while (n > 0)
        n = read(ends[0], bytes, sizeof bytes);
    close(ends[0]);
    if (pid < 0)
        return hai_fail(err, (int)pid, "starting %s", argv[0]);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return n_first > 0 && status == 0 ? 0 : hai_fail(err, -EIO, "%s failed", argv[0]);
}
