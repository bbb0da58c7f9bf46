/* power_vfs.h - a SQLite VFS that loses power.
 *
 * Writes stay in memory until they are synced, so that ending the process (kill -9) or reaching a
 * given write point loses what a power loss would: everything, or all but a part, of what was not
 * synced. For tests of what the store acknowledges; a daemon linked with it runs in kill storms.
 */
#pragma once
#include "lib/base.h"

enum power_loss {
    POWER_LOSS_DROP,   // nothing unsynced arrives
    POWER_LOSS_TEAR,   // all arrives but the second half of the last write
    POWER_LOSS_SUBSET, // each unsynced write arrives or not, by seed
    POWER_LOSS_COUNT,
};

/* Register the VFS "power" and, if wanted, make it the default. */
void power_vfs_register(bool make_default);

/* Lose power at the n-th write point from now (1: the next write, sync or truncation); 0: never.
 * After it every call fails until power_vfs_restore. */
void power_vfs_fail_at(int64_t n, enum power_loss loss, uint64_t seed);

/* Whether power was lost; the number of write points seen since power_vfs_fail_at. */
bool power_vfs_failed(void);
int64_t power_vfs_points(void);

/* Power is back, for files opened from now on. */
void power_vfs_restore(void);

/* Let the next n syncs fail without losing power: a full disk or a bad sector. */
void power_vfs_fail_syncs(int n);
