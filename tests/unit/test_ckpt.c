#include "engine/ckpt/ckpt.h"
#include "lib/fileio.h"
#include "tests/unit/test.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

/* As on NFS, where checkpoints of many nodes lie: a rename with flags is refused. */
int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    errno = EINVAL;
    return flags ? -1 : renameat(from_dir, from, to_dir, to);
}

enum { N = 1000 };
static float weight[N], moment[N];

static struct ckpt_part parts[] = {
    {"model.a", CKPT_STATE_WEIGHT,  2, {10, 100}, weight},
    {"model.a", CKPT_STATE_EXP_AVG, 2, {10, 100}, moment},
};

static struct ckpt_meta meta_of(int64_t step, int64_t epoch) {
    struct ckpt_meta m = {.step = step,
                          .epoch = epoch,
                          .seed = UINT64_MAX - 3,
                          .next_sample = step * 8,
                          .data_digest = 0xABC,
                          .world = 4,
                          .group_ranks = 2};

    strcpy(m.kernel_path, "avx512");
    strcpy(m.recipe, "f32");
    strcpy(m.version, HAI_VERSION);
    return m;
}

static char *scratch(void) {
    char dir[] = "/tmp/hai-test-XXXXXX";

    CHECK(mkdtemp(dir));
    return hai_strdup(dir);
}

static void save(const char *dir, int64_t step, int64_t epoch) {
    struct ckpt_meta m = meta_of(step, epoch);
    char digest[CKPT_DIGEST_BYTES];
    _cleanup_free_ char *path = NULL;
    struct hai_err err = {0};

    for (int i = 0; i < N; i++) {
        weight[i] = (float)(step * 1000 + i);
        moment[i] = -weight[i];
    }
    CHECK_EQ(ckpt_save(dir, &m, parts, 2, &path, digest, &err), 0, "%s", err.text);
    CHECK_EQ(strlen(digest), 64);
}

static int64_t newest(const char *dir) {
    struct ckpt *c = NULL;
    struct hai_err err = {0};
    int64_t step = ckpt_newest(dir, NULL, NULL, &c, &err) < 0 ? -1 : ckpt_meta_of(c)->step;

    ckpt_free(c);
    return step;
}

TEST(saved_comes_back)
{
    _cleanup_free_ char *dir = scratch();
    struct ckpt *c = NULL;
    struct hai_err err = {0};

    CHECK_EQ(ckpt_newest(dir, NULL, NULL, &c, &err), -ENOENT);
    save(dir, 7, 3);
    memset(weight, 0, sizeof weight);
    memset(moment, 0, sizeof moment);
    CHECK_EQ(ckpt_newest(dir, NULL, NULL, &c, &err), 0, "%s", err.text);
    if (!c)
        return;
    struct ckpt_meta wanted = meta_of(7, 3);
    CHECK(!memcmp(ckpt_meta_of(c), &wanted, sizeof wanted));
    CHECK(strstr(ckpt_path(c), "/step-7.E3"), "%s", ckpt_path(c));
    CHECK_EQ(ckpt_load(c, parts, 2, &err), 0, "%s", err.text);
    CHECK(weight[5] == 7005 && moment[999] == -7999);
    struct ckpt_part other[] = {parts[0], parts[0]};
    other[1].name = "model.b";
    CHECK_EQ(ckpt_load(c, other, 2, &err), -EINVAL);
    CHECK(strstr(err.text, "model.b"), "%s", err.text);
    CHECK_EQ(ckpt_load(c, parts, 1, &err), -EINVAL);
    other[1] = parts[1];
    other[1].shape[0] = 100;
    other[1].shape[1] = 10;
    CHECK_EQ(ckpt_load(c, other, 2, &err), -EINVAL);
    ckpt_free(c);
    fileio_remove_tree(dir, NULL);
}

static void damage(const char *path, int64_t offset, bool cut) {
    char byte;
    int fd = open(path, O_RDWR);

    CHECK(fd >= 0, "%s", path);
    if (cut) {
        CHECK_EQ(ftruncate(fd, offset), 0);
    } else {
        CHECK_EQ(pread(fd, &byte, 1, offset), 1);
        byte ^= 1;
        CHECK_EQ(pwrite(fd, &byte, 1, offset), 1);
    }
    close(fd);
}

