#include "cli/terminal.h"

#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

/* A signal handler has no other way to its data. */
static const char *interrupt_message;
static struct termios saved;
static volatile sig_atomic_t is_changed;
static int size_fd = -1;

void terminal_restore(void) {
    if (is_changed)
        (void)tcsetattr(STDIN_FILENO, TCSANOW, &saved);
    is_changed = 0;
}

static void on_interrupt(int number) {
    (void)number;
    terminal_restore();
    if (interrupt_message) {
        ssize_t n = write(STDERR_FILENO, interrupt_message, strlen(interrupt_message));
        (void)n;
    }
    _exit(130);
}

void terminal_catch_interrupt(const char *message) {
    struct sigaction action = {.sa_handler = on_interrupt};

    interrupt_message = message;
    (void)sigaction(SIGINT, &action, NULL);
}

/* From here on an interrupt puts back what was saved. */
static bool change(int when, const struct termios *wanted) {
    is_changed = 1;
    if (tcsetattr(STDIN_FILENO, when, wanted) < 0) {
        is_changed = 0;
        return false;
    }
    (void)atexit(terminal_restore);
    return true;
}

bool terminal_raw(void) {
    struct termios raw;

    if (tcgetattr(STDIN_FILENO, &saved) < 0)
        return false;
    raw = saved;
    cfmakeraw(&raw);
    return change(TCSANOW, &raw);
}

bool terminal_silent(void) {
    struct termios silent;

    if (tcgetattr(STDIN_FILENO, &saved) < 0)
        return false;
    silent = saved;
    silent.c_lflag &= ~(tcflag_t)ECHO;
    return change(TCSAFLUSH, &silent);
}

void terminal_size(uint16_t *ret_rows, uint16_t *ret_cols) {
    struct winsize size = {0};

    (void)ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
    *ret_rows = size.ws_row;
    *ret_cols = size.ws_col;
}

static void on_size(int number) {
    int saved_errno = errno;
    ssize_t n = write(size_fd, "", 1);

    (void)number;
    (void)n;
    errno = saved_errno;
}

void terminal_watch_size(int fd) {
    struct sigaction action = {.sa_handler = fd < 0 ? SIG_DFL : on_size, .sa_flags = SA_RESTART};

    size_fd = fd;
    (void)sigaction(SIGWINCH, &action, NULL);
}
