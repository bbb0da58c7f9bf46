/* hai-replay - proof that the scheduler's state follows from its log, and from nothing else.
 *
 * usage: hai-replay STATE_DIR [INDEX DIGEST]
 *
 * Replays the log twice, from the oldest base there is and from the newest snapshot, and compares
 * canonical bytes on the way: with every snapshot, with the digest the scheduler wrote when it
 * ended in good order (state.digest), and with a given one (GET /api/v1/state). May run beside a
 * living scheduler. A recorded state behind the log's end means that entries were lost. Exit status
 * 0: all equal; 1: not, or unreadable; 2: bad command line.
 */
#include "lib/digest.h"
#include "lib/fileio.h"
#include "lib/log.h"
#include "scheduler/restore.h"
#include "scheduler/store/log_sqlite.h"
#include "scheduler/store/snapshot.h"
#include <stdio.h>

/* What the state at an index must be. */
struct expectation {
    int64_t index;
    char digest[DIGEST_SHA256_HEX_BYTES];
    const char *source;
};

struct replay {
    struct store *store;
    struct entry_log *log;
    int64_t *snapshots; // newest first
    int n_snapshots;
    struct expectation *expected; // ascending indexes
    int n_expected;
    int n_compared;
};

static const char source_file[] = "state.digest";

static void digest_of(const struct state *state, char ret[static DIGEST_SHA256_HEX_BYTES]) {
    _cleanup_(buf_free) struct buf bytes = {0};
    uint8_t sha[DIGEST_SHA256_BYTES];

    state_encode(state, &bytes);
    digest_sha256(bytes.data, bytes.n_bytes, sha);
    digest_hex(sha, sizeof sha, ret);
}

static void expect(struct replay *replay, int64_t index, const char *digest, const char *source) {
    replay->expected = hai_realloc_array(replay->expected, (size_t)replay->n_expected + 1,
                                         sizeof *replay->expected);
    struct expectation *e = &replay->expected[replay->n_expected++];
    e->index = index;
    e->source = source;
    snprintf(e->digest, sizeof e->digest, "%s", digest);
}

/* Snapshots hold the canonical bytes themselves. */
static int expect_snapshots(struct replay *replay, struct hai_err *err) {
    for (int i = 0; i < replay->n_snapshots; i++) {
        _cleanup_(buf_free) struct buf bytes = {0};
        uint8_t sha[DIGEST_SHA256_BYTES];
        char hex[DIGEST_SHA256_HEX_BYTES];
        int r = snapshot_read(replay->store, replay->snapshots[i], &bytes, err);
        if (r < 0)
            return r;
        digest_sha256(bytes.data, bytes.n_bytes, sha);
        digest_hex(sha, sizeof sha, hex);
        expect(replay, replay->snapshots[i], hex, "snapshot");
    }
    return 0;
}

static void expect_file(struct replay *replay) {
    _cleanup_free_ char *path = hai_asprintf("%s/state.digest", store_dir(replay->store));
    _cleanup_(buf_free) struct buf text = {0};
    char hex[DIGEST_SHA256_HEX_BYTES];
    long long index;

    if (fileio_read_file(path, 256, &text, NULL) == 0 &&
        sscanf(buf_cstr(&text), "%lld %64s", &index, hex) == 2)
        expect(replay, index, hex, source_file);
}

static int by_index(const void *a, const void *b) {
    int64_t x = ((const struct expectation *)a)->index;
    int64_t y = ((const struct expectation *)b)->index;

    return x < y ? -1 : x > y;
}

/* Every expectation must come to be compared, but for state.digest: the snapshots may have left it
 * behind. */
static int check_reach(const struct replay *replay, int64_t base, int64_t end,
                       struct hai_err *err) {
    for (int i = 0; i < replay->n_expected; i++) {
        const struct expectation *e = &replay->expected[i];
        if (e->index > end)
            return hai_fail(err, -EBADMSG, "%s tells of entry %lld; the log ends at %lld",
                            e->source, (long long)e->index, (long long)end);
        if (e->index < base && strcmp(e->source, source_file) != 0)
            return hai_fail(err, -ENODATA, "%s tells of entry %lld; the oldest snapshot is of %lld",
                            e->source, (long long)e->index, (long long)base);
    }
    return 0;
}

