/* yaml.h - YAML text into the trees of json.h, with line and column of every key and value.
 *
 * Strict, because people's files decide what runs on a cluster: plain scalars get their type by the
 * core schema of YAML 1.2 (`yes`, `no`, `on`, `off` are text), keys are text and appear once, and
 * anchors, aliases, tags, .inf and .nan are refused. JSON texts are YAML, so job files in JSON come
 * through here too and get positions. Written by libyaml's events, without its document tree.
 */
#pragma once
#include "lib/json.h"

enum { YAML_BYTES_MAX = 16 << 20 }; // of one document

/* Read a text of exactly one document.
 *
 * file  named in err->where; NULL for none
 *
 * -EBADMSG: bad syntax or one of the refusals above; -ENODATA: no document; -EFBIG: longer than
 * YAML_BYTES_MAX or deeper than JSON_DEPTH_MAX.
 */
int yaml_parse(const void *text, size_t n_bytes, const char *file, struct json **ret,
               struct hai_err *err);

/* Several documents one after another, separated by `---`, read as they are asked for. */
struct yaml_stream;

/* Over a text, or over a blocking descriptor that is read as needed; neither is owned, and both
 * (and file) must stay until yaml_stream_free. */
struct yaml_stream *yaml_stream_of_text(const void *text, size_t n_bytes, const char *file);
struct yaml_stream *yaml_stream_of_fd(int fd, const char *file);
void yaml_stream_free(struct yaml_stream *stream);
DEFINE_CLEANUP(struct yaml_stream *, yaml_stream_free)

/* The next document: 1 and a tree that the caller frees, 0 at the end, or errors as above, after
 * which the stream gives only that error. Documents without content are passed over. */
int yaml_stream_next(struct yaml_stream *stream, struct json **ret, struct hai_err *err);
