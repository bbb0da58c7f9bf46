/* The rank contract against a small agent that follows a script in a child process. */
#include "lib/fileio.h"
#include "lib/timefmt.h"
#include "rank/rank.h"
#include "tests/unit/test.h"
#include <math.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECRET "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
#define DIGEST SECRET

struct fake {
    char dir[32];
    char path[64];
    int listener;
    pid_t pid;
};

static void fake_listen(struct fake *f) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    strcpy(f->dir, "/tmp/test_rank.XXXXXX");
    CHECK(mkdtemp(f->dir));
    snprintf(f->path, sizeof f->path, "%s/s", f->dir);
    memcpy(address.sun_path, f->path, sizeof f->path);
    f->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_EQ(bind(f->listener, (struct sockaddr *)&address, sizeof address), 0);
    CHECK_EQ(listen(f->listener, 8), 0);
    setenv("HAI_SOCKET", f->path, 1);
    setenv("RANK", "1", 1);
}

/* Run a script as the agent; it ends the child with its result. */
static void fake_start(struct fake *f, bool (*script)(int listener)) {
    fake_listen(f);
    f->pid = fork();
    if (!f->pid) {
        alarm(20);
        _exit(script(f->listener) ? 0 : 1);
    }
}

static void fake_end(struct fake *f) {
    int status = -1;

    if (f->pid)
        CHECK_EQ(waitpid(f->pid, &status, 0), f->pid);
    CHECK_EQ(status, 0);
    close(f->listener);
    unlink(f->path);
    rmdir(f->dir);
    unsetenv("HAI_SOCKET");
    unsetenv("RANK");
}

/* Read one line of the connection and compare its start. */
static bool expect(int fd, const char *want) {
    char line[RANK_LINE_MAX];
    size_t n = 0;

    while (n < sizeof line - 1 && read(fd, line + n, 1) == 1 && line[n] != '\n')
        n++;
    line[n] = '\0';
    if (!strncmp(line, want, strlen(want)))
        return true;
    fprintf(stderr, "got '%s', expected '%s'\n", line, want);
    return false;
}

static int greet(int listener) {
    int fd = accept(listener, NULL, NULL);

    if (!expect(fd, "hello 1 1"))
        return -1;
    dprintf(fd, "welcome 1 12 3 7 " SECRET "\n");
    return fd;
}

TEST(by_hand)
{
    struct rank *rank = (void *)1;
    struct rank_value value;
    struct rank_event event;

    unsetenv("HAI_SOCKET");
    CHECK_EQ(rank_open(0, &rank, NULL), 0);
    CHECK(!rank);
    rank_progress(rank, &(struct rank_progress){.step = 1});
    rank_phase(rank, "eval", 10);
    CHECK_EQ(rank_commit(rank, 1, "/x", DIGEST, NULL), 0);
    CHECK_EQ(rank_next(rank, &event), 0);
    CHECK_EQ(rank_gather(rank, "a", "me", 2, 0, 1, &value, NULL), 0);
    CHECK(value.n_bytes == 2 && !memcmp(value.data, "me", 2));
    rank_values_free(&value, 1);
    CHECK_EQ(rank_gather(rank, "a", "me", 2, 0, 2, &value, NULL), -ENOTCONN);
    rank_close(rank);
}

TEST(bad_environment)
{
    struct rank *rank;
    struct hai_err err = {0};

    setenv("HAI_SOCKET", "/tmp/nobody/there", 1);
    setenv("RANK", "x", 1);
    CHECK_EQ(rank_open(0, &rank, &err), -EINVAL);
    CHECK(strstr(err.text, "RANK is 'x'"), "%s", err.text);
    setenv("RANK", "0", 1);
    CHECK_EQ(rank_open(1000, &rank, &err), -ETIMEDOUT);
    unsetenv("HAI_SOCKET");
    unsetenv("RANK");
}

static bool talk(int listener) {
    int fd = greet(listener);
    bool ok = expect(fd, "progress step=5 steps=10 loss=2.5 unit=tokens left_s=1.500") &&
              expect(fd, "phase save 30") && expect(fd, "commit 5 " DIGEST " /ckpt/step 5");

    dprintf(fd, "commit 5 ok\ncommit 5 ok\n");
    ok = ok && expect(fd, "commit 6 ");
    dprintf(fd, "commit 6 refused epoch 7 is old\nterminate 30\nnews of tomorrow\n");
    ok = ok && expect(fd, "progress step=9");
    return ok;
}

static int next(struct rank *rank, struct rank_event *ret) {
    for (int i = 0; i < 2000; i++) {
        if (rank_next(rank, ret))
            return 1;
        usleep(1000);
    }
    return 0;
}

