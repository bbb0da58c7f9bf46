#include "agent/procs.h"
#include "lib/fileio.h"
#include "lib/timefmt.h"
#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/pidfd.h>
#include <unistd.h>

enum { ENVIRON_BYTES_MAX = 4 << 20 };

static bool environ_has(pid_t pid, const char *entry) {
    _cleanup_(buf_free) struct buf text = {0};
    size_t n = strlen(entry);
    char path[64];

    snprintf(path, sizeof path, "/proc/%d/environ", pid);
    if (fileio_read_file(path, ENVIRON_BYTES_MAX, &text, NULL) < 0)
        return false;
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
 * zombies not counted. */
static int end_all(const char *entry, int64_t end_us) {
    DIR *proc = opendir("/proc");
    int n = 0;

    if (!proc)
        return -errno;
    for (struct dirent *found; (found = readdir(proc));) {
        pid_t pid = atoi(found->d_name);
        // Opened before the look: whoever gets the number afterwards is not meant.
        _cleanup_(closep) int fd = pid > 0 ? pidfd_open(pid, 0) : -1;
        if (fd < 0 || !environ_has(pid, entry) || pidfd_send_signal(fd, SIGKILL, NULL, 0) < 0)
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
    int n;

    do
        n = end_all(entry, end_us);
    while (n > 0 && timefmt_monotonic_us() < end_us);
    return n > 0 ? -ETIMEDOUT : n;
}
