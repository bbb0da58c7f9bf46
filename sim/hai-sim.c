/* hai-sim - runs the scheduler's core through seeded storms of faults.
 *
 *     hai-sim --seeds A..B [--steps N]
 *
 * Prints one line a failing seed, then the totals; exit status 1 if a seed failed, 2 for a bad
 * command line.
 */
#include "sim/storm.h"

#include <getopt.h>
#include <stdio.h>

static const char usage[] = "usage: hai-sim --seeds A..B [--steps N]\n"
                            "Runs the scheduler's core through seeded storms of faults and checks\n"
                            "its invariants; a failing seed is printed and repeats exactly.\n";

static int parse_seeds(const char *text, uint64_t *ret_first, uint64_t *ret_last) {
    char *end;

    *ret_first = *ret_last = strtoull(text, &end, 10);
    if (end == text)
        return -EINVAL;
    if (!strncmp(end, "..", 2))
        *ret_last = strtoull(end + 2, &end, 10);
    return *end || *ret_last < *ret_first ? -EINVAL : 0;
}

static int run_seeds(uint64_t first, uint64_t last, int n_steps) {
    struct storm_result total = {0};
    int n_failed = 0;

    for (uint64_t seed = first; seed <= last; seed++) {
        struct storm_result one;
        struct hai_err err = {0};
        if (storm_run(seed, n_steps, &one, NULL, &err) < 0) {
            printf("%s\n", hai_err_text(&err));
            n_failed++;
        }
        total.entries += one.entries;
        total.jobs += one.jobs;
        total.placements += one.placements;
        total.faults += one.faults;
        total.digest = total.digest * 31 + one.digest;
    }
    printf("%llu seeds, %lld entries, %lld jobs, %lld placements, %lld faults, digest %016llx: "
           "%d failed\n",
           (unsigned long long)(last - first + 1), (long long)total.entries, (long long)total.jobs,
           (long long)total.placements, (long long)total.faults, (unsigned long long)total.digest,
           n_failed);
    return n_failed ? 1 : 0;
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"seeds", required_argument, NULL, 's'},
        {"steps", required_argument, NULL, 'n'},
        {"help",  no_argument,       NULL, 'h'},
        {NULL,    0,                 NULL, 0  },
    };
    uint64_t first = 1, last = 100;
    int n_steps = 1000;
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
        switch (c) {
        case 's':
            if (parse_seeds(optarg, &first, &last) < 0) {
                fprintf(stderr, "hai-sim: --seeds %s: expected A..B\n", optarg);
                return 2;
            }
            break;
        case 'n':
            n_steps = atoi(optarg);
            if (n_steps < 1) {
                fprintf(stderr, "hai-sim: --steps %s: expected a number from 1\n", optarg);
                return 2;
            }
            break;
        case 'h':
            fputs(usage, stdout);
            return 0;
        default:
            fputs(usage, stderr);
            return 2;
        }
    }
    if (optind < argc) {
        fputs(usage, stderr);
        return 2;
    }
    return run_seeds(first, last, n_steps);
}
