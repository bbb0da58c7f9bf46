#include "storage/safetensors.h"
#include "lib/pure/buf.h"
#include "storage/fileahead.h"
#include "storage/jsonscan.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct {
    const char *name;
    size_t n_bytes;
} dtypes[] = {
#define X(name, n_bytes) {#name, n_bytes},
    SAFETENSORS_DTYPES(X)
#undef X
};

struct file {
    char *path;
    uint8_t *bytes; // the mapping; owned unless borrowed
    size_t n_bytes;
    bool borrowed;
};

struct safetensors {
    struct file *files;
    int n_files;
    struct safetensors_tensor *tensors; // names owned
    size_t n_tensors;
    size_t n_tensors_max; // allocated
    void **copies;        // data that had to move to be aligned
    size_t n_copies;
    char **metadata; // key, value, ...
    size_t n_metadata;
    struct fileahead *ahead; // NULL: nothing is read ahead
};

const char *safetensors_dtype_name(enum safetensors_dtype dtype) {
    assert(dtype < SAFETENSORS_DTYPE_COUNT);
    return dtypes[dtype].name;
}

size_t safetensors_dtype_bytes(enum safetensors_dtype dtype) {
    assert(dtype < SAFETENSORS_DTYPE_COUNT);
    return dtypes[dtype].n_bytes;
}

void safetensors_free(struct safetensors *s) {
    if (!s)
        return;
    fileahead_free(s->ahead);
    for (size_t i = 0; i < s->n_tensors; i++)
        free((char *)s->tensors[i].name);
    for (size_t i = 0; i < s->n_copies; i++)
        free(s->copies[i]);
    for (size_t i = 0; i < s->n_metadata; i++)
        free(s->metadata[i]);
    for (int i = 0; i < s->n_files; i++) {
        if (s->files[i].bytes && !s->files[i].borrowed)
            munmap(s->files[i].bytes, s->files[i].n_bytes);
        free(s->files[i].path);
    }
    free(s->tensors);
    free(s->copies);
    free(s->metadata);
    free(s->files);
    free(s);
}

static int by_path(const void *a, const void *b) {
    return strcmp(((const struct file *)a)->path, ((const struct file *)b)->path);
}

void safetensors_read_ahead(struct safetensors *s) {
    _cleanup_free_ struct file *files = hai_new_array(struct file, (size_t)s->n_files);
    _cleanup_free_ struct fileahead_range *ranges =
        hai_new_array(struct fileahead_range, (size_t)s->n_files);

    if (s->ahead)
        return;
    memcpy(files, s->files, (size_t)s->n_files * sizeof *files);
    qsort(files, (size_t)s->n_files, sizeof *files, by_path);
    for (int i = 0; i < s->n_files; i++)
        ranges[i] = (struct fileahead_range){files[i].bytes, files[i].n_bytes};
    s->ahead = fileahead_new(ranges, s->n_files);
}

/* Messages show at most this much of a name from outside. */
#define NAME_SHOWN "%.120s"

static int header_fault(const struct file *f, const struct jsonscan *j, struct hai_err *err) {
    return hai_fail(err, -EBADMSG, "%s: header is not safetensors: byte %zu: expected %s", f->path,
                    8 + j->at, j->fault);
}

static int tensor_fault(const struct file *f, const char *name, struct hai_err *err, int r,
                        const char *what) {
    return hai_fail(err, r, "%s: tensor '" NAME_SHOWN "': %s", f->path, name, what);
}

static int read_dtype(const struct file *f, const char *name, struct buf *text,
                      enum safetensors_dtype *ret, struct hai_err *err) {
    for (int i = 0; i < SAFETENSORS_DTYPE_COUNT; i++)
        if (hai_streq(buf_cstr(text), dtypes[i].name)) {
            *ret = i;
            return 0;
        }
    return hai_fail(err, -EBADMSG,
                    "%s: tensor '" NAME_SHOWN "': dtype is '%.40s'; expected F32, BF16, F16, "
                    "F8_E4M3, I64 or another type of the format",
                    f->path, name, buf_cstr(text));
}

