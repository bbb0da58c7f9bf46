#include "jobs/jobstop.h"

#include <signal.h>
#include <unistd.h>

enum { STATUS_SIGNAL = 128 };

static volatile sig_atomic_t came, held;

static void on_signal(int number) {
    if (!held)
        _exit(STATUS_SIGNAL + number);
    came = number;
}

void jobstop_catch(void) {
    const struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

void jobstop_hold(void) {
    held = 1;
}

int jobstop_look(void) {
    return came ? -EINTR : 0;
}

int jobstop_status(const struct hai_err *err, int status) {
    return came && err->r == -EINTR ? STATUS_SIGNAL + (int)came : status;
}
