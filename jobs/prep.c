#include "jobs/prep.h"
#include "engine/data/dedup.h"
#include "engine/data/fim.h"
#include "engine/data/imports.h"
#include "engine/data/shardset.h"
#include "engine/data/textfiles.h"
#include "engine/data/tokenline.h"
#include "engine/model/folder.h"
#include "jobs/jobstop.h"
#include "jobs/linesource.h"
#include "jobs/progress.h"
#include "lib/timefmt.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

const char *const prep_kinds[PREP_KIND_COUNT] = {"text", "jsonl", "code"};
const char *const prep_dedups[PREP_DEDUP_COUNT] = {"near", "exact", "none"};

enum { CHECK_TOKENS = 1 << 20 };

struct counts {
    int64_t files; // that were read
    int64_t bytes; // of text in documents, before they are dropped
    int64_t seen;  // documents, of which:
    int64_t documents, exact, near, empty;
    int64_t tokens;
    int64_t middle;  // parts rewritten to fill in the middle
    int64_t no_text; // files passed over: they have zero bytes
};

struct source {
    struct textfiles files; // of code: the folders
    int64_t *bytes;         // of each, in files
    struct counts counts;
};

struct prep {
    const struct prep_options *options;
    struct source *sources;
    struct tokenizer *tokenizer;
    struct fim fim;
    struct dedup *dedup; // NULL: nothing is dropped
    struct folder *folder;
    struct shardset_writer *writer;
    struct progress progress;
    int64_t begun_us;
    int64_t bytes_all, bytes_done; // of files
    int64_t n_documents;
    int64_t n_parts; // numbered for fim.h, dropped ones too: what is dropped changes no other
    struct buf text, part;
    struct token_list ids;
};

static void source_free(struct source *s) {
    textfiles_free(&s->files);
    free(s->bytes);
}

static void prep_free(struct prep *p) {
    for (size_t i = 0; p->sources && i < p->options->n_sources; i++)
        source_free(&p->sources[i]);
    free(p->sources);
    shardset_writer_free(p->writer);
    folder_free(p->folder);
    dedup_free(p->dedup);
    tokenizer_free(p->tokenizer);
    buf_free(&p->text);
    buf_free(&p->part);
    token_list_free(&p->ids);
}

static double seconds(const struct prep *p) {
    return (double)MAX(timefmt_monotonic_us() - p->begun_us, INT64_C(1)) * 1e-6;
}

/* Where the work is: shown, and ended where a signal came. bytes: of files, all that was read. */
static int show(struct prep *p, int64_t bytes) {
    char left[TIMEFMT_ISO_BYTES];
    double share = p->bytes_all ? (double)MIN(bytes, p->bytes_all) / (double)p->bytes_all : 0;

    timefmt_duration(share > 0 ? (int64_t)(seconds(p) * (1 - share) / share * 1e6) : 0, left);
    progress_say(&p->progress,
                 "%3.0f %%  %" PRId64 " documents, %.1f million tokens, %.1f MB/s, %s left",
                 100 * share, p->n_documents, (double)shardset_writer_n_tokens(p->writer) * 1e-6,
                 (double)bytes * 1e-6 / seconds(p), left);
    return jobstop_look();
}

static void add_id(struct token_list *ids, int32_t id) {
    if (id >= 0)
        token_list_add(ids, id);
}

/* A text as tokens. head stands before it and is not cut; an end token closes a rewritten part,
 * where the document goes on: what was the middle must have an end. */
static int add_part(struct prep *p, struct counts *counts, int64_t number, const struct buf *head,
                    struct hai_err *err) {
    const char *text = buf_cstr(&p->text);
    size_t n_bytes = p->text.n_bytes, cuts[2];
    bool special = p->options->special;
    int r = 0;

    if (p->options->fim_rate > 0 && fim_cut(&p->fim, number, text, n_bytes, cuts)) {
        counts->middle++;
        if (head->n_bytes)
            r = fim_encode_text(p->tokenizer, (const char *)head->data, head->n_bytes, false,
                                &p->ids, err);
        if (r == 0)
            r = fim_encode(&p->fim, p->tokenizer, text, n_bytes, cuts, special, &p->ids, err);
        return r < 0 ? r : 1;
    }
    if (!head->n_bytes)
        return fim_encode_text(p->tokenizer, text, n_bytes, special, &p->ids, err);
    buf_clear(&p->part);
    buf_add(&p->part, head->data, head->n_bytes);
    buf_add(&p->part, text, n_bytes);
    return fim_encode_text(p->tokenizer, (const char *)p->part.data, p->part.n_bytes, special,
                           &p->ids, err);
}