/* At most n_max whole numbers in brackets. Returns how many. */
static int read_numbers(struct jsonscan *j, uint64_t *ret, int n_max) {
    size_t n = 0;
    int r = jsonscan_enter(j, '[');

    if (r < 0)
        return r;
    while ((r = jsonscan_next(j, ']', &n)) > 0) {
        if (n > (size_t)n_max) {
            j->fault = "fewer numbers";
            return -EBADMSG;
        }
        r = jsonscan_u64(j, &ret[n - 1]);
        if (r < 0)
            return r;
    }
    return r < 0 ? r : (int)n;
}

/* Does the claimed shape fill exactly the claimed bytes, and do these lie inside the file? */
static int check_extent(const struct file *f, size_t data_at, const uint64_t *offsets,
                        struct safetensors_tensor *t, struct hai_err *err) {
    size_t n_data = f->n_bytes - data_at;
    uint64_t n_bytes = dtypes[t->dtype].n_bytes;
    bool zero = false, over = false;

    if (offsets[0] > offsets[1] || offsets[1] > n_data)
        return hai_fail(err, -EBADMSG,
                        "%s: tensor '" NAME_SHOWN "': data_offsets [%" PRIu64 ", %" PRIu64
                        "] lie outside the file's %zu bytes of data%s",
                        f->path, t->name, offsets[0], offsets[1], n_data,
                        offsets[0] > offsets[1] ? "" : " (cut short?)");
    for (int i = 0; i < t->n_dims; i++) {
        zero |= t->shape[i] == 0;
        over |= __builtin_mul_overflow(n_bytes, (uint64_t)t->shape[i], &n_bytes);
    }
    if (zero)
        n_bytes = 0;
    else if (over)
        return tensor_fault(f, t->name, err, -EBADMSG, "its shape overflows 64 bits");
    if (n_bytes != offsets[1] - offsets[0])
        return hai_fail(err, -EBADMSG,
                        "%s: tensor '" NAME_SHOWN "': shape and dtype make %" PRIu64
                        " bytes, data_offsets %" PRIu64,
                        f->path, t->name, n_bytes, offsets[1] - offsets[0]);
    t->n_bytes = n_bytes;
    t->data = f->bytes + data_at + offsets[0];
    return 0;
}

static int read_entry(struct jsonscan *j, const struct file *f, size_t data_at,
                      struct safetensors_tensor *t, struct hai_err *err) {
    enum { DTYPE = 1, SHAPE = 2, OFFSETS = 4, ALL = 7 };
    _cleanup_(buf_free) struct buf text = {0};
    uint64_t shape[SAFETENSORS_DIMS_MAX], offsets[2] = {0};
    int r, seen = 0, bit, n_offsets = 0;
    size_t n = 0;

    if (jsonscan_enter(j, '{') < 0)
        return header_fault(f, j, err);
    while ((r = jsonscan_next(j, '}', &n)) > 0) {
        if (jsonscan_key(j, &text) < 0)
            return header_fault(f, j, err);
        const char *key = buf_cstr(&text);
        bit = hai_streq(key, "dtype")          ? DTYPE
              : hai_streq(key, "shape")        ? SHAPE
              : hai_streq(key, "data_offsets") ? OFFSETS
                                               : 0;
        if (!bit || seen & bit)
            return hai_fail(err, -EBADMSG,
                            "%s: tensor '" NAME_SHOWN "': %s key '%.40s'; expected dtype, shape "
                            "and data_offsets, once each",
                            f->path, t->name, bit ? "repeated" : "unknown", key);
        seen |= bit;
        if (bit == DTYPE)
            r = jsonscan_string(j, &text);
        else if (bit == SHAPE)
            r = t->n_dims = read_numbers(j, shape, SAFETENSORS_DIMS_MAX);
        else
            r = n_offsets = read_numbers(j, offsets, 2);
        if (r < 0)
            return header_fault(f, j, err);
        if (bit == DTYPE && (r = read_dtype(f, t->name, &text, &t->dtype, err)) < 0)
            return r;
    }
    if (r < 0)
        return header_fault(f, j, err);
    if (seen != ALL || n_offsets != 2)
        return tensor_fault(f, t->name, err, -EBADMSG,
                            "expected dtype, shape and two data_offsets");
    for (int i = 0; i < t->n_dims; i++) {
        if (shape[i] > INT64_MAX)
            return tensor_fault(f, t->name, err, -EBADMSG, "its shape overflows 64 bits");
        t->shape[i] = (int64_t)shape[i];
    }
    return check_extent(f, data_at, offsets, t, err);
}

