/* hai-sim-planted - the simulator over cores with a fault planted in them (lib/pure/plant.h).
 *
 * usage: hai-sim-planted SEEDS FIRST [LEFT_OUT]
 * For every fault but the first LEFT_OUT, and for none, prints one line: how many seeds from FIRST
 * on it took until one failed, and how. At most SEEDS; each runs in a process of its own, as some
 * faults end in an assertion. Exit status: 0 each fault was found, and nothing where there is none;
 * 1 not so; 2 usage.
 */
#include "lib/pure/plant.h"
#include "sim/minimise.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    STEPS = 1000,
    SEED_SECONDS_MAX = 60,
    CONTROL_SEEDS_MAX = 20,
    SHORTEN_SEEDS = 20, // of which one at least must be shortened
    FAULTS_MIN = 8,     // with fewer there is not much to leave out
};

int hai_plant;

static const char *const names[PLANT_END] = {[PLANT_NONE] = "nothing planted",
#define NAME_(name, text) [PLANT_##name] = text,
                                             PLANTS(NAME_)
#undef NAME_
};

/* In the child: how the seed failed goes to fd; a hang counts as a failure. */
static void run_seed(uint64_t seed, int fd) {
    struct storm_result result;
    struct hai_err err = {0};

    if (!freopen("/dev/null", "w", stderr)) // the text of assertions
        _exit(2);
    alarm(SEED_SECONDS_MAX);
    int r = storm_run(seed, STEPS, &result, NULL, &err);
    if (r < 0 && write(fd, err.text, strlen(err.text)) < 0)
        _exit(2);
    _exit(r < 0);
}

/* Does the seed fail? How: ret. */
static bool fails(uint64_t seed, char *ret, size_t size) {
    int fds[2], status;

    if (pipe(fds) < 0)
        abort();
    pid_t pid = fork();
    if (pid == 0)
        run_seed(seed, fds[1]);
    if (pid < 0)
        abort();
    close(fds[1]);
    ssize_t n = read(fds[0], ret, size - 1);
    close(fds[0]);
    ret[MAX(n, 0)] = 0;
    while (waitpid(pid, &status, 0) < 0) {
    }
    if (WIFSIGNALED(status))
        (void)snprintf(ret, size, "ended by signal %d", WTERMSIG(status));
    return status != 0;
}

static bool hunt(int plant, uint64_t first, uint64_t n) {
    char text[512] = "";
    uint64_t i = 0;

    hai_plant = plant;
    while (i < n && !fails(first + i, text, sizeof text))
        i++;
    bool found = i < n;
    if (found)
        printf("%s: found after %llu seeds: %s\n", names[plant], (unsigned long long)i + 1, text);
    else
        printf("%s: not found in %llu seeds\n", names[plant], (unsigned long long)n);
    (void)fflush(stdout);
    return found == (plant != PLANT_NONE);
}

/* How many of its faults a seed fails without, 0 if it has few or does not fail. What is left out
 * changes all that comes after it, so some seeds fail with all of theirs only. */
static size_t n_superfluous(uint64_t seed) {
    struct hai_err err = {0};
    _cleanup_free_ bool *skip = NULL;
    size_t n_faults = 0, n = 0;

    if (minimise(seed, STEPS, &skip, &n_faults, &err) == 0 || n_faults < FAULTS_MIN)
        return 0;
    for (size_t k = 0; k < n_faults; k++)
        n += skip[k];
    printf("minimised: %zu of %zu faults are enough: %s\n", n_faults - n, n_faults, err.text);
    return n;
}

static bool shortens(int plant, uint64_t first, uint64_t n) {
    hai_plant = plant;
    for (uint64_t i = 0; i < MIN(n, (uint64_t)SHORTEN_SEEDS); i++)
        if (n_superfluous(first + i))
            return true;
    return false;
}

int main(int argc, char **argv) {
    uint64_t n = argc == 3 || argc == 4 ? strtoull(argv[1], NULL, 10) : 0;
    int left_out = argc == 4 ? atoi(argv[3]) : 0, n_wrong = 0;

    if (!n) {
        fputs("usage: hai-sim-planted SEEDS FIRST [LEFT_OUT]\n", stderr);
        return 2;
    }
    uint64_t first = strtoull(argv[2], NULL, 10);
    for (int plant = PLANT_NONE; plant < PLANT_END; plant = MAX(plant, left_out) + 1)
        n_wrong +=
            !hunt(plant, first, plant == PLANT_NONE ? MIN(n, (uint64_t)CONTROL_SEEDS_MAX) : n);
    n_wrong += !shortens(PLANT_FENCE_FORGOTTEN, first, n);
    printf("%d planted, %d wrong\n", PLANT_END - 1, n_wrong);
    return n_wrong > 0;
}
