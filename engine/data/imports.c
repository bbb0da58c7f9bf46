#include "engine/data/imports.h"

#include <stdio.h>

enum { NAME_BYTES_MAX = 512 }; // of what is imported; longer names are passed over

enum language { NO_LANGUAGE, PYTHON, C_FAMILY, SCRIPT };

struct file {
    const char *path;
    size_t number;    // as the caller counts
    size_t *imported; // places in the sorted list, in order of appearance
    size_t n, n_max;
};

struct imports {
    struct file *files; // sorted by path
    size_t n;
    size_t *places; // by the caller's number
};

static int by_path(const void *a, const void *b) {
    return strcmp(((const struct file *)a)->path, ((const struct file *)b)->path);
}

struct imports *imports_new(const char *const *paths, size_t n) {
    struct imports *m = hai_new(struct imports);

    m->n = n;
    m->files = hai_new_array(struct file, n);
    m->places = hai_new_array(size_t, n);
    for (size_t i = 0; i < n; i++)
        m->files[i] = (struct file){.path = hai_strdup(paths[i]), .number = i};
    qsort(m->files, n, sizeof *m->files, by_path);
    for (size_t i = 0; i < n; i++)
        m->places[m->files[i].number] = i;
    return m;
}

void imports_free(struct imports *m) {
    if (!m)
        return;
    for (size_t i = 0; i < m->n; i++) {
        free((char *)(uintptr_t)m->files[i].path);
        free(m->files[i].imported);
    }
    free(m->files);
    free(m->places);
    free(m);
}

static enum language language_of(const char *path) {
    static const struct {
        const char *end;
        enum language language;
    } ends[] = {
        {".py",  PYTHON  },
        {".pyi", PYTHON  },
        {".c",   C_FAMILY},
        {".h",   C_FAMILY},
        {".cc",  C_FAMILY},
        {".cpp", C_FAMILY},
        {".cxx", C_FAMILY},
        {".hh",  C_FAMILY},
        {".hpp", C_FAMILY},
        {".cu",  C_FAMILY},
        {".cuh", C_FAMILY},
        {".js",  SCRIPT  },
        {".mjs", SCRIPT  },
        {".cjs", SCRIPT  },
        {".jsx", SCRIPT  },
        {".ts",  SCRIPT  },
        {".tsx", SCRIPT  },
    };
    const char *dot = strrchr(path, '.');

    for (size_t i = 0; dot && i < ARRAY_SIZE(ends); i++)
        if (hai_streq(dot, ends[i].end))
            return ends[i].language;
    return NO_LANGUAGE;
}

const char *imports_comment(const char *path) {
    enum language language = language_of(path);

    return language == C_FAMILY || language == SCRIPT ? "//" : "#";
}

/* A name while it is put together. */
struct name {
    char text[2 * NAME_BYTES_MAX + PATH_MAX];
    size_t n;
};

static void name_add(struct name *name, const char *text, size_t n) {
    if (name->n + n >= sizeof name->text)
        n = 0; // finds nothing
    memcpy(name->text + name->n, text, n);
    name->n += n;
    name->text[name->n] = 0;
}

/* Go up by one folder. */
static bool name_up(struct name *dir) {
    if (!dir->n)
        return false;
    while (dir->n && dir->text[dir->n - 1] != '/')
        dir->n--;
    if (dir->n)
        dir->n--;
    dir->text[dir->n] = 0;
    return true;
}

static void dir_of(const struct file *file, struct name *ret) {
    ret->n = 0;
    name_add(ret, file->path, strlen(file->path));
    name_up(ret);
}

/* Note that file i imports the file DIR/PATH END; false: there is none. `.` and `..` in path are
 * followed, not above the repository. */
static bool note(struct imports *m, struct file *file, const struct name *dir, const char *path,
                 size_t n_path, const char *end) {
    struct name name = *dir;

    for (size_t i = 0; i < n_path;) {
        size_t from = i;
        while (i < n_path && path[i] != '/')
            i++;
        size_t n = i - from;
        i++;
        if (n == 2 && !memcmp(path + from, "..", 2)) {
            if (!name_up(&name))
                return false;
        } else if (n && !(n == 1 && path[from] == '.')) {
            if (name.n)
                name_add(&name, "/", 1);
            name_add(&name, path + from, n);
        }
    }
    name_add(&name, end, strlen(end));
    struct file key = {.path = name.text};
    struct file *found = bsearch(&key, m->files, m->n, sizeof key, by_path);
    if (!found)
        return false;
    size_t place = (size_t)(found - m->files), k = 0;
    while (k < file->n && file->imported[k] != place)
        k++;
    if (k == file->n && found != file) {
        if (file->n == file->n_max) {
            file->n_max = MAX((size_t)8, 2 * file->n_max);
            file->imported = hai_realloc_array(file->imported, file->n_max, sizeof(size_t));
        }
        file->imported[file->n++] = place;
    }
    return true;
}

