#include "lib/json.h"
#include "lib/log.h"
#include "tests/unit/test.h"

#include <unistd.h>

static struct {
    int ends[2];
    char line[8192];
} out;

static void start(enum log_form form) {
    CHECK_EQ(pipe(out.ends), 0);
    log_open("hai-test", LOG_LEVEL_INFO);
    log_set_output(out.ends[1], form);
}

static const char *finish(void) {
    close(out.ends[1]);
    ssize_t n = read(out.ends[0], out.line, sizeof out.line - 1);
    out.line[n < 0 ? 0 : n] = 0;
    close(out.ends[0]);
    log_set_output(STDERR_FILENO, LOG_FORM_AUTO);
    return out.line;
}

TEST(json_lines)
{
    _cleanup_(json_freep) struct json *value = NULL;

    start(LOG_FORM_AUTO); // a pipe is no terminal
    log_write(LOG_LEVEL_WARNING, LOG_FIELDS(.job = 12, .rank = 0, .node = "a1"), "said \"%s\"\n",
              "no");
    const char *line = finish();
    CHECK_EQ(json_parse(line, strlen(line), NULL, &value, NULL), 0, "%s", line);
    CHECK_STR(json_get_string(value, "level", ""), "warning");
    CHECK_STR(json_get_string(value, "program", ""), "hai-test");
    CHECK_STR(json_get_string(value, "message", ""), "said \"no\"\n");
    CHECK_EQ(json_get_int(value, "job", 0), 12);
    CHECK_EQ(json_get_int(value, "rank", -1), 0);
    CHECK_STR(json_get_string(value, "node", ""), "a1");
    CHECK(!json_get(value, "attempt"));
    CHECK_EQ(strlen(json_get_string(value, "time", "")), 24);
    CHECK_EQ(line[strlen(line) - 1], '\n');
    CHECK(strchr(line, '\n') == line + strlen(line) - 1, "one line");
}

TEST(human_lines)
{
    start(LOG_FORM_HUMAN);
    log_write(LOG_LEVEL_ERROR, LOG_FIELDS(.job = 12, .attempt = 2), "bad\x1b[31m\nend");
    const char *line = finish();
    CHECK_STR(line + 13, "hai-test: error: bad\\x1b[31m\\x0aend (job 12, attempt 2)\n");
    start(LOG_FORM_HUMAN);
    log_info("plain");
    CHECK_STR(finish() + 13, "hai-test: plain\n");
}

TEST(levels)
{
    start(LOG_FORM_HUMAN);
    log_debug("hidden");
    log_set_level(LOG_LEVEL_DEBUG);
    log_debug("shown");
    CHECK_STR(finish() + 13, "hai-test: shown\n");
    CHECK_EQ(log_level_parse("notice"), LOG_LEVEL_NOTICE);
    CHECK_EQ(log_level_parse("loud"), -EINVAL);
}

TEST(long_messages_are_cut_and_errno_stays)
{
    _cleanup_free_ char *text = hai_alloc(100001);

    memset(text, 'x', 100000);
    start(LOG_FORM_HUMAN);
    errno = ENOSPC;
    log_info("%s", text);
    CHECK_EQ(errno, ENOSPC);
    const char *line = finish();
    CHECK(strlen(line) < 4200);
    CHECK_EQ(line[strlen(line) - 1], '\n');
}
