#include "storage/safetensors.h"
#include "tests/unit/test.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define ENTRY(name, dtype, shape, from, to)                                                        \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #from "," #to   \
    "]}"

/* A header and the bytes of data behind it; what the message must hold, or NULL for a sound file.
 */
static const struct {
    const char *header;
    size_t n_data;
    int r;
    const char *says;
} cases[] = {
    {"{}",                                     0,                              0,NULL},
    {"{\"__metadata__\":{\"format\":\"pt\"}}", 0,                              0,NULL},
    {"{" ENTRY("a",                            "F32",                          "[2,3]",0,24) "}   ", 24, 0, NULL},
    {"{" ENTRY("a",                                      "F32",                                                                   "[]",0,4) "}", 4, 0, NULL},
    {"{" ENTRY("a","F32","[0,3]",0,0) "}", 0, 0, NULL},
    {"{" ENTRY("b",                                       "U8",                                                                 "[3]",8,11) "," ENTRY("a", "F16", "[4]", 0, 8) "}", 11, 0, NULL},
    {"{" ENTRY("\\u00e9\\n",                                 "F8_E4M3",                                                                                                         "[1]",                                                                                                                           0,                                                                                                                                                                                                                   1) "}", 1, 0, NULL},
    {"{" ENTRY("a",                                    "F32",                                                                  "[9223372036854775807,4,0]",0,0) "}", 0, 0, NULL},
    {"",                                       0,                                                    -EBADMSG,"expected '{'"       },
    {"[]",                                  0,                                                              -EBADMSG,"expected '{'"},
    {"{} x",                   0,        -EBADMSG,"expected the end"},
    {"{\"a\"",                                       0,                                                                    -EBADMSG,"expected ':'"},
    {"{\"a\":3}",0,-EBADMSG,"expected '{'"},
    {"{" ENTRY("a",                                       "F32",                                                                 "[2]",0,8) ",}", 8, -EBADMSG, "a string"},
    {"{" ENTRY("",                                "F32","[2]",0,8) "}", 8, -EBADMSG, "0 bytes"},
    {"{\"a\\u0000b\":{}}",                                0,-EBADMSG,"zero bytes"},
    {"{\"a\\ud800\":{}}",                                0,                                     -EBADMSG,                                                                                                                                           "surrogate"                                                                                                                                                                                                                                                                                                                                                                                                                                                      },
    {"{\"\xff\":{}}",                                0,-EBADMSG,"UTF-8"},
    {"{" ENTRY("a",                                "F33",                                                                                                               "[2]",                                                                                                                                                  0,                                                                                                                                                                                       8) "}", 8, -EBADMSG, "dtype is 'F33'"},
    {"{" ENTRY("a",                                   "F32","[2]",0,12) "}", 12, -EBADMSG, "make 8 bytes"},
    {"{" ENTRY("a",                              "F32",                                                            "[2]",0,8) "}", 4, -EBADMSG, "outside the file's 4 bytes"},
    {"{" ENTRY("a",                                       "F32",                                                               "[2]",                                                8,                                                                                                                      0) "}", 8, -EBADMSG, "outside"},
    {"{" ENTRY("a",                                        "F32",                                                   "[2]",0,18446744073709551616) "}", 8, -EBADMSG, "below 2^64"},
    {"{" ENTRY("a",                                        "F32",                                                    "[-2]",0,8) "}", 8, -EBADMSG, "whole number"},
    {"{" ENTRY("a",                                        "F32",                                                        "[2.0]",0,8) "}", 8, -EBADMSG, "whole number"},
    {"{" ENTRY("a",                                        "F32",                                                          "[4294967296,4294967296]",0,8) "}", 8, -EBADMSG, "overflows"},
    {"{" ENTRY("a",                                  "U8",                                                               "[18446744073709551615]",0,8) "}", 8, -EBADMSG, "overflows"},
    {"{" ENTRY("a",                            "U8",                   "[1,1,1,1,1,1,1,1,8]",0, 8) "}", 8, -EBADMSG, "fewer numbers"},
    {"{" ENTRY("a",                                      "F32",                                                            "[2]",0,8) "," ENTRY("a", "F32", "[2]", 8, 16) "}", 16, -EBADMSG,
     "'a' comes twice"},
    {"{" ENTRY("a",      "F32","[2]",0,8) "," ENTRY("b", "F32", "[2]", 4, 12) "}", 12, -EBADMSG,
     "'a' and 'b' overlap"},
    {"{" ENTRY("a",                                "F32",                                  "[2]",0,8) "," ENTRY("b", "F32", "[2]", 0, 8) "}", 8, -EBADMSG,
     "overlap"},
    {"{" ENTRY("a",                                   "F32",  "[2]",4,12) "}", 12, -EBADMSG, "4 bytes before tensor 'a'"},
    {"{" ENTRY("a",                               "F32",                                                             "[2]",0,8) "}", 9, -EBADMSG, "1 bytes after the last"},
    {"{" ENTRY("a",                                       "U8",                                            "[2]",                         0,                                                                           2) "," ENTRY("b", "U8", "[2]", 3, 5) "}", 5, -EBADMSG,
     "1 bytes before tensor 'b'"},
    {"{" ENTRY("a",                                        "U8",                                                          "[8]",0,8) "," ENTRY("b", "U8", "[2]", 3, 5) "}", 8, -EBADMSG,
     "'a' and 'b' overlap"},
    {"{" ENTRY("a",                                  "U8",                                                               "[2]",0,             2) "," ENTRY("b", "U8", "[0]", 1, 1) "}", 2, -EBADMSG,
     "overlap"},
    {"{" ENTRY("a",                            "U8",              "[2]",18446744073709551614,18446744073709551615) "}", 2, -EBADMSG,
     "outside"},
    {"{" ENTRY("a",                                       "F32",                                                             "[4611686018427387904,2]",0,0) "}", 0, -EBADMSG, "overflows"},
    {"{" ENTRY("a","F64","[2305843009213693952]",0,                  0) "}", 0, -EBADMSG, "overflows"},
    {"{" ENTRY("a",                                "BF16",                                                   "[2]",0,8) "}", 8, -EBADMSG, "make 4 bytes"},
    {"{" ENTRY("a",                "F32","[0]",0,                                                                                                                                                    8) "}", 8, -EBADMSG, "make 0 bytes"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}",                             1,                                                           -EBADMSG,"expected dtype, shape"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}",                                       1,                                                               -EBADMSG,
     "two data_offsets"                                    },
    {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\"}}",                                        1,                                                          -EBADMSG,"repeated key 'dtype'"},
    {"{\"a\":{\"kind\":\"U8\"}}",                        1,                                                 -EBADMSG,"unknown key 'kind'"},
    {"{\"__metadata__\":{\"format\":3}}",                                      0,                                                            -EBADMSG,"a string"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}",                              0,                                                                                    -EBADMSG,                                                                               "twice"                                                                         },
};

