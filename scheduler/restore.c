#include "scheduler/restore.h"

#include "lib/log.h"
#include "scheduler/core/apply.h"
#include "scheduler/projection.h"
#include "scheduler/store/snapshot.h"

enum { PROJECT_EVERY = 256 };

struct replay {
    struct state *state;
    struct rows *rows;
    struct effects *fx;
    int64_t to;
};

/* The result of fn that ends the reading at the wanted entry; no error of ours. */
enum { END = -ECANCELED };

/* Rows that are already in the tables are not made again. Entries up to there are applied without
 * effects, because effects hold nothing but rows here. */
static int apply_one(void *data, const struct entry *entry, struct hai_err *err) {
    struct replay *replay = data;
    bool project = replay->rows && entry->index > rows_written_index(replay->rows);
    struct apply_reply reply;

    if (entry->index > replay->to)
        return END;
    if (!entry_schema(entry->kind) || entry->version > entry_version(entry->kind))
        return hai_fail(err, -EPROTO,
                        "log entry %lld is of kind %d version %d, which hai %s does not know",
                        (long long)entry->index, entry->kind, entry->version, HAI_VERSION);
    apply_entry(replay->state, entry, project ? replay->fx : NULL, &reply);
    if (project && (entry->index % PROJECT_EVERY == 0 || entry->index == replay->to)) {
        projection_add(replay->rows, replay->state, replay->fx);
        effects_clear(replay->fx);
    }
    return 0;
}

int restore_replay(struct entry_log *log, struct rows *rows, struct effects *fx,
                   struct state *state, int64_t to, struct hai_err *err) {
    struct replay replay = {state, rows, fx, to};

    if (state->r.index >= to)
        return 0;
    int r = entry_log_read(log, state->r.index + 1, apply_one, &replay, err);
    return r == END ? 0 : r;
}

int restore_snapshot(struct store *store, int64_t index, struct state **ret, struct hai_err *err) {
    _cleanup_(buf_free) struct buf bytes = {0};

    if (index == 0) {
        *ret = state_new();
        return 0;
    }
    int r = snapshot_read(store, index, &bytes, err);
    if (r < 0)
        return r;
    r = state_decode(bytes.data, bytes.n_bytes, ret, err);
    if (r < 0)
        return hai_err_prefix(err, "snapshot %lld: ", (long long)index);
    if ((*ret)->r.index != index) {
        state_free(*ret);
        return hai_fail(err, -EBADMSG, "snapshot %lld holds the state of another entry",
                        (long long)index);
    }
    return 0;
}

/* Rows travel in the log's own transactions, so they are never ahead of it in a whole store. */
static int check_rows(struct store *store, const struct entry_log *log, const struct rows *rows,
                      struct hai_err *err) {
    if (!rows || rows_written_index(rows) <= entry_log_committed(log))
        return 0;
    return hai_fail(err, -EBADMSG, "%s: the tables hold entry %lld, but the log ends at %lld",
                    store_dir(store), (long long)rows_written_index(rows),
                    (long long)entry_log_committed(log));
}

static int newest_snapshot(struct store *store, struct entry_log *log, struct state **ret,
                           struct hai_err *err) {
    _cleanup_free_ int64_t *list = NULL;
    int n = snapshot_list(store, &list, err);

    if (n < 0)
        return n;
    for (int i = 0; i < n; i++) {
        if (list[i] > entry_log_committed(log))
            return hai_fail(
                err, -EBADMSG, "%s: snapshot %lld is ahead of the log, which ends at %lld",
                store_dir(store), (long long)list[i], (long long)entry_log_committed(log));
        if (restore_snapshot(store, list[i], ret, err) == 0)
            return 0;
        log_warning("passing over a snapshot: %s", hai_err_text(err));
    }
    if (entry_log_first(log) > 1)
        return hai_fail(err, -EBADMSG, "%s: no sound snapshot, and the log begins at entry %lld",
                        store_dir(store), (long long)entry_log_first(log));
    return restore_snapshot(store, 0, ret, err);
}

int restore_state(struct store *store, struct entry_log *log, struct rows *rows, struct effects *fx,
                  struct state **ret, int64_t *ret_applied, struct hai_err *err) {
    _cleanup_(state_freep) struct state *state = NULL;
    int r = check_rows(store, log, rows, err);

    if (r < 0)
        return r;
    r = newest_snapshot(store, log, &state, err);
    if (r < 0)
        return r;
    int64_t from = state->r.index;
    r = restore_replay(log, rows, fx, state, entry_log_committed(log), err);
    if (r < 0)
        return r;
    *ret_applied = state->r.index - from;
    *ret = TAKE_PTR(state);
    return 0;
}
