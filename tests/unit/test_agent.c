/* The parts of hai-agentd that need no cluster: start messages, marks, output files, rounds. */
#include "agent/cgroups.h"
#include "agent/holder.h"
#include "agent/launch.h"
#include "agent/logfile.h"
#include "agent/logkeep.h"
#include "agent/marks.h"
#include "agent/procs.h"
#include "agent/rankline.h"
#include "agent/rounds.h"
#include "lib/fileio.h"
#include "lib/json_schema.h"
#include "lib/timefmt.h"
#include "tests/unit/test.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct launch_node node = {
    .node = "a1",
    .log_dir = "/log",
    .ckpt_dir = "/ckpt",
    .scratch_dir = "/scratch",
    .hai_train = "/bin/hai-train",
    .path = "/usr/bin:/bin",
    .box = SHIM_BOX_CGROUP2,
    .cgroup = "/cg",
    .rank_log_bytes = 8192,
};
static const struct launch_account account = {1000,        100,  "alice", "/home/alice",
                                              "/bin/bash", NULL, 0};

static void decode(const struct schema *schema, const char *text, void *ret) {
    struct hai_err err = {0};

    CHECK_EQ(json_schema_parse(schema, text, strlen(text), 0, ret, &err), 0, "%s", err.text);
}

static const char *find(const struct launch_texts *env, const char *name) {
    const char *found = NULL;

    for (size_t i = 0; i < env->n; i++)
        if (!strncmp(env->items[i], name, strlen(name)) && env->items[i][strlen(name)] == '=') {
            CHECK(!found, "%s is there twice", name);
            found = env->items[i] + strlen(name) + 1;
        }
    return found;
}

static const char desired_text[] =
    "{\"job\": 7, \"attempt\": 2, \"epoch\": 3, \"name\": \"x\", \"world_size\": 4,"
    " \"node_rank\": 1, \"n_nodes\": 2, \"gpus_per_node\": 2, \"master_addr\": \"h\","
    " \"master_port\": 20001, \"resume\": 1,"
    " \"ranks\": [{\"rank\": 2, \"local_rank\": 0, \"gpus\": [0]},"
    "             {\"rank\": 3, \"local_rank\": 1, \"gpus\": [1, 3]}],"
    " \"nodes\": [{\"name\": \"b1\", \"zone\": \"b\"}, {\"name\": \"a1\", \"zone\": \"a\"}]}";

TEST(environment)
{
    static const struct {
        const char *name, *value;
    } wanted[] = {
        {"RANK",                 "3"             },
        {"LOCAL_RANK",           "1"             },
        {"WORLD_SIZE",           "4"             },
        {"LOCAL_WORLD_SIZE",     "2"             },
        {"NODE_RANK",            "1"             },
        {"MASTER_ADDR",          "h"             },
        {"MASTER_PORT",          "20001"         },
        {"CUDA_VISIBLE_DEVICES", "1,3"           },
        {"HAI_ZONE",             "a"             },
        {"HAI_CKPT_DIR",         "/ckpt/7"       },
        {"HAI_SCRATCH_DIR",      "/scratch/7.2.3"},
        {"HAI_RESUME",           "1"             },
        {"HAI_SOCKET",           "/sock"         },
        {"PATH",                 "/mine"         },
        {"A",                    "=b c"          },
        {"HOME",                 "/home/alice"   },
        {"HAI_TOKEN",            NULL            },
    };
    struct desired_attempt desired;
    struct job_spec spec;
    struct launch_texts env;

    decode(desired_attempt_schema(), desired_text, &desired);
    decode(
        job_spec_schema(),
        "{\"version\": 3, \"command\": [\"true\"], \"env\": {\"PATH\": \"/mine\", \"A\": \"=b c\","
        " \"RANK\": \"9\", \"WORLD_SIZE\": \"9\", \"HAI_TOKEN\": \"t\"}}",
        &spec);
    launch_env(&node, &account, &desired, &spec, "/sock", 1, &env);
    for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
        CHECK_STR(find(&env, wanted[i].name), wanted[i].value, "%s", wanted[i].name);
    launch_texts_free(&env);
    schema_free(desired_attempt_schema(), &desired);
    schema_free(job_spec_schema(), &spec);
}

