/* shardset.h - a folder of shards and the manifest.json that lists them: one source of tokens.
 *
 * The manifest is written last, so a folder without one is not complete. Its members `shards`,
 * `vocabulary`, `documents` and `tokens` are written and read here (docs/data.md); what else it
 * says is the business of who made the folder. In order the shards are one run of tokens.
 */
#pragma once
#include "engine/data/shards.h"
#include "lib/json.h"

enum { SHARDSET_FILES_MAX = 100000 };

/* Write a folder that is there. A file is closed when it has n_tokens_max tokens or more and its
 * document ends: documents are never cut. */
struct shardset_writer;

struct shardset_writer *shardset_writer_new(const char *dir,
                                            const struct shards_vocabulary *vocabulary,
                                            int64_t n_tokens_max);
int shardset_writer_add(struct shardset_writer *w, const int32_t *ids, size_t n,
                        struct hai_err *err);
int shardset_writer_end_document(struct shardset_writer *w, struct hai_err *err);
int64_t shardset_writer_n_tokens(const struct shardset_writer *w); // in all files
int64_t shardset_writer_n_files(const struct shardset_writer *w);

/* Write the manifest: the object given, which is changed, and the members above. */
int shardset_writer_finish(struct shardset_writer *w, struct json *manifest, struct hai_err *err);
void shardset_writer_free(struct shardset_writer *w);
DEFINE_CLEANUP(struct shardset_writer *, shardset_writer_free)

struct shardset;

/* Open all shards of a folder. -ENOENT: no manifest; -EBADMSG: it, or a shard, lies or is damaged,
 * or they do not belong together. */
int shardset_open(const char *dir, bool direct, struct shardset **ret, struct hai_err *err);
void shardset_close(struct shardset *s);
DEFINE_CLEANUP(struct shardset *, shardset_close)

const char *shardset_dir(const struct shardset *s);
const struct shards_vocabulary *shardset_vocabulary(const struct shardset *s);
int64_t shardset_n_tokens(const struct shardset *s);
int64_t shardset_n_documents(const struct shardset *s);
uint64_t shardset_digest(const struct shardset *s); // of all its files, in order

/* Room that shardset_read needs for n tokens, aligned to SHARDS_ALIGN. */
size_t shardset_room(const struct shardset *s, int64_t n);

/* Read n tokens from `first` on; behind the last token comes the first again. starts: receives a 1
 * where a document begins, else 0. Several threads may read at once. Errors as of shards_read. */
int shardset_read(const struct shardset *s, int64_t first, int64_t n, void *room, int32_t *ret,
                  uint8_t *ret_starts, struct hai_err *err);
