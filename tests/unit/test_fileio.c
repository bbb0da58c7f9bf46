#include "lib/fileio.h"
#include "tests/unit/test.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static char *tmp_dir(void) {
    char *dir = hai_strdup("/tmp/hai-test-fileio-XXXXXX");

    CHECK(mkdtemp(dir) != NULL);
    return dir;
}

TEST(replace_and_read)
{
    _cleanup_free_ char *dir = tmp_dir();
    _cleanup_free_ char *path = hai_asprintf("%s/file", dir);
    _cleanup_(buf_free) struct buf got = {0};
    struct stat st;

    CHECK_EQ(fileio_replace(path, "old", 3, 0600, NULL), 0);
    CHECK_EQ(fileio_replace(path, "newer", 5, 0644, NULL), 0);
    CHECK_EQ(fileio_read_file(path, 5, &got, NULL), 0);
    CHECK_STR(buf_cstr(&got), "newer");
    CHECK_EQ(stat(path, &st), 0);
    CHECK_EQ(st.st_mode & 07777, 0644);
    CHECK_EQ(fileio_read_file(path, 4, &got, NULL), -EFBIG);
    CHECK_EQ(got.n_bytes, 5);
    CHECK_EQ(fileio_remove_tree(dir, NULL), 0);
    CHECK_EQ(fileio_read_file(path, 4, &got, NULL), -ENOENT);
}

TEST(failed_replace_leaves_nothing)
{
    _cleanup_free_ char *dir = tmp_dir();
    _cleanup_free_ char *path = hai_asprintf("%s/sub", dir);
    _cleanup_free_ char *inner = hai_asprintf("%s/x", path);
    struct hai_err err = {0};

    CHECK_EQ(fileio_mkdir_p(path, 0700, NULL), 0);
    CHECK_EQ(fileio_replace(inner, "x", 1, 0600, NULL), 0);
    CHECK_EQ(fileio_replace(path, "x", 1, 0600, &err), -EISDIR); // a directory is in the way
    CHECK(strstr(err.text, path) != NULL);
    CHECK_EQ(fileio_remove_tree(path, NULL), 0);
    CHECK_EQ(rmdir(dir), 0, "no temporary file is left");
}

/* In place of libc's: which directories are synced. */
static char synced[1024];

static void note_synced(int fd, const char *kind) {
    _cleanup_free_ char *link = hai_asprintf("/proc/self/fd/%d", fd);
    char path[256];
    ssize_t n = readlink(link, path, sizeof path - 1);

    if (n > 0 && strlen(synced) + strlen(kind) + (size_t)n + 2 < sizeof synced) {
        path[n] = 0;
        strcat(strcat(strcat(synced, kind), path), ";");
    }
}

int fsync(int fd) {
    note_synced(fd, "");
    return (int)syscall(SYS_fsync, fd);
}

int syncfs(int fd) {
    note_synced(fd, "all of ");
    return 0;
}

/* A power loss takes a name whose directory was not synced. */
TEST(made_directories_are_synced_where_they_must_last)
{
    char dir[] = "/tmp/hai-test-mkdir-XXXXXX";
    CHECK(mkdtemp(dir) != NULL);
    _cleanup_free_ char *deep = hai_asprintf("%s/a//b/c/", dir);
    _cleanup_free_ char *deeper = hai_asprintf("%s/a/b/c/d", dir);
    _cleanup_free_ char *other = hai_asprintf("%s/other/x", dir);
    _cleanup_free_ char *all = hai_asprintf("%s;%s/a;%s/a/b;/tmp;", dir, dir, dir);
    _cleanup_free_ char *two = hai_asprintf("%s/a/b/c;%s/a/b;", dir, dir);
    _cleanup_free_ char *last = hai_asprintf("%s/a/b;", dir);
    struct hai_err err = {0};

    synced[0] = 0;
    CHECK_EQ(fileio_mkdir_durable(deep, 0755, &err), 0, "%s", err.text);
    CHECK_STR(synced, all);
    synced[0] = 0;
    CHECK_EQ(fileio_mkdir_durable(deep, 0755, &err), 0, "%s", err.text);
    CHECK_STR(synced, last, "whoever made it may have been killed");
    synced[0] = 0;
    CHECK_EQ(fileio_mkdir_durable(deeper, 0755, &err), 0, "%s", err.text);
    CHECK_STR(synced, two, "so may the maker of what is above");
    synced[0] = 0;
    CHECK_EQ(fileio_mkdir_p(other, 0755, &err), 0, "%s", err.text);
    CHECK_STR(synced, "");
    CHECK_EQ(fileio_remove_tree(dir, NULL), 0);
}

/* As somebody whom permissions bind. Exit status: 0 as it should be. */
static int make_unread(const char *dir, const char *path, const char *wanted) {
    if (chmod(dir, 0300) < 0 || fileio_mkdir_durable(path, 0755, NULL) < 0)
        return 1;
    synced[0] = 0;
    if (fileio_mkdir_durable(path, 0755, NULL) < 0)
        return 2;
    return strcmp(synced, wanted) == 0 ? 0 : 3;
}