TEST(arguments)
{
    static const struct {
        const char *spec;
        const char *words; // joined with |
    } cases[] = {
        {"\"command\": [\"a\", \"b\"]",                                                        "a|b"                                      },
        {"\"command\": [\"/bin/sh\", \"-c\", \"x y\"], \"setup\": \". v\"",                    "/bin/sh|-c|. v\nx y"                      },
        {"\"command\": [\"a\", \"b c\"], \"setup\": \". v\"",
         "/bin/sh|-c|. v\nexec \"$@\"|sh|a|b c"                                                                                           },
        {"\"kind\": \"train\", \"train\": {\"config\": \"c.yaml\", \"data\": [\"p\", \"q\"]}",
         "/bin/hai-train|c.yaml|--data|p|--data|q"                                                                                        },
        {"\"kind\": \"train\", \"train\": {\"config\": \"c.yaml\"}, \"checkpoint\": {\"every\": "
         "\"20\", \"keep\": 2}",                                                      "/bin/hai-train|c.yaml|--every|20|--keep|2"},
        {"\"kind\": \"train\", \"train\": {\"config\": \"c.yaml\"}, \"checkpoint\": {\"every\": "
         "\"auto\"}",                                                                 "/bin/hai-train|c.yaml"                    },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_free_ char *text = hai_asprintf("{\"version\": 3, %s}", cases[i].spec);
        _cleanup_(buf_free) struct buf joined = {0};
        struct launch_texts args;
        struct job_spec spec;
        decode(job_spec_schema(), text, &spec);
        CHECK_EQ(launch_args(&node, &spec, &args, NULL), 0);
        for (size_t k = 0; k < args.n; k++)
            buf_printf(&joined, "%s%s", k ? "|" : "", args.items[k]);
        CHECK_STR(buf_cstr(&joined), cases[i].words);
        launch_texts_free(&args);
        schema_free(job_spec_schema(), &spec);
    }
    struct job_spec nothing;
    struct launch_texts args;
    schema_init(job_spec_schema(), &nothing);
    CHECK_EQ(launch_args(&node, &nothing, &args, NULL), -EINVAL);
}

struct seen {
    struct reconcile_key keys[8];
    int n;
};

static void see(const struct reconcile_key *key, void *data) {
    struct seen *seen = data;

    seen->keys[seen->n++] = *key;
}

TEST(marks_survive)
{
    char dir[] = "/tmp/test_agent.XXXXXX";
    struct reconcile_key one = {1, 2, 3}, two = {4, 5, 6};
    struct marks *marks;

    CHECK(mkdtemp(dir));
    _cleanup_free_ char *path = hai_asprintf("%s/marks", dir);
    for (int round = 0; round < 3; round++) {
        struct seen seen = {0};
        CHECK_EQ(marks_open(path, see, &seen, &marks, NULL), 0);
        CHECK_EQ(seen.n, round);
        if (round == 0) {
            marks_add(marks, &one);
        } else if (round == 1) {
            CHECK(!memcmp(&seen.keys[0], &one, sizeof one));
            marks_remove(marks, &one);
            marks_add(marks, &two);
            marks_add(marks, &one);
        }
        CHECK_EQ(marks_sync(marks, NULL), 0);
        marks_free(marks);
    }
    // A torn last line is none; the whole ones count.
    CHECK_EQ(fileio_replace(path, "+1 2 3\n+4 5 6\n-1 2 3\n+7 8", 26, 0600, NULL), 0);
    struct seen seen = {0};
    CHECK_EQ(marks_open(path, see, &seen, &marks, NULL), 0);
    CHECK_EQ(seen.n, 1);
    CHECK_EQ(seen.keys[0].job, 4);
    marks_free(marks);
    fileio_remove_tree(dir, NULL);
}