static int read_metadata(struct safetensors *s, struct jsonscan *j, const struct file *f, bool keep,
                         struct hai_err *err) {
    _cleanup_(buf_free) struct buf key = {0}, value = {0};
    size_t n = 0;
    int r;

    if (jsonscan_enter(j, '{') < 0)
        return header_fault(f, j, err);
    while ((r = jsonscan_next(j, '}', &n)) > 0) {
        if (jsonscan_key(j, &key) < 0 || jsonscan_string(j, &value) < 0)
            return header_fault(f, j, err);
        if (!keep)
            continue;
        s->metadata = hai_realloc_array(s->metadata, s->n_metadata + 2, sizeof *s->metadata);
        s->metadata[s->n_metadata++] = hai_strdup(buf_cstr(&key));
        s->metadata[s->n_metadata++] = hai_strdup(buf_cstr(&value));
    }
    return r < 0 ? header_fault(f, j, err) : 0;
}

static struct safetensors_tensor *tensor_add(struct safetensors *s, const char *name, int file) {
    if (s->n_tensors == s->n_tensors_max) {
        s->n_tensors_max = MAX((size_t)64, 2 * s->n_tensors_max);
        s->tensors = hai_realloc_array(s->tensors, s->n_tensors_max, sizeof *s->tensors);
    }
    struct safetensors_tensor *t = &s->tensors[s->n_tensors++];
    *t = (struct safetensors_tensor){.name = hai_strdup(name), .file = file};
    return t;
}

static int compare_place(const void *a, const void *b) {
    const struct safetensors_tensor *x = *(void *const *)a, *y = *(void *const *)b;

    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    return x->n_bytes < y->n_bytes ? -1 : x->n_bytes > y->n_bytes;
}

/* The tensors from number `first` on must cover the file's data exactly once. */
static int check_cover(const struct safetensors *s, const struct file *f, size_t data_at,
                       size_t first, struct hai_err *err) {
    size_t n = s->n_tensors - first;
    _cleanup_free_ const struct safetensors_tensor **order =
        hai_new_array(const struct safetensors_tensor *, n);
    const uint8_t *end = f->bytes + data_at;

    for (size_t i = 0; i < n; i++)
        order[i] = &s->tensors[first + i];
    if (n)
        qsort(order, n, sizeof *order, compare_place);
    for (size_t i = 0; i < n; i++) {
        const uint8_t *data = order[i]->data;
        if (data < end)
            return hai_fail(err, -EBADMSG, "%s: tensors '%.100s' and '%.100s' overlap", f->path,
                            order[i - 1]->name, order[i]->name);
        if (data > end)
            return hai_fail(err, -EBADMSG,
                            "%s: %zu bytes before tensor '" NAME_SHOWN "' belong to no tensor",
                            f->path, (size_t)(data - end), order[i]->name);
        end = data + order[i]->n_bytes;
    }
    size_t left = (size_t)(f->bytes + f->n_bytes - end);
    if (left)
        return hai_fail(err, -EBADMSG, "%s: %zu bytes after the last tensor belong to no tensor",
                        f->path, left);
    return 0;
}

