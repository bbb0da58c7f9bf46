#include "engine/model/folder.h"
#include "lib/fileio.h"
#include "lib/json.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

enum { COPY_BYTES = 1 << 20, CONFIG_BYTES_MAX = 1 << 20 };

struct folder {
    char *path, *temporary;
    mode_t mode; // of the folder once it is visible
};

static int check_free(const char *path, struct hai_err *err) {
    struct dirent *entry;
    bool empty = true;
    DIR *dir = opendir(path);

    if (!dir)
        return errno == ENOENT ? 0 : hai_fail(err, -errno, "%s: %m", path);
    while ((entry = readdir(dir)))
        if (!hai_streq(entry->d_name, ".") && !hai_streq(entry->d_name, ".."))
            empty = false;
    closedir(dir);
    return empty ? 0
                 : hai_fail(err, -EEXIST, "%s: is there already; expected a new or empty folder",
                            path);
}

static char *without_slashes(const char *path) {
    size_t n = strlen(path);

    while (n > 1 && path[n - 1] == '/')
        n--;
    return hai_strndup(path, n);
}

static char *parent_of(const char *path) {
    const char *slash = strrchr(path, '/');

    if (!slash)
        return hai_strdup(".");
    return hai_strndup(path, (size_t)MAX(slash - path, (ptrdiff_t)1));
}

int folder_check(const char *path, struct hai_err *err) {
    _cleanup_free_ char *plain = without_slashes(path), *at = parent_of(plain);

    int r = check_free(plain, err);
    if (r < 0)
        return r;
    // Parents that are missing will be made: the nearest one there is counts.
    while (access(at, F_OK) < 0 && errno == ENOENT && strcmp(at, ".") && strcmp(at, "/")) {
        char *above = parent_of(at);
        free(at);
        at = above;
    }
    _cleanup_free_ char *inside = hai_asprintf("%s/.", at); // a folder, no file
    return access(inside, W_OK | X_OK) < 0 ? hai_fail(err, -errno, "%s: %m", at) : 0;
}

int folder_new(const char *path, struct folder **ret, struct hai_err *err) {
    _cleanup_free_ char *plain = without_slashes(path), *parent = parent_of(plain);
    _cleanup_free_ char *temporary = hai_asprintf("%s.tmpXXXXXX", plain);

    int r = check_free(plain, err);
    if (r == 0)
        r = fileio_mkdir_durable(parent, 0777, err);
    if (r < 0)
        return r;
    if (!mkdtemp(temporary))
        return hai_fail(err, -errno, "%s: %m", temporary);
    mode_t mask = umask(0);
    umask(mask);
    struct folder *folder = hai_new(struct folder);
    folder->path = TAKE_PTR(plain);
    folder->temporary = TAKE_PTR(temporary);
    folder->mode = 0777 & ~mask;
    *ret = folder;
    return 0;
}

const char *folder_dir(const struct folder *folder) {
    return folder->temporary;
}

static bool is_weights(const char *name) {
    static const char *const ends[] = {
        ".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth",
        ".gguf",
    };
    size_t n = strlen(name);

    for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
        if (n > strlen(ends[i]) && hai_streq(name + n - strlen(ends[i]), ends[i]))
            return true;
    return hai_streq(name, "config.json");
}

static int copy_file(const char *from, const char *to, struct hai_err *err) {
    _cleanup_(closep) int in = open(from, O_RDONLY | O_CLOEXEC);
    _cleanup_(closep) int out = -1;
    _cleanup_free_ char *piece = hai_alloc(COPY_BYTES);
    struct stat st;

    if (in < 0 || fstat(in, &st) < 0)
        return hai_fail(err, -errno, "%s: %m", from);
    if (!S_ISREG(st.st_mode))
        return 0;
    out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (out < 0)
        return hai_fail(err, -errno, "%s: %m", to);
    for (;;) {
        ssize_t n = read(in, piece, COPY_BYTES);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return hai_fail(err, -errno, "%s: %m", from);
        if (n == 0)
            break;
        int r = fileio_write_full(out, piece, (size_t)n, FILEIO_HERE, err);
        if (r < 0)
            return r;
    }
    return fsync(out) < 0 ? hai_fail(err, -errno, "%s: %m", to) : 0;
}

