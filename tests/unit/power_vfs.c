#include "tests/unit/power_vfs.h"

#include "lib/pure/buf.h"
#include <sqlite3.h>

struct pending {
    bool truncate;
    int64_t offset; // of a truncation: the new size
    uint8_t *data;
    size_t n_bytes;
};

/* One open file: what its owner sees (image), and what has not reached the disk. */
struct power_file {
    sqlite3_file base;
    struct buf image;
    struct pending *pending;
    size_t n_pending, n_pending_max;
    bool whole;          // temporary file: nothing of it is kept back
    sqlite3_file real[]; // storage of the wrapped VFS's file
};

static struct {
    sqlite3_vfs vfs;
    sqlite3_vfs *real;
    int64_t fail_at;
    int64_t points;
    enum power_loss loss;
    uint64_t seed;
    bool failed;
    int syncs_to_fail;
} power;

static sqlite3_file *real_of(sqlite3_file *file) {
    return (sqlite3_file *)((struct power_file *)file)->real;
}

static void add_pending(struct power_file *f, bool truncate, int64_t offset, const void *data,
                        size_t n_bytes) {
    if (f->n_pending == f->n_pending_max) {
        f->n_pending_max = f->n_pending_max ? 2 * f->n_pending_max : 64;
        f->pending = hai_realloc_array(f->pending, f->n_pending_max, sizeof *f->pending);
    }
    struct pending *p = &f->pending[f->n_pending++];
    *p = (struct pending){truncate, offset, hai_alloc(n_bytes ? n_bytes : 1), n_bytes};
    if (n_bytes)
        memcpy(p->data, data, n_bytes);
}

static void drop_pending(struct power_file *f) {
    for (size_t i = 0; i < f->n_pending; i++)
        free(f->pending[i].data);
    f->n_pending = 0;
}

static int apply_one(struct power_file *f, const struct pending *p, size_t n_bytes) {
    sqlite3_file *real = (sqlite3_file *)f->real;

    if (p->truncate)
        return real->pMethods->xTruncate(real, p->offset);
    return real->pMethods->xWrite(real, p->data, (int)n_bytes, p->offset);
}

static uint64_t next_random(void) {
    power.seed ^= power.seed << 13;
    power.seed ^= power.seed >> 7;
    power.seed ^= power.seed << 17;
    return power.seed;
}

/* The moment of the loss: what of this file's unsynced writes gets to the disk all the same. */
static void lose(struct power_file *f) {
    for (size_t i = 0; i < f->n_pending && power.loss != POWER_LOSS_DROP; i++) {
        const struct pending *p = &f->pending[i];
        if (power.loss == POWER_LOSS_TEAR)
            apply_one(f, p, i + 1 == f->n_pending ? p->n_bytes / 2 : p->n_bytes);
        else if (next_random() & 1)
            apply_one(f, p, p->n_bytes);
    }
    drop_pending(f);
}

/* Count a write point; true if the power is gone. */
static bool at_point(struct power_file *f) {
    if (power.failed)
        return true;
    power.points++;
    if (power.fail_at && power.points >= power.fail_at) {
        power.failed = true;
        lose(f);
    }
    return power.failed;
}

static int power_close(sqlite3_file *file) {
    struct power_file *f = (struct power_file *)file;
    int rc = SQLITE_OK;

    if (!power.failed)
        for (size_t i = 0; i < f->n_pending; i++)
            apply_one(f, &f->pending[i], f->pending[i].n_bytes);
    drop_pending(f);
    free(f->pending);
    buf_free(&f->image);
    if (real_of(file)->pMethods)
        rc = real_of(file)->pMethods->xClose(real_of(file));
    return rc;
}

static int power_read(sqlite3_file *file, void *data, int n, sqlite3_int64 offset) {
    struct power_file *f = (struct power_file *)file;
    size_t at = (size_t)offset, want = (size_t)n;

    if (power.failed)
        return SQLITE_IOERR_READ;
    if (at >= f->image.n_bytes) {
        memset(data, 0, want);
        return SQLITE_IOERR_SHORT_READ;
    }
    size_t have = MIN(want, f->image.n_bytes - at);
    memcpy(data, f->image.data + at, have);
    memset((uint8_t *)data + have, 0, want - have);
    return have == want ? SQLITE_OK : SQLITE_IOERR_SHORT_READ;
}

static int power_write(sqlite3_file *file, const void *data, int n, sqlite3_int64 offset) {
    struct power_file *f = (struct power_file *)file;
    size_t end = (size_t)offset + (size_t)n;

    if (power.failed)
        return SQLITE_IOERR_WRITE;
    if (end > f->image.n_bytes) {
        size_t more = end - f->image.n_bytes;
        memset(buf_extend(&f->image, more), 0, more);
    }
    memcpy(f->image.data + offset, data, (size_t)n);
    add_pending(f, false, offset, data, (size_t)n);
    return at_point(f) ? SQLITE_IOERR_WRITE : SQLITE_OK;
}