TEST(a_directory_that_may_be_written_and_not_read)
{
    _cleanup_free_ char *dir = tmp_dir();
    _cleanup_free_ char *path = hai_asprintf("%s/a", dir);
    _cleanup_free_ char *wanted = hai_asprintf("all of %s/a;", dir);
    int status = -1;

    CHECK(geteuid() != 0 || chown(dir, 65534, 65534) == 0);
    pid_t pid = fork();
    if (pid == 0)
        _exit(geteuid() == 0 && setuid(65534) < 0 ? 4 : make_unread(dir, path, wanted));
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
    CHECK_EQ(chmod(dir, 0700), 0);
    CHECK_EQ(fileio_remove_tree(dir, NULL), 0);
}

TEST(mkdir_p)
{
    _cleanup_free_ char *dir = tmp_dir();
    _cleanup_free_ char *deep = hai_asprintf("%s/a//b/c/", dir);
    _cleanup_free_ char *file = hai_asprintf("%s/a/file", dir);
    _cleanup_free_ char *below = hai_asprintf("%s/a/file/x", dir);

    CHECK_EQ(fileio_mkdir_p(deep, 0755, NULL), 0);
    CHECK_EQ(fileio_mkdir_p(deep, 0755, NULL), 0);
    CHECK_EQ(fileio_replace(file, "", 0, 0600, NULL), 0);
    CHECK_EQ(fileio_mkdir_p(file, 0755, NULL), -ENOTDIR);
    CHECK_EQ(fileio_mkdir_p(below, 0755, NULL), -ENOTDIR);
    CHECK_EQ(fileio_remove_tree(dir, NULL), 0);
}

TEST(remove_tree_does_not_follow_links)
{
    _cleanup_free_ char *dir = tmp_dir();
    _cleanup_free_ char *kept = hai_asprintf("%s/kept", dir);
    _cleanup_free_ char *file = hai_asprintf("%s/kept/file", dir);
    _cleanup_free_ char *tree = hai_asprintf("%s/tree/a/b", dir);
    _cleanup_free_ char *root = hai_asprintf("%s/tree", dir);
    _cleanup_free_ char *link = hai_asprintf("%s/tree/a/link", dir);

    CHECK_EQ(fileio_mkdir_p(kept, 0755, NULL), 0);
    CHECK_EQ(fileio_mkdir_p(tree, 0755, NULL), 0);
    CHECK_EQ(fileio_replace(file, "x", 1, 0600, NULL), 0);
    CHECK_EQ(symlink(kept, link), 0);
    CHECK_EQ(fileio_remove_tree(root, NULL), 0);
    CHECK_EQ(access(root, F_OK), -1);
    CHECK_EQ(access(file, F_OK), 0);
    CHECK_EQ(fileio_remove_tree(root, NULL), 0, "nothing there is fine");
    CHECK_EQ(fileio_remove_tree(dir, NULL), 0);
}

TEST(full_reads_and_writes)
{
    _cleanup_free_ char *dir = tmp_dir();
    _cleanup_free_ char *path = hai_asprintf("%s/file", dir);
    _cleanup_(closep) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    char got[8] = "";

    CHECK_EQ(fileio_write_full(fd, "abcdef", 6, 2, NULL), 0);
    CHECK_EQ(fileio_read_full(fd, got, 4, 3, NULL), 0);
    CHECK_STR(got, "bcde");
    CHECK_EQ(fileio_read_full(fd, got, 8, 3, NULL), -ENODATA);
    CHECK_EQ(fileio_read_full(fd, got, 8, FILEIO_HERE, NULL), 0);
    CHECK_EQ(memcmp(got, "\0\0abcdef", 8), 0);
    CHECK_EQ(fileio_remove_tree(dir, NULL), 0);
}

TEST(lock_excludes_and_ends_with_the_process)
{
    _cleanup_free_ char *dir = tmp_dir();
    _cleanup_free_ char *path = hai_asprintf("%s/lock", dir);
    _cleanup_(closep) int fd = -1;
    int second = -1;
    int ready[2];
    int status;

    CHECK_EQ(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        int held = -1;
        int r = fileio_lock(path, &held, NULL);
        (void)!write(ready[1], r == 0 ? "y" : "n", 1);
        pause();
    }
    char c = 0;
    CHECK_EQ(fileio_read_full(ready[0], &c, 1, FILEIO_HERE, NULL), 0);
    CHECK_EQ(c, 'y');
    CHECK_EQ(fileio_lock(path, &fd, NULL), -EBUSY);
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    CHECK_EQ(fileio_lock(path, &fd, NULL), 0);
    CHECK_EQ(fileio_lock(path, &second, NULL), -EBUSY);
    CHECK_EQ(second, -1);
    close(ready[0]);
    close(ready[1]);
    CHECK_EQ(fileio_remove_tree(dir, NULL), 0);
}