/* Hand the tokens over, so that they do not grow with a document of many files. */
static int flush(struct prep *p, struct counts *counts, struct hai_err *err) {
    int r = shardset_writer_add(p->writer, p->ids.ids, p->ids.n, err);

    counts->tokens += (int64_t)p->ids.n;
    p->ids.n = 0;
    return r;
}

static int end_document(struct prep *p, struct counts *counts, struct hai_err *err) {
    int r = flush(p, counts, err);

    if (r == 0)
        r = shardset_writer_end_document(p->writer, err);
    counts->documents++;
    p->n_documents++;
    return r;
}

/* Is the document that dedup has got to be kept? 1 or 0. */
static int keep(struct prep *p, struct counts *counts, struct hai_err *err) {
    int64_t like;
    int r = p->dedup ? dedup_end(p->dedup, &like, err) : DEDUP_NEW;

    counts->exact += r == DEDUP_EXACT;
    counts->near += r == DEDUP_NEAR;
    return r < 0 ? r : r == DEDUP_NEW;
}

/* A document of one part: p->text. */
static int add_document(struct prep *p, struct counts *counts, struct hai_err *err) {
    static const struct buf no_head;
    int64_t number = p->n_parts++;

    counts->seen++;
    counts->bytes += (int64_t)p->text.n_bytes;
    if (!p->text.n_bytes) {
        counts->empty++;
        return 0;
    }
    if (p->dedup) {
        dedup_begin(p->dedup);
        dedup_add(p->dedup, (const char *)p->text.data, p->text.n_bytes);
    }
    int r = keep(p, counts, err);
    if (r <= 0)
        return r;
    add_id(&p->ids, tokenizer_begin(p->tokenizer));
    r = add_part(p, counts, number, &no_head, err);
    add_id(&p->ids, tokenizer_end(p->tokenizer));
    return r < 0 ? r : end_document(p, counts, err);
}

static int read_text(struct prep *p, struct counts *counts, const char *path, struct hai_err *err) {
    int r = textfiles_read(path, &p->text, err);

    if (r < 0)
        return r;
    counts->files++;
    if (r == 0 && p->text.n_bytes) {
        counts->no_text++;
        return 0;
    }
    r = add_document(p, counts, err);
    return r < 0 ? hai_err_prefix(err, "%s: ", path) : 0;
}

static int read_lines(struct prep *p, struct counts *counts, const char *path,
                      struct hai_err *err) {
    _cleanup_(linesource_closep) struct linesource *lines = NULL;
    int r = linesource_open(path, &lines, err);
    const char *line;
    size_t n_bytes;

    if (r < 0)
        return r;
    counts->files++;
    while ((r = linesource_next(lines, TEXTFILES_BYTES_MAX, &line, &n_bytes, err)) > 0) {
        size_t i = 0;
        while (i < n_bytes && strchr(" \t\r", line[i]) && line[i])
            i++;
        if (i == n_bytes)
            continue;
        r = tokenline_read_member(line, n_bytes, p->options->field, &p->text, err);
        if (r == 0)
            r = add_document(p, counts, err);
        if (r < 0)
            return hai_err_prefix(err, "%s:%" PRId64 ": ", path, linesource_number(lines));
        r = show(p, p->bytes_done + linesource_bytes(lines));
        if (r < 0)
            return hai_fail(err, r, "stopped by a signal");
    }
    return r;
}

/* The files of a repository that are text, with their order. */
struct repository {
    struct textfiles files;
    const char **paths; // relative, of text files; borrowed
    size_t *files_of;   // the file of each path
    size_t n;
    size_t *order;
    struct imports *imports;
};

static void repository_free(struct repository *repo) {
    textfiles_free(&repo->files);
    imports_free(repo->imports);
    free(repo->paths);
    free(repo->files_of);
    free(repo->order);
}

/* Does the path go through something hidden (.git, .github)? */
static bool is_hidden(const char *path) {
    return path[0] == '.' || strstr(path, "/.");
}