/* A disk that fills up in the middle of a mark. */
TEST(a_mark_half_written_spoils_no_other)
{
    char dir[] = "/tmp/test_agent.XXXXXX";
    struct reconcile_key one = {1, 2, 3}, two = {7, 8, 9}, three = {4, 5, 6};
    struct rlimit limit, full;
    struct seen seen = {0};
    struct marks *marks;

    CHECK(mkdtemp(dir));
    _cleanup_free_ char *path = hai_asprintf("%s/marks", dir);
    CHECK_EQ(marks_open(path, see, &seen, &marks, NULL), 0);
    marks_add(marks, &one);
    CHECK_EQ(marks_sync(marks, NULL), 0);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &limit);
    full = limit;
    full.rlim_cur = strlen("+1 2 3\n+7 8");
    setrlimit(RLIMIT_FSIZE, &full);
    marks_add(marks, &two);
    CHECK(marks_sync(marks, NULL) < 0);
    setrlimit(RLIMIT_FSIZE, &limit);
    marks_remove(marks, &two); // what could not be marked was not started
    marks_add(marks, &three);
    CHECK_EQ(marks_sync(marks, NULL), 0);
    marks_free(marks);
    CHECK_EQ(marks_open(path, see, &seen, &marks, NULL), 0);
    CHECK_EQ(seen.n, 2);
    CHECK(!memcmp(&seen.keys[0], &one, sizeof one) && !memcmp(&seen.keys[1], &three, sizeof three));
    marks_free(marks);
    fileio_remove_tree(dir, NULL);
}

/* What cannot be looked at is not empty: its GPUs would be given out while something uses them. */
TEST(an_unreadable_cgroup_is_not_empty)
{
    char dir[] = "/tmp/test_agent.XXXXXX";
    struct rlimit limit, none;

    CHECK(mkdtemp(dir));
    _cleanup_free_ char *procs = hai_asprintf("%s/cgroup.procs", dir);
    CHECK_EQ(cgroups_count(dir), 0);
    fileio_replace(procs, "", 0, 0600, NULL);
    CHECK_EQ(cgroups_count(dir), 0);
    getrlimit(RLIMIT_NOFILE, &limit);
    none = limit;
    none.rlim_cur = 0;
    setrlimit(RLIMIT_NOFILE, &none);
    int n = cgroups_count(dir), r = procs_end("NO=BODY", 0);
    setrlimit(RLIMIT_NOFILE, &limit);
    CHECK(n > 0, "%d", n);
    CHECK_EQ(r, -EMFILE);
    fileio_remove_tree(dir, NULL);
}

TEST(processes_are_found_by_their_environment)
{
    char entry[64];
    pid_t pids[2];
    int status;

    snprintf(entry, sizeof entry, "HAI_SOCKET=/test_agent/%d/rank.sock", getpid());
    for (int i = 0; i < 2; i++) {
        _cleanup_free_ char *other = hai_asprintf("%s.not", entry);
        char *env[] = {(char *)"A=b", i ? other : entry, NULL};
        pids[i] = vfork();
        if (!pids[i]) {
            execle("/bin/sleep", "sleep", "100", NULL, env);
            _exit(127);
        }
    }
    CHECK_EQ(procs_end(entry, 5000000), 0);
    // Without memory it has no environment any more, and is a child that ended a little later.
    CHECK_EQ(waitpid(pids[0], &status, 0), pids[0]);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    CHECK_EQ(waitpid(pids[1], &status, WNOHANG), 0);
    kill(pids[1], SIGKILL);
    waitpid(pids[1], &status, 0);
}

