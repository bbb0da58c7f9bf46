#include "engine/ckpt/ckpt.h"
#include "lib/digest.h"
#include "lib/fileio.h"
#include "lib/json.h"
#include "storage/safetensors.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

/* The file of all parts. More files are for runs whose state is spread over ranks. */
#define PART_FILE "part-00000.safetensors"
#define MANIFEST "manifest.json"
#define UNFINISHED ".unfinished-"

/* The manifest begins with the XXH3-64 of everything that follows this first line. */
#define CHECKSUM_FORM "{\"xxh3\":\"%016" PRIx64 "\",\n"
enum {
    FORMAT = 1,
    CHECKSUM_BYTES = 28,
    MANIFEST_BYTES_MAX = 256 << 20,
};

static const char *const states[] = {
#define X(name, text) text,
    CKPT_STATES(X)
#undef X
};

struct ckpt {
    char *path;
    struct ckpt_meta meta;
    char digest[CKPT_DIGEST_BYTES];
    struct safetensors *file;
};

/* The whole numbers and texts of the manifest, once. */
#define META_NUMBERS(X) X(step) X(epoch) X(next_sample) X(world) X(group_ranks)
#define META_WORDS(X) X(seed) X(data_digest) X(config_digest)
#define META_TEXTS(X) X(kernel_path) X(recipe) X(version)

static size_t part_elements(const struct ckpt_part *p) {
    size_t n = 1;

    for (int i = 0; i < p->n_dims; i++)
        n *= (size_t)p->shape[i];
    return n;
}

/* Name of a part's tensor in the file: names alone are not unique over states. */
static char *tensor_name(enum ckpt_state state, const char *name) {
    return hai_asprintf("%s/%s", states[state], name);
}

static struct json *shape_json(int n_dims, const int64_t *shape) {
    struct json *a = json_new_array();

    for (int i = 0; i < n_dims; i++)
        json_append(a, json_new_int(shape ? shape[i] : 0));
    return a;
}

static struct json *part_json(const struct ckpt_part *p) {
    struct json *o = json_new_object();
    char sum[20];

    snprintf(sum, sizeof sum, "%016" PRIx64,
             digest_xxh3(p->data, part_elements(p) * sizeof(float)));
    json_add_string(o, "name", p->name);
    json_add_string(o, "state", states[p->state]);
    json_add_string(o, "dtype", "F32");
    json_add(o, "shape", shape_json(p->n_dims, p->shape));
    json_add(o, "start", shape_json(p->n_dims, NULL));
    json_add(o, "extent", shape_json(p->n_dims, p->shape));
    json_add_string(o, "file", PART_FILE);
    json_add_string(o, "xxh3", sum);
    return o;
}

