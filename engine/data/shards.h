/* shards.h - a file of tokenised documents: written as they come, read in large aligned pieces.
 *
 * What training reads for weeks, so a header that lies, a short file and a flipped bit are refused
 * with file, field, value and what was expected. Which shards make a source is shardset.h's
 * business, which part of them a sample is packing.h's. Numbers are little-endian:
 *
 *   header  SHARDS_ALIGN bytes: magic, u32 version, u32 bytes a token (2 or 4), u64 digest of the
 *           vocabulary, u32 its size, u32 bytes a block, u64 tokens, u64 documents, u64 bytes of
 *           the file, u64 XXH3 of the index, u64 XXH3 of the sums, u64 XXH3 of the header up to
 *           here, zeros
 *   tokens  from there on; zeros up to a multiple of SHARDS_ALIGN
 *   index   u64 for each document: its first token, ascending from 0
 *   sums    u64 for each block of tokens: XXH3 of its bytes without the zeros after the last
 *
 * Blocks begin at multiples of SHARDS_ALIGN, so any run of them can be read without the page cache.
 */
#pragma once
#include "lib/base.h"

#define SHARDS_MAGIC "HAISHARD"

enum {
    SHARDS_VERSION = 1,
    SHARDS_ALIGN = 4096,
    SHARDS_BLOCK_BYTES = 64 << 10, // as written; others are read
    SHARDS_BLOCK_BYTES_MAX = 16 << 20,
    SHARDS_HEADER_SUM_AT = 72,      // where the checksums lie in the header: of the header,
    SHARDS_TABLE_SUMS_AT = 56,      // and of the index, followed by that of the sums
    SHARDS_DOCUMENTS_MAX = 1 << 28, // of one file; their index is kept in memory, 8 bytes each
};
#define SHARDS_TOKENS_MAX (INT64_C(1) << 40)

/* Whose ids they are. */
struct shards_vocabulary {
    uint64_t digest; // tokenizer_digest
    int32_t n;       // ids are below it; up to 65,536 take 2 bytes each
};

/* Write a file: under a temporary name beside it, which nobody takes for a shard; finish makes it
 * visible and durable. Keeps the index in memory, and a mebibyte of tokens. */
struct shards_writer;

int shards_writer_new(const char *path, const struct shards_vocabulary *vocabulary,
                      struct shards_writer **ret, struct hai_err *err);

/* Append to the document that is open. Ids must be of the vocabulary. */
int shards_writer_add(struct shards_writer *w, const int32_t *ids, size_t n, struct hai_err *err);

/* The document ends here. Without a token since the last, there was none: nothing happens. */
void shards_writer_end_document(struct shards_writer *w);

int64_t shards_writer_n_tokens(const struct shards_writer *w);
int64_t shards_writer_n_documents(const struct shards_writer *w);

/* Ends the open document, too. *ret_digest: XXH3-64 of the header, which has the sums of all else.
 */
int shards_writer_finish(struct shards_writer *w, uint64_t *ret_digest, struct hai_err *err);
void shards_writer_free(struct shards_writer *w); // an unfinished file is removed
DEFINE_CLEANUP(struct shards_writer *, shards_writer_free)

struct shard;

/* Open a file and check its header, index and sums; the tokens are checked as they are read.
 * direct: past the page cache, where the file system allows it.
 * -EBADMSG: it lies or is damaged; -EMEDIUMTYPE: another version of the format. */
int shards_open(const char *path, bool direct, struct shard **ret, struct hai_err *err);
void shards_close(struct shard *s);
DEFINE_CLEANUP(struct shard *, shards_close)

/* Is it this vocabulary's? -EMEDIUMTYPE with both. */
int shards_check_vocabulary(const struct shard *s, const struct shards_vocabulary *vocabulary,
                            struct hai_err *err);

const struct shards_vocabulary *shards_vocabulary(const struct shard *s);
int64_t shards_n_tokens(const struct shard *s);
int64_t shards_n_documents(const struct shard *s);
bool shards_is_direct(const struct shard *s);
uint64_t shards_digest(const struct shard *s); // as shards_writer_finish gave it

/* The first token of document i; i = n_documents gives n_tokens. */
int64_t shards_document(const struct shard *s, int64_t i);

/* The document that a token lies in. */
int64_t shards_document_of(const struct shard *s, int64_t token);

/* Room that shards_read needs for n tokens, at most. */
size_t shards_room(const struct shard *s, int64_t n);

/* Read n tokens from `first` on. room: shards_room bytes, aligned to SHARDS_ALIGN, written to.
 * -EBADMSG: a block is damaged, the file was cut short, or an id is not of the vocabulary. Several
 * threads may read at once. */
int shards_read(const struct shard *s, int64_t first, int64_t n, void *room, int32_t *ret,
                struct hai_err *err);
