#include "scheduler/store/log_sqlite.h"

#include "lib/pure/schema.h"
#include "scheduler/store/db.h"

struct log_sqlite {
    struct entry_log log;
    struct db *db;
    struct rows *rows;
    int64_t first;
    int64_t committed;
};

static int insert_entry(struct db *db, const struct entry *entry, int64_t projected,
                        struct hai_err *err) {
    sqlite3_stmt *statement;
    int r =
        db_sql(db,
               "INSERT INTO log (idx, term, time_us, principal, kind, version, projected, payload)"
               " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
               &statement, err);

    if (r < 0)
        return r;
    db_int(statement, 1, entry->index);
    db_int(statement, 2, entry->term);
    db_int(statement, 3, entry->time_us);
    db_text(statement, 4, entry->principal);
    db_int(statement, 5, entry->kind);
    db_int(statement, 6, entry->version);
    db_int(statement, 7, projected);
    db_blob(statement, 8, entry->payload, entry->payload_bytes);
    return db_run(db, statement, err);
}

static int write_batch(struct log_sqlite *log, const struct entry *entries, size_t n,
                       bool with_rows, struct hai_err *err) {
    int r = with_rows ? rows_write(log->rows, err) : 0;
    int64_t projected = !log->rows  ? 0
                        : with_rows ? rows_index(log->rows)
                                    : rows_written_index(log->rows);

    for (size_t i = 0; i < n && r == 0; i++)
        r = insert_entry(log->db, &entries[i], projected, err);
    return r;
}

static void append(struct entry_log *base, const struct entry *entries, size_t n,
                   entry_log_done_fn done, void *data) {
    struct log_sqlite *log = (struct log_sqlite *)base;
    struct hai_err err = {0};
    bool with_rows = log->rows && rows_due(log->rows);

    assert(n > 0);
    for (size_t i = 0; i < n; i++)
        assert(entries[i].index == log->committed + 1 + (int64_t)i);
    int r = db_begin(log->db, &err);
    if (r == 0) {
        r = write_batch(log, entries, n, with_rows, &err);
        if (r < 0)
            db_rollback(log->db);
        else
            r = db_commit(log->db, &err);
    }
    if (with_rows)
        rows_written(log->rows, r == 0);
    if (r == 0)
        log->committed += (int64_t)n;
    done(data, r, &err);
}

static int64_t committed(const struct entry_log *base) {
    return ((const struct log_sqlite *)base)->committed;
}

static int64_t first(const struct entry_log *base) {
    return ((const struct log_sqlite *)base)->first;
}

static void read_row(sqlite3_stmt *statement, struct entry *ret) {
    *ret = (struct entry){
        .index = sqlite3_column_int64(statement, 0),
        .term = sqlite3_column_int64(statement, 1),
        .time_us = sqlite3_column_int64(statement, 2),
        .principal = (const char *)sqlite3_column_text(statement, 3),
        .kind = sqlite3_column_int(statement, 4),
        .version = sqlite3_column_int(statement, 5),
        .payload = sqlite3_column_blob(statement, 6),
        .payload_bytes = (size_t)sqlite3_column_bytes(statement, 6),
    };
}

static int read_log(struct entry_log *base, int64_t from, entry_log_read_fn fn, void *data,
                    struct hai_err *err) {
    struct log_sqlite *log = (struct log_sqlite *)base;
    _cleanup_(db_donep) sqlite3_stmt *statement = NULL;
    struct entry entry;
    int r;

    if (from < log->first)
        return hai_fail(err, -ENODATA, "log entry %lld was dropped; the oldest is %lld",
                        (long long)from, (long long)log->first);
    r = db_sql(log->db,
               "SELECT idx, term, time_us, principal, kind, version, payload FROM log"
               " WHERE idx BETWEEN ? AND ? ORDER BY idx",
               &statement, err);
    if (r < 0)
        return r;
    db_int(statement, 1, from);
    db_int(statement, 2, log->committed);
    while ((r = db_step(log->db, statement, err)) > 0) {
        read_row(statement, &entry);
        if (entry.index != from)
            return hai_fail(err, -EBADMSG, "log entry %lld is missing", (long long)from);
        from++;
        r = fn(data, &entry, err);
        if (r < 0)
            return r;
    }
    return r;
}

static int truncate_before(struct entry_log *base, int64_t index, int64_t n_max,
                           struct hai_err *err) {
    struct log_sqlite *log = (struct log_sqlite *)base;
    /* The newest entry stays: the table itself must tell which index comes next. */
    int64_t limit = MIN(index, log->committed);
    int64_t end = MIN(limit, log->first + n_max);
    int64_t dropped = end - log->first;
    sqlite3_stmt *statement;

    if (dropped <= 0)
        return 0;
    int r = db_sql(log->db, "DELETE FROM log WHERE idx < ?", &statement, err);
    if (r < 0)
        return r;
    db_int(statement, 1, end);
    r = db_run(log->db, statement, err);
    if (r < 0)
        return r;
    log->first = end;
    return (int)dropped;
}

static int read_range(struct log_sqlite *log, struct hai_err *err) {
    _cleanup_(db_donep) sqlite3_stmt *statement = NULL;
    int r = db_sql(log->db, "SELECT (SELECT min(idx) FROM log), (SELECT max(idx) FROM log)",
                   &statement, err);

    if (r < 0)
        return r;
    r = db_step(log->db, statement, err);
    if (r < 0)
        return r;
    int64_t low = db_column_int(statement, 0);
    int64_t high = db_column_int(statement, 1);
    log->first = low == S_ABSENT ? 1 : low;
    log->committed = high == S_ABSENT ? 0 : high;
    return 0;
}

int log_sqlite_new(struct store *store, struct rows *rows, struct entry_log **ret,
                   struct hai_err *err) {
    static const struct entry_log_ops ops = {
        .append = append,
        .committed = committed,
        .first = first,
        .read = read_log,
        .truncate_before = truncate_before,
    };
    struct log_sqlite *log = hai_new(struct log_sqlite);

    log->log.ops = &ops;
    log->db = store_db(store);
    log->rows = rows;
    int r = read_range(log, err);
    if (r < 0) {
        log_sqlite_free(&log->log);
        return r;
    }
    *ret = &log->log;
    return 0;
}

void log_sqlite_free(struct entry_log *log) {
    free(log);
}
