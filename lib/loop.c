#include "lib/loop.h"

#include "lib/log.h"
#include "lib/timefmt.h"

#include <signal.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>
#include <unistd.h>

enum { TIMER_ACCURACY_US = 1 }; // sd-event's default of 250 ms is for desktops

struct loop {
    sd_event *event;
    void (*turn_end)(void *data);
    void *turn_end_data;
    bool quit;
    int code;
    struct loop_stats stats;
};

struct loop_source {
    sd_event_source *source;
    void *data;
    clockid_t clock;
    int pidfd; // -1 where there is none
    pid_t pid;
    union {
        loop_io_fn io;
        loop_timer_fn timer;
        loop_child_fn child;
        loop_signal_fn signal;
    };
};

struct post {
    sd_event_source *source;
    void (*fn)(void *data);
    void *data;
};

int loop_new(struct loop **ret, struct hai_err *err) {
    struct loop *loop = hai_new(struct loop);

    int r = sd_event_new(&loop->event);
    if (r < 0) {
        free(loop);
        return hai_fail(err, r, "event loop: %s", strerrordesc_np(-r));
    }
    *ret = loop;
    return 0;
}

/* A loop that ends with something posted still owns the record of it. */
static void post_destroy(void *data) {
    free(data);
}

void loop_free(struct loop *loop) {
    if (!loop)
        return;
    sd_event_unref(loop->event);
    free(loop);
}

static void turn_close(struct loop *loop, int64_t start_us) {
    if (loop->turn_end)
        loop->turn_end(loop->turn_end_data);
    int64_t took_us = timefmt_monotonic_us() - start_us;
    loop->stats.n_turns++;
    loop->stats.busy_us += took_us;
    loop->stats.longest_us = MAX(loop->stats.longest_us, took_us);
    if (took_us <= LOOP_SLOW_US)
        return;
    loop->stats.n_slow++;
    log_warning("the event loop stood for %lld ms", (long long)took_us / 1000);
}

int loop_turn(struct loop *loop, int64_t wait_us) {
    if (loop->quit)
        return 0;
    int r = sd_event_prepare(loop->event);
    if (r == 0)
        r = sd_event_wait(loop->event, wait_us < 0 ? UINT64_MAX : (uint64_t)wait_us);
    if (r <= 0)
        return r;
    int64_t start_us = timefmt_monotonic_us();
    r = sd_event_dispatch(loop->event);
    // Ends when nothing is ready any more. The hook must not run between prepare and wait, where a
    // timer that it sets would be overlooked; sd_event_run(0) leaves the loop outside of that.
    while (r > 0 && !loop->quit && timefmt_monotonic_us() - start_us < LOOP_TURN_US)
        r = sd_event_run(loop->event, 0);
    turn_close(loop, start_us);
    return r < 0 ? r : 1;
}

int loop_run(struct loop *loop) {
    while (!loop->quit) {
        int r = loop_turn(loop, -1);
        if (r < 0)
            return r;
    }
    return loop->code;
}

void loop_quit(struct loop *loop, int code) {
    if (loop->quit)
        return;
    loop->quit = true;
    loop->code = code;
}

void loop_set_turn_end(struct loop *loop, void (*fn)(void *data), void *data) {
    loop->turn_end = fn;
    loop->turn_end_data = data;
}

struct loop_stats loop_stats(const struct loop *loop) {
    return loop->stats;
}

/* Adding a source fails only when memory or descriptors of the loop itself run out, or by our own
 * mistake; no caller could do anything about it. */
static void must(int r) {
    if (r >= 0)
        return;
    log_error("event loop: %s", strerrordesc_np(-r));
    abort();
}

static int on_post(sd_event_source *source, void *data) {
    struct post *post = data;
    void (*fn)(void *) = post->fn;
    void *fn_data = post->data;

    sd_event_source_disable_unref(source); // frees post
    fn(fn_data);
    return 0;
}

void loop_post(struct loop *loop, void (*fn)(void *data), void *data) {
    struct post *post = hai_new(struct post);

    post->fn = fn;
    post->data = data;
    must(sd_event_add_defer(loop->event, &post->source, on_post, post));
    must(sd_event_source_set_destroy_callback(post->source, post_destroy));
    must(sd_event_source_set_floating(post->source, true));
    sd_event_source_unref(post->source); // the loop holds it now
}

static struct loop_source *source_new(void *data) {
    struct loop_source *source = hai_new(struct loop_source);

    source->data = data;
    source->pidfd = -1;
    return source;
}

void loop_source_free(struct loop_source *source) {
    if (!source)
        return;
    sd_event_source_disable_unref(source->source);
    if (source->pidfd >= 0)
        close(source->pidfd);
    free(source);
}