TEST(headers)
{
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        size_t n_header = strlen(cases[i].header), n = 8 + n_header + cases[i].n_data;
        _cleanup_free_ uint8_t *bytes = hai_alloc(n);
        struct hai_err err = {0};
        bytes[0] = (uint8_t)n_header;
        bytes[1] = (uint8_t)(n_header >> 8);
        memcpy(bytes + 8, cases[i].header, n_header);
        CHECK_EQ(safetensors_check(bytes, n, &err), cases[i].r, "%s: %s", cases[i].header,
                 err.text);
        if (cases[i].says)
            CHECK(strstr(err.text, cases[i].says), "%s: %s", cases[i].header, err.text);
    }
}

TEST(lengths)
{
    static const uint8_t huge[16] = {255, 255, 255, 255, 255, 255, 255, 255, '{', '}'};
    static const uint8_t longer[16] = {9,   0,   0,   0,   0,   0,   0,   0,
                                       '{', '}', ' ', ' ', ' ', ' ', ' ', ' '};
    struct hai_err err = {0};

    CHECK_EQ(safetensors_check(huge, 16, &err), -EFBIG);
    CHECK_EQ(safetensors_check(longer, 16, &err), -EBADMSG);
    CHECK(strstr(err.text, "cut short"), "%s", err.text);
    for (size_t n = 0; n < 8; n++)
        CHECK_EQ(safetensors_check(longer, n, &err), -EBADMSG);
}