TEST(ranges_over_rotated_output)
{
    static const struct {
        int64_t offset;
        size_t n_bytes_max;
        const char *bytes;
        int64_t first;
    } cases[] = {
        {0,  100, "56789abcdef", 5 }, // the first five bytes are gone
        {5,  3,   "567",         5 },
        {8,  4,   "89ab",        8 }, // across the files
        {10, 100, "abcdef",      10},
        {16, 100, "",            16},
        {99, 100, "",            99},
    };
    char dir[] = "/tmp/test_agent.XXXXXX";
    int64_t offset, end;

    CHECK(mkdtemp(dir));
    _cleanup_free_ char *folder = hai_asprintf("%s/3/1", dir);
    _cleanup_free_ char *now = hai_asprintf("%s/0.log", folder);
    _cleanup_free_ char *old = hai_asprintf("%s/0.log.10", folder);
    _cleanup_free_ char *other = hai_asprintf("%s/10.log.99", folder);
    fileio_mkdir_p(folder, 0755, NULL);
    fileio_replace(now, "abcdef", 6, 0644, NULL);
    fileio_replace(old, "56789", 5, 0644, NULL);
    fileio_replace(other, "x", 1, 0644, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_(buf_free) struct buf b = {0};
        int64_t n =
            logfile_read(dir, 3, 1, 0, cases[i].offset, cases[i].n_bytes_max, &b, &offset, &end);
        CHECK_EQ(n, (int64_t)strlen(cases[i].bytes), "case %zu", i);
        CHECK_STR(buf_cstr(&b), cases[i].bytes, "case %zu", i);
        CHECK_EQ(offset, cases[i].first, "case %zu", i);
        CHECK_EQ(end, 16, "case %zu", i);
    }
    _cleanup_(buf_free) struct buf tail = {0};
    CHECK_EQ(logfile_tail(dir, 3, 1, 0, 8, &tail), 16);
    CHECK_STR(buf_cstr(&tail), "89abcdef");
    CHECK_EQ(logfile_read(dir, 3, 1, 7, 0, 10, &tail, &offset, &end), -ENOENT);
    CHECK_EQ(logfile_newest_attempt(dir, 3), 1);
    CHECK_EQ(logfile_newest_attempt(dir, 4), 0);
    fileio_remove_tree(dir, NULL);
}

enum { DAY_S = 24 * 3600, OUTPUT_BYTES = 64 * 1024, SLACK = OUTPUT_BYTES / 2 };

static void set_age(const char *path, int64_t now_us, int64_t age_s) {
    struct timespec times[2] = {
        {.tv_sec = now_us / 1000000 - age_s},
        {.tv_sec = now_us / 1000000 - age_s},
    };

    CHECK_EQ(utimensat(AT_FDCWD, path, times, 0), 0, "%s", path);
}

/* The output of attempt 1 of a job, last written to so many seconds ago. Returns the descriptor of
 * the lock that its shim would hold, -1 where it is not live. */
static int add_output(const char *dir, int64_t job, int64_t now_us, int64_t age_s, bool live) {
    _cleanup_free_ char *folder = hai_asprintf("%s/%d/1", dir, (int)job);
    _cleanup_free_ char *path = hai_asprintf("%s/0.log", folder);
    _cleanup_free_ char *lock = hai_asprintf("%s/" LOGKEEP_LIVE, folder);
    _cleanup_free_ char *bytes = hai_alloc(OUTPUT_BYTES);

    memset(bytes, 'x', OUTPUT_BYTES);
    CHECK_EQ(fileio_mkdir_p(folder, 0755, NULL), 0);
    CHECK_EQ(fileio_replace(path, bytes, OUTPUT_BYTES, 0640, NULL), 0);
    int fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK_EQ(flock(fd, LOCK_SH), 0);
    set_age(lock, now_us, age_s);
    set_age(path, now_us, age_s);
    set_age(folder, now_us, age_s);
    if (live)
        return fd;
    close(fd);
    return -1;
}

static bool is_known(int64_t job, int64_t attempt, void *data) {
    return job == *(int64_t *)data && attempt == 1;
}

/* Whichever limit is passed: old output goes, the oldest first, and never that of a live attempt.
 */
