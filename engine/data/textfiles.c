#include "engine/data/textfiles.h"
#include "lib/fileio.h"
#include "lib/gzip.h"

#include <dirent.h>
#include <glob.h>
#include <sys/stat.h>

enum { DEPTH_MAX = 32, LOOK_BYTES = 4096 };

void textfiles_free(struct textfiles *files) {
    for (size_t i = 0; i < files->n; i++)
        free(files->paths[i]);
    free(files->paths);
    *files = (struct textfiles){0};
}

static void add(struct textfiles *files, const char *path) {
    if (files->n == files->n_max) {
        files->n_max = MAX((size_t)64, 2 * files->n_max);
        files->paths = hai_realloc_array(files->paths, files->n_max, sizeof *files->paths);
    }
    files->paths[files->n++] = hai_strdup(path);
}

/* By bytes, not by locale: alphasort would follow LC_COLLATE. */
static int by_name(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int no_dots(const struct dirent *entry) {
    return !hai_streq(entry->d_name, ".") && !hai_streq(entry->d_name, "..");
}

static int search(const char *dir, int depth, struct textfiles *ret, struct hai_err *err) {
    struct dirent **entries;
    int r = 0, n = scandir(dir, &entries, no_dots, by_name);

    if (n < 0)
        return hai_fail(err, -errno, "%s: %m", dir);
    for (int i = 0; i < n; i++) {
        _cleanup_free_ char *path = hai_asprintf("%s/%s", dir, entries[i]->d_name);
        struct stat st;
        if (r == 0 && lstat(path, &st) == 0) {
            if (S_ISREG(st.st_mode))
                add(ret, path);
            else if (S_ISDIR(st.st_mode))
                r = depth == DEPTH_MAX ? hai_fail(err, -ELOOP, "%s: folders too deep", path)
                                       : search(path, depth + 1, ret, err);
        }
        free(entries[i]);
    }
    free(entries);
    return r;
}

static int find_one(const char *path, struct textfiles *ret, struct hai_err *err) {
    struct stat st;

    if (stat(path, &st) < 0)
        return hai_fail(err, -errno, "%s: %m", path);
    if (S_ISDIR(st.st_mode))
        return search(path, 0, ret, err);
    add(ret, path);
    return 0;
}

int textfiles_match(const char *path, struct textfiles *ret, struct hai_err *err) {
    glob_t found = {0};
    int r = glob(path, GLOB_NOSORT | GLOB_BRACE, NULL, &found);

    if (r == GLOB_NOMATCH)
        return hai_fail(err, -ENOENT, "%s: no such file", path);
    if (r)
        return hai_fail(err, -EIO, "%s: cannot be searched", path);
    for (size_t i = 0; i < found.gl_pathc; i++)
        add(ret, found.gl_pathv[i]);
    globfree(&found);
    return 0;
}

int textfiles_find(const char *path, struct textfiles *ret, struct hai_err *err) {
    _cleanup_(textfiles_free) struct textfiles found = {0};
    size_t before = ret->n;
    int r = textfiles_match(path, &found, err);

    for (size_t i = 0; r == 0 && i < found.n; i++)
        r = find_one(found.paths[i], ret, err);
    if (r == 0 && ret->n == before)
        r = hai_fail(err, -ENOENT, "%s: no files in it", path);
    return r;
}

int textfiles_read(const char *path, struct buf *ret, struct hai_err *err) {
    _cleanup_(buf_free) struct buf raw = {0};
    int r = fileio_read_file(path, TEXTFILES_BYTES_MAX, &raw, err);

    if (r < 0)
        return r;
    buf_clear(ret);
    if (gzip_is(raw.data, raw.n_bytes)) {
        r = gzip_unpack(raw.data, raw.n_bytes, TEXTFILES_BYTES_MAX, ret, err);
        if (r < 0) {
            hai_err_prefix(err, "%s: ", path);
            return r;
        }
    } else {
        buf_add(ret, raw.data, raw.n_bytes);
    }
    return ret->n_bytes && !memchr(ret->data, 0, MIN(ret->n_bytes, (size_t)LOOK_BYTES));
}
