/* Run a fuzz target as a plain program: over the files named, and over `-n N` random changes of
 * each (seed `-s S`). With clang's -fsanitize=fuzzer this file is left out. */
#include "lib/base.h"
#include <stdio.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static uint64_t next(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u; // SplitMix64, Steele and others, 2014
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* Change a few bytes, copy a run elsewhere, or cut the end. Parsers see mostly sound input. */
static size_t mutate(uint8_t *data, size_t n_bytes, uint64_t *state) {
    for (uint64_t n = 1 + next(state) % 4; n && n_bytes; n--) {
        size_t at = next(state) % MIN(n_bytes, next(state) % 2 ? n_bytes : 4096);
        size_t from = next(state) % n_bytes, length = next(state) % 32;
        switch (next(state) % 5) {
        case 0:
            data[at] ^= (uint8_t)(1u << next(state) % 8);
            break;
        case 1:
            data[at] = (uint8_t)next(state);
            break;
        case 2:
            data[at] = (uint8_t) "0123456789{}[]\":,-.eE\\u"[next(state) % 23];
            break;
        case 3:
            length = MIN(length, n_bytes - MAX(at, from));
            memmove(data + at, data + from, length);
            break;
        default:
            if (next(state) % 8 == 0)
                n_bytes = at;
        }
    }
    return n_bytes;
}

/* A file NAME.corpus: inputs that a fuzzer found worth keeping (campaign.py), each with its length
 * before it in 4 bytes, low first. */
static bool run_corpus(const char *path, const uint8_t *data, size_t n_bytes) {
    const char *end = strrchr(path, '.');

    if (!end || strcmp(end, ".corpus") != 0)
        return false;
    for (size_t from = 0; from < n_bytes;) {
        uint32_t length;
        assert(n_bytes - from >= sizeof length);
        memcpy(&length, data + from, sizeof length); // little-endian, as every machine of ours
        from += sizeof length;
        assert(length <= n_bytes - from);
        uint8_t *one = hai_alloc(MAX(length, 1u));
        memcpy(one, data + from, length);
        LLVMFuzzerTestOneInput(one, length);
        free(one);
        from += length;
    }
    return true;
}

static int run_file(const char *path, uint64_t n, uint64_t state) {
    FILE *f = fopen(path, "rb");

    if (!f) {
        perror(path);
        return 1;
    }
    size_t n_bytes = 0, n_max = 1 << 24;
    _cleanup_free_ uint8_t *data = hai_alloc(n_max), *changed = NULL;
    n_bytes = fread(data, 1, n_max, f);
    fclose(f);
    if (run_corpus(path, data, n_bytes))
        return 0;
    LLVMFuzzerTestOneInput(data, n_bytes);
    for (uint64_t i = 0; i < n; i++) {
        // A fresh block of the exact size, so that a sanitizer sees one byte too far.
        changed = hai_alloc(n_bytes);
        memcpy(changed, data, n_bytes);
        size_t kept = mutate(changed, n_bytes, &state);
        changed = hai_realloc_array(changed, MAX(kept, (size_t)1), 1);
        LLVMFuzzerTestOneInput(changed, kept);
        free(TAKE_PTR(changed));
    }
    return 0;
}

int main(int argc, char **argv) {
    uint64_t n = 0, seed = 1;
    int failed = 0;

    for (int i = 1; i < argc; i++)
        if (hai_streq(argv[i], "-n") && i + 1 < argc)
            n = strtoull(argv[++i], NULL, 10);
        else if (hai_streq(argv[i], "-s") && i + 1 < argc)
            seed = strtoull(argv[++i], NULL, 10);
        else
            failed |= run_file(argv[i], n, seed);
    return failed;
}