static void scratch_make(char *ret) {
    strcpy(ret, "/tmp/hai-test-XXXXXX");
    assert(mkdtemp(ret));
}

static void file_write(const char *path, const char *text) {
    FILE *f = fopen(path, "w");
    assert(f);
    fputs(text, f);
    fclose(f);
}

/* An odd byte first makes what follows unaligned in the file: the reader must move it. */
TEST(written_comes_back)
{
    static const uint8_t odd[3] = {1, 2, 3};
    static const float numbers[6] = {0.5f, -1, 2, 3, 4, 1e-30f};
    static const double one = 3.25;
    const struct safetensors_tensor tensors[] = {
        {.name = "z\"odd\\\n",
         .dtype = SAFETENSORS_U8,
         .n_dims = 1,
         .shape = {3},
         .data = odd,
         .n_bytes = 3},
        {.name = "numbers",
         .dtype = SAFETENSORS_F32,
         .n_dims = 2,
         .shape = {2, 3},
         .data = numbers,
         .n_bytes = 24},
        {.name = "one",           .dtype = SAFETENSORS_F64,                                  .n_dims = 0,                                                                                   .data = &one,                                                                                                                                                                                 .n_bytes = 8},
        {.name = "none",.dtype = SAFETENSORS_F32,.n_dims = 1,.shape = {0}},
    };
    char dir[32];
    struct hai_err err = {0};
    scratch_make(dir);
    _cleanup_free_ char *path = hai_asprintf("%s/model.safetensors", dir);

    CHECK_EQ(safetensors_write(path, tensors, 4, (const char *[]){"a", "b\"", NULL}, &err), 0, "%s",
             err.text);
    for (int i = 0; i < 2; i++) {
        _cleanup_(safetensors_freep) struct safetensors *s = NULL;
        CHECK_EQ(safetensors_open(i ? dir : path, &s, &err), 0, "%s", err.text);
        if (!s)
            break;
        CHECK_EQ(safetensors_count(s), 4);
        CHECK_STR(safetensors_metadata(s, "a"), "b\"");
        for (int j = 0; j < 4; j++) {
            const struct safetensors_tensor *t = safetensors_find(s, tensors[j].name);
            CHECK(t, "%s", tensors[j].name);
            if (!t)
                continue;
            CHECK_EQ(t->dtype, tensors[j].dtype);
            CHECK_EQ((uintptr_t)t->data % safetensors_dtype_bytes(t->dtype), 0);
            CHECK(!t->n_bytes || !memcmp(t->data, tensors[j].data, t->n_bytes));
        }
        const struct safetensors_tensor *t = NULL;
        CHECK_EQ(safetensors_get(s, "numbers", 2, (int64_t[]){2, 3}, &t, &err), 0);
        CHECK_EQ(safetensors_get(s, "numbers", 2, (int64_t[]){3, 2}, &t, &err), -EINVAL);
        CHECK(strstr(err.text, "'numbers' has shape [2, 3]; expected [3, 2]"), "%s", err.text);
        CHECK_EQ(safetensors_get(s, "nothing", 1, (int64_t[]){3}, &t, &err), -ENOENT);
        CHECK(!safetensors_find(s, "nothing"));
    }
    CHECK_EQ(truncate(path, 100), 0);
    struct safetensors *s = NULL;
    CHECK_EQ(safetensors_open(path, &s, &err), -EBADMSG);
    CHECK(strstr(err.text, path), "%s", err.text);
    CHECK(!s);
    unlink(path);
    CHECK_EQ(rmdir(dir), 0);
}

