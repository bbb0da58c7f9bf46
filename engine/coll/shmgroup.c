#include "engine/coll/shmgroup.h"
#include "lib/fileio.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

enum {
    PAGE_BYTES = 4096,
    LOOK_NS = 10000000, // how often a waiting rank looks whether the others live
    SPINS = 4000,       // before sleeping, where every rank has a processor to itself
};

/* Start of the shared memory. */
struct head {
    _Atomic uint32_t n_passed;                   // barriers completed; the word that ranks sleep on
    _Atomic uint32_t n_come;                     // arrivals at barriers, all ranks
    _Atomic uint32_t gone;                       // 1 + rank that was found dead, 0: none
    _Atomic uint32_t locked[SHMGROUP_RANKS_MAX]; // has member i taken its lock?
};

struct shmgroup {
    int fd;
    int n, me;
    int ranks[SHMGROUP_RANKS_MAX];
    struct head *head;
    size_t n_bytes;
    uint32_t n_barriers; // that this rank has come to
    int n_spins;
};

static struct flock lock_of(int member) {
    return (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = member, .l_len = 1};
}

static int pass_fd(int socket, int fd, struct hai_err *err) {
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {{0}};
    struct iovec iov = {&(char){'m'}, 1};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof control.bytes};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    if (sendmsg(socket, &m, MSG_NOSIGNAL) != 1)
        return hai_fail(err, -ECONNRESET, "passing shared memory: %m");
    return 0;
}

static int take_fd(int socket, int64_t deadline_us, struct hai_err *err) {
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {{0}};
    char byte;
    struct iovec iov = {&byte, 1};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof control.bytes};
    int fd;

    for (;;) {
        ssize_t n = recvmsg(socket, &m, MSG_CMSG_CLOEXEC);
        if (n == 1)
            break;
        if (n == 0 || (errno != EAGAIN && errno != EINTR) || peerlink_now_us() > deadline_us)
            return hai_fail(err, -ECONNRESET, "the node's first rank passed no shared memory");
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (!c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int)))
        return hai_fail(err, -EBADMSG, "the node's first rank passed no shared memory");
    memcpy(&fd, CMSG_DATA(c), sizeof fd);
    return fd;
}

/* Leader: make the memory and hand it to everyone. */
static int memory_make(struct shmgroup *g, struct peerlink_listener *listener,
                       const struct peerlink_secret *secret, int64_t deadline_us,
                       struct hai_err *err) {
    bool served[SHMGROUP_RANKS_MAX] = {true};

    g->fd = memfd_create("hai-coll", MFD_CLOEXEC);
    if (g->fd < 0 || ftruncate(g->fd, (off_t)g->n_bytes) < 0)
        return hai_fail(err, -errno, "%zu bytes of shared memory: %m", g->n_bytes);
    for (int left = g->n - 1; left;) {
        int from, member = 1;
        _cleanup_(closep) int fd =
            peerlink_accept(listener, g->ranks[0], secret, deadline_us, &from, err);
        if (fd < 0)
            return fd;
        while (member < g->n && g->ranks[member] != from)
            member++;
        if (member == g->n || served[member])
            continue;
        int r = pass_fd(fd, g->fd, err);
        if (r < 0)
            return r;
        served[member] = true;
        left--;
    }
    return 0;
}

static int memory_get(struct shmgroup *g, const struct shmgroup_member *leader,
                      const struct peerlink_secret *secret, int64_t deadline_us,
                      struct hai_err *err) {
    _cleanup_(closep) int fd = peerlink_connect(leader->address, g->ranks[g->me], leader->rank,
                                                leader->nonce, secret, deadline_us, err);
    if (fd < 0)
        return fd;
    g->fd = take_fd(fd, deadline_us, err);
    return MIN(g->fd, 0);
}

/* Only a rank that holds its lock can be found dead, so nobody goes on before all do. */
static int wait_for_locks(const struct shmgroup *g, int64_t deadline_us, struct hai_err *err) {
    for (int i = 0; i < g->n; i++)
        while (!atomic_load(&g->head->locked[i])) {
            if (peerlink_now_us() > deadline_us)
                return hai_fail(err, -ETIMEDOUT, "rank %d did not join its node's shared memory",
                                g->ranks[i]);
            nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
        }
    return 0;
}