static int find_files(struct repository *repo, const char *dir, struct hai_err *err) {
    size_t above = strlen(dir);
    int r = textfiles_find(dir, &repo->files, err);

    if (r < 0)
        return r;
    while (above > 0 && dir[above - 1] == '/')
        above--;
    repo->paths = hai_new_array(const char *, repo->files.n);
    repo->files_of = hai_new_array(size_t, repo->files.n);
    repo->order = hai_new_array(size_t, repo->files.n);
    for (size_t i = 0; i < repo->files.n; i++) {
        const char *path = repo->files.paths[i] + above;
        path += strspn(path, "/");
        if (!is_hidden(path)) {
            repo->files_of[repo->n] = i;
            repo->paths[repo->n++] = path;
        }
    }
    repo->imports = imports_new(repo->paths, repo->n);
    return 0;
}

/* Read all files once: what imports what, and what the repository as a whole is like. is_text:
 * receives which of them are. */
static int look_through(struct prep *p, struct counts *counts, struct repository *repo,
                        bool *is_text, struct hai_err *err) {
    if (p->dedup)
        dedup_begin(p->dedup);
    for (size_t i = 0; i < repo->n; i++) {
        int r = textfiles_read(repo->files.paths[repo->files_of[i]], &p->text, err);
        if (r == 0 && jobstop_look() < 0)
            r = hai_fail(err, -EINTR, "stopped by a signal");
        if (r < 0)
            return r;
        counts->files++;
        counts->no_text += r == 0 && p->text.n_bytes;
        is_text[i] = r > 0;
        if (r == 0)
            continue;
        counts->bytes += (int64_t)p->text.n_bytes;
        imports_scan(repo->imports, i, (const char *)p->text.data, p->text.n_bytes);
        if (p->dedup)
            dedup_add(p->dedup, (const char *)p->text.data, p->text.n_bytes);
    }
    imports_order(repo->imports, repo->order);
    return 0;
}

/* The files in order as one document, each under a comment with its path. */
static int add_repository(struct prep *p, struct counts *counts, const struct repository *repo,
                          const bool *is_text, int64_t number, struct hai_err *err) {
    _cleanup_(buf_free) struct buf head = {0};
    bool feed = false, ended = false;
    int r = 0;

    add_id(&p->ids, tokenizer_begin(p->tokenizer));
    for (size_t k = 0; k < repo->n && r == 0; k++) {
        size_t i = repo->order[k];
        const char *path = repo->files.paths[repo->files_of[i]];
        if (!is_text[i])
            continue;
        r = textfiles_read(path, &p->text, err);
        if (r < 0)
            return r;
        if (ended)
            add_id(&p->ids, tokenizer_end(p->tokenizer));
        buf_clear(&head);
        if (feed && !ended)
            buf_add_u8(&head, '\n');
        if (!p->options->no_paths)
            buf_printf(&head, "%s %s\n", imports_comment(repo->paths[i]), repo->paths[i]);
        r = add_part(p, counts, number + (int64_t)i, &head, err);
        if (r < 0)
            return hai_err_prefix(err, "%s: ", path);
        ended = r > 0;
        feed = p->text.n_bytes && p->text.data[p->text.n_bytes - 1] != '\n';
        r = flush(p, counts, err);
        if (r == 0 && show(p, p->bytes_done) < 0)
            r = hai_fail(err, -EINTR, "stopped by a signal");
    }
    add_id(&p->ids, tokenizer_end(p->tokenizer));
    return r < 0 ? r : end_document(p, counts, err);
}

static int read_code(struct prep *p, struct counts *counts, const char *dir, struct hai_err *err) {
    _cleanup_(repository_free) struct repository repo = {0};
    struct stat st;
    int r = stat(dir, &st) < 0     ? hai_fail(err, -errno, "%s: %m", dir)
            : !S_ISDIR(st.st_mode) ? hai_fail(err, -ENOTDIR, "%s: expected a folder", dir)
                                   : find_files(&repo, dir, err);

    if (r < 0)
        return r;
    _cleanup_free_ bool *is_text = hai_new_array(bool, repo.n);
    r = look_through(p, counts, &repo, is_text, err);
    if (r < 0)
        return r;
    int64_t number = p->n_parts;
    p->n_parts += (int64_t)repo.n;
    counts->seen++;
    if (!memchr(is_text, true, repo.n)) {
        counts->empty++;
        return 0;
    }
    r = keep(p, counts, err);
    return r <= 0 ? r : add_repository(p, counts, &repo, is_text, number, err);
}