static int read_header(struct safetensors *s, int file, struct hai_err *err) {
    const struct file *f = &s->files[file];
    _cleanup_(buf_free) struct buf name = {0};
    uint64_t n_header = 0;
    size_t n = 0, first = s->n_tensors;
    bool metadata_seen = false;
    int r;

    if (f->n_bytes < 8)
        return hai_fail(err, -EBADMSG, "%s: %zu bytes long; a safetensors file has at least 10",
                        f->path, f->n_bytes);
    for (int i = 7; i >= 0; i--)
        n_header = n_header << 8 | f->bytes[i];
    if (n_header > SAFETENSORS_HEADER_BYTES_MAX)
        return hai_fail(err, -EFBIG,
                        "%s: header of %" PRIu64 " bytes; at most %d are allowed (is it a "
                        "safetensors file?)",
                        f->path, n_header, SAFETENSORS_HEADER_BYTES_MAX);
    if (n_header > f->n_bytes - 8)
        return hai_fail(err, -EBADMSG,
                        "%s: header of %" PRIu64 " bytes in a file of %zu: cut short", f->path,
                        n_header, f->n_bytes);
    struct jsonscan j = {.text = (const char *)f->bytes + 8, .n_bytes = n_header};
    if (jsonscan_enter(&j, '{') < 0)
        return header_fault(f, &j, err);
    while ((r = jsonscan_next(&j, '}', &n)) > 0) {
        if (jsonscan_key(&j, &name) < 0)
            return header_fault(f, &j, err);
        if (hai_streq(buf_cstr(&name), "__metadata__")) {
            if (metadata_seen)
                return hai_fail(err, -EBADMSG, "%s: __metadata__ comes twice", f->path);
            metadata_seen = true;
            r = read_metadata(s, &j, f, file == 0, err);
        } else if (!name.n_bytes || name.n_bytes > SAFETENSORS_NAME_BYTES_MAX) {
            return hai_fail(err, -EBADMSG, "%s: a tensor's name has %zu bytes; expected 1 to %d",
                            f->path, name.n_bytes, SAFETENSORS_NAME_BYTES_MAX);
        } else {
            r = read_entry(&j, f, 8 + n_header, tensor_add(s, buf_cstr(&name), file), err);
        }
        if (r < 0)
            return r;
    }
    if (r < 0 || jsonscan_end(&j) < 0)
        return header_fault(f, &j, err);
    return check_cover(s, f, 8 + n_header, first, err);
}

static int compare_name(const void *a, const void *b) {
    const struct safetensors_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

/* Order by name, refuse two of one name, move what lies unaligned. */
static int finish(struct safetensors *s, struct hai_err *err) {
    if (s->n_tensors)
        qsort(s->tensors, s->n_tensors, sizeof *s->tensors, compare_name);
    for (size_t i = 0; i < s->n_tensors; i++) {
        struct safetensors_tensor *t = &s->tensors[i];
        if (i && hai_streq(t->name, t[-1].name))
            return hai_fail(err, -EBADMSG, "%s: tensor '" NAME_SHOWN "' comes twice%s%.200s",
                            s->files[t->file].path, t->name,
                            t->file == t[-1].file ? "" : ", also in ",
                            t->file == t[-1].file ? "" : s->files[t[-1].file].path);
        if ((uintptr_t)t->data % dtypes[t->dtype].n_bytes == 0)
            continue;
        void *copy = hai_alloc(t->n_bytes);
        memcpy(copy, t->data, t->n_bytes);
        t->data = copy;
        s->copies = hai_realloc_array(s->copies, s->n_copies + 1, sizeof *s->copies);
        s->copies[s->n_copies++] = copy;
    }
    return 0;
}

static void fd_closep(int *fd) {
    if (*fd >= 0)
        close(*fd);
}

/* Map a whole file. n_bytes 0 gives bytes NULL. */
static int file_map(const char *path, struct file *ret, struct hai_err *err) {
    struct stat st;
    _cleanup_(fd_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) < 0)
        return hai_fail(err, -errno, "%s: %m", path);
    if (!S_ISREG(st.st_mode))
        return hai_fail(err, -EINVAL, "%s: not a regular file", path);
    struct file f = {.path = hai_strdup(path), .n_bytes = (size_t)st.st_size};
    if (f.n_bytes) {
        f.bytes = mmap(NULL, f.n_bytes, PROT_READ, MAP_SHARED, fd, 0);
        if (f.bytes == MAP_FAILED) {
            free(f.path);
            return hai_fail(err, -errno, "%s: mapping %zu bytes: %m", path, f.n_bytes);
        }
    }
    *ret = f;
    return 0;
}