int shmgroup_open(const struct shmgroup_member *members, int n, int me,
                  struct peerlink_listener *listener, const struct peerlink_secret *secret,
                  size_t payload_bytes, int64_t deadline_us, struct shmgroup **ret,
                  struct hai_err *err) {
    _cleanup_(shmgroup_closep) struct shmgroup *g = hai_new(struct shmgroup);

    assert(n <= SHMGROUP_RANKS_MAX);
    assert(sizeof(struct head) <= PAGE_BYTES);
    *g = (struct shmgroup){.fd = -1, .n = n, .me = me, .n_bytes = PAGE_BYTES + payload_bytes};
    g->n_spins = sysconf(_SC_NPROCESSORS_ONLN) >= n ? SPINS : 0;
    for (int i = 0; i < n; i++)
        g->ranks[i] = members[i].rank;
    int r = me == 0 ? memory_make(g, listener, secret, deadline_us, err)
                    : memory_get(g, &members[0], secret, deadline_us, err);
    if (r < 0)
        return r;
    void *p = mmap(NULL, g->n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, g->fd, 0);
    if (p == MAP_FAILED)
        return hai_fail(err, -errno, "mapping %zu bytes of shared memory: %m", g->n_bytes);
    g->head = p;
    struct flock lock = lock_of(me);
    if (fcntl(g->fd, F_SETLK, &lock) < 0)
        return hai_fail(err, -errno, "lock of rank %d: %m", g->ranks[me]);
    atomic_store(&g->head->locked[me], 1);
    r = wait_for_locks(g, deadline_us, err);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(g);
    return 0;
}

void shmgroup_close(struct shmgroup *g) {
    if (!g)
        return;
    if (g->head)
        munmap(g->head, g->n_bytes);
    closep(&g->fd);
    free(g);
}

void *shmgroup_payload(const struct shmgroup *g) {
    return (uint8_t *)g->head + PAGE_BYTES;
}

static void wake_all(struct shmgroup *g) {
    syscall(SYS_futex, &g->head->n_passed, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

void shmgroup_give_up(struct shmgroup *g, int rank) {
    uint32_t none = 0;

    atomic_compare_exchange_strong(&g->head->gone, &none, (uint32_t)rank + 1);
    wake_all(g);
}

/* Find a member that no longer holds its lock. Whoever ends well passes the barrier first, so a
 * lock that is missing while the barrier is still closed was a death. */
static void look_for_dead(struct shmgroup *g) {
    for (int i = 0; i < g->n; i++) {
        struct flock lock = lock_of(i);
        if (i != g->me && fcntl(g->fd, F_GETLK, &lock) == 0 && lock.l_type == F_UNLCK &&
            atomic_load(&g->head->n_passed) != g->n_barriers)
            shmgroup_give_up(g, g->ranks[i]);
    }
}

int shmgroup_barrier(struct shmgroup *g, struct hai_err *err) {
    struct head *h = g->head;
    uint32_t wanted = ++g->n_barriers, passed, gone;
    const struct timespec look = {.tv_nsec = LOOK_NS};

    if (atomic_fetch_add(&h->n_come, 1) + 1 == wanted * (uint32_t)g->n) {
        atomic_store(&h->n_passed, wanted);
        wake_all(g);
        return 0;
    }
    for (int i = 0; i < g->n_spins && atomic_load(&h->n_passed) != wanted; i++)
        __builtin_ia32_pause();
    while ((passed = atomic_load(&h->n_passed)) != wanted) {
        gone = atomic_load(&h->gone);
        if (gone)
            return hai_fail(err, -ECONNRESET, "rank %d is gone or gave up", (int)gone - 1);
        long r = syscall(SYS_futex, &h->n_passed, FUTEX_WAIT, passed, &look, NULL, 0);
        if (r < 0 && errno == ETIMEDOUT)
            look_for_dead(g);
    }
    return 0;
}
