#include "engine/infer/drafts.h"

/* The newest place before the end where the last n_suffix ids stand; -1: none. */
static int64_t find(const int32_t *ids, int64_t n, int64_t first, int n_suffix) {
    const int32_t *suffix = ids + n - n_suffix;

    for (int64_t at = n - n_suffix - 1; at >= first; at--)
        if (ids[at] == suffix[0] && memcmp(ids + at, suffix, (size_t)n_suffix * sizeof *ids) == 0)
            return at;
    return -1;
}

int drafts_lookup(const int32_t *ids, int64_t n, int n_max, int32_t *ret) {
    int64_t first = MAX(n - DRAFTS_WINDOW, (int64_t)0);

    for (int n_suffix = DRAFTS_SUFFIX_MAX; n_suffix >= DRAFTS_SUFFIX_MIN; n_suffix--) {
        int64_t at = n - first > n_suffix ? find(ids, n, first, n_suffix) : -1;
        if (at < 0)
            continue;
        int n_found = (int)MIN(n - at - n_suffix, (int64_t)n_max);
        memcpy(ret, ids + at + n_suffix, (size_t)n_found * sizeof *ret);
        return n_found;
    }
    return 0;
}