TEST(old_output_goes_and_too_much)
{
    enum { LOCKED = 1, KNOWN = 2, N = 7 }; // the jobs of live attempts: by its shim, by its agent
    static const struct {
        int64_t days, n_bytes_max;
        const char *left;
    } cases[] = {
        {14,   INT64_MAX,                "12..567"},
        {1000, 6 * OUTPUT_BYTES + SLACK, "12.4567"},
        {1000, 5 * OUTPUT_BYTES + SLACK, "12..567"},
        {14,   4 * OUTPUT_BYTES + SLACK, "12...67"},
        {1000, 0,                        "12....7"}, // 7 is too young to tell
        {1000, INT64_MAX,                "1234567"},
    };
    static const int64_t ages_s[N] = {30 * DAY_S, 20 * DAY_S, 16 * DAY_S, 15 * DAY_S,
                                      13 * DAY_S, 2 * DAY_S,  1};
    int64_t now_us = timefmt_now_us(), known = KNOWN;

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char dir[] = "/tmp/test_agent.XXXXXX", left[N + 1] = "";
        int locks[N], n_left = 0;
        CHECK(mkdtemp(dir));
        struct logkeep keep = {dir,
                               cases[i].days * DAY_S * INT64_C(1000000),
                               cases[i].n_bytes_max,
                               60000000,
                               is_known,
                               &known};
        for (int k = 0; k < N; k++)
            locks[k] = add_output(dir, k + 1, now_us, ages_s[k], k + 1 == LOCKED);
        int n = logkeep_sweep(&keep, now_us);
        for (int k = 0; k < N; k++) {
            _cleanup_free_ char *path = hai_asprintf("%s/%d", dir, k + 1);
            bool there = access(path, F_OK) == 0;
            left[k] = there ? (char)('1' + k) : '.';
            n_left += there;
            if (locks[k] >= 0)
                close(locks[k]);
        }
        CHECK_STR(left, cases[i].left, "case %zu", i);
        CHECK_EQ(n, N - n_left, "case %zu", i);
        fileio_remove_tree(dir, NULL);
    }
}

/* A holder connected to a socket where the test plays the shim. */
struct played {
    char dir[32];
    struct loop *loop;
    struct holder *holder;
    int listener;
    int fd; // the shim's end
};

static void play(struct played *p, const struct holder_ops *ops, void *data) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    strcpy(p->dir, "/tmp/test_agent.XXXXXX");
    CHECK(mkdtemp(p->dir));
    snprintf(address.sun_path, sizeof address.sun_path, "%s/shim.sock", p->dir);
    p->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_EQ(bind(p->listener, (struct sockaddr *)&address, sizeof address), 0);
    CHECK_EQ(listen(p->listener, 1), 0);
    CHECK_EQ(loop_new(&p->loop, NULL), 0);
    CHECK_EQ(holder_connect(p->loop, p->dir, ops, data, &p->holder, NULL), 0);
    p->fd = accept(p->listener, NULL, NULL);
}

/* The holder is the caller's to free before. */
static void play_end(struct played *p) {
    loop_free(p->loop);
    close(p->fd);
    close(p->listener);
    fileio_remove_tree(p->dir, NULL);
}

static void on_closed(struct holder *holder, void *data) {
    ++*(int *)data;
}

/* Free it where the stack was that its last callback ran on; nothing may be written there. */
static bool frees_cleanly(struct holder *holder) {
    volatile char stack[64 * 1024] = {0};
    bool clean = true;

    holder_free(holder);
    for (size_t i = 0; i < sizeof stack; i++)
        clean &= !stack[i];
    return clean;
}

TEST(a_shim_that_speaks_nonsense_is_left)
{
    static const struct holder_ops ops = {.closed = on_closed};
    static const struct shim_header frames[] = {
        {sizeof(struct shim_header) - 1, SHIM_VERSION, SHIM_GONE }, // shorter than its header
        {UINT32_MAX,                     SHIM_VERSION, SHIM_GONE },
        {sizeof(struct shim_header),     SHIM_VERSION, SHIM_STATE}, // without a state
    };

    for (size_t i = 0; i < ARRAY_SIZE(frames); i++) {
        struct played p;
        int n_closed = 0;

        play(&p, &ops, &n_closed);
        CHECK_EQ(write(p.fd, &frames[i], sizeof frames[i]), sizeof frames[i]);
        while (!n_closed && loop_turn(p.loop, 5000000) == 1)
            ;
        CHECK_EQ(n_closed, 1, "frame %zu", i);
        CHECK(frees_cleanly(p.holder), "frame %zu", i);
        play_end(&p);
    }
}

struct adopted {
    struct shim_state state;
    struct shim_rank_state ranks[2];
    int n_states, n_closed;
};