static int power_truncate(sqlite3_file *file, sqlite3_int64 size) {
    struct power_file *f = (struct power_file *)file;

    if (power.failed)
        return SQLITE_IOERR_TRUNCATE;
    if ((size_t)size < f->image.n_bytes)
        f->image.n_bytes = (size_t)size;
    add_pending(f, true, size, NULL, 0);
    return at_point(f) ? SQLITE_IOERR_TRUNCATE : SQLITE_OK;
}

static int power_sync(sqlite3_file *file, int flags) {
    struct power_file *f = (struct power_file *)file;

    if (at_point(f))
        return SQLITE_IOERR_FSYNC;
    if (power.syncs_to_fail > 0) {
        power.syncs_to_fail--;
        return SQLITE_IOERR_FSYNC;
    }
    for (size_t i = 0; i < f->n_pending; i++) {
        int rc = apply_one(f, &f->pending[i], f->pending[i].n_bytes);
        if (rc)
            return rc;
    }
    drop_pending(f);
    return SQLITE_OK; // the test's power does not reach the real disk: no real sync is needed
}

static int power_size(sqlite3_file *file, sqlite3_int64 *ret) {
    *ret = (sqlite3_int64)((struct power_file *)file)->image.n_bytes;
    return SQLITE_OK;
}

/* What needs no thought goes to the real file. */
#define PASS(name, parameters, ...)                                                                \
    static int power_##name parameters {                                                           \
        return real_of(file)->pMethods->x##name(real_of(file), ##__VA_ARGS__);                     \
    }
PASS(Lock, (sqlite3_file * file, int level), level)
PASS(Unlock, (sqlite3_file * file, int level), level)
PASS(CheckReservedLock, (sqlite3_file * file, int *ret), ret)
PASS(SectorSize, (sqlite3_file * file))
PASS(ShmMap, (sqlite3_file * file, int page, int n, int extend, void volatile **ret), page, n,
     extend, ret)
PASS(ShmLock, (sqlite3_file * file, int offset, int n, int flags), offset, n, flags)
PASS(ShmUnmap, (sqlite3_file * file, int remove), remove)

static void power_ShmBarrier(sqlite3_file *file) {
    real_of(file)->pMethods->xShmBarrier(real_of(file));
}

static int power_FileControl(sqlite3_file *file, int op, void *data) {
    if (op == SQLITE_FCNTL_SIZE_HINT || op == SQLITE_FCNTL_CHUNK_SIZE)
        return SQLITE_OK;
    return real_of(file)->pMethods->xFileControl(real_of(file), op, data);
}

static int power_DeviceCharacteristics(sqlite3_file *file) {
    return 0; // none of the promises by which SQLite would save a sync
}

static const sqlite3_io_methods methods = {
    .iVersion = 2,
    .xClose = power_close,
    .xRead = power_read,
    .xWrite = power_write,
    .xTruncate = power_truncate,
    .xSync = power_sync,
    .xFileSize = power_size,
    .xLock = power_Lock,
    .xUnlock = power_Unlock,
    .xCheckReservedLock = power_CheckReservedLock,
    .xFileControl = power_FileControl,
    .xSectorSize = power_SectorSize,
    .xDeviceCharacteristics = power_DeviceCharacteristics,
    .xShmMap = power_ShmMap,
    .xShmLock = power_ShmLock,
    .xShmBarrier = power_ShmBarrier,
    .xShmUnmap = power_ShmUnmap,
};

static int load_image(struct power_file *f) {
    sqlite3_file *real = (sqlite3_file *)f->real;
    sqlite3_int64 size;
    int rc = real->pMethods->xFileSize(real, &size);

    if (rc || size == 0)
        return rc;
    return real->pMethods->xRead(real, buf_extend(&f->image, (size_t)size), (int)size, 0);
}

static int power_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags,
                      int *ret_flags) {
    struct power_file *f = (struct power_file *)file;

    if (power.failed)
        return SQLITE_CANTOPEN;
    memset(f, 0, (size_t)power.vfs.szOsFile);
    int rc = power.real->xOpen(power.real, name, real_of(file), flags, ret_flags);
    if (rc)
        return rc;
    f->base.pMethods = &methods;
    return load_image(f);
}

static int power_delete(sqlite3_vfs *vfs, const char *name, int sync) {
    return power.failed ? SQLITE_IOERR_DELETE : power.real->xDelete(power.real, name, sync);
}

void power_vfs_register(bool make_default) {
    power.real = sqlite3_vfs_find("unix");
    power.vfs = *power.real;
    power.vfs.pNext = NULL;
    power.vfs.zName = "power";
    power.vfs.szOsFile = (int)sizeof(struct power_file) + power.real->szOsFile;
    power.vfs.xOpen = power_open;
    power.vfs.xDelete = power_delete;
    sqlite3_vfs_register(&power.vfs, make_default);
}

void power_vfs_fail_at(int64_t n, enum power_loss loss, uint64_t seed) {
    power.fail_at = n;
    power.points = 0;
    power.loss = loss;
    power.seed = seed | 1;
    power.failed = false;
}

bool power_vfs_failed(void) {
    return power.failed;
}

int64_t power_vfs_points(void) {
    return power.points;
}

void power_vfs_restore(void) {
    power.fail_at = 0;
    power.failed = false;
}

void power_vfs_fail_syncs(int n) {
    power.syncs_to_fail = n;
}