static bool note_ends(struct imports *m, struct file *file, const struct name *dir,
                      const char *path, size_t n_path, const char *const *ends) {
    for (; *ends; ends++)
        if (note(m, file, dir, path, n_path, *ends))
            return true;
    return false;
}

struct line {
    const char *at, *end;
};

static void skip_spaces(struct line *l) {
    while (l->at < l->end && (*l->at == ' ' || *l->at == '\t' || *l->at == '\r'))
        l->at++;
}

/* Step over a word that must not go on. */
static bool take_word(struct line *l, const char *word) {
    size_t n = strlen(word);

    if ((size_t)(l->end - l->at) <= n || memcmp(l->at, word, n) != 0 ||
        (l->at[n] != ' ' && l->at[n] != '\t'))
        return false;
    l->at += n;
    skip_spaces(l);
    return true;
}

static bool is_of_name(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           (c & 0x80);
}

/* A dotted name of Python as a path: its leading dots, and "a/b" of "a.b". */
struct module {
    size_t n_dots, n;
    char path[NAME_BYTES_MAX];
};

static bool take_module(struct line *l, struct module *ret) {
    ret->n_dots = ret->n = 0;
    while (l->at < l->end && *l->at == '.') {
        ret->n_dots++;
        l->at++;
    }
    while (l->at < l->end && (is_of_name(*l->at) || *l->at == '.') && ret->n < sizeof ret->path) {
        ret->path[ret->n++] = *l->at == '.' ? '/' : *l->at;
        l->at++;
    }
    skip_spaces(l);
    return (ret->n || ret->n_dots) && ret->n < sizeof ret->path;
}

static const char *const python_ends[] = {".py", "/__init__.py", ".pyi", NULL};

/* Absolute names are looked for beside the file and in every folder above it: where a package's
 * root lies in its repository is not known. */
static bool note_module(struct imports *m, struct file *file, const struct module *module) {
    struct name dir;

    dir_of(file, &dir);
    for (size_t i = 1; i < module->n_dots; i++)
        if (!name_up(&dir))
            return false;
    if (!module->n)
        return note(m, file, &dir, "__init__.py", strlen("__init__.py"), "");
    do {
        if (note_ends(m, file, &dir, module->path, module->n, python_ends))
            return true;
    } while (!module->n_dots && name_up(&dir));
    return false;
}

/* `from module import a, b`: each may be a module of its own. The module itself counts, too: its
 * __init__.py runs. */
static void scan_from(struct imports *m, struct file *file, struct line *l) {
    struct module module, whole;

    if (!take_module(l, &module) || !take_word(l, "import"))
        return;
    (void)note_module(m, file, &module);
    if (l->at < l->end && *l->at == '(')
        l->at++;
    for (;;) {
        struct module part;
        skip_spaces(l);
        if (!take_module(l, &part) || part.n_dots)
            return;
        whole = module;
        if (whole.n + part.n + 1 < sizeof whole.path) {
            if (whole.n)
                whole.path[whole.n++] = '/';
            memcpy(whole.path + whole.n, part.path, part.n);
            whole.n += part.n;
            (void)note_module(m, file, &whole);
        }
        if (take_word(l, "as"))
            (void)take_module(l, &part);
        if (l->at == l->end || *l->at != ',')
            return;
        l->at++;
    }
}

static void scan_python(struct imports *m, struct file *file, struct line l) {
    struct module module;

    skip_spaces(&l);
    if (take_word(&l, "from")) {
        scan_from(m, file, &l);
        return;
    }
    if (!take_word(&l, "import"))
        return;
    while (take_module(&l, &module) && !module.n_dots) {
        (void)note_module(m, file, &module);
        if (take_word(&l, "as"))
            (void)take_module(&l, &module);
        if (l.at == l.end || *l.at != ',')
            return;
        l.at++;
        skip_spaces(&l);
    }
}

