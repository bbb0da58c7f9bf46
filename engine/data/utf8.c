#include "engine/data/utf8.h"

/* Bytes of the character at p, or minus the bytes of the longest start of one that is there (at
 * least 1). Source: Unicode, table 3-7. */
static int character(const uint8_t *p, size_t n) {
    int length = p[0] < 0x80   ? 1
                 : p[0] < 0xC2 ? 0
                 : p[0] < 0xE0 ? 2
                 : p[0] < 0xF0 ? 3
                 : p[0] < 0xF5 ? 4
                               : 0;
    uint8_t low = p[0] == 0xE0 ? 0xA0 : p[0] == 0xF0 ? 0x90 : 0x80;
    uint8_t high = p[0] == 0xED ? 0x9F : p[0] == 0xF4 ? 0x8F : 0xBF;

    for (int i = 1; i < length; i++) {
        if ((size_t)i >= n || p[i] < low || p[i] > high)
            return -i;
        low = 0x80;
        high = 0xBF;
    }
    return length ? length : -1;
}

size_t utf8_valid(const char *text, size_t n_bytes) {
    size_t at = 0;

    while (at < n_bytes) {
        uint64_t eight;
        if (n_bytes - at >= sizeof eight) {
            memcpy(&eight, text + at, sizeof eight);
            if (!(eight & 0x8080808080808080u)) {
                at += sizeof eight;
                continue;
            }
        }
        int n = character((const uint8_t *)text + at, n_bytes - at);
        if (n < 0)
            break;
        at += (size_t)n;
    }
    return at;
}

size_t utf8_read(const char *text, size_t n_bytes, uint32_t *ret) {
    const uint8_t *p = (const uint8_t *)text;
    int n = character(p, n_bytes);

    assert(n > 0);
    uint32_t c = n == 1 ? p[0] : p[0] & (0x7Fu >> n);
    for (int i = 1; i < n; i++)
        c = c << 6 | (p[i] & 0x3F);
    *ret = c;
    return (size_t)n;
}

size_t utf8_write(uint32_t c, char *ret) {
    if (c < 0x80) {
        ret[0] = (char)c;
        return 1;
    }
    int n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--, c >>= 6)
        ret[i] = (char)(0x80 | (c & 0x3F));
    ret[0] = (char)((0xF00 >> n & 0xFF) | c);
    return (size_t)n;
}

void utf8_add_lossy(struct buf *ret, const void *bytes, size_t n_bytes) {
    const uint8_t *p = bytes;

    while (n_bytes) {
        size_t n = utf8_valid((const char *)p, n_bytes);
        if (n)
            buf_add(ret, p, n);
        if (n < n_bytes) {
            buf_add_str(ret, "\xEF\xBF\xBD");
            n += (size_t)-character(p + n, n_bytes - n);
        }
        p += n;
        n_bytes -= n;
    }
}

void utf8_add_stream(struct buf *ret, struct buf *pending) {
    size_t n = utf8_valid((const char *)pending->data, pending->n_bytes), left;

    while ((left = pending->n_bytes - n) > 0) {
        const uint8_t *p = pending->data + n;
        int wrong = character(p, left);
        if (wrong < 0 && (size_t)-wrong == left && p[0] >= 0xC2 && p[0] < 0xF5)
            break;
        n += (size_t)(wrong < 0 ? -wrong : wrong);
    }
    utf8_add_lossy(ret, pending->data, n);
    buf_drop(pending, n);
}
