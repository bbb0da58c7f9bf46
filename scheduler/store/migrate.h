/* migrate.h - from an older form of the tables to the present one.
 *
 * All steps run in one transaction, after a copy of the store was written beside it
 * (schedd.db.v1, v1 being the old version). A store of a newer version is refused by name.
 */
#pragma once
#include "scheduler/store/db.h"

struct migrate_step {
    int64_t to; // version that the SQL leads to, from the one before
    const char *sql;
};

/* The steps of this program, ascending. */
const struct migrate_step *migrate_steps(int *ret_n);

/* Bring a store to version `target`. read_only: refuse an older one too. Returns 0, -EPROTO for a
 * newer (or, read only, an older) store, -EIO, -ENOSPC, -EBADMSG. */
int migrate_run(struct db *db, int64_t target, const struct migrate_step *steps, int n_steps,
                bool read_only, struct hai_err *err);