/* Add a file to s. Returns its number. */
static int file_add(struct safetensors *s, const char *path, struct hai_err *err) {
    struct file f;
    int r = file_map(path, &f, err);

    if (r < 0)
        return r;
    s->files = hai_realloc_array(s->files, (size_t)s->n_files + 1, sizeof *s->files);
    s->files[s->n_files] = f;
    return s->n_files++;
}

/* One line of weight_map: names collected with file = number of the shard. */
struct index {
    struct safetensors_tensor *entries; // name and file only
    size_t n_entries, n_entries_max;
};

static void index_free(struct index *x) {
    for (size_t i = 0; i < x->n_entries; i++)
        free((char *)x->entries[i].name);
    free(x->entries);
}

/* The number of a shard, which is opened when first named. */
static int shard_number(struct safetensors *s, const char *index_path, const char *dir,
                        const char *name, struct hai_err *err) {
    if (!name[0] || name[0] == '.' || strchr(name, '/'))
        return hai_fail(err, -EBADMSG,
                        "%s: shard '" NAME_SHOWN
                        "'; expected the name of a file in the same folder",
                        index_path, name);
    _cleanup_free_ char *path = hai_asprintf("%s/%s", dir, name);
    for (int i = 0; i < s->n_files; i++)
        if (hai_streq(s->files[i].path, path))
            return i;
    if (s->n_files == SAFETENSORS_FILES_MAX)
        return hai_fail(err, -EFBIG, "%s: more than %d shards", index_path, SAFETENSORS_FILES_MAX);
    return file_add(s, path, err);
}

static int index_fault(const char *path, const struct jsonscan *j, struct hai_err *err) {
    return hai_fail(err, -EBADMSG, "%s: not an index: byte %zu: expected %s", path, j->at,
                    j->fault);
}

static int index_weight_map(struct safetensors *s, struct index *x, struct jsonscan *j,
                            const char *path, const char *dir, struct hai_err *err) {
    _cleanup_(buf_free) struct buf name = {0}, shard = {0};
    size_t n = 0;
    int r;

    if (jsonscan_enter(j, '{') < 0)
        return index_fault(path, j, err);
    while ((r = jsonscan_next(j, '}', &n)) > 0) {
        if (jsonscan_key(j, &name) < 0 || jsonscan_string(j, &shard) < 0)
            return index_fault(path, j, err);
        r = shard_number(s, path, dir, buf_cstr(&shard), err);
        if (r < 0)
            return r;
        if (x->n_entries == x->n_entries_max) {
            x->n_entries_max = MAX((size_t)64, 2 * x->n_entries_max);
            x->entries = hai_realloc_array(x->entries, x->n_entries_max, sizeof *x->entries);
        }
        x->entries[x->n_entries++] =
            (struct safetensors_tensor){.name = hai_strdup(buf_cstr(&name)), .file = r};
    }
    return r < 0 ? index_fault(path, j, err) : 0;
}

static int index_parse(struct safetensors *s, struct index *x, struct jsonscan *j, const char *path,
                       const char *dir, struct hai_err *err) {
    _cleanup_(buf_free) struct buf key = {0};
    bool found = false;
    size_t n = 0;
    int r;

    if (jsonscan_enter(j, '{') < 0)
        return index_fault(path, j, err);
    while ((r = jsonscan_next(j, '}', &n)) > 0) {
        if (jsonscan_key(j, &key) < 0)
            return index_fault(path, j, err);
        if (!hai_streq(buf_cstr(&key), "weight_map")) {
            if (jsonscan_skip(j) < 0)
                return index_fault(path, j, err);
            continue;
        }
        if (found)
            return hai_fail(err, -EBADMSG, "%s: weight_map comes twice", path);
        found = true;
        r = index_weight_map(s, x, j, path, dir, err);
        if (r < 0)
            return r;
    }
    if (r < 0 || jsonscan_end(j) < 0)
        return index_fault(path, j, err);
    return found ? 0 : hai_fail(err, -EBADMSG, "%s: no 'weight_map'", path);
}

