#include "agent/procs.h"
#include "lib/fileio.h"
#include "lib/timefmt.h"
#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/pidfd.h>
#include <unistd.h>

enum {
    ENVIRON_BYTES_MAX = 4 << 20,
    AGAIN_US = 1000,
};

static int read_proc(pid_t pid, const char *name, struct buf *ret) {
    char path[64];

    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    return fileio_read_file(path, ENVIRON_BYTES_MAX, ret, NULL);
}

/* In the middle of execve it has a program and no words yet: neither arguments nor environment. */
static bool is_execing(pid_t pid) {
    _cleanup_(buf_free) struct buf words = {0};
    char path[64], program[8];

    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    return read_proc(pid, "cmdline", &words) == 0 && !words.n_bytes &&
           readlink(path, program, sizeof program) > 0;
}

/* ret_again: it cannot be said yet. */
static bool environ_has(pid_t pid, const char *entry, bool *ret_again) {
    _cleanup_(buf_free) struct buf text = {0};
    size_t n = strlen(entry);

    if (read_proc(pid, "environ", &text) < 0)
        return false;
    *ret_again |= !text.n_bytes && is_execing(pid);
    for (size_t at = 0; at < text.n_bytes;) {
        const char *word = (const char *)text.data + at;
        size_t n_word = strnlen(word, text.n_bytes - at);
        if (n_word == n && !memcmp(word, entry, n))
            return true;
        at += n_word + 1;
    }
    return false;
}

/* One look: kill those that are there and wait for each until end_us. Returns how many there were,
 * zombies not counted; ret_again: there may be more. */
static int end_all(const char *entry, int64_t end_us, bool *ret_again) {
    DIR *proc = opendir("/proc");
    int n = 0;

    if (!proc)
        return -errno;
    for (struct dirent *found; (found = readdir(proc));) {
        pid_t pid = atoi(found->d_name);
        // Opened before the look: whoever gets the number afterwards is not meant.
        _cleanup_(closep) int fd = pid > 0 ? pidfd_open(pid, 0) : -1;
        if (fd < 0 || !environ_has(pid, entry, ret_again) ||
            pidfd_send_signal(fd, SIGKILL, NULL, 0) < 0)
            continue;
        n++;
        // It loses its environment before its files: the next look alone would come too early.
        int64_t left_us = MAX(end_us - timefmt_monotonic_us(), (int64_t)0);
        poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, (int)((left_us + 999) / 1000));
    }
    closedir(proc);
    return n;
}

int procs_end(const char *entry, int64_t wait_us) {
    int64_t end_us = timefmt_monotonic_us() + wait_us;
    bool again;
    int n;

    do {
        again = false;
        n = end_all(entry, end_us, &again);
        if (!n && again)
            usleep(AGAIN_US);
    } while ((n > 0 || (!n && again)) && timefmt_monotonic_us() < end_us);
    return n > 0 || again ? -ETIMEDOUT : n;
}
