#include "lib/digest.h"
#include "lib/fileio.h"
#include "sim/storm.h"
#include "sim/world.h"
#include "tests/unit/test.h"

/* One log of each release and the digest (XXH3) of the state that it leads to. A written entry
 * keeps its meaning, so a build that fails here must learn a new version of the kind instead.
 * `HAI_WRITE=1 build/tests/unit/test_compat` records the logs that are not there yet; what is there
 * is never written again. */
static const struct {
    const char *release;
    uint64_t seed; // of the storm that was recorded
} releases[] = {
    {"v0.1.0", 2026},
};

enum { LOG_BYTES_MAX = 4 * 1024 * 1024 };

static void path_of(const char *release, const char *what, char *ret, size_t size) {
    (void)snprintf(ret, size, "tests/compat/%s.%s", release, what);
}

static uint64_t digest_of(const struct state *state) {
    _cleanup_(buf_free) struct buf bytes = {0};

    state_encode(state, &bytes);
    return digest_xxh3(bytes.data, bytes.n_bytes);
}

/* Replay a log; prints the digest into ret, and counts the entries by kind. */
static void replay(const struct buf *log, char *ret, size_t size, int64_t *ret_kinds) {
    struct world_entry *entries;
    size_t n;

    CHECK_EQ(world_load(log->data, log->n_bytes, &entries, &n), 0);
    for (size_t i = 0; i < n; i++)
        ret_kinds[entries[i].kind]++;
    struct state *state = world_replay(entries, n);
    (void)snprintf(ret, size, "%zu entries %016llx\n", n, (unsigned long long)digest_of(state));
    state_free(state);
    world_log_free(entries, n);
}

static void record(const char *release, uint64_t seed) {
    _cleanup_(buf_free) struct buf log = {0};
    struct storm_result result;
    struct hai_err err = {0};
    char path[128], digest[64];
    int64_t kinds[ENTRY_COUNT] = {0};

    CHECK_EQ(storm_run(seed, 800, &result, &log, &err), 0, "%s", err.text);
    replay(&log, digest, sizeof digest, kinds);
    path_of(release, "log", path, sizeof path);
    CHECK_EQ(fileio_replace(path, log.data, log.n_bytes, 0644, &err), 0, "%s", err.text);
    path_of(release, "digest", path, sizeof path);
    CHECK_EQ(fileio_replace(path, digest, strlen(digest), 0644, &err), 0, "%s", err.text);
}

TEST(logs_of_all_releases_lead_to_their_state)
{
    for (size_t i = 0; i < ARRAY_SIZE(releases); i++) {
        _cleanup_(buf_free) struct buf log = {0};
        _cleanup_(buf_free) struct buf digest = {0};
        char path[128], now[64];
        int64_t kinds[ENTRY_COUNT] = {0};
        struct hai_err err = {0};
        path_of(releases[i].release, "log", path, sizeof path);
        if (getenv("HAI_WRITE") && fileio_read_file(path, LOG_BYTES_MAX, &log, NULL) == -ENOENT)
            record(releases[i].release, releases[i].seed);
        buf_clear(&log);
        CHECK_EQ(fileio_read_file(path, LOG_BYTES_MAX, &log, &err), 0, "%s", err.text);
        path_of(releases[i].release, "digest", path, sizeof path);
        CHECK_EQ(fileio_read_file(path, sizeof now, &digest, &err), 0, "%s", err.text);
        replay(&log, now, sizeof now, kinds);
        CHECK_STR(now, buf_cstr(&digest), "%s", releases[i].release);
        for (int kind = ENTRY_NONE + 1; kind <= ENTRY_CKPT_COMMITTED; kind++)
            CHECK(kinds[kind] > 0, "%s records no %s", releases[i].release, entry_kind_text(kind));
    }
}