/* Keep of the opened shards what the index lists; each must lie in the shard it is listed for. */
static int index_apply(struct safetensors *s, const struct index *x, const char *path,
                       struct hai_err *err) {
    _cleanup_free_ bool *listed = hai_new_array(bool, s->n_tensors);
    size_t n_kept = 0;

    for (size_t i = 0; i < x->n_entries; i++) {
        const struct safetensors_tensor *t = safetensors_find(s, x->entries[i].name);
        if (!t || t->file != x->entries[i].file)
            return hai_fail(err, -EBADMSG, "%s: tensor '" NAME_SHOWN "' is not in %s", path,
                            x->entries[i].name, s->files[x->entries[i].file].path);
        if (listed[t - s->tensors])
            return hai_fail(err, -EBADMSG, "%s: tensor '" NAME_SHOWN "' is listed twice", path,
                            t->name);
        listed[t - s->tensors] = true;
    }
    for (size_t i = 0; i < s->n_tensors; i++)
        if (listed[i])
            s->tensors[n_kept++] = s->tensors[i];
        else
            free((char *)s->tensors[i].name);
    s->n_tensors = n_kept;
    return 0;
}

static int open_sharded(struct safetensors *s, const char *dir, const char *path,
                        struct hai_err *err) {
    _cleanup_(index_free) struct index x = {0};
    struct file f;
    int r = file_map(path, &f, err);

    if (r < 0)
        return r;
    struct jsonscan j = {.text = (const char *)f.bytes, .n_bytes = f.n_bytes};
    r = index_parse(s, &x, &j, path, dir, err);
    if (f.bytes)
        munmap(f.bytes, f.n_bytes);
    free(f.path);
    for (int i = 0; r == 0 && i < s->n_files; i++)
        r = read_header(s, i, err);
    if (r == 0)
        r = finish(s, err);
    return r < 0 ? r : index_apply(s, &x, path, err);
}

static int open_single(struct safetensors *s, const char *path, struct hai_err *err) {
    int r = file_add(s, path, err);

    if (r >= 0)
        r = read_header(s, 0, err);
    return r < 0 ? r : finish(s, err);
}

int safetensors_open(const char *path, struct safetensors **ret, struct hai_err *err) {
    _cleanup_(safetensors_freep) struct safetensors *s = hai_new(struct safetensors);
    struct stat st;
    int r;

    assert(path);
    assert(ret);
    if (stat(path, &st) < 0)
        return hai_fail(err, -errno, "%s: %m", path);
    if (S_ISDIR(st.st_mode)) {
        _cleanup_free_ char *index = hai_asprintf("%s/model.safetensors.index.json", path);
        _cleanup_free_ char *single = hai_asprintf("%s/model.safetensors", path);
        if (access(index, F_OK) == 0)
            r = open_sharded(s, path, index, err);
        else if (access(single, F_OK) == 0)
            r = open_single(s, single, err);
        else
            r = hai_fail(err, -ENOENT,
                         "%s: expected model.safetensors or model.safetensors.index.json in it",
                         path);
    } else {
        r = open_single(s, path, err);
    }
    if (r < 0)
        return r;
    *ret = TAKE_PTR(s);
    return 0;
}

int safetensors_check(const void *bytes, size_t n_bytes, struct hai_err *err) {
    _cleanup_(safetensors_freep) struct safetensors *s = hai_new(struct safetensors);

    s->files = hai_new(struct file);
    s->n_files = 1;
    s->files[0] = (struct file){hai_strdup("bytes"), (uint8_t *)bytes, n_bytes, true};
    int r = read_header(s, 0, err);
    return r < 0 ? r : finish(s, err);
}

size_t safetensors_count(const struct safetensors *s) {
    return s->n_tensors;
}

const struct safetensors_tensor *safetensors_at(const struct safetensors *s, size_t i) {
    assert(i < s->n_tensors);
    return &s->tensors[i];
}

