#include "sim/seeds.h"
#include "sim/minimise.h"

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

static void print_fault(void *userdata, int64_t number, int64_t at_us, const char *what,
                        const char *node) {
    printf("  %4lld  %10.3f s  %s%s%s\n", (long long)number, (double)at_us / 1e6, what,
           node ? ": " : "", node ? node : "");
}

int seeds_minimise(uint64_t seed, int n_steps) {
    _cleanup_free_ bool *skip = NULL;
    struct storm_result result;
    struct hai_err err = {0};
    size_t n, n_needed = 0;

    if (minimise(seed, n_steps, &skip, &n, &err) == 0) {
        printf("seed %llu does not fail\n", (unsigned long long)seed);
        return 0;
    }
    for (size_t i = 0; i < n; i++)
        n_needed += !skip[i];
    printf("%s\n%zu of its %zu faults are enough:\n", hai_err_text(&err), n_needed, n);
    struct storm_options options = {.skip = skip, .n_skip = n, .on_fault = print_fault};
    err = (struct hai_err){0};
    storm_run_as(seed, n_steps, &options, &result, NULL, &err);
    return 1;
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
        total.waited += one.waited;
        total.near += one.near;
        total.claims += one.claims;
        total.messages += one.messages;
        total.digest = total.digest * 31 + one.digest;
    }
    printf("%llu seeds, %lld entries, %lld jobs, %lld placements, %lld faults, digest %016llx: "
           "%d failed; room made %lld times, %lld requests made again, %lld messages to and from "
           "agents, %lld times a job waited for too long, %lld of them near the bound, %lld had "
           "room in "
           "all\n",
           (unsigned long long)(last - first + 1), (long long)total.entries, (long long)total.jobs,
           (long long)total.placements, (long long)total.faults, (unsigned long long)total.digest,
           n_failed, (long long)total.rooms, (long long)total.retries, (long long)total.messages,
           (long long)total.waited, (long long)total.near, (long long)total.claims);
    return n_failed;
}
