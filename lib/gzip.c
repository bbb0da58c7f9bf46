#include "lib/gzip.h"

#include <zlib.h>

bool gzip_is(const void *data, size_t n_bytes) {
    return n_bytes >= 2 && !memcmp(data, "\x1f\x8b", 2);
}

/* One piece of output. Returns zlib's code. */
static int piece(z_stream *z, struct buf *ret) {
    uint8_t out[16384];

    z->next_out = out;
    z->avail_out = sizeof out;
    int r = inflate(z, Z_NO_FLUSH);
    buf_add(ret, out, sizeof out - z->avail_out);
    return r;
}

int gzip_unpack(const void *data, size_t n_bytes, size_t n_bytes_max, struct buf *ret,
                struct hai_err *err) {
    enum { GZIP_WINDOW = 15 + 16 }; // zlib's way to say: gzip header, largest window
    z_stream z = {.next_in = (Bytef *)data, .avail_in = (uInt)n_bytes};
    size_t first = ret->n_bytes;
    int r = 0;

    if (n_bytes > UINT32_MAX)
        return hai_fail(err, -EFBIG, "more than 4 GiB of gzip");
    if (inflateInit2(&z, GZIP_WINDOW) != Z_OK)
        abort(); // out of memory
    for (;;) {
        int code = piece(&z, ret);
        if (ret->n_bytes - first > n_bytes_max) {
            r = hai_fail(err, -EFBIG, "more than %zu bytes unpacked", n_bytes_max);
            break;
        }
        if (code == Z_STREAM_END) {
            if (!gzip_is(z.next_in, z.avail_in))
                break;
            inflateReset(&z);
        } else if (code != Z_OK) {
            r = hai_fail(err, -EBADMSG, "gzip data is damaged or cut short");
            break;
        }
    }
    inflateEnd(&z);
    return r;
}
