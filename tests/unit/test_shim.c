/* The parts of hai-shim, without its loop: ranks that cannot start, memory kills, full files. */
#include "agent/shim_box.h"
#include "agent/shim_life.h"
#include "agent/shim_output.h"
#include "agent/shim_start.h"
#include "lib/fileio.h"
#include "tests/unit/test.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RANKS_MAX = 350 }; // what they say of themselves is more than a pipe holds

struct fixture {
    char dir[32];
    struct shim_spec spec;
    struct shim s;
    int32_t numbers[RANKS_MAX];
    char *args[2], *env[1];
};

static void setup(struct fixture *f, uint32_t n_ranks) {
    for (int fd = SHIM_LISTEN_FD; fd <= SHIM_AGENT_FD; fd++) // ranks close these
        if (fcntl(fd, F_GETFD) < 0)
            dup2(STDIN_FILENO, fd);
    strcpy(f->dir, "/tmp/test_shim.XXXXXX");
    CHECK(mkdtemp(f->dir));
    f->spec = (struct shim_spec){.log_bytes = 1 << 20, .box = SHIM_BOX_WALK, .n_ranks = n_ranks};
    f->args[0] = (char *)"/bin/true";
    for (int i = 0; i < RANKS_MAX; i++)
        f->numbers[i] = i;
    f->s = (struct shim){
        .pid = getpid(),
        .lease_until_us = INT64_MAX,
        .spec = &f->spec,
        .ranks_global = f->numbers,
        .log_dir = f->dir,
        .workdir = "/",
        .cgroup = "",
        .memory_cgroup = "",
        .scratch_dir = "",
        .ckpt_dir = "",
        .args = f->args,
        .env = f->env,
        .cgroup_fd = -1,
        .cgroup_procs_fd = -1,
        .memory_procs_fd = -1,
        .stdin_fd = -1,
        .error_fd = -1,
    };
    for (int i = 0; i < SHIM_CONNECTIONS_MAX; i++)
        f->s.connections[i] = (struct shim_connection){.fd = -1, .watch = -1};
}

static void teardown(struct fixture *f) {
    if (f->s.error_fd >= 0)
        close(f->s.error_fd);
    if (f->s.stdin_fd >= 0)
        close(f->s.stdin_fd);
    free(f->s.ranks);
    fileio_remove_tree(f->dir, NULL);
}

/* All of a node's ranks fail before one end is looked at; each keeps its reason. */
TEST(every_rank_that_cannot_start_says_why)
{
    enum { DESCRIPTORS = 4 * RANKS_MAX + 100 };
    struct fixture f;
    struct rlimit limit, more;
    siginfo_t info;

    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_max < DESCRIPTORS)
        SKIP("too few descriptors are allowed");
    more = limit;
    more.rlim_cur = MAX(limit.rlim_cur, (rlim_t)DESCRIPTORS);
    setrlimit(RLIMIT_NOFILE, &more);
    setup(&f, RANKS_MAX);
    f.s.workdir = "/no/such/directory";
    shim_start_ranks(&f.s);
    for (int i = 0; i < RANKS_MAX; i++)
        CHECK_EQ(waitid(P_PID, (id_t)f.s.ranks[i].state.pid, &info, WEXITED | WNOWAIT), 0);
    for (int i = 0; i < RANKS_MAX; i++) {
        CHECK_EQ(waitid(P_PID, (id_t)f.s.ranks[i].state.pid, &info, WEXITED), 0);
        shim_life_ended(&f.s, i, info.si_code, info.si_status);
        CHECK_EQ(f.s.ranks[i].state.status, 127, "rank %d", i);
        CHECK_EQ(f.s.ranks[i].state.cause, SHIM_CAUSE_START, "rank %d", i);
        CHECK(strstr(f.s.ranks[i].state.message, f.s.workdir), "rank %d", i);
        shim_life_drain(&f.s, i);
    }
    CHECK_EQ(f.s.n_alive, 0);
    setrlimit(RLIMIT_NOFILE, &limit);
    teardown(&f);
}

/* The agent was held up for longer than its lease: the ranks may run elsewhere by now. */
TEST(nothing_starts_after_the_end_of_the_lease)
{
    struct fixture f;

    setup(&f, 2);
    f.s.lease_until_us = 1;
    shim_start_ranks(&f.s);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(f.s.ranks[i].state.pid, 0);
        CHECK_EQ(f.s.ranks[i].state.cause, SHIM_CAUSE_LEASE);
        CHECK(f.s.ranks[i].state.message[0]);
        shim_life_ended(&f.s, i, CLD_EXITED, 127); // as main does with whom it finds so
        CHECK_EQ(f.s.ranks[i].state.cause, SHIM_CAUSE_LEASE);
    }
    CHECK_EQ(f.s.n_alive, 0);
    teardown(&f);
}

/* Killed for memory between two looks: as many as the kernel counted, the others for themselves. */
TEST(every_rank_killed_for_memory_counts)
{
    static const char counts[] = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
    struct fixture f;

    setup(&f, 3);
    _cleanup_free_ char *path = hai_asprintf("%s/memory.oom_control", f.dir);
    CHECK_EQ(fileio_replace(path, counts, strlen(counts), 0600, NULL), 0);
    f.s.memory_cgroup = f.dir;
    f.spec.memory_bytes = 1 << 20;
    f.s.oom_kills = 1;
    f.s.ranks = hai_new_array(struct shim_rank, f.spec.n_ranks);
    f.s.n_alive = (int)f.spec.n_ranks;
    for (int i = 0; i < 3; i++)
        f.s.ranks[i].output_fd = f.s.ranks[i].log_fd = -1;
    for (int i = 0; i < 3; i++) {
        shim_life_ended(&f.s, i, CLD_KILLED, SIGKILL);
        CHECK_EQ(f.s.ranks[i].state.cause, i < 2 ? SHIM_CAUSE_MEMORY : SHIM_CAUSE_SELF, "rank %d",
                 i);
    }
    teardown(&f);
}

static int64_t size_of(const char *dir, const char *name) {
    _cleanup_free_ char *path = hai_asprintf("%s/%s", dir, name);
    struct stat st;

    return stat(path, &st) == 0 ? st.st_size : -1;
}

/* The file that cannot be put aside stays as large as it may be, and its bytes where they were. */
TEST(a_file_that_cannot_be_rotated_stays_below_its_cap)
{
    enum { CAP = 4096, WRITE = 1000 };
    char text[WRITE];
    struct fixture f;

    setup(&f, 1);
    f.spec.log_bytes = CAP;
    f.s.ranks = hai_new_array(struct shim_rank, 1);
    struct shim_rank *rank = &f.s.ranks[0];
    shim_output_open(&f.s, rank);
    _cleanup_free_ char *blocker = hai_asprintf("%s/0.log.%d", f.dir, CAP);
    CHECK_EQ(mkdir(blocker, 0700), 0);
    memset(text, 'x', sizeof text);
    for (int i = 0; i < 20; i++)
        shim_output_write(&f.s, rank, text, sizeof text);
    CHECK_EQ(size_of(f.dir, "0.log"), CAP);
    CHECK_EQ(rank->log_base, 0);
    CHECK(rank->lost_bytes > 0);
    rmdir(blocker); // it can again
    shim_output_write(&f.s, rank, text, sizeof text);
    CHECK_EQ(size_of(f.dir, "0.log.4096"), CAP);
    CHECK(size_of(f.dir, "0.log") > 0 && size_of(f.dir, "0.log") <= WRITE + 100);
    shim_output_end(&f.s, rank);
    teardown(&f);
}
