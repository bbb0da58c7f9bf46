#include "agent/shim_life.h"
#include "agent/shim_box.h"
#include "agent/shim_control.h"
#include "agent/shim_output.h"
#include "agent/shim_start.h"
#include "lib/timefmt.h"
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

enum { READS_MAX = 32 }; // of SHIM_CHUNK_MAX: twice what a pipe holds

static void term(struct shim *s, int64_t kill_at_us) {
    bool first = !s->kill_at_us;

    s->kill_at_us = first ? kill_at_us : MIN(s->kill_at_us, kill_at_us);
    if (first && !s->killing && s->n_alive) {
        s->order = SHIM_CAUSE_ORDER;
        shim_box_term(s);
    }
}

void shim_life_kill(struct shim *s, enum shim_cause cause) {
    if (!s->killing && s->n_alive && !s->order)
        s->order = cause;
    s->killing = true;
    if (!s->gone)
        shim_box_kill(s);
}

bool shim_life_drain(struct shim *s, int index) {
    struct shim_rank *rank = &s->ranks[index];
    char data[SHIM_CHUNK_MAX];

    // Bounded: a rank that writes without end must not keep us from orders and the lease.
    for (int i = 0; i < READS_MAX && rank->output_fd >= 0; i++) {
        ssize_t n = read(rank->output_fd, data, sizeof data);
        if (n > 0) {
            shim_output_write(s, rank, data, (size_t)n);
            shim_control_output(s, index, data, (size_t)n);
        } else if (n < 0 && errno == EINTR) {
            continue;
        } else if (n < 0 && errno == EAGAIN) {
            return true;
        } else {
            close(rank->output_fd);
            rank->output_fd = -1;
            shim_output_end(s, rank);
        }
    }
    return rank->output_fd >= 0;
}

/* Take the messages of ranks that could not start, into their states. */
static void read_errors(struct shim *s) {
    struct shim_start_error e;

    while (s->error_fd >= 0 && pread(s->error_fd, &e, sizeof e, s->error_at) == (ssize_t)sizeof e) {
        s->error_at += (int64_t)sizeof e;
        if (e.index < 0 || (uint32_t)e.index >= s->spec->n_ranks)
            continue;
        struct shim_rank_state *state = &s->ranks[e.index].state;
        e.what[sizeof e.what - 1] = '\0';
        snprintf(state->message, sizeof state->message, "%s: %s", e.what, strerror(e.error));
        state->cause = e.cause;
    }
}

void shim_life_ended(struct shim *s, int index, int code, int status) {
    struct shim_rank_state *state = &s->ranks[index].state;

    if (state->exited)
        return;
    read_errors(s);
    shim_life_drain(s, index); // what it wrote is in its file before anybody hears of its end
    state->exited = true;
    state->pid = 0; // it is another's from now on
    state->code = code == CLD_EXITED ? CLD_EXITED : CLD_KILLED;
    state->status = status;
    state->at_us = timefmt_now_us();
    if (state->cause == SHIM_CAUSE_SELF)
        state->cause = s->order;
    if (state->cause == SHIM_CAUSE_SELF && code != CLD_EXITED && status == SIGKILL &&
        shim_box_oom(s)) {
        state->cause = SHIM_CAUSE_MEMORY;
        snprintf(state->message, sizeof state->message,
                 "the memory limit of %lld bytes was reached", (long long)s->spec->memory_bytes);
    }
    s->n_alive--;
    shim_control_exit(s, &s->ranks[index]);
}

void shim_life_orders(struct shim *s) {
    int64_t now_us = timefmt_boottime_us();

    if (s->term_asked_us)
        term(s, s->term_asked_us);
    s->term_asked_us = 0;
    if (s->kill_asked)
        shim_life_kill(s, SHIM_CAUSE_ORDER);
    s->kill_asked = false;
    if (s->killing || s->gone)
        return;
    if (now_us >= s->lease_until_us)
        shim_life_kill(s, SHIM_CAUSE_LEASE);
    else if (s->kill_at_us && now_us >= s->kill_at_us)
        shim_life_kill(s, SHIM_CAUSE_ORDER);
}
