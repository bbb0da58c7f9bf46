#include "agent/logkeep.h"
#include "lib/fileio.h"
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK_BYTES = 512 }; // of st_blocks

/* The output of one attempt. */
struct output {
    int64_t job, attempt;
    int64_t at_us; // when it was last written to
    int64_t n_bytes;
};

struct outputs {
    struct output *items;
    size_t n, n_max;
    int64_t n_bytes;
};

static char *path_of(const struct logkeep *keep, int64_t job, int64_t attempt) {
    return hai_asprintf("%s/%" PRId64 "/%" PRId64, keep->log_dir, job, attempt);
}

/* A name that is a whole number and nothing else; -1: it is not. */
static int64_t number_of(const char *name) {
    char *end;
    int64_t number = strtoll(name, &end, 10);

    return *name >= '0' && *name <= '9' && !*end ? number : -1;
}

static int64_t time_of(const struct stat *st) {
    return st->st_mtim.tv_sec * INT64_C(1000000) + st->st_mtim.tv_nsec / 1000;
}

static int measure(const char *path, struct output *ret) {
    DIR *dir = opendir(path);
    struct stat st;

    if (!dir)
        return -errno;
    ret->at_us = fstat(dirfd(dir), &st) == 0 ? time_of(&st) : INT64_MAX;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..") ||
            fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        ret->at_us = MAX(ret->at_us, time_of(&st));
        ret->n_bytes += st.st_blocks * BLOCK_BYTES;
    }
    closedir(dir);
    return 0;
}

static void take(const struct logkeep *keep, int64_t job, int64_t attempt, struct outputs *ret) {
    _cleanup_free_ char *path = path_of(keep, job, attempt);
    struct output output = {job, attempt, 0, 0};

    if (measure(path, &output) < 0)
        return;
    if (ret->n == ret->n_max) {
        ret->n_max = MAX(ret->n_max * 2, (size_t)64);
        ret->items = hai_realloc_array(ret->items, ret->n_max, sizeof *ret->items);
    }
    ret->items[ret->n++] = output;
    ret->n_bytes += output.n_bytes;
}

static void take_job(const struct logkeep *keep, int64_t job, struct outputs *ret) {
    _cleanup_free_ char *path = hai_asprintf("%s/%" PRId64, keep->log_dir, job);
    DIR *dir = opendir(path);

    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (number_of(entry->d_name) >= 0)
            take(keep, job, number_of(entry->d_name), ret);
    if (dir)
        closedir(dir);
}

static int older_first(const void *a, const void *b) {
    const struct output *x = a, *y = b;

    if (x->at_us != y->at_us)
        return x->at_us < y->at_us ? -1 : 1;
    if (x->job != y->job)
        return x->job < y->job ? -1 : 1;
    return (x->attempt > y->attempt) - (x->attempt < y->attempt);
}

/* Without a lock file the attempt is of a shim of an earlier version: only is_live knows. */
static bool is_live(const struct logkeep *keep, const struct output *output, const char *path) {
    if (keep->is_live && keep->is_live(output->job, output->attempt, keep->data))
        return true;
    _cleanup_free_ char *lock = hai_asprintf("%s/" LOGKEEP_LIVE, path);
    _cleanup_(closep) int fd = open(lock, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    return fd < 0 ? errno != ENOENT : flock(fd, LOCK_EX | LOCK_NB) < 0;
}

static bool drop(const struct logkeep *keep, const struct output *output) {
    _cleanup_free_ char *path = path_of(keep, output->job, output->attempt);
    _cleanup_free_ char *job = hai_asprintf("%s/%" PRId64, keep->log_dir, output->job);
    struct hai_err err = {0};

    if (is_live(keep, output, path))
        return false;
    if (fileio_remove_tree(path, &err) < 0) {
        fprintf(stderr, "hai-agentd: old output stays: %s\n", err.text);
        return false;
    }
    rmdir(job); // refused while another attempt's is in it
    return true;
}

int logkeep_sweep(const struct logkeep *keep, int64_t now_us) {
    _cleanup_free_ char *lock = hai_asprintf("%s/.sweep", keep->log_dir);
    struct outputs all = {0};
    int n_dropped = 0;

    _cleanup_(closep) int fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
        return 0;
    DIR *dir = opendir(keep->log_dir);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (number_of(entry->d_name) >= 0)
            take_job(keep, number_of(entry->d_name), &all);
    if (dir)
        closedir(dir);
    if (all.n)
        qsort(all.items, all.n, sizeof *all.items, older_first);
    for (size_t i = 0; i < all.n && now_us - all.items[i].at_us >= keep->young_us; i++) {
        if (now_us - all.items[i].at_us <= keep->age_us && all.n_bytes <= keep->bytes_max)
            break; // neither is any of the younger ones beyond a limit
        if (drop(keep, &all.items[i])) {
            all.n_bytes -= all.items[i].n_bytes;
            n_dropped++;
        }
    }
    free(all.items);
    return n_dropped;
}