/* Piece by piece the same bytes; a file that is not finished is not there. */
TEST(written_piece_by_piece)
{
    static const float numbers[6] = {0.5f, -1, 2, 3, 4, 1e-30f};
    const struct safetensors_tensor tensors[] = {
        {.name = "a",
         .n_dims = 1,
         .shape = {2},
         .dtype = SAFETENSORS_F32,
         .data = numbers,
         .n_bytes = 8 },
        {.name = "b",
         .n_dims = 1,
         .shape = {4},
         .dtype = SAFETENSORS_F32,
         .data = numbers + 2,
         .n_bytes = 16},
    };
    static const char *const metadata[] = {"k", "v", NULL};
    char dir[32];
    struct hai_err err = {0};
    scratch_make(dir);
    _cleanup_free_ char *whole = hai_asprintf("%s/whole", dir);
    _cleanup_free_ char *pieces = hai_asprintf("%s/pieces", dir);

    CHECK_EQ(safetensors_write(whole, tensors, 2, metadata, &err), 0, "%s", err.text);
    for (int finished = 0; finished < 2; finished++) {
        _cleanup_(safetensors_writer_freep) struct safetensors_writer *w = NULL;
        CHECK_EQ(safetensors_writer_new(pieces, tensors, 2, metadata, &w, &err), 0, "%s", err.text);
        CHECK_EQ(safetensors_writer_add(w, numbers, 3, &err), 0);
        CHECK_EQ(safetensors_writer_add(w, (const char *)numbers + 3, 20, &err), 0);
        CHECK_EQ(access(pieces, F_OK), -1);
        if (!finished)
            continue;
        CHECK_EQ(safetensors_writer_add(w, (const char *)numbers + 23, 1, &err), 0);
        CHECK_EQ(safetensors_writer_finish(w, &err), 0, "%s", err.text);
    }
    FILE *a = fopen(whole, "r"), *b = fopen(pieces, "r");
    for (int c = 0; a && b && c != EOF;) {
        c = fgetc(a);
        CHECK_EQ(fgetc(b), c);
    }
    fclose(a);
    fclose(b);
    unlink(whole);
    unlink(pieces);
    CHECK_EQ(rmdir(dir), 0);
}

/* What an index may say, with one shard "s" that holds tensors a and b. */
static const struct {
    const char *index;
    int r;
    const char *says;
} indexes[] = {
    {"{\"metadata\":{\"total_size\":1e3},\"weight_map\":{\"a\":\"s\",\"b\":\"s\"}}", 0,        NULL                },
    {"{\"weight_map\":{\"a\":\"s\"}}",                                               0,        NULL                },
    {"{\"weight_map\":{\"a\":\"s\",\"c\":\"s\"}}",                                   -EBADMSG, "'c' is not in"     },
    {"{\"weight_map\":{\"a\":\"s\",\"a\":\"s\"}}",                                   -EBADMSG, "listed twice"      },
    {"{\"weight_map\":{\"a\":\"t\"}}",                                               -ENOENT,  "/t: No such file"  },
    {"{\"weight_map\":{\"a\":\"../s\"}}",                                            -EBADMSG, "in the same folder"},
    {"{\"weight_map\":{\"a\":\"..\"}}",                                              -EBADMSG, "in the same folder"},
    {"{\"weight_map\":{\"a\":3}}",                                                   -EBADMSG, "expected a string" },
    {"{\"weight_map\":{},\"weight_map\":{}}",                                        -EBADMSG, "twice"             },
    {"{\"weight\":{}}",                                                              -EBADMSG, "no 'weight_map'"   },
    {"{\"weight_map\":{}",                                                           -EBADMSG, "not an index"      },
    {"",                                                                             -EBADMSG, "not an index"      },
};

