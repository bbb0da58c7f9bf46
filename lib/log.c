#include "lib/log.h"

#include "lib/json.h"
#include "lib/timefmt.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <systemd/sd-journal.h>
#include <unistd.h>

enum {
    MESSAGE_BYTES = 4096,
    FIELD_BYTES = 160,
    N_FIELDS = 5,
};

static struct {
    const char *name;
    enum log_level level;
    int fd;
    enum log_form form;
} settings = {"hai", LOG_LEVEL_INFO, STDERR_FILENO, LOG_FORM_AUTO};

static const char *const level_texts[LOG_LEVEL_COUNT] = {"error", "warning", "notice", "info",
                                                         "debug"};

/* One field as texts; value is empty when the field is absent. */
struct field {
    const char *name;
    const char *journal;
    bool number;
    char value[FIELD_BYTES];
};

void log_open(const char *name, enum log_level level) {
    settings.name = name;
    log_set_level(level);
}

void log_set_level(enum log_level level) {
    assert(level < LOG_LEVEL_COUNT);
    settings.level = level;
}

void log_set_output(int fd, enum log_form form) {
    settings.fd = fd;
    settings.form = form;
}

int log_level_parse(const char *text) {
    for (int i = 0; i < LOG_LEVEL_COUNT; i++)
        if (strcmp(text, level_texts[i]) == 0)
            return i;
    return -EINVAL;
}

/* systemd sets JOURNAL_STREAM to device:inode of the stream it connected; another stderr (a pipe
 * made by a script inside the service) has other numbers. */
static bool is_journal(int fd) {
    const char *stream = getenv("JOURNAL_STREAM");
    unsigned long long device;
    unsigned long long inode;
    struct stat st;

    if (!stream || sscanf(stream, "%llu:%llu", &device, &inode) != 2 || fstat(fd, &st) < 0)
        return false;
    return st.st_dev == device && st.st_ino == inode;
}

static enum log_form form_now(void) {
    if (settings.form == LOG_FORM_AUTO)
        settings.form = is_journal(settings.fd) ? LOG_FORM_JOURNAL
                        : isatty(settings.fd)   ? LOG_FORM_HUMAN
                                                : LOG_FORM_JSON;
    return settings.form;
}

static void number_text(struct field *field, int64_t value, bool present) {
    if (present)
        (void)snprintf(field->value, sizeof field->value, "%lld", (long long)value);
}

static void fields_make(const struct log_fields *in, struct field *ret) {
    static const struct field empty[N_FIELDS] = {
        {"job",     "HAI_JOB",     true,  ""},
        {"attempt", "HAI_ATTEMPT", true,  ""},
        {"rank",    "HAI_RANK",    true,  ""},
        {"node",    "HAI_NODE",    false, ""},
        {"user",    "HAI_USER",    false, ""},
    };

    memcpy(ret, empty, sizeof empty);
    if (!in)
        return;
    number_text(&ret[0], in->job, in->job != 0);
    number_text(&ret[1], in->attempt, in->attempt != 0);
    number_text(&ret[2], in->rank, in->rank >= 0);
    (void)snprintf(ret[3].value, FIELD_BYTES, "%s", in->node ? in->node : "");
    (void)snprintf(ret[4].value, FIELD_BYTES, "%s", in->user ? in->user : "");
}

static void write_human(enum log_level level, const struct field *fields, const char *message,
                        struct buf *line) {
    char clock[TIMEFMT_ISO_BYTES];
    int64_t now_us = timefmt_now_us();
    const char *before = " (";

    timefmt_clock(now_us, now_us, false, clock);
    buf_printf(line, "%s %s: ", clock, settings.name);
    if (level <= LOG_LEVEL_WARNING)
        buf_printf(line, "%s: ", level_texts[level]);
    for (const char *p = message; *p; p++)
        if ((uint8_t)*p < 0x20 || *p == 0x7f) // a job's name must not steer a terminal
            buf_printf(line, "\\x%02x", (uint8_t)*p);
        else
            buf_add_u8(line, (uint8_t)*p);
    for (int i = 0; i < N_FIELDS; i++)
        if (fields[i].value[0]) {
            buf_printf(line, "%s%s %s", before, fields[i].name, fields[i].value);
            before = ", ";
        }
    buf_add_str(line, before[0] == ',' ? ")\n" : "\n");
}

static void write_member(const char *name, const char *value, struct buf *line) {
    buf_printf(line, ",\"%s\":", name);
    json_dump_string(value, strlen(value), line);
}

static void write_json(enum log_level level, const struct field *fields, const char *message,
                       struct buf *line) {
    char time[TIMEFMT_ISO_BYTES];

    timefmt_iso(timefmt_now_us(), time);
    buf_printf(line, "{\"time\":\"%s\",\"level\":\"%s\"", time, level_texts[level]);
    write_member("program", settings.name, line);
    write_member("message", message, line);
    for (int i = 0; i < N_FIELDS; i++)
        if (fields[i].value[0] && fields[i].number)
            buf_printf(line, ",\"%s\":%s", fields[i].name, fields[i].value);
        else if (fields[i].value[0])
            write_member(fields[i].name, fields[i].value, line);
    buf_add_str(line, "}\n");
}

static void journal_send(enum log_level level, const struct field *fields, const char *message) {
    // As in syslog(3): err, warning, notice, info, debug.
    static const char *const priorities[LOG_LEVEL_COUNT] = {
        "PRIORITY=3", "PRIORITY=4", "PRIORITY=5", "PRIORITY=6", "PRIORITY=7"};
    _cleanup_free_ char *text = hai_asprintf("MESSAGE=%s", message);
    _cleanup_free_ char *name = hai_asprintf("SYSLOG_IDENTIFIER=%s", settings.name);
    char texts[N_FIELDS][FIELD_BYTES + 16];
    struct iovec iov[3 + N_FIELDS];
    int n = 0;

    iov[n++] = (struct iovec){text, strlen(text)};
    iov[n++] = (struct iovec){name, strlen(name)};
    iov[n++] = (struct iovec){(char *)priorities[level], strlen(priorities[level])};
    for (int i = 0; i < N_FIELDS; i++) {
        if (!fields[i].value[0])
            continue;
        int length =
            snprintf(texts[i], sizeof texts[i], "%s=%s", fields[i].journal, fields[i].value);
        iov[n++] = (struct iovec){texts[i], (size_t)length};
    }
    (void)sd_journal_sendv(iov, n);
}

void log_write(enum log_level level, const struct log_fields *fields, const char *format, ...) {
    _cleanup_(buf_free) struct buf line = {0};
    struct field made[N_FIELDS];
    char message[MESSAGE_BYTES];
    int saved_errno = errno;
    va_list ap;

    if (level > settings.level)
        return;
    va_start(ap, format);
    (void)vsnprintf(message, sizeof message, format, ap);
    va_end(ap);
    fields_make(fields, made);
    if (form_now() == LOG_FORM_JOURNAL)
        journal_send(level, made, message);
    else {
        if (form_now() == LOG_FORM_HUMAN)
            write_human(level, made, message, &line);
        else
            write_json(level, made, message, &line);
        ssize_t n = write(settings.fd, line.data, line.n_bytes);
        (void)n; // a log that cannot be written has no one to tell
    }
    errno = saved_errno;
}