const struct safetensors_tensor *safetensors_find(const struct safetensors *s, const char *name) {
    struct safetensors_tensor key = {.name = name};

    if (!s->n_tensors)
        return NULL;
    return bsearch(&key, s->tensors, s->n_tensors, sizeof key, compare_name);
}

/* "[12, 34]" into a fixed text; cut short if long. */
static const char *shape_text(int n_dims, const int64_t *shape, char *ret, size_t n_bytes) {
    size_t n = (size_t)snprintf(ret, n_bytes, "[");

    for (int i = 0; i < n_dims && n < n_bytes; i++)
        n += (size_t)snprintf(ret + n, n_bytes - n, "%s%" PRId64, i ? ", " : "", shape[i]);
    if (n < n_bytes)
        snprintf(ret + n, n_bytes - n, "]");
    return ret;
}

int safetensors_get(const struct safetensors *s, const char *name, int n_dims, const int64_t *shape,
                    const struct safetensors_tensor **ret, struct hai_err *err) {
    const struct safetensors_tensor *t = safetensors_find(s, name);
    char has[100], wanted[100];

    if (!t)
        return hai_fail(err, -ENOENT, "%s: no tensor '" NAME_SHOWN "'", s->files[0].path, name);
    if (t->n_dims != n_dims || memcmp(t->shape, shape, (size_t)n_dims * sizeof *shape))
        return hai_fail(err, -EINVAL, "%s: tensor '" NAME_SHOWN "' has shape %s; expected %s",
                        safetensors_path(s, t), name,
                        shape_text(t->n_dims, t->shape, has, sizeof has),
                        shape_text(n_dims, shape, wanted, sizeof wanted));
    *ret = t;
    return 0;
}

const char *safetensors_path(const struct safetensors *s, const struct safetensors_tensor *t) {
    return s->files[t->file].path;
}

const char *safetensors_metadata(const struct safetensors *s, const char *key) {
    for (size_t i = 0; i + 1 < s->n_metadata; i += 2)
        if (hai_streq(s->metadata[i], key))
            return s->metadata[i + 1];
    return NULL;
}

static void add_quoted(struct buf *b, const char *text) {
    buf_add_u8(b, '"');
    for (; *text; text++)
        if (*text == '"' || *text == '\\')
            buf_printf(b, "\\%c", *text);
        else if ((unsigned char)*text < 0x20)
            buf_printf(b, "\\u%04x", *text);
        else
            buf_add_u8(b, (uint8_t)*text);
    buf_add_u8(b, '"');
}

static void add_entry(struct buf *b, const struct safetensors_tensor *t, size_t at) {
    add_quoted(b, t->name);
    buf_printf(b, ":{\"dtype\":\"%s\",\"shape\":[", dtypes[t->dtype].name);
    for (int i = 0; i < t->n_dims; i++)
        buf_printf(b, "%s%" PRId64, i ? "," : "", t->shape[i]);
    buf_printf(b, "],\"data_offsets\":[%zu,%zu]}", at, at + t->n_bytes);
}

/* Length and header, padded so that the data begins at a multiple of 64. */
static void make_header(struct buf *b, const struct safetensors_tensor *tensors, size_t n_tensors,
                        const char *const *metadata) {
    size_t at = 0;

    buf_add_u64(b, 0);
    buf_add_u8(b, '{');
    if (metadata && metadata[0]) {
        buf_add_str(b, "\"__metadata__\":{");
        for (size_t i = 0; metadata[i]; i += 2) {
            buf_add_str(b, i ? "," : "");
            add_quoted(b, metadata[i]);
            buf_add_u8(b, ':');
            add_quoted(b, metadata[i + 1]);
        }
        buf_add_str(b, n_tensors ? "}," : "}");
    }
    for (size_t i = 0; i < n_tensors; i++) {
        buf_add_str(b, i ? "," : "");
        add_entry(b, &tensors[i], at);
        at += tensors[i].n_bytes;
    }
    buf_add_u8(b, '}');
    while (b->n_bytes % 64)
        buf_add_u8(b, ' ');
    uint64_t n_header = b->n_bytes - 8;
    for (int i = 0; i < 8; i++)
        b->data[i] = (uint8_t)(n_header >> 8 * i);
}