static void on_adopted(struct holder *holder, const struct shim_state *state,
                       const struct shim_rank_state *ranks, void *data) {
    struct adopted *adopted = data;

    adopted->state = *state;
    CHECK_EQ(state->n_ranks, ARRAY_SIZE(adopted->ranks));
    memcpy(adopted->ranks, ranks, sizeof adopted->ranks);
    adopted->n_states++;
}

static void on_not_adopted(struct holder *holder, void *data) {
    ((struct adopted *)data)->n_closed++;
}

/* Of a state so much of the structs of a shim of another version: its size of each. */
static void put_state(const struct shim_state *state, const struct shim_rank_state ranks[2],
                      size_t state_bytes, size_t rank_bytes, struct buf *ret) {
    static const uint8_t more[64] = {0xff, 0xff, 0xff, 0xff};
    struct shim_header header = {(uint32_t)(sizeof header + state_bytes + 2 * rank_bytes),
                                 SHIM_VERSION, SHIM_STATE};

    buf_add(ret, &header, sizeof header);
    buf_add(ret, state, MIN(state_bytes, sizeof *state));
    buf_add(ret, more, state_bytes - MIN(state_bytes, sizeof *state));
    for (int i = 0; i < 2; i++) {
        buf_add(ret, &ranks[i], MIN(rank_bytes, sizeof *ranks));
        buf_add(ret, more, rank_bytes - MIN(rank_bytes, sizeof *ranks));
    }
}

TEST(a_shim_of_another_version_is_adopted)
{
    enum {
        STATE = sizeof(struct shim_state),
        STATE_MIN = offsetof(struct shim_state, cgroup),
        RANK = sizeof(struct shim_rank_state),
        RANK_MIN = offsetof(struct shim_rank_state, message),
    };
    static const struct {
        size_t state_bytes, rank_bytes;
        bool adopted;
    } cases[] = {
        {STATE,       RANK,         true },
        {STATE - 512, RANK,         true },
        {STATE - 512, RANK - 128,   true },
        {STATE_MIN,   RANK_MIN,     true },
        {STATE + 8,   RANK + 16,    true },
        {STATE,       RANK_MIN - 8, false},
    };
    static const struct holder_ops ops = {.state = on_adopted, .closed = on_not_adopted};
    struct shim_rank_state one = {.rank = 4, .message = "one"};
    struct shim_rank_state two = {.rank = 5, .exited = 1, .status = 3, .message = "two"};
    struct shim_rank_state ranks[2] = {one, two};

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct shim_state state = {.job = 7, .attempt = 2, .epoch = 3, .cgroup = "/c"};
        _cleanup_(buf_free) struct buf frame = {0};
        struct adopted adopted = {0};
        struct played p;

        play(&p, &ops, &adopted);
        state.n_ranks = 2;
        state.rank_bytes = (uint32_t)cases[i].rank_bytes;
        put_state(&state, ranks, cases[i].state_bytes, cases[i].rank_bytes, &frame);
        CHECK_EQ(write(p.fd, frame.data, frame.n_bytes), frame.n_bytes);
        while (!adopted.n_states && !adopted.n_closed && loop_turn(p.loop, 5000000) == 1)
            ;
        CHECK_EQ(adopted.n_states, cases[i].adopted, "case %zu", i);
        CHECK_EQ(adopted.n_closed, !cases[i].adopted, "case %zu", i);
        if (cases[i].adopted) {
            bool path = cases[i].state_bytes > STATE_MIN;
            bool text = cases[i].rank_bytes > RANK_MIN;
            CHECK_EQ(adopted.state.epoch, 3);
            CHECK_STR(adopted.state.cgroup, path ? "/c" : "", "case %zu", i);
            CHECK_EQ(adopted.ranks[0].rank, 4, "case %zu", i);
            CHECK_EQ(adopted.ranks[1].status, 3, "case %zu", i);
            CHECK_STR(adopted.ranks[1].message, text ? "two" : "", "case %zu", i);
        }
        holder_free(p.holder);
        play_end(&p);
    }
}