static int read_source(struct prep *p, size_t i, struct hai_err *err) {
    struct source *s = &p->sources[i];
    int r = 0;

    for (size_t k = 0; k < s->files.n && r == 0; k++) {
        const char *path = s->files.paths[k];
        switch (p->options->sources[i].kind) {
        case PREP_TEXT:
            r = read_text(p, &s->counts, path, err);
            break;
        case PREP_JSONL:
            r = read_lines(p, &s->counts, path, err);
            break;
        default:
            r = read_code(p, &s->counts, path, err);
        }
        p->bytes_done += s->bytes[k];
        if (r == 0 && show(p, p->bytes_done) < 0)
            r = hai_fail(err, -EINTR, "stopped by a signal");
    }
    return r;
}

/* Bytes of a file, or of all files in a folder: for the progress line, so what fails is 0. */
static int64_t bytes_of(const char *path) {
    _cleanup_(textfiles_free) struct textfiles inside = {0};
    struct stat st;
    int64_t n = 0;

    if (stat(path, &st) < 0)
        return 0;
    if (!S_ISDIR(st.st_mode))
        return (int64_t)st.st_size;
    if (textfiles_find(path, &inside, NULL) < 0)
        return 0;
    for (size_t i = 0; i < inside.n; i++)
        n += stat(inside.paths[i], &st) < 0 ? 0 : (int64_t)st.st_size;
    return n;
}

/* What the patterns name, before any work is done. */
static int find_sources(struct prep *p, struct hai_err *err) {
    p->sources = hai_new_array(struct source, p->options->n_sources);
    for (size_t i = 0; i < p->options->n_sources; i++) {
        const struct prep_source *from = &p->options->sources[i];
        struct source *s = &p->sources[i];
        int r = from->kind == PREP_CODE ? textfiles_match(from->path, &s->files, err)
                                        : textfiles_find(from->path, &s->files, err);
        if (r < 0)
            return r;
        s->bytes = hai_new_array(int64_t, s->files.n);
        for (size_t k = 0; k < s->files.n; k++)
            p->bytes_all += s->bytes[k] = bytes_of(s->files.paths[k]);
    }
    return 0;
}

static int prepare(struct prep *p, struct hai_err *err) {
    const struct prep_options *o = p->options;
    int r = folder_check(o->out, err);

    if (r == 0)
        r = tokenizer_read(o->tokenizer, &p->tokenizer, err);
    p->fim = (struct fim){.rate = o->fim_rate, .seed = o->seed};
    if (r == 0 && o->fim_rate > 0)
        r = fim_find(p->tokenizer, o->fim_names, &p->fim, err);
    if (r == 0)
        r = find_sources(p, err);
    if (r == 0 && o->dedup != PREP_DEDUP_NONE)
        r = dedup_new(&o->minhash, o->dedup == PREP_DEDUP_NEAR, o->dedup_bytes, &p->dedup, err);
    if (r < 0)
        return r;
    // Nothing would tell a model where a document ends: most likely a file is missing.
    if (tokenizer_end(p->tokenizer) < 0 && !o->quiet)
        fprintf(stderr,
                "hai-prep: %s names no end token (tokenizer_config.json beside tokenizer.json): "
                "documents follow each other without one\n",
                o->tokenizer);
    jobstop_hold();
    r = folder_new(o->out, &p->folder, err);
    if (r < 0)
        return r;
    const struct shards_vocabulary vocabulary = {tokenizer_digest(p->tokenizer),
                                                 tokenizer_n_vocab(p->tokenizer)};
    p->writer = shardset_writer_new(folder_dir(p->folder), &vocabulary, o->shard_tokens);
    return 0;
}

static void add_counts(struct json *to, const struct counts *c) {
    json_add_int(to, "files", c->files);
    json_add_int(to, "files_not_text", c->no_text);
    json_add_int(to, "text_bytes", c->bytes);
    json_add_int(to, "documents_seen", c->seen);
    json_add_int(to, "documents", c->documents);
    json_add_int(to, "tokens", c->tokens);
    json_add_int(to, "middle", c->middle);
    struct json *dropped = json_add(to, "dropped", json_new_object());
    json_add_int(dropped, "exact", c->exact);
    json_add_int(dropped, "near", c->near);
    json_add_int(dropped, "empty", c->empty);
}

static struct json *options_json(const struct prep_options *o) {
    struct json *to = json_new_object();