/* Replay from a base to an end and compare on the way. */
static int run(struct replay *replay, int64_t base, int64_t end,
               char ret[static DIGEST_SHA256_HEX_BYTES], struct hai_err *err) {
    _cleanup_(state_freep) struct state *state = NULL;
    int r = restore_snapshot(replay->store, base, &state, err);

    for (int i = 0; r == 0 && i < replay->n_expected; i++) {
        const struct expectation *e = &replay->expected[i];
        char hex[DIGEST_SHA256_HEX_BYTES];
        if (e->index < base || e->index > end)
            continue;
        r = restore_replay(replay->log, NULL, NULL, state, e->index, err);
        if (r < 0)
            break;
        digest_of(state, hex);
        if (strcmp(hex, e->digest) != 0)
            return hai_fail(err, -EBADMSG,
                            "state at entry %lld, replayed from %lld, has digest %s; %s says %s",
                            (long long)e->index, (long long)base, hex, e->source, e->digest);
        replay->n_compared++;
    }
    if (r == 0)
        r = restore_replay(replay->log, NULL, NULL, state, end, err);
    if (r == 0)
        digest_of(state, ret);
    return r;
}

static int open_replay(struct replay *replay, const char *dir, struct hai_err *err) {
    struct store_options options = {.dir = dir, .read_only = true};
    int r = store_open(&options, &replay->store, err);

    if (r < 0)
        return r;
    /* The log last: beside a living scheduler it is then at least as long as what was recorded. */
    replay->n_snapshots = snapshot_list(replay->store, &replay->snapshots, err);
    if (replay->n_snapshots < 0)
        return replay->n_snapshots;
    expect_file(replay);
    return log_sqlite_new(replay->store, NULL, &replay->log, err);
}

static int compare(struct replay *replay, struct hai_err *err) {
    char from_oldest[DIGEST_SHA256_HEX_BYTES], from_newest[DIGEST_SHA256_HEX_BYTES];
    int64_t end = entry_log_committed(replay->log);
    int n = replay->n_snapshots;
    int64_t newest = n ? replay->snapshots[0] : 0;
    int64_t oldest = entry_log_first(replay->log) == 1 ? 0 : n ? replay->snapshots[n - 1] : 0;

    int r = expect_snapshots(replay, err);
    if (r == 0)
        r = check_reach(replay, oldest, end, err);
    if (r < 0)
        return r;
    qsort(replay->expected, (size_t)replay->n_expected, sizeof *replay->expected, by_index);
    r = run(replay, oldest, end, from_oldest, err);
    if (r == 0)
        r = run(replay, newest, end, from_newest, err);
    if (r < 0)
        return r;
    if (strcmp(from_oldest, from_newest) != 0)
        return hai_fail(err, -EBADMSG, "state at entry %lld differs: from %lld %s, from %lld %s",
                        (long long)end, (long long)oldest, from_oldest, (long long)newest,
                        from_newest);
    printf("%lld %s\n", (long long)end, from_oldest);
    fprintf(stderr,
            "entries %lld to %lld replayed from %lld and from %lld: equal, and equal with "
            "%d recorded states\n",
            (long long)entry_log_first(replay->log), (long long)end, (long long)oldest,
            (long long)newest, replay->n_compared);
    return 0;
}

int main(int argc, char **argv) {
    struct replay replay = {0};
    struct hai_err err = {0};

    log_open("hai-replay", LOG_LEVEL_INFO);
    bool help = argc == 2 && strcmp(argv[1], "--help") == 0;
    if (help || (argc != 2 && argc != 4)) {
        fputs("usage: hai-replay STATE_DIR [INDEX DIGEST]\n"
              "Replay the log from its oldest and newest snapshot; both must end in the same "
              "state.\n",
              help ? stdout : stderr);
        return help ? 0 : 2;
    }
    if (argc == 4)
        expect(&replay, strtoll(argv[2], NULL, 10), argv[3], "the command line");
    int r = open_replay(&replay, argv[1], &err);
    if (r == 0)
        r = compare(&replay, &err);
    if (r < 0)
        fprintf(stderr, "hai-replay: %s\n", hai_err_text(&err));
    free(replay.snapshots);
    free(replay.expected);
    log_sqlite_free(replay.log);
    store_close(replay.store);
    return r < 0 ? 1 : 0;
}