static const struct {
    const char *file;
    int64_t offset;
    bool cut;
} damages[] = {
    {"part-00000.safetensors", 5000, false},
    {"part-00000.safetensors", 5000, true },
    {"part-00000.safetensors", 20,   false},
    {"part-00000.safetensors", 0,    true },
    {"manifest.json",          60,   false},
    {"manifest.json",          10,   false},
    {"manifest.json",          100,  true },
    {"manifest.json",          0,    true },
};

static void count_skip(void *userdata, const char *path, const char *reason) {
    CHECK(strstr(path, "step-9") && reason[0], "%s: %s", path, reason);
    ++*(int *)userdata;
}

TEST(damaged_ones_are_passed_over)
{
    for (size_t i = 0; i < ARRAY_SIZE(damages); i++) {
        _cleanup_free_ char *dir = scratch();
        _cleanup_free_ char *path = hai_asprintf("%s/step-9.E1/%s", dir, damages[i].file);
        struct ckpt *c = NULL;
        struct hai_err err = {0};
        int n_skipped = 0;
        save(dir, 8, 1);
        save(dir, 9, 1);
        CHECK_EQ(newest(dir), 9);
        damage(path, damages[i].offset, damages[i].cut);
        CHECK_EQ(ckpt_newest(dir, count_skip, &n_skipped, &c, &err), 0, "%s", err.text);
        CHECK_EQ(c ? ckpt_meta_of(c)->step : -1, 8, "damage %zu", i);
        CHECK_EQ(n_skipped, 1);
        ckpt_free(c);
        save(dir, 9, 1); // the resumed run comes to the same step
        CHECK_EQ(newest(dir), 9);
        fileio_remove_tree(dir, NULL);
    }
}

TEST(a_folder_under_another_name_lies)
{
    _cleanup_free_ char *dir = scratch();
    _cleanup_free_ char *from = hai_asprintf("%s/step-9.E1", dir);
    _cleanup_free_ char *to = hai_asprintf("%s/step-10.E1", dir);

    save(dir, 8, 1);
    save(dir, 9, 1);
    CHECK_EQ(rename(from, to), 0);
    CHECK_EQ(newest(dir), 8);
    fileio_remove_tree(dir, NULL);
}

static bool exists(const char *dir, const char *name) {
    _cleanup_free_ char *path = hai_asprintf("%s/%s", dir, name);
    return access(path, F_OK) == 0;
}

TEST(order_and_pruning)
{
    _cleanup_free_ char *dir = scratch();
    _cleanup_free_ char *torn = hai_asprintf("%s/.unfinished-step-12.E1.77", dir);
    _cleanup_free_ char *stranger = hai_asprintf("%s/step-x", dir);
    struct hai_err err = {0};

    save(dir, 9, 1);
    save(dir, 10, 2);
    save(dir, 10, 1);
    save(dir, 100, 2);
    save(dir, 100, 2); // once more: the same one
    CHECK_EQ(mkdir(torn, 0755), 0);
    CHECK_EQ(mkdir(stranger, 0755), 0);
    CHECK_EQ(newest(dir), 100);
    CHECK_EQ(ckpt_prune(dir, 100, 2, 2, &err), 0, "%s", err.text);
    CHECK(exists(dir, "step-100.E2") && exists(dir, "step-10.E2"));
    CHECK(!exists(dir, "step-10.E1") && !exists(dir, "step-9.E1"));
    CHECK(exists(dir, "step-x"));
    CHECK(access(torn, F_OK) < 0);
    fileio_remove_tree(dir, NULL);
}

/* A run that resumed before a damaged one saves behind it: what it saved must outlive the pruning.
 */
TEST(damaged_ones_push_nothing_out)
{
    _cleanup_free_ char *dir = scratch();
    _cleanup_free_ char *part = hai_asprintf("%s/step-300.E1/part-00000.safetensors", dir);
    struct hai_err err = {0};

    save(dir, 100, 1);
    save(dir, 300, 1);
    CHECK_EQ(truncate(part, 1000), 0);
    CHECK_EQ(newest(dir), 100);
    save(dir, 200, 2);
    CHECK_EQ(ckpt_prune(dir, 200, 2, 1, &err), 0, "%s", err.text);
    CHECK_EQ(newest(dir), 200);
    CHECK(!exists(dir, "step-100.E1"));
    save(dir, 300, 2);
    CHECK_EQ(ckpt_prune(dir, 300, 2, 1, &err), 0, "%s", err.text);
    CHECK_EQ(newest(dir), 300);
    CHECK(!exists(dir, "step-300.E1") && !exists(dir, "step-200.E2"));
    fileio_remove_tree(dir, NULL);
}