    json_add_string(to, "tokenizer", o->tokenizer);
    json_add_int(to, "seed", (int64_t)o->seed);
    json_add_real(to, "fim_rate", o->fim_rate);
    json_add_int(to, "shard_tokens", o->shard_tokens);
    json_add_bool(to, "special", o->special);
    json_add_bool(to, "paths", !o->no_paths);
    json_add_string(to, "dedup", prep_dedups[o->dedup]);
    if (o->dedup != PREP_DEDUP_NEAR)
        return to;
    json_add_string(to, "shingles_of", o->minhash.bytes ? "bytes" : "words");
    json_add_int(to, "shingle", o->minhash.shingle);
    json_add_int(to, "permutations", o->minhash.permutations);
    json_add_int(to, "bands", o->minhash.bands);
    json_add_real(to, "threshold", o->minhash.threshold);
    return to;
}

static int write_manifest(struct prep *p, struct hai_err *err) {
    _cleanup_(json_freep) struct json *manifest = json_new_object();

    json_add(manifest, "options", options_json(p->options));
    struct json *list = json_add(manifest, "sources", json_new_array());
    for (size_t i = 0; i < p->options->n_sources; i++) {
        const struct prep_source *from = &p->options->sources[i];
        struct json *entry = json_append(list, json_new_object());
        json_add_string(entry, "kind", prep_kinds[from->kind]);
        json_add(entry, "path",
                 json_is_text(from->path, strlen(from->path)) ? json_new_string(from->path)
                                                              : json_new_null());
        add_counts(entry, &p->sources[i].counts);
    }
    return shardset_writer_finish(p->writer, manifest, err);
}

static int print_result(const struct prep *p, struct hai_err *err) {
    struct counts all = {0};

    for (size_t i = 0; i < p->options->n_sources; i++) {
        const struct counts *c = &p->sources[i].counts;
        all.exact += c->exact;
        all.near += c->near;
        all.empty += c->empty;
        all.middle += c->middle;
        all.no_text += c->no_text;
    }
    printf("%s: %" PRId64 " documents, %" PRId64 " tokens in %" PRId64 " shards, %.1f s\n"
           "dropped: %" PRId64 " exact duplicates, %" PRId64 " near ones, %" PRId64
           " empty documents, %" PRId64 " files that are no text\n",
           p->options->out, p->n_documents, shardset_writer_n_tokens(p->writer),
           shardset_writer_n_files(p->writer), seconds(p), all.exact, all.near, all.empty,
           all.no_text);
    if (p->options->fim_rate > 0)
        printf("to be filled in: %" PRId64 "\n", all.middle);
    return fflush(stdout) || ferror(stdout) ? hai_fail(err, -EIO, "writing to stdout failed") : 0;
}

int prep_run(const struct prep_options *options, struct hai_err *err) {
    _cleanup_(prep_free) struct prep p = {.options = options, .begun_us = timefmt_monotonic_us()};
    int r = prepare(&p, err);

    progress_start(&p.progress, options->quiet);
    for (size_t i = 0; i < options->n_sources && r == 0; i++)
        r = read_source(&p, i, err);
    progress_clear(&p.progress);
    if (r == 0 && !p.n_documents)
        r = hai_fail(err, -ENODATA, "no document with text in all sources");
    if (r == 0)
        r = write_manifest(&p, err);
    if (r == 0)
        r = folder_finish(p.folder, err);
    return r < 0 || options->quiet ? r : print_result(&p, err);
}

int prep_check(const char *dir, struct hai_err *err) {
    _cleanup_(shardset_closep) struct shardset *set = NULL;
    _cleanup_free_ int32_t *ids = hai_new_array(int32_t, CHECK_TOKENS);
    _cleanup_free_ uint8_t *starts = hai_alloc(CHECK_TOKENS);
    struct progress progress;
    int r = shardset_open(dir, true, &set, err);

    if (r < 0)
        return r;
    _cleanup_free_ void *room = aligned_alloc(SHARDS_ALIGN, shardset_room(set, CHECK_TOKENS));
    if (!room)
        return hai_fail(err, -ENOMEM, "no memory to read shards");
    progress_start(&progress, false);
    for (int64_t at = 0, n = shardset_n_tokens(set); at < n && r == 0; at += CHECK_TOKENS) {
        r = shardset_read(set, at, MIN(n - at, (int64_t)CHECK_TOKENS), room, ids, starts, err);
        progress_say(&progress, "%3.0f %%", 100 * (double)at / (double)n);
    }
    progress_clear(&progress);
    if (r < 0)
        return r;
    printf("%s: %" PRId64 " documents, %" PRId64 " tokens, whole\n", dir, shardset_n_documents(set),
           shardset_n_tokens(set));
    return fflush(stdout) || ferror(stdout) ? hai_fail(err, -EIO, "writing to stdout failed") : 0;
}
