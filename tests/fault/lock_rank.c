/* A rank that proves it is the only one: takes an exclusive lock on a file per job and rank and on
 * one per GPU it was given, says when it starts and ends, and sleeps in between. A lock that is
 * taken is a job run twice or a GPU held twice: written to DIR/violations.
 *
 * usage: lock_rank DIR MILLISECONDS [EXIT_STATUS]
 *
 * One line a write to a file opened with O_APPEND: lines of many ranks do not mix. */
#include "lib/base.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

static const char *env(const char *name) {
    const char *value = getenv(name);
    return value ? value : "-";
}

static int64_t now_us(void) {
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void say(const char *dir, const char *file, const char *what, const char *detail) {
    char path[4096], line[1024];

    snprintf(path, sizeof path, "%s/%s", dir, file);
    int n = snprintf(line, sizeof line, "%s %s %s %s %lld %d %s %s\n", env("HAI_JOB_ID"),
                     env("RANK"), env("HAI_ATTEMPT"), what, (long long)now_us(), (int)getpid(),
                     env("HAI_NODE"), detail);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0 || write(fd, line, (size_t)n) != n)
        _exit(3);
    close(fd);
}

/* The lock lasts as long as the process. */
static bool lock(const char *dir, const char *kind, const char *a, const char *b) {
    char path[4096];

    snprintf(path, sizeof path, "%s/lock-%s-%s-%s", dir, kind, a, b);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0)
        _exit(3);
    return flock(fd, LOCK_EX | LOCK_NB) == 0;
}

/* Ranks of one node may all see all GPUs of the job there (torch's way): then each locks its own.
 */
static void lock_gpus(const char *dir) {
    char list[256], *gpus[64], *save = NULL;
    int n = 0;

    snprintf(list, sizeof list, "%s", getenv("CUDA_VISIBLE_DEVICES") ?: "");
    for (char *gpu = strtok_r(list, ",", &save); gpu && n < 64; gpu = strtok_r(NULL, ",", &save))
        gpus[n++] = gpu;
    bool shared = n > 1 && n == atoi(env("LOCAL_WORLD_SIZE"));
    for (int i = 0; i < n; i++) {
        if (shared && i != atoi(env("LOCAL_RANK")))
            continue;
        if (!lock(dir, "gpu", env("HAI_NODE"), gpus[i])) {
            say(dir, "violations", "gpu-twice", gpus[i]);
            _exit(1);
        }
    }
}

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    const char *dir = argv[1];
    if (!lock(dir, "rank", env("HAI_JOB_ID"), env("RANK"))) {
        say(dir, "violations", "rank-twice", "-");
        return 1;
    }
    say(dir, "ranks", "start", env("CUDA_VISIBLE_DEVICES"));
    lock_gpus(dir);
    long ms = strtol(argv[2], NULL, 10);
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&t, &t) < 0)
        ;
    say(dir, "ranks", "end", "-");
    return argc > 3 ? (int)strtol(argv[3], NULL, 10) : 0;
}