/* Headers are looked for beside the file and from every folder above it, also in its include/. */
static void scan_c(struct imports *m, struct file *file, struct line l) {
    static const char include[] = "include", folder[] = "include/";
    struct name dir;

    skip_spaces(&l);
    if (l.at == l.end || *l.at++ != '#')
        return;
    skip_spaces(&l);
    if ((size_t)(l.end - l.at) < strlen(include) || memcmp(l.at, include, strlen(include)) != 0)
        return;
    l.at += strlen(include);
    skip_spaces(&l);
    if (l.at == l.end || (*l.at != '"' && *l.at != '<'))
        return;
    char closing = *l.at++ == '"' ? '"' : '>';
    const char *end = memchr(l.at, closing, (size_t)(l.end - l.at));
    size_t n = end ? (size_t)(end - l.at) : 0;
    if (!n || n >= NAME_BYTES_MAX)
        return;
    char below[NAME_BYTES_MAX + sizeof folder];
    memcpy(below, folder, strlen(folder));
    memcpy(below + strlen(folder), l.at, n);
    dir_of(file, &dir);
    do {
        if (note(m, file, &dir, l.at, n, "") || note(m, file, &dir, below, strlen(folder) + n, ""))
            return;
    } while (name_up(&dir));
}

/* Any quoted relative path after `from`, `import` or `require(` on the line. */
static void scan_script(struct imports *m, struct file *file, struct line l) {
    static const char *const words[] = {"from", "import", "require"};
    static const char *const ends[] = {"",          ".js",       ".mjs",       ".cjs",
                                       ".jsx",      ".ts",       ".tsx",       ".d.ts",
                                       "/index.js", "/index.ts", "/index.tsx", NULL};
    struct name dir;

    for (; l.at < l.end; l.at++) {
        size_t i = 0, left = (size_t)(l.end - l.at);
        while (i < ARRAY_SIZE(words) &&
               (left < strlen(words[i]) || memcmp(l.at, words[i], strlen(words[i])) != 0))
            i++;
        if (i == ARRAY_SIZE(words))
            continue;
        struct line at = {l.at + strlen(words[i]), l.end};
        skip_spaces(&at);
        if (at.at < at.end && *at.at == '(')
            at.at++;
        skip_spaces(&at);
        if (at.end - at.at < 2 || (*at.at != '"' && *at.at != '\'') || at.at[1] != '.')
            continue;
        const char *from = at.at + 1, *end = memchr(from, *at.at, (size_t)(at.end - from));
        if (!end || end - from >= NAME_BYTES_MAX)
            continue;
        dir_of(file, &dir);
        (void)note_ends(m, file, &dir, from, (size_t)(end - from), ends);
        l.at = end;
    }
}

void imports_scan(struct imports *m, size_t i, const char *text, size_t n_bytes) {
    struct file *file = &m->files[m->places[i]];
    enum language language = language_of(file->path);
    const char *end = text + n_bytes;

    for (const char *at = text; language != NO_LANGUAGE && at < end;) {
        const char *feed = memchr(at, '\n', (size_t)(end - at));
        struct line line = {at, feed ? feed : end};
        if (language == PYTHON)
            scan_python(m, file, line);
        else if (language == C_FAMILY)
            scan_c(m, file, line);
        else
            scan_script(m, file, line);
        at = line.end + 1;
    }
}

size_t imports_count(const struct imports *m, size_t i) {
    return m->files[m->places[i]].n;
}

bool imports_has(const struct imports *m, size_t i, size_t imported) {
    const struct file *file = &m->files[m->places[i]];
    size_t k = 0;

    while (k < file->n && file->imported[k] != m->places[imported])
        k++;
    return k < file->n;
}

/* Depth first from each path in turn, a file behind all that it imports. Without recursion: chains
 * of imports may be as long as there are files. */
void imports_order(const struct imports *m, size_t *ret) {
    _cleanup_free_ bool *seen = hai_new_array(bool, m->n);
    _cleanup_free_ size_t *stack = hai_new_array(size_t, m->n);
    _cleanup_free_ size_t *next = hai_new_array(size_t, m->n); // import to look at, by place
    size_t n_done = 0;

    for (size_t start = 0; start < m->n; start++) {
        size_t depth = 0;
        if (seen[start])
            continue;
        seen[start] = true;
        stack[depth++] = start;
        while (depth) {
            size_t at = stack[depth - 1];
            const struct file *file = &m->files[at];
            if (next[at] == file->n) {
                ret[n_done++] = file->number;
                depth--;
                continue;
            }
            size_t to = file->imported[next[at]++];
            if (!seen[to]) {
                seen[to] = true;
                stack[depth++] = to;
            }
        }
    }
    assert(n_done == m->n);
}