TEST(rounds_fill)
{
    struct rounds *rounds = rounds_new(3);
    _cleanup_(buf_free) struct buf b = {0};
    static const char lines[] = "0 aa\n2 \n";

    CHECK_EQ(rounds_add(rounds, "r", 3, "aa"), -EINVAL);
    CHECK_EQ(rounds_add(rounds, "r", 0, "ag"), -EINVAL);
    CHECK_EQ(rounds_add(rounds, "r", 0, "aaa"), -EINVAL);
    CHECK_EQ(rounds_add(rounds, "r", 1, "b0"), 0);
    CHECK_EQ(rounds_add(rounds, "r", 1, "c0"), 0); // the first one stays
    CHECK_STR(rounds_value(rounds, "r", 1), "b0");
    CHECK(rounds_has(rounds, "r", 1, 1) && !rounds_has(rounds, "r", 0, 2));
    CHECK_EQ(rounds_add_lines(rounds, "r", lines, sizeof lines - 1), 0);
    CHECK(rounds_has_all(rounds, "r") && !rounds_has_all(rounds, "s"));
    rounds_lines(rounds, "r", 0, 3, &b);
    CHECK_STR(buf_cstr(&b), "0 aa\n1 b0\n2 \n");
    CHECK_EQ(rounds_add_lines(rounds, "r", "0aa\n", 4), -EINVAL);
    CHECK_EQ(rounds_add_lines(rounds, "r", "0 aa", 4), -EINVAL);
    rounds_free(rounds);
}

/* The kind that a line is understood as, -EINVAL otherwise, and one value of it as text. */
TEST(lines_of_ranks)
{
    static const struct {
        const char *line;
        int kind;
        const char *value;
    } cases[] = {
        {"hello 1 7",                             RANKLINE_HELLO,    "7"                 },
        {"hello 2 7",                             -EINVAL,           ""                  },
        {"hello",                                 -EINVAL,           ""                  },
        {"progress step=5 loss=x unit=tokens",    RANKLINE_PROGRESS, "5,tokens,"         },
        {"progress",                              RANKLINE_PROGRESS, "-,,"               },
        {"progress step=-5",                      RANKLINE_PROGRESS, "0,,"               },
        {"progress unit=abcdefghijklmno\xc3\xa9", RANKLINE_PROGRESS, "-,abcdefghijklmno,"},
        {"progress phase=infer unit=nanos",       RANKLINE_PROGRESS, "-,nanos,infer"     },
        {"progress step=inf",                     RANKLINE_PROGRESS, "-,,"               },
        {"phase infer 60",                        RANKLINE_PROGRESS, "-,,infer"          },
        {"phase ",                                -EINVAL,           ""                  },
        {"commit 5 abc /a b",                     RANKLINE_COMMIT,   "/a b"              },
        {"commit 5 abc",                          -EINVAL,           ""                  },
        {"gather one aa",                         RANKLINE_GATHER,   "one:aa"            },
        {"gather one",                            RANKLINE_GATHER,   "one:"              },
        {"gather",                                -EINVAL,           ""                  },
        {"\xff",                                  -EINVAL,           ""                  },
        {"",                                      -EINVAL,           ""                  },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_free_ char *line = hai_strdup(cases[i].line);
        _cleanup_(buf_free) struct buf value = {0};
        struct hai_err err = {0};
        struct rankline said;
        int r = rankline_parse(line, &said, &err);
        CHECK_EQ(r < 0 ? r : (int)said.kind, cases[i].kind, "%s", cases[i].line);
        if (r < 0)
            continue;
        const struct progress_view *p = &said.progress;
        if (said.kind == RANKLINE_HELLO)
            buf_printf(&value, "%d", (int)said.rank);
        else if (said.kind == RANKLINE_COMMIT)
            buf_add_str(&value, said.dir);
        else if (said.kind == RANKLINE_GATHER)
            buf_printf(&value, "%s:%s", said.round, said.hex);
        else if (p->step == S_ABSENT)
            buf_printf(&value, "-,%s,%s", p->rate_unit ? p->rate_unit : "",
                       p->phase ? p->phase : "");
        else
            buf_printf(&value, "%d,%s,%s", (int)p->step, p->rate_unit ? p->rate_unit : "",
                       p->phase ? p->phase : "");
        CHECK_STR(buf_cstr(&value), cases[i].value, "%s", cases[i].line);
        rankline_clear(&said);
    }
}
