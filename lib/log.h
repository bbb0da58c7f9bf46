/* log.h - what a program says about itself on stderr.
 *
 * Under systemd (stderr is the journal): journal entries with fields HAI_JOB, HAI_NODE, ...
 * On a terminal: lines for people. Otherwise: one JSON object a line. Libraries report errors to
 * their callers; programs log one line per failure, where it is handled.
 *
 * The settings are the one state of a process that is not passed around: a handler deep down must
 * be able to log, and a second logger in a program would only interleave with the first.
 */
#pragma once
#include "lib/base.h"

enum log_level {
    LOG_LEVEL_ERROR,   // someone must act
    LOG_LEVEL_WARNING, // something failed and was handled
    LOG_LEVEL_NOTICE,  // worth knowing in normal operation: started, stopped, leader
    LOG_LEVEL_INFO,
    LOG_LEVEL_DEBUG,
    LOG_LEVEL_COUNT,
};

enum log_form { LOG_FORM_AUTO, LOG_FORM_HUMAN, LOG_FORM_JSON, LOG_FORM_JOURNAL };

/* What a line is about; left out: none. Make them with LOG_FIELDS(.job = 12, .rank = 0). */
struct log_fields {
    int64_t job;
    int attempt;
    int rank; // -1: none
    const char *node;
    const char *user;
};

#define LOG_FIELDS(...) (&(const struct log_fields){.rank = -1, __VA_ARGS__})

/* Call first thing in main; without it the program's name is "hai" and the level info. name must
 * stay valid. */
void log_open(const char *name, enum log_level level);
void log_set_level(enum log_level level);
void log_set_output(int fd, enum log_form form); // for tests and children; default stderr, auto

/* The level of a text ("debug"), or -EINVAL. */
int log_level_parse(const char *text);

/* Write one line, in one write(2), cut to 4 KiB; line feeds and control characters in the message
 * are escaped. fields may be NULL. */
void log_write(enum log_level level, const struct log_fields *fields, const char *format, ...)
    _printf_(3, 4);

#define log_error(...) log_write(LOG_LEVEL_ERROR, NULL, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, NULL, __VA_ARGS__)
#define log_notice(...) log_write(LOG_LEVEL_NOTICE, NULL, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, NULL, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, NULL, __VA_ARGS__)