static void manifest_write(const struct ckpt_meta *m, const struct ckpt_part *parts, size_t n_parts,
                           struct buf *ret) {
    _cleanup_(json_freep) struct json *o = json_new_object();
    _cleanup_(buf_free) struct buf text = {0};
    char word[20];

    json_add_int(o, "format", FORMAT);
#define X(field) json_add_int(o, #field, m->field);
    META_NUMBERS(X)
#undef X
#define X(field)                                                                                   \
    snprintf(word, sizeof word, "%016" PRIx64, m->field);                                          \
    json_add_string(o, #field, word);
    META_WORDS(X)
#undef X
#define X(field) json_add_string(o, #field, m->field);
    META_TEXTS(X)
#undef X
    struct json *list = json_add(o, "parts", json_new_array());
    for (size_t i = 0; i < n_parts; i++)
        json_append(list, part_json(&parts[i]));
    json_dump(o, 1, &text);
    assert(text.data[0] == '{');
    buf_printf(ret, CHECKSUM_FORM, digest_xxh3(text.data + 1, text.n_bytes - 1));
    assert(ret->n_bytes == CHECKSUM_BYTES);
    buf_add(ret, text.data + 1, text.n_bytes - 1);
}

static int parts_write(const char *path, const struct ckpt_part *parts, size_t n_parts,
                       struct hai_err *err) {
    _cleanup_free_ struct safetensors_tensor *tensors =
        hai_new_array(struct safetensors_tensor, n_parts);

    for (size_t i = 0; i < n_parts; i++) {
        tensors[i] = (struct safetensors_tensor){.name = tensor_name(parts[i].state, parts[i].name),
                                                 .dtype = SAFETENSORS_F32,
                                                 .n_dims = parts[i].n_dims,
                                                 .data = parts[i].data,
                                                 .n_bytes = part_elements(&parts[i]) * 4};
        memcpy(tensors[i].shape, parts[i].shape, sizeof parts[i].shape);
    }
    int r = safetensors_write(path, tensors, n_parts, NULL, err);
    for (size_t i = 0; i < n_parts; i++)
        free((char *)tensors[i].name);
    return r;
}

/* Everything into a folder of its own, durably. */
static int folder_write(const char *folder, const struct buf *manifest,
                        const struct ckpt_part *parts, size_t n_parts, struct hai_err *err) {
    _cleanup_free_ char *part = hai_asprintf("%s/" PART_FILE, folder);
    _cleanup_free_ char *path = hai_asprintf("%s/" MANIFEST, folder);
    int r = fileio_mkdir_durable(folder, 0777, err);

    if (r == 0)
        r = parts_write(part, parts, n_parts, err);
    if (r == 0)
        r = fileio_replace(path, manifest->data, manifest->n_bytes, 0644, err);
    return r < 0 ? r : fileio_sync_dir(folder, err);
}

static void manifest_digest(const struct buf *text, char ret[CKPT_DIGEST_BYTES]) {
    uint8_t sum[DIGEST_SHA256_BYTES];

    digest_sha256(text->data, text->n_bytes, sum);
    digest_hex(sum, sizeof sum, ret);
}

/* Give a finished folder its name: rename replaces no folder that holds something, on any file
 * system (renameat2's flags are refused by NFS). One that has the name already is of the same
 * attempt: either the same bytes, saved before the run was resumed from an older one, or damaged;
 * that one steps aside first, under a name that the next pruning removes. */
static int folder_publish(const char *made, const char *path, const char *digest,
                          struct hai_err *err) {
    _cleanup_free_ char *aside = hai_asprintf("%s.replaced", made);
    struct ckpt *c = NULL;

    if (rename(made, path) == 0)
        return 0;
    if (errno != EEXIST && errno != ENOTEMPTY)
        return hai_fail(err, -errno, "%s: %m", path);
    bool same = ckpt_open(path, &c, NULL) == 0 && hai_streq(ckpt_digest(c), digest);
    ckpt_free(c);
    if (same)
        return fileio_remove_tree(made, err);
    int r = fileio_remove_tree(aside, err);
    if (r == 0 && (rename(path, aside) < 0 || rename(made, path) < 0))
        r = hai_fail(err, -errno, "%s: %m", path);
    return r < 0 ? r : fileio_remove_tree(aside, err);
}

int ckpt_save(const char *dir, const struct ckpt_meta *meta, const struct ckpt_part *parts,
              size_t n_parts, char **ret_path, char ret_digest[CKPT_DIGEST_BYTES],
              struct hai_err *err) {
    _cleanup_(buf_free) struct buf manifest = {0};
    char digest[CKPT_DIGEST_BYTES];
    _cleanup_free_ char *path =
        hai_asprintf("%s/step-%" PRId64 ".E%" PRId64, dir, meta->step, meta->epoch);
    _cleanup_free_ char *made = hai_asprintf("%s/" UNFINISHED "step-%" PRId64 ".E%" PRId64 ".%d",
                                             dir, meta->step, meta->epoch, (int)getpid());

    manifest_write(meta, parts, n_parts, &manifest);
    manifest_digest(&manifest, digest);
    int r = fileio_remove_tree(made, err);
    if (r == 0)
        r = folder_write(made, &manifest, parts, n_parts, err);
    if (r == 0)
        r = folder_publish(made, path, digest, err);
    if (r == 0)
        r = fileio_sync_dir(dir, err);
    if (r < 0) {
        fileio_remove_tree(made, NULL);
        return r;
    }
    strcpy(ret_digest, digest);
    *ret_path = TAKE_PTR(path);
    return 0;
}

void ckpt_free(struct ckpt *c) {
    if (!c)
        return;
    safetensors_free(c->file);
    free(c->path);
    free(c);
}

static int word_read(const struct json *o, const char *key, uint64_t *ret) {
    char *end;
    const char *text = json_get_string(o, key, "");

    *ret = strtoull(text, &end, 16);
    return strlen(text) == 16 && !*end ? 0 : -EBADMSG;
}

static int meta_read(const struct json *o, const char *path, struct ckpt_meta *m,
                     struct hai_err *err) {
    int r = 0;

    if (json_get_int(o, "format", 0) != FORMAT)
        return hai_fail(err, -ENOTSUP, "%s: format is %" PRId64 "; this program reads %d", path,
                        json_get_int(o, "format", 0), FORMAT);
#define X(field)                                                                                   \
    m->field = json_get_int(o, #field, -1);                                                        \
    if (m->field < 0)                                                                              \
        r = hai_fail(err, -EBADMSG, "%s: '" #field "' is missing or negative", path);
    META_NUMBERS(X)
#undef X
#define X(field)                                                                                   \
    if (word_read(o, #field, &m->field) < 0)                                                       \
        r = hai_fail(err, -EBADMSG, "%s: '" #field "' is not 16 digits", path);
    META_WORDS(X)
#undef X
#define X(field) snprintf(m->field, sizeof m->field, "%s", json_get_string(o, #field, ""));
    META_TEXTS(X)
#undef X
    return r;
}

/* One entry of the manifest against the file: there, and with the bytes that were written. */
static int part_verify(const struct ckpt *c, const struct json *part, struct hai_err *err) {
    const char *name = json_get_string(part, "name", "");
    const char *state = json_get_string(part, "state", "");
    _cleanup_free_ char *key = hai_asprintf("%s/%s", state, name);
    const struct safetensors_tensor *t = safetensors_find(c->file, key);
    uint64_t sum;

    if (!t || t->dtype != SAFETENSORS_F32 ||
        !hai_streq(json_get_string(part, "file", ""), PART_FILE))
        return hai_fail(err, -EBADMSG, "%s: %s of '%s' is not in " PART_FILE, c->path, state, name);
    if (word_read(part, "xxh3", &sum) < 0 || digest_xxh3(t->data, t->n_bytes) != sum)
        return hai_fail(err, -EBADMSG, "%s: %s of '%s' is damaged (checksum)", c->path, state,
                        name);
    return 0;
}

static int manifest_read(struct ckpt *c, const struct buf *text, const char *path,
                         struct hai_err *err) {
    _cleanup_(json_freep) struct json *o = NULL;
    char head[CHECKSUM_BYTES + 1];
    size_t n_parts = 0;

    if (text->n_bytes < CHECKSUM_BYTES)
        return hai_fail(err, -EBADMSG, "%s: cut short", path);
    snprintf(head, sizeof head, CHECKSUM_FORM,
             digest_xxh3(text->data + CHECKSUM_BYTES, text->n_bytes - CHECKSUM_BYTES));
    if (memcmp(head, text->data, CHECKSUM_BYTES))
        return hai_fail(err, -EBADMSG, "%s: damaged (checksum)", path);
    int r = json_parse(text->data, text->n_bytes, path, &o, err);
    if (r == 0)
        r = meta_read(o, path, &c->meta, err);
    if (r < 0)
        return r;
    manifest_digest(text, c->digest);
    const struct json *list = json_get(o, "parts");
    for (const struct json *p = list ? json_first(list) : NULL; r == 0 && p; p = json_next(p)) {
        r = part_verify(c, p, err);
        n_parts++;
    }
    if (r == 0 && n_parts != safetensors_count(c->file))
        r = hai_fail(err, -EBADMSG, "%s: %zu parts; " PART_FILE " has %zu tensors", path, n_parts,
                     safetensors_count(c->file));
    return r;
}

/* "step-N.E<epoch>" -> both numbers. */
static bool name_parse(const char *name, int64_t *ret_step, int64_t *ret_epoch) {
    int n = 0;

    return sscanf(name, "step-%" SCNd64 ".E%" SCNd64 "%n", ret_step, ret_epoch, &n) == 2 &&
           !name[n] && *ret_step >= 0 && *ret_epoch >= 0;
}

int ckpt_open(const char *path, struct ckpt **ret, struct hai_err *err) {
    _cleanup_(ckpt_freep) struct ckpt *c = hai_new(struct ckpt);
    _cleanup_(buf_free) struct buf text = {0};
    _cleanup_free_ char *manifest = hai_asprintf("%s/" MANIFEST, path);
    _cleanup_free_ char *part = hai_asprintf("%s/" PART_FILE, path);
    const char *name = strrchr(path, '/');
    int64_t step, epoch;

    c->path = hai_strdup(path);
    int r = fileio_read_file(manifest, MANIFEST_BYTES_MAX, &text, err);
    if (r == 0)
        r = safetensors_open(part, &c->file, err);
    if (r == 0)
        r = manifest_read(c, &text, manifest, err);
    if (r < 0)
        return r;
    if (!name_parse(name ? name + 1 : path, &step, &epoch) || step != c->meta.step ||
        epoch != c->meta.epoch)
        return hai_fail(err, -EBADMSG, "%s: its manifest is of step %" PRId64 ", epoch %" PRId64,
                        path, c->meta.step, c->meta.epoch);
    *ret = TAKE_PTR(c);
    return 0;
}

const char *ckpt_path(const struct ckpt *c) {
    return c->path;
}

const struct ckpt_meta *ckpt_meta_of(const struct ckpt *c) {
    return &c->meta;
}

const char *ckpt_digest(const struct ckpt *c) {
    return c->digest;
}

struct entry {
    int64_t step, epoch;
    char *path;
};

struct listing {
    struct entry *entries; // newest first
    size_t n;
};

static void listing_free(struct listing *l) {
    for (size_t i = 0; i < l->n; i++)
        free(l->entries[i].path);
    free(l->entries);
}

static int newest_first(const void *a, const void *b) {
    const struct entry *x = a, *y = b;

    if (x->step != y->step)
        return x->step > y->step ? -1 : 1;
    return x->epoch > y->epoch ? -1 : x->epoch < y->epoch;
}

/* All folders with our names; what cut-off saves left is removed on the way if asked. */
static int list(const char *dir, bool remove_unfinished, struct listing *ret, struct hai_err *err) {
    DIR *d = opendir(dir);
    const struct dirent *e;

    if (!d)
        return hai_fail(err, -errno, "%s: %m", dir);
    while ((e = readdir(d))) {
        struct entry x;
        if (remove_unfinished && !strncmp(e->d_name, UNFINISHED, strlen(UNFINISHED))) {
            _cleanup_free_ char *path = hai_asprintf("%s/%s", dir, e->d_name);
            fileio_remove_tree(path, NULL);
        }
        if (!name_parse(e->d_name, &x.step, &x.epoch))
            continue;
        x.path = hai_asprintf("%s/%s", dir, e->d_name);
        ret->entries = hai_realloc_array(ret->entries, ret->n + 1, sizeof *ret->entries);
        ret->entries[ret->n++] = x;
    }
    closedir(d);
    if (ret->n)
        qsort(ret->entries, ret->n, sizeof *ret->entries, newest_first);
    return 0;
}

int ckpt_newest(const char *dir,
                void (*on_skip)(void *userdata, const char *path, const char *reason),
                void *userdata, struct ckpt **ret, struct hai_err *err) {
    _cleanup_(listing_free) struct listing l = {0};
    int r = list(dir, false, &l, err);

    if (r < 0)
        return r;
    for (size_t i = 0; i < l.n; i++) {
        struct hai_err why = {0};
        if (ckpt_open(l.entries[i].path, ret, &why) == 0)
            return 0;
        if (on_skip)
            on_skip(userdata, l.entries[i].path, hai_err_text(&why));
    }
    return hai_fail(err, -ENOENT, "%s: no complete checkpoint", dir);
}

size_t ckpt_count(const struct ckpt *c, enum ckpt_state state) {
    size_t n_state = strlen(states[state]), n = 0;

    for (size_t i = 0; i < safetensors_count(c->file); i++) {
        const char *name = safetensors_at(c->file, i)->name;
        n += strncmp(name, states[state], n_state) == 0 && name[n_state] == '/';
    }
    return n;
}

int ckpt_values(const struct ckpt *c, enum ckpt_state state, const char *name, int n_dims,
                const int64_t *shape, const float **ret, struct hai_err *err) {
    _cleanup_free_ char *key = tensor_name(state, name);
    const struct safetensors_tensor *t;
    int r = safetensors_get(c->file, key, n_dims, shape, &t, err);

    if (r < 0)
        return r;
    *ret = t->data; // of F32, ckpt_open has looked
    return 0;
}

int ckpt_load(const struct ckpt *c, const struct ckpt_part *parts, size_t n_parts,
              struct hai_err *err) {
    size_t n_there = safetensors_count(c->file), n_missing = 0;

    for (size_t i = 0; i < n_parts; i++) {
        const float *values;
        int r = ckpt_values(c, parts[i].state, parts[i].name, parts[i].n_dims, parts[i].shape,
                            &values, err);
        if (r == -ENOENT && parts[i].optional) {
            n_missing++;
            continue;
        }
        if (r < 0)
            return r == -ENOENT ? -EINVAL : r;
        if (parts[i].data)
            memcpy(parts[i].data, values, part_elements(&parts[i]) * sizeof *values);
    }
    if (n_parts - n_missing != n_there)
        return hai_fail(err, -EINVAL, "%s: has %zu parts; this run has %zu", c->path, n_there,
                        n_parts - n_missing);
    return 0;
}

int ckpt_prune(const char *dir, int64_t step, int64_t epoch, int keep, struct hai_err *err) {
    const struct entry saved = {.step = step, .epoch = epoch};
    _cleanup_(listing_free) struct listing l = {0};
    int r = list(dir, true, &l, err);
    size_t first = 0;

    assert(keep >= 1);
    while (first < l.n && newest_first(&l.entries[first], &saved) < 0)
        first++;
    for (size_t i = first + (size_t)keep; r == 0 && i < l.n; i++) {
        // First out of sight under the other name, so that a removal cut off leaves nothing torn.
        _cleanup_free_ char *gone = hai_asprintf("%s/" UNFINISHED "removed-%" PRId64 ".E%" PRId64,
                                                 dir, l.entries[i].step, l.entries[i].epoch);
        if (rename(l.entries[i].path, gone) < 0)
            r = hai_fail(err, -errno, "%s: %m", l.entries[i].path);
        else
            r = fileio_remove_tree(gone, err);
    }
    return r;
}
