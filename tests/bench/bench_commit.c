/* bench_commit - SQLite's own rate of single-row commits, WAL and synchronous=FULL: the limit of
 * one durable submission after another.
 *
 * usage: bench_commit DIR SECONDS ROW_BYTES
 *
 * Prints commits a second. */
#include "lib/base.h"

#include <sqlite3.h>
#include <stdio.h>
#include <time.h>

static double now_s(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void check(sqlite3 *db, int r) {
    if (r != SQLITE_OK && r != SQLITE_DONE) {
        fprintf(stderr, "%s\n", sqlite3_errmsg(db));
        exit(1);
    }
}

int main(int argc, char **argv) {
    sqlite3 *db;
    sqlite3_stmt *insert;

    if (argc < 4)
        return 2;
    _cleanup_free_ char *path = hai_asprintf("%s/commits.db", argv[1]);
    double seconds = strtod(argv[2], NULL);
    int n_bytes = atoi(argv[3]);
    check(NULL, sqlite3_open(path, &db));
    check(db, sqlite3_exec(db,
                           "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
                           "CREATE TABLE log (id INTEGER PRIMARY KEY, payload BLOB)",
                           NULL, NULL, NULL));
    check(db, sqlite3_prepare_v2(db, "INSERT INTO log (payload) VALUES (?)", -1, &insert, NULL));
    _cleanup_free_ char *row = hai_alloc((size_t)n_bytes);
    long n = 0;
    double from = now_s(), now;
    do {
        check(db, sqlite3_bind_blob(insert, 1, row, n_bytes, SQLITE_STATIC));
        check(db, sqlite3_step(insert));
        sqlite3_reset(insert);
        n++;
        now = now_s();
    } while (now - from < seconds);
    printf("%.1f\n", (double)n / (now - from));
    sqlite3_finalize(insert);
    sqlite3_close(db);
    return 0;
}