TEST(indexes)
{
    static const float x[2];
    const struct safetensors_tensor tensors[] = {
        {.name = "a", .dtype = SAFETENSORS_F32, .n_dims = 1, .shape = {2}, .data = x, .n_bytes = 8},
        {.name = "b", .dtype = SAFETENSORS_F32, .n_dims = 1, .shape = {2}, .data = x, .n_bytes = 8},
    };
    char dir[32];
    struct hai_err err = {0};
    scratch_make(dir);
    _cleanup_free_ char *shard = hai_asprintf("%s/s", dir);
    _cleanup_free_ char *index = hai_asprintf("%s/model.safetensors.index.json", dir);

    CHECK_EQ(safetensors_write(shard, tensors, 2, NULL, &err), 0);
    for (size_t i = 0; i < ARRAY_SIZE(indexes); i++) {
        _cleanup_(safetensors_freep) struct safetensors *s = NULL;
        file_write(index, indexes[i].index);
        CHECK_EQ(safetensors_open(dir, &s, &err), indexes[i].r, "%s: %s", indexes[i].index,
                 err.text);
        if (indexes[i].says)
            CHECK(strstr(err.text, indexes[i].says), "%s: %s", indexes[i].index, err.text);
        else if (s)
            CHECK_EQ(safetensors_count(s), 2 - i);
    }
    unlink(shard);
    unlink(index);
    struct safetensors *s = NULL;
    CHECK_EQ(safetensors_open(dir, &s, &err), -ENOENT);
    CHECK(strstr(err.text, "expected model.safetensors"), "%s", err.text);
    CHECK_EQ(rmdir(dir), 0);
}

/* Pages of a file in memory. */
static size_t n_resident(const char *path, size_t n_bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), n = (n_bytes + page - 1) / page, n_in = 0;
    _cleanup_free_ unsigned char *in = hai_alloc(n);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    void *map = mmap(NULL, n_bytes, PROT_READ, MAP_SHARED, fd, 0);

    close(fd);
    assert(map != MAP_FAILED);
    assert(mincore(map, n_bytes, in) == 0);
    munmap(map, n_bytes);
    for (size_t i = 0; i < n; i++)
        n_in += in[i] & 1;
    return n_in;
}

/* Nobody touches the file, and it comes into memory; freeing at once is sound too. */
TEST(read_ahead)
{
    enum { N = 20 << 20 };
    _cleanup_free_ char *zeros = hai_alloc(N);
    const struct safetensors_tensor tensor = {.name = "a",
                                              .dtype = SAFETENSORS_U8,
                                              .n_dims = 1,
                                              .shape = {N},
                                              .n_bytes = N,
                                              .data = zeros};
    struct hai_err err = {0};
    char dir[32];

    scratch_make(dir);
    _cleanup_free_ char *path = hai_asprintf("%s/model.safetensors", dir);
    CHECK_EQ(safetensors_write(path, &tensor, 1, NULL, &err), 0, "%s", err.text);
    for (int i = 0; i < 2; i++) {
        _cleanup_(safetensors_freep) struct safetensors *s = NULL;
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        close(fd);
        CHECK_EQ(safetensors_open(dir, &s, &err), 0, "%s", err.text);
        safetensors_read_ahead(s);
        safetensors_read_ahead(s);
        for (int k = 0; i == 0 && k < 1000 && n_resident(path, N) < N / 4096; k++)
            usleep(10000);
        CHECK(i == 1 || n_resident(path, N) >= N / 4096, "%zu pages", n_resident(path, N));
    }
    CHECK_EQ(unlink(path), 0);
    CHECK_EQ(rmdir(dir), 0);
}

TEST(fixtures)
{
    static const char *const paths[] = {
        "tests/fixtures/models/llama_gqa",
        "tests/fixtures/models/dsv3",
        "tests/fixtures/models/dsv3/golden.safetensors",
        "tests/fixtures/train/train_llama/golden.safetensors",
    };
    for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
        _cleanup_(safetensors_freep) struct safetensors *s = NULL;
        struct hai_err err = {0};
        CHECK_EQ(safetensors_open(paths[i], &s, &err), 0, "%s", err.text);
        CHECK(s && safetensors_count(s) > 20, "%s", paths[i]);
    }
}
