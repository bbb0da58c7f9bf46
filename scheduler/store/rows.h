/* rows.h - writing the rows that people query: the projection of the log, and the side tables.
 *
 * Rows are collected in memory while entries are applied and written with a later transaction of
 * the log, together with the index up to which they are complete (log.projected). So one fsync
 * serves a turn, and rows may lag behind the state by a few dozen; rows_flush ends that lag when
 * nobody else commits. After a crash the entries behind it are projected again, which
 * gives the same rows. Rows of tail and audit have no other source: what must survive is added
 * before the batch is appended that acknowledges it.
 */
#pragma once
#include "lib/pure/buf.h"
#include "scheduler/core/effects.h"
#include "scheduler/store/store.h"

struct rows;

struct rows_job {
    int64_t id;
    const char *user;
    const char *name;
    int state;
    int64_t submitted_us;
    int64_t ended_us;
    int64_t index;
    const void *record; // state_job
    size_t record_bytes;
};

/* Numbers may be S_ABSENT, node NULL. */
struct rows_event {
    int64_t index;
    int64_t n; // counts within the entry
    int64_t time_us;
    const char *kind;
    int64_t job;
    int64_t attempt;
    int64_t rank;
    const char *node;
    const char *principal;
    const char *message;
};

struct rows_tail {
    int64_t job;
    int64_t attempt;
    int64_t rank;
    int64_t time_us;
    int64_t total; // bytes of the whole output
    const void *data;
    size_t n_bytes;
};

struct rows_place {
    int64_t job;
    int64_t attempt;
    int64_t node_rank;
    const char *node;
};

struct rows_audit {
    int64_t time_us;
    const char *principal;
    const char *method;
    const char *path;
    int64_t status;
    const char *detail;
};

/* The store must outlive the rows. */
int rows_new(struct store *store, struct rows **ret, struct hai_err *err);
void rows_free(struct rows *rows); // outstanding ones are lost: call rows_flush before
DEFINE_CLEANUP(struct rows *, rows_free)

/* Collect a row; everything is copied. */
void rows_add_job(struct rows *rows, const struct rows_job *job);
void rows_add_event(struct rows *rows, const struct rows_event *event);
void rows_add_place(struct rows *rows, const struct rows_place *place);
void rows_add_tail(struct rows *rows, const struct rows_tail *tail);
void rows_add_audit(struct rows *rows, const struct rows_audit *audit);
void rows_add_usage(struct rows *rows, const struct usage_row *usage);
void rows_add_day(struct rows *rows, const struct ledger_day *day);

/* All rows of entries up to this index were added. */
void rows_set_applied(struct rows *rows, int64_t index);

/* The entry up to which rows are in the tables: those behind it are to be projected again. */
int64_t rows_written_index(const struct rows *rows);

/* How many rows are outstanding. */
size_t rows_outstanding(const struct rows *rows);

/* Write what is outstanding in transactions of their own. Nothing to do: 0. */
int rows_flush(struct rows *rows, struct hai_err *err);

/* The same in one transaction: of GPU time only a part, when a day has ended. 1: there is more. */
int rows_flush_some(struct rows *rows, struct hai_err *err);

/* Write no rows of GPU time until the hold is let go: somebody reads the tables who knows those
 * that were outstanding. Holds are counted. */
void rows_hold(struct rows *rows, bool hold);

/* For the log's transactions: should this one write the outstanding rows (rows of tail and audit
 * wait for nobody)? Then write them inside it, and learn how it ended. The log keeps the index of
 * the rows, as it will be once they are committed, with its entries: a transaction touches as few
 * pages as it can. */
bool rows_due(const struct rows *rows);
int rows_write(struct rows *rows, struct hai_err *err);
int64_t rows_index(const struct rows *rows);
void rows_written(struct rows *rows, bool committed);

/* Give fn the outstanding events with an index above since, oldest first, of one job or (0) all. */
void rows_outstanding_events(const struct rows *rows, int64_t job, int64_t since,
                             void (*fn)(void *data, const struct rows_event *event), void *data);

/* The outstanding row of a job, valid until the next change; NULL: none. */
const struct rows_job *rows_outstanding_job(const struct rows *rows, int64_t id);

/* The outstanding rows of GPU time of days from first to last. */
void rows_outstanding_usage(const struct rows *rows, int64_t first, int64_t last,
                            void (*on_usage)(void *data, const struct usage_row *usage),
                            void (*on_day)(void *data, const struct ledger_day *day), void *data);

/* Delete at most n_max rows of each table that are older than their time. Returns how many went. */
int rows_expire(struct rows *rows, int64_t before_us, int64_t tails_before_us, int64_t n_max,
                struct hai_err *err);
