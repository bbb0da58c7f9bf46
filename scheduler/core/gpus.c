#include "scheduler/core/gpus.h"

static uint32_t lowest(uint32_t set, int64_t n) {
    uint32_t r = 0;

    for (; n > 0; n--) {
        uint32_t bit = set & -set;
        r |= bit;
        set &= ~bit;
    }
    return r;
}

/* The GPUs of the island with this one. */
static uint32_t island_of(int gpu, int64_t size) {
    int64_t first = gpu / size * size;

    return (uint32_t)(((UINT64_C(1) << size) - 1) << first);
}

/* Of the islands with some of the set: the one with the fewest of it that are enough for n, else
 * with the most. Returns what it has of the set. */
static uint32_t best_island(uint32_t set, int64_t n, int64_t size) {
    uint32_t best = 0;

    for (uint32_t rest = set, have; rest; rest &= ~have) {
        have = rest & island_of(__builtin_ctz(rest), size);
        int is = __builtin_popcount(have), was = __builtin_popcount(best);
        bool enough = is >= n, was_enough = was >= n;
        if (!best || (enough && (!was_enough || is < was)) || (!enough && !was_enough && is > was))
            best = have;
    }
    return best;
}

uint32_t gpus_choose(uint32_t set, int64_t n, int64_t size) {
    uint32_t r = 0;

    if (size < 2)
        return lowest(set, n);
    while (n > 0) {
        uint32_t from = best_island(set, MIN(n, size), size);
        uint32_t part = lowest(from, n);
        r |= part;
        set &= ~from;
        n -= __builtin_popcount(part);
    }
    return r;
}

int gpus_cost(uint32_t set, uint32_t chosen, int64_t size) {
    int64_t n = __builtin_popcount(chosen);
    int cost = 0, islands = 0;

    if (size < 2 || !n)
        return 0;
    for (uint32_t rest = chosen, island; rest; rest &= ~island) {
        island = island_of(__builtin_ctz(rest), size);
        islands++;
        cost += (set & island) == island && (chosen & island) != island;
    }
    return (islands - (int)((n + size - 1) / size)) * GPUS_APART + cost;
}