int folder_take_over(struct folder *folder, const char *from, struct hai_err *err) {
    struct dirent *entry;
    DIR *dir = opendir(from);
    int r = 0;

    if (!dir)
        return hai_fail(err, -errno, "%s: %m", from);
    while (r == 0 && (entry = readdir(dir))) {
        if (entry->d_name[0] == '.' || is_weights(entry->d_name))
            continue;
        _cleanup_free_ char *source = hai_asprintf("%s/%s", from, entry->d_name);
        _cleanup_free_ char *to = hai_asprintf("%s/%s", folder->temporary, entry->d_name);
        struct stat st;
        if (stat(source, &st) == 0 && S_ISREG(st.st_mode))
            r = copy_file(source, to, err);
    }
    closedir(dir);
    return r;
}

int folder_finish(struct folder *folder, struct hai_err *err) {
    _cleanup_free_ char *parent = parent_of(folder->path);

    if (chmod(folder->temporary, folder->mode) < 0)
        return hai_fail(err, -errno, "%s: %m", folder->temporary);
    int r = fileio_sync_dir(folder->temporary, err);
    if (r < 0)
        return r;
    if (rename(folder->temporary, folder->path) < 0)
        return hai_fail(err, -errno, "%s: %m", folder->path);
    free(folder->temporary);
    folder->temporary = NULL;
    return fileio_sync_dir(parent, err);
}

void folder_free(struct folder *folder) {
    if (!folder)
        return;
    if (folder->temporary)
        (void)fileio_remove_tree(folder->temporary, NULL);
    free(folder->temporary);
    free(folder->path);
    free(folder);
}

static bool dropped(const char *const *drop, const char *key) {
    for (; drop && *drop; drop++)
        if (hai_streq(*drop, key))
            return true;
    return false;
}

int folder_read_config(const char *from, char **ret_path, struct buf *ret, struct hai_err *err) {
    struct stat st;
    bool whole = stat(from, &st) == 0 && S_ISDIR(st.st_mode);
    _cleanup_free_ char *path = hai_asprintf("%s%s", from, whole ? "/config.json" : "");
    int r = fileio_read_file(path, CONFIG_BYTES_MAX, ret, err);

    if (r == 0)
        *ret_path = TAKE_PTR(path);
    return r;
}

int folder_config(const char *from, const char *const *drop, const char *field, struct buf *ret,
                  struct hai_err *err) {
    _cleanup_free_ char *path = NULL;
    _cleanup_(json_freep) struct json *root = NULL;
    _cleanup_(buf_free) struct buf text = {0};
    const char *before = "{\n  ";

    int r = folder_read_config(from, &path, &text, err);
    if (r == 0)
        r = json_parse(text.data, text.n_bytes, path, &root, err);
    if (r < 0)
        return r;
    for (const struct json *v = json_first(root); v; v = json_next(v)) {
        if (dropped(drop, json_key(v)))
            continue;
        buf_add_str(ret, before);
        json_dump_string(json_key(v), json_key_bytes(v), ret);
        buf_add_str(ret, ": ");
        json_dump(v, 0, ret);
        before = ",\n  ";
    }
    if (field) {
        buf_add_str(ret, before);
        buf_add_str(ret, field);
    }
    buf_add_str(ret, "\n}\n");
    return 0;
}

const char *folder_dtype_field(enum k_dtype dtype) {
    assert(dtype == K_F32 || dtype == K_F16 || dtype == K_BF16);
    return dtype == K_F32   ? "\"torch_dtype\": \"float32\""
           : dtype == K_F16 ? "\"torch_dtype\": \"float16\""
                            : "\"torch_dtype\": \"bfloat16\"";
}
