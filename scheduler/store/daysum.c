#include "scheduler/store/daysum.h"

#include "lib/pure/map.h"
#include "lib/pure/schema.h"
#include "scheduler/core/effects.h"

/* Of one user, team, group and stage; "": none was given. */
struct sum {
    char *user, *team, *group, *stage;
    int64_t gpu_us[LEDGER_JOB_CLASSES];
};

struct daysum {
    int64_t day;          // S_ABSENT: none has begun
    int64_t job, attempt; // the last row that was read
    bool read;            // all rows were
    struct sum *sums;
    size_t n, n_max, n_written;
    struct map by_key; // position + 1
};

struct daysum *daysum_new(void) {
    struct daysum *sum = hai_new(struct daysum);

    sum->day = S_ABSENT;
    return sum;
}

void daysum_again(struct daysum *sum) {
    for (size_t i = 0; i < sum->n; i++) {
        free(sum->sums[i].user);
        free(sum->sums[i].team);
        free(sum->sums[i].group);
        free(sum->sums[i].stage);
    }
    free(sum->sums);
    map_free(&sum->by_key);
    *sum = (struct daysum){.day = S_ABSENT};
}

void daysum_free(struct daysum *sum) {
    if (!sum)
        return;
    daysum_again(sum);
    free(sum);
}

static const char *column(sqlite3_stmt *s, int number) {
    return (const char *)sqlite3_column_text(s, number);
}

static struct sum *sum_of(struct daysum *d, sqlite3_stmt *s) {
    const char *user = column(s, 2), *team = column(s, 3), *group = column(s, 4),
               *stage = column(s, 5);
    _cleanup_free_ char *key =
        hai_asprintf("%s\n%s\n%s\n%s", user, team ? team : "", group, stage ? stage : "");
    size_t at = (size_t)map_get_text(&d->by_key, key);

    if (!at) {
        if (d->n == d->n_max) {
            d->n_max = MAX(2 * d->n_max, (size_t)64);
            d->sums = hai_realloc_array(d->sums, d->n_max, sizeof *d->sums);
        }
        d->sums[d->n++] = (struct sum){.user = hai_strdup(user),
                                       .team = hai_strdup(team ? team : ""),
                                       .group = hai_strdup(group),
                                       .stage = hai_strdup(stage ? stage : "")};
        at = d->n;
        map_put_text(&d->by_key, key, (void *)at);
    }
    return &d->sums[at - 1];
}

static int read_rows(struct daysum *d, struct db *db, int64_t n_max, struct hai_err *err) {
    _cleanup_(db_donep) sqlite3_stmt *s = NULL;
    int64_t n = 0;
    int r = db_sql(db,
                   "SELECT job, attempt, user, team, grp, stage, productive_us, recomputed_us,"
                   " stalled_us, start_up_us, suspended_us FROM usage"
                   " WHERE day = ?1 AND (job, attempt) > (?2, ?3) ORDER BY job, attempt LIMIT ?4",
                   &s, err);

    if (r < 0)
        return r;
    db_int(s, 1, d->day);
    db_int(s, 2, d->job);
    db_int(s, 3, d->attempt);
    db_int(s, 4, n_max);
    while ((r = db_step(db, s, err)) > 0) {
        struct sum *sum = sum_of(d, s);
        d->job = sqlite3_column_int64(s, 0);
        d->attempt = sqlite3_column_int64(s, 1);
        for (int k = 0; k < LEDGER_JOB_CLASSES; k++)
            sum->gpu_us[k] += sqlite3_column_int64(s, 6 + k);
        n++;
    }
    d->read = n < n_max;
    return r;
}

static int write_sum(struct db *db, int64_t day, const struct sum *sum, struct hai_err *err) {
    sqlite3_stmt *s;
    int r = db_sql(db,
                   "INSERT OR REPLACE INTO usage_sum (day, user, team, grp, stage, productive_us,"
                   " recomputed_us, stalled_us, start_up_us, suspended_us)"
                   " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                   &s, err);

    if (r < 0)
        return r;
    db_int(s, 1, day);
    db_text(s, 2, sum->user);
    db_text(s, 3, sum->team);
    db_text(s, 4, sum->group);
    db_text(s, 5, sum->stage);
    for (int k = 0; k < LEDGER_JOB_CLASSES; k++)
        db_int(s, 6 + k, sum->gpu_us[k]);
    return db_run(db, s, err);
}

int daysum_step(struct daysum *d, struct db *db, int64_t day, int64_t n_max, struct hai_err *err) {
    int r = 0;

    assert(n_max > 0);
    if (d->day != day) {
        daysum_again(d);
        d->day = day;
    }
    if (!d->read) {
        r = read_rows(d, db, n_max, err);
        return MIN(r, 0);
    }
    for (int64_t i = 0; r == 0 && i < n_max && d->n_written < d->n; i++)
        r = write_sum(db, day, &d->sums[d->n_written++], err);
    if (r < 0 || d->n_written < d->n)
        return r;
    daysum_again(d);
    return 1;
}
