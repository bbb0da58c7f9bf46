#include "agent/shim_output.h"
#include "agent/shim_control.h"
#include "lib/timefmt.h"
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static void path_of(const struct shim *s, const struct shim_rank *rank, char ret[static PATH_MAX]) {
    snprintf(ret, PATH_MAX, "%s/%d.log", s->log_dir, rank->state.rank);
}

static int open_file(const struct shim *s, const char *path) {
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0640);

    if (fd < 0)
        fprintf(stderr, "hai-shim: %s: %m\n", path);
    else if (s->spec->switch_user && fchown(fd, s->spec->uid, s->spec->gid) < 0)
        fprintf(stderr, "hai-shim: %s: %m\n", path);
    return fd;
}

void shim_output_open(struct shim *s, struct shim_rank *rank) {
    char path[PATH_MAX];
    struct stat st;

    path_of(s, rank, path);
    rank->log_fd = open_file(s, path);
    if (rank->log_fd >= 0 && fstat(rank->log_fd, &st) == 0)
        rank->log_bytes = st.st_size;
}

/* The current file is full: it becomes the older one, under the offset at which it ends. False: it
 * cannot, and stays the current one. */
static bool rotate(struct shim *s, struct shim_rank *rank) {
    char path[PATH_MAX], old[PATH_MAX + 24], new[PATH_MAX + 24];

    path_of(s, rank, path);
    snprintf(old, sizeof old, "%s.%" PRId64, path, rank->log_base);
    snprintf(new, sizeof new, "%s.%" PRId64, path, rank->log_base + rank->log_bytes);
    if (rename(path, new) < 0) {
        if (!rank->lost_bytes) // told once
            fprintf(stderr, "hai-shim: %s: %m\n", new);
        return false;
    }
    rank->log_base += rank->log_bytes;
    rank->log_bytes = 0;
    unlink(old);
    close(rank->log_fd);
    rank->log_fd = open_file(s, path);
    return true;
}

/* Bytes as they shall lie in the file, split where a file is full. What cannot be written (a full
 * disk, a file that stays full) is lost and counted: output must not stop a rank. */
static void put(struct shim *s, struct shim_rank *rank, const char *data, size_t n_bytes) {
    while (n_bytes && rank->log_fd >= 0) {
        if (rank->log_bytes >= s->spec->log_bytes && !rotate(s, rank))
            break;
        size_t n = MIN(n_bytes, (size_t)(s->spec->log_bytes - rank->log_bytes));
        ssize_t done = rank->log_fd < 0 ? -1 : write(rank->log_fd, data, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            break;
        rank->log_bytes += done;
        data += done;
        n_bytes -= (size_t)done;
    }
    rank->lost_bytes += (int64_t)n_bytes;
}

void shim_output_write(struct shim *s, struct shim_rank *rank, const char *data, size_t n_bytes) {
    enum { STAMP_BYTES = 25, OUT_BYTES = 16 * 1024 };
    char stamp[TIMEFMT_ISO_BYTES], out[OUT_BYTES];
    size_t n_out = 0;

    timefmt_iso(timefmt_now_us(), stamp);
    stamp[STAMP_BYTES - 1] = ' ';
    while (n_bytes) {
        if (n_out + STAMP_BYTES + 2 > OUT_BYTES) {
            put(s, rank, out, n_out);
            n_out = 0;
        }
        if (!rank->line_bytes) {
            memcpy(out + n_out, stamp, STAMP_BYTES);
            n_out += STAMP_BYTES;
        }
        const char *end = memchr(data, '\n', n_bytes);
        size_t n = end ? (size_t)(end - data) : n_bytes;
        n = MIN(n, OUT_BYTES - n_out - 1);
        n = MIN(n, (size_t)(SHIM_OUTPUT_LINE_MAX - rank->line_bytes));
        memcpy(out + n_out, data, n);
        n_out += n;
        // An empty line is begun as well, by its stamp: it counts as one byte.
        rank->line_bytes += MAX((int)n, 1);
        data += n;
        n_bytes -= n;
        if (n_bytes && *data == '\n') {
            data++;
            n_bytes--;
        } else if (rank->line_bytes < SHIM_OUTPUT_LINE_MAX) {
            continue;
        }
        out[n_out++] = '\n';
        rank->line_bytes = 0;
    }
    put(s, rank, out, n_out);
}

void shim_output_end(struct shim *s, struct shim_rank *rank) {
    if (rank->line_bytes)
        put(s, rank, "\n", 1);
    rank->line_bytes = 0;
    if (rank->lost_bytes)
        fprintf(stderr, "hai-shim: rank %d: %" PRId64 " bytes of output could not be written\n",
                rank->state.rank, rank->lost_bytes);
    if (rank->log_fd >= 0)
        close(rank->log_fd);
    rank->log_fd = -1;
}
