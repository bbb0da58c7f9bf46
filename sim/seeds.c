#include "sim/seeds.h"
#include "sim/storm.h"

#include <stdio.h>

int seeds_parse(const char *text, uint64_t *ret_first, uint64_t *ret_last) {
    char *end;

    *ret_first = *ret_last = strtoull(text, &end, 10);
    if (end == text)
        return -EINVAL;
    if (!strncmp(end, "..", 2))
        *ret_last = strtoull(end + 2, &end, 10);
    return *end || *ret_last < *ret_first ? -EINVAL : 0;
}

int seeds_run(uint64_t first, uint64_t last, int n_steps) {
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
        total.rooms += one.rooms;
        total.faults += one.faults;
        total.retries += one.retries;
        total.digest = total.digest * 31 + one.digest;
    }
    printf("%llu seeds, %lld entries, %lld jobs, %lld placements, %lld faults, digest %016llx: "
           "%d failed; room made %lld times, %lld requests made again\n",
           (unsigned long long)(last - first + 1), (long long)total.entries, (long long)total.jobs,
           (long long)total.placements, (long long)total.faults, (unsigned long long)total.digest,
           n_failed, (long long)total.rooms, (long long)total.retries);
    return n_failed;
}
