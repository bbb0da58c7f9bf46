#include "engine/model/weighthash.h"
#include "lib/fileio.h"
#include "storage/safetensors.h"

enum { CONFIG_BYTES_MAX = 1 << 20 };

static void add_tensor(struct digest *d, const struct safetensors_tensor *t) {
    const char *bytes = t->data;
    size_t n_pieces = WEIGHTHASH_SAMPLE_BYTES / WEIGHTHASH_PIECE_BYTES;
    const char *dtype = safetensors_dtype_name(t->dtype);

    digest_add(d, t->name, strlen(t->name) + 1);
    digest_add(d, dtype, strlen(dtype) + 1);
    digest_add(d, t->shape, (size_t)t->n_dims * sizeof *t->shape);
    if (t->n_bytes <= WEIGHTHASH_SAMPLE_BYTES) {
        digest_add(d, bytes, t->n_bytes);
        return;
    }
    size_t n_last = t->n_bytes - WEIGHTHASH_PIECE_BYTES; // where the last piece begins
    for (size_t i = 0; i < n_pieces; i++)
        digest_add(
            d, bytes + n_last / (n_pieces - 1) * i + n_last % (n_pieces - 1) * i / (n_pieces - 1),
            WEIGHTHASH_PIECE_BYTES);
}

int weighthash(const char *dir, uint8_t ret[static DIGEST_SHA256_BYTES], struct hai_err *err) {
    _cleanup_(safetensors_freep) struct safetensors *files = NULL;
    _cleanup_(buf_free) struct buf config = {0};
    _cleanup_free_ char *path = hai_asprintf("%s/config.json", dir);
    int r = fileio_read_file(path, CONFIG_BYTES_MAX, &config, err);

    if (r == 0)
        r = safetensors_open(dir, &files, err);
    if (r < 0)
        return r;
    _cleanup_(digest_freep) struct digest *d = digest_new(DIGEST_SHA256);
    digest_add(d, config.data, config.n_bytes);
    for (size_t i = 0; i < safetensors_count(files); i++)
        add_tensor(d, safetensors_at(files, i));
    digest_end_sha256(d, ret);
    return 0;
}
