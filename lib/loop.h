/* loop.h - the event loop of a daemon, over sd-event.
 *
 * A daemon is one thread that runs callbacks in turns: one turn handles what is ready, then calls
 * the end-of-turn hook once (the scheduler commits the turn's batch there). A turn takes in what
 * becomes ready meanwhile for at most LOOP_TURN_US, so that a batch grows under load but nobody
 * waits long. A turn longer than LOOP_SLOW_US is counted and logged: something blocked.
 *
 * Sources are freed by their owners, also from within their own callback, and before the loop.
 * Signals that a loop watches are blocked in the process: children must reset their mask.
 */
#pragma once
#include "lib/base.h"
#include <sys/epoll.h>
#include <sys/types.h>

enum {
    LOOP_TURN_US = 1000,
    LOOP_SLOW_US = 50000,
};

struct loop;
struct loop_source;

enum loop_clock {
    LOOP_MONOTONIC, // time-outs of this machine
    LOOP_BOOTTIME,  // leases and deadlines: goes on while the machine sleeps
};

struct loop_stats {
    int64_t n_turns;
    int64_t n_slow; // longer than LOOP_SLOW_US
    int64_t busy_us;
    int64_t longest_us;
};

int loop_new(struct loop **ret, struct hai_err *err);
void loop_free(struct loop *loop);
DEFINE_CLEANUP(struct loop *, loop_free)

/* Run until loop_quit; returns its code (>= 0) or -errno. */
int loop_run(struct loop *loop);

/* One turn: waits at most wait_us for something to be ready (-1: for ever). Returns 1 after work, 0
 * when nothing was ready or the loop has been told to quit, -errno. For tests and synchronous
 * clients. */
int loop_turn(struct loop *loop, int64_t wait_us);

/* End after the present turn; the first code counts. */
void loop_quit(struct loop *loop, int code);

/* Call fn at the end of every turn in which something happened. One hook per loop. */
void loop_set_turn_end(struct loop *loop, void (*fn)(void *data), void *data);

/* Call fn once, in this turn or the next, not from within the caller. */
void loop_post(struct loop *loop, void (*fn)(void *data), void *data);

/* The same with a source of its own, fired once for each time it is armed: costs no allocation, and
 * ends with the source. */
struct loop_source *loop_defer_new(struct loop *loop, void (*fn)(void *data), void *data);
void loop_defer_arm(struct loop_source *defer);

struct loop_stats loop_stats(const struct loop *loop);

/* Call fn while fd is ready for events (EPOLLIN | EPOLLOUT ..., level-triggered). The descriptor
 * stays the caller's and must outlive the source. */
typedef void (*loop_io_fn)(int fd, uint32_t events, void *data);
struct loop_source *loop_io_new(struct loop *loop, int fd, uint32_t events, loop_io_fn fn,
                                void *data);
void loop_io_set(struct loop_source *source, uint32_t events); // 0: pause

/* A timer, disarmed until one of the three is called; fires once. */
typedef void (*loop_timer_fn)(void *data);
struct loop_source *loop_timer_new(struct loop *loop, enum loop_clock clock, loop_timer_fn fn,
                                   void *data);
void loop_timer_at(struct loop_source *timer, int64_t us); // of that clock
void loop_timer_after(struct loop_source *timer, int64_t us);
void loop_timer_stop(struct loop_source *timer);

/* Call fn once when a process ends, and reap it. code: CLD_EXITED (status is the exit code),
 * CLD_KILLED or CLD_DUMPED (status is the signal), or 0 for a process that is not our child, whose
 * status nobody here can know. Returns NULL and sets err if there is no such process. */
typedef void (*loop_child_fn)(pid_t pid, int code, int status, void *data);
struct loop_source *loop_child_new(struct loop *loop, pid_t pid, loop_child_fn fn, void *data,
                                   struct hai_err *err);

/* Call fn for every delivery of a signal, which is blocked from now on. */
typedef void (*loop_signal_fn)(int signal, void *data);
struct loop_source *loop_signal_new(struct loop *loop, int signal, loop_signal_fn fn, void *data);

void loop_source_free(struct loop_source *source);
DEFINE_CLEANUP(struct loop_source *, loop_source_free)

/* Tell the service manager, e.g. "READY=1\nSTATUS=leader"; nothing happens without one. */
void loop_notify(const char *state);

/* Send keep-alive messages if the service manager wants them (WatchdogSec=). */
void loop_watchdog(struct loop *loop);