TEST(conversation)
{
    struct fake f = {0};
    struct rank *rank;
    struct rank_event event;

    fake_start(&f, talk);
    CHECK_EQ(rank_open(5000000, &rank, NULL), 1);
    CHECK_EQ(rank_job(rank), 12);
    CHECK_EQ(rank_attempt(rank), 3);
    CHECK_EQ(rank_epoch(rank), 7);
    CHECK_EQ(rank_secret(rank)[31], 31);
    rank_progress(rank, &(struct rank_progress){5, 10, 2.5, NAN, "tokens", 1500000});
    rank_phase(rank, "save", 30);
    CHECK_EQ(rank_commit(rank, 5, "/ckpt/step\n5", DIGEST, NULL), -EINVAL);
    CHECK_EQ(rank_commit(rank, 5, "/ckpt", "12", NULL), -EINVAL);
    CHECK_EQ(rank_commit(rank, 5, "/ckpt/step 5", DIGEST, NULL), 0);
    CHECK_EQ(next(rank, &event), 1);
    CHECK_EQ(event.kind, RANK_EVENT_COMMITTED);
    CHECK_EQ(event.step, 5);
    CHECK_EQ(rank_commit(rank, 6, "/ckpt/6", DIGEST, NULL), 0);
    CHECK_EQ(next(rank, &event), 1); // the answer given twice was one event
    CHECK_EQ(event.kind, RANK_EVENT_REFUSED);
    CHECK_STR(event.text, "epoch 7 is old");
    CHECK_EQ(next(rank, &event), 1);
    CHECK_EQ(event.kind, RANK_EVENT_TERMINATE);
    CHECK_EQ(event.seconds, 30);
    rank_progress(rank, &(struct rank_progress){8, -1, NAN, NAN, NULL, -1});
    rank_progress(rank, &(struct rank_progress){9, -1, NAN, NAN, NULL, -1});
    rank_close(rank); // sends what was held back
    fake_end(&f);
}

/* The first agent dies after the gather came; the second hears it again, and the commit too. */
static bool die_and_return(int listener) {
    int fd = greet(listener);

    if (!expect(fd, "commit 4 ") || !expect(fd, "gather mesh 6869"))
        return false;
    dprintf(fd, "value mesh 0 6c6f\n");
    close(fd);
    fd = greet(listener);
    if (!expect(fd, "gather mesh 6869") || !expect(fd, "commit 4 "))
        return false;
    dprintf(fd, "value mesh 1 6869\nvalue mesh 0 6c6f\ngathered mesh 2\n");
    return expect(fd, "gather two 6869");
}

TEST(agent_restarts)
{
    struct fake f = {0};
    struct rank *rank;
    struct rank_value values[2] = {0};
    struct hai_err err = {0};

    fake_start(&f, die_and_return);
    CHECK_EQ(rank_open(5000000, &rank, NULL), 1);
    CHECK_EQ(rank_commit(rank, 4, "/c", DIGEST, NULL), 0);
    CHECK_EQ(rank_gather(rank, "mesh", "hi", 2, 5000000, 2, values, &err), 0, "%s", err.text);
    CHECK(values[0].n_bytes == 2 && !memcmp(values[0].data, "lo", 2));
    CHECK(values[1].n_bytes == 2 && !memcmp(values[1].data, "hi", 2));
    rank_values_free(values, 2);
    CHECK_EQ(rank_gather(rank, "mesh", "hi", 2, 0, 2, values, &err), -EINVAL);
    CHECK_EQ(rank_gather(rank, "a b", "hi", 2, 0, 2, values, &err), -EINVAL);
    CHECK_EQ(rank_gather(rank, "two", "hi", 2, 50000, 2, values, &err), -ETIMEDOUT);
    rank_close(rank);
    fake_end(&f);
}

static bool never_read(int listener) {
    int fd = greet(listener);

    usleep(700000);
    close(fd);
    return true;
}

TEST(deaf_agent_stalls_nobody)
{
    struct fake f = {0};
    struct rank *rank;

    fake_start(&f, never_read);
    CHECK_EQ(rank_open(5000000, &rank, NULL), 1);
    int64_t start_us = timefmt_monotonic_us();
    for (int i = 0; i < 20000; i++) {
        rank_phase(rank, "eval", i);
        rank_progress(rank, &(struct rank_progress){i, -1, NAN, NAN, NULL, -1});
    }
    CHECK(timefmt_monotonic_us() - start_us < 600000);
    rank_close(rank);
    fake_end(&f);
}