static int on_defer(sd_event_source *s, void *data) {
    struct loop_source *source = data;

    source->timer(source->data);
    return 0;
}

struct loop_source *loop_defer_new(struct loop *loop, void (*fn)(void *data), void *data) {
    struct loop_source *source = source_new(data);

    source->timer = fn;
    must(sd_event_add_defer(loop->event, &source->source, on_defer, source));
    must(sd_event_source_set_enabled(source->source, SD_EVENT_OFF));
    return source;
}

void loop_defer_arm(struct loop_source *defer) {
    must(sd_event_source_set_enabled(defer->source, SD_EVENT_ONESHOT));
}

static int on_io(sd_event_source *s, int fd, uint32_t events, void *data) {
    struct loop_source *source = data;

    source->io(fd, events, source->data);
    return 0;
}

struct loop_source *loop_io_new(struct loop *loop, int fd, uint32_t events, loop_io_fn fn,
                                void *data) {
    struct loop_source *source = source_new(data);

    source->io = fn;
    must(sd_event_add_io(loop->event, &source->source, fd, events, on_io, source));
    return source;
}

void loop_io_set(struct loop_source *source, uint32_t events) {
    must(sd_event_source_set_io_events(source->source, events));
    must(sd_event_source_set_enabled(source->source, events ? SD_EVENT_ON : SD_EVENT_OFF));
}

static int on_timer(sd_event_source *s, uint64_t us, void *data) {
    struct loop_source *source = data;

    source->timer(source->data);
    return 0;
}

struct loop_source *loop_timer_new(struct loop *loop, enum loop_clock clock, loop_timer_fn fn,
                                   void *data) {
    struct loop_source *source = source_new(data);

    source->timer = fn;
    source->clock = clock == LOOP_BOOTTIME ? CLOCK_BOOTTIME : CLOCK_MONOTONIC;
    must(sd_event_add_time(loop->event, &source->source, source->clock, UINT64_MAX,
                           TIMER_ACCURACY_US, on_timer, source));
    must(sd_event_source_set_enabled(source->source, SD_EVENT_OFF));
    return source;
}

void loop_timer_at(struct loop_source *timer, int64_t us) {
    must(sd_event_source_set_time(timer->source, us < 0 ? 0 : (uint64_t)us));
    must(sd_event_source_set_enabled(timer->source, SD_EVENT_ONESHOT));
}

void loop_timer_after(struct loop_source *timer, int64_t us) {
    int64_t now_us =
        timer->clock == CLOCK_BOOTTIME ? timefmt_boottime_us() : timefmt_monotonic_us();
    int64_t at_us;

    if (__builtin_add_overflow(now_us, us, &at_us))
        at_us = INT64_MAX;
    loop_timer_at(timer, at_us);
}

void loop_timer_stop(struct loop_source *timer) {
    must(sd_event_source_set_enabled(timer->source, SD_EVENT_OFF));
}

static int on_child(sd_event_source *s, int fd, uint32_t events, void *data) {
    struct loop_source *source = data;
    siginfo_t info = {0};

    must(sd_event_source_set_enabled(source->source, SD_EVENT_OFF));
    if (waitid(P_PIDFD, (id_t)fd, &info, WEXITED | WNOHANG) < 0)
        info.si_code = 0; // ECHILD: not ours
    source->child(source->pid, info.si_code, info.si_status, source->data);
    return 0;
}

/* Not sd_event_add_child: that wants SIGCHLD blocked and knows no processes of others. */
struct loop_source *loop_child_new(struct loop *loop, pid_t pid, loop_child_fn fn, void *data,
                                   struct hai_err *err) {
    int pidfd = pidfd_open(pid, 0);

    if (pidfd < 0) {
        hai_fail(err, -errno, "process %d: %m", (int)pid);
        return NULL;
    }
    struct loop_source *source = source_new(data);
    source->child = fn;
    source->pid = pid;
    source->pidfd = pidfd;
    must(sd_event_add_io(loop->event, &source->source, pidfd, EPOLLIN, on_child, source));
    return source;
}

static int on_signal(sd_event_source *s, const struct signalfd_siginfo *info, void *data) {
    struct loop_source *source = data;

    source->signal((int)info->ssi_signo, source->data);
    return 0;
}

struct loop_source *loop_signal_new(struct loop *loop, int signal, loop_signal_fn fn, void *data) {
    struct loop_source *source = source_new(data);
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, signal);
    must(-pthread_sigmask(SIG_BLOCK, &set, NULL));
    source->signal = fn;
    must(sd_event_add_signal(loop->event, &source->source, signal, on_signal, source));
    return source;
}

void loop_notify(const char *state) {
    (void)sd_notify(0, state);
}

void loop_watchdog(struct loop *loop) {
    must(sd_event_set_watchdog(loop->event, true));
}