static int write_all(int fd, const void *data, size_t n_bytes) {
    const char *p = data;

    while (n_bytes) {
        ssize_t n = write(fd, p, n_bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        p += n;
        n_bytes -= (size_t)n;
    }
    return 0;
}

/* A caller's mistake would otherwise become a file that lies. */
static void assert_sound(const struct safetensors_tensor *t) {
    size_t n_bytes = dtypes[t->dtype].n_bytes;

    assert(t->name[0]);
    assert(t->n_dims >= 0);
    assert(t->n_dims <= SAFETENSORS_DIMS_MAX);
    for (int i = 0; i < t->n_dims; i++)
        n_bytes *= (size_t)t->shape[i];
    assert(n_bytes == t->n_bytes);
}

struct safetensors_writer {
    char *path, *temporary;
    int fd;
    size_t n_left; // bytes of data still to come
};

void safetensors_writer_free(struct safetensors_writer *w) {
    if (!w)
        return;
    fd_closep(&w->fd);
    if (w->temporary)
        unlink(w->temporary);
    free(w->temporary);
    free(w->path);
    free(w);
}

static int writer_fail(const struct safetensors_writer *w, int r, struct hai_err *err) {
    return hai_fail(err, r, "%s: writing: %s", w->temporary, strerror(-r));
}

int safetensors_writer_new(const char *path, const struct safetensors_tensor *tensors,
                           size_t n_tensors, const char *const *metadata,
                           struct safetensors_writer **ret, struct hai_err *err) {
    _cleanup_(safetensors_writer_freep) struct safetensors_writer *w =
        hai_new(struct safetensors_writer);
    _cleanup_(buf_free) struct buf header = {0};
    _cleanup_free_ char *temporary = hai_asprintf("%s.tmp%d", path, (int)getpid());

    w->fd = -1;
    for (size_t i = 0; i < n_tensors; i++) {
        assert_sound(&tensors[i]);
        w->n_left += tensors[i].n_bytes;
    }
    make_header(&header, tensors, n_tensors, metadata);
    if (header.n_bytes > SAFETENSORS_HEADER_BYTES_MAX)
        return hai_fail(err, -EFBIG, "%s: header of %zu bytes; at most %d are allowed", path,
                        header.n_bytes, SAFETENSORS_HEADER_BYTES_MAX);
    w->fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (w->fd < 0)
        return hai_fail(err, -errno, "%s: %m", temporary);
    w->path = hai_strdup(path);
    w->temporary = TAKE_PTR(temporary);
    int r = write_all(w->fd, header.data, header.n_bytes);
    if (r < 0)
        return writer_fail(w, r, err);
    *ret = TAKE_PTR(w);
    return 0;
}

int safetensors_writer_add(struct safetensors_writer *w, const void *data, size_t n_bytes,
                           struct hai_err *err) {
    assert(n_bytes <= w->n_left);
    w->n_left -= n_bytes;
    int r = write_all(w->fd, data, n_bytes);
    return r < 0 ? writer_fail(w, r, err) : 0;
}

int safetensors_writer_finish(struct safetensors_writer *w, struct hai_err *err) {
    assert(w->n_left == 0);
    if (fsync(w->fd) < 0)
        return writer_fail(w, -errno, err);
    if (rename(w->temporary, w->path) < 0)
        return hai_fail(err, -errno, "%s: %m", w->path);
    free(w->temporary);
    w->temporary = NULL;
    return 0;
}

int safetensors_write(const char *path, const struct safetensors_tensor *tensors, size_t n_tensors,
                      const char *const *metadata, struct hai_err *err) {
    _cleanup_(safetensors_writer_freep) struct safetensors_writer *w = NULL;
    int r = safetensors_writer_new(path, tensors, n_tensors, metadata, &w, err);

    for (size_t i = 0; r == 0 && i < n_tensors; i++)
        r = safetensors_writer_add(w, tensors[i].data, tensors[i].n_bytes, err);
    return r < 0 ? r : safetensors_writer_finish(w, err);
}
