/* prep.h - what hai-prep does: documents of several sources, without duplicates, into shards.
 *
 * One document is in memory at a time, with its tokens. The command line is hai-prep.c's business.
 */
#pragma once
#include "engine/data/minhash.h"

enum prep_kind { PREP_TEXT, PREP_JSONL, PREP_CODE, PREP_KIND_COUNT };
extern const char *const prep_kinds[PREP_KIND_COUNT];

enum prep_dedup { PREP_DEDUP_NEAR, PREP_DEDUP_EXACT, PREP_DEDUP_NONE, PREP_DEDUP_COUNT };
extern const char *const prep_dedups[PREP_DEDUP_COUNT];

struct prep_source {
    enum prep_kind kind;
    const char *path; // file, folder or pattern; of code: folders, each a repository
};

struct prep_options {
    const char *out, *tokenizer;
    const struct prep_source *sources;
    size_t n_sources;
    const char *field;    // of a JSON line, that has the text
    int64_t shard_tokens; // a shard ends with the document that reaches this
    uint64_t seed;
    double fim_rate;
    const char *fim_names[3];
    enum prep_dedup dedup;
    struct minhash_params minhash; // its seed is the one above
    int64_t dedup_bytes;
    bool special;  // special tokens written in a text are tokens
    bool no_paths; // code: no comment with the path above each file
    bool quiet;
};

/* All of it; the result is printed. -EINTR: a signal came (jobstop.h); out is not there then. */
int prep_run(const struct prep_options *options, struct hai_err *err);

/* Read all of a folder of shards and compare every checksum; the result is printed. */
int prep_check(const char *dir, struct hai_err *err);
