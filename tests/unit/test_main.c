#include "tests/unit/test.h"

#include <stdarg.h>

static struct test *tests;
static struct test **tests_end = &tests;
static bool failed, skipped;

void test_register(struct test *test) {
    *tests_end = test;
    tests_end = &test->next;
}

static void note(const char *format, va_list ap) {
    if (!format[0])
        return;
    fputs(" [", stdout);
    vprintf(format, ap);
    putchar(']');
}

void test_fail(const char *file, int line, const char *format, ...) {
    va_list ap;

    failed = true;
    printf("%s:%d: ", file, line);
    va_start(ap, format);
    vprintf(format, ap);
    va_end(ap);
    putchar('\n');
}

bool test_failed(void) {
    return failed;
}

void test_skip(const char *reason) {
    skipped = true;
    printf("  skipped: %s\n", reason);
}

bool test_check(bool ok, const char *file, int line, const char *what, const char *format, ...) {
    va_list ap;

    if (ok)
        return true;
    failed = true;
    printf("%s:%d: failed: %s", file, line, what);
    va_start(ap, format);
    note(format, ap);
    va_end(ap);
    putchar('\n');
    return false;
}

bool test_check_eq(int64_t a, int64_t b, const char *file, int line, const char *what,
                   const char *format, ...) {
    va_list ap;

    if (a == b)
        return true;
    failed = true;
    printf("%s:%d: failed: %s: %lld, %lld", file, line, what, (long long)a, (long long)b);
    va_start(ap, format);
    note(format, ap);
    va_end(ap);
    putchar('\n');
    return false;
}

bool test_check_str(const char *a, const char *b, const char *file, int line, const char *what,
                    const char *format, ...) {
    va_list ap;

    if (hai_streq(a, b))
        return true;
    failed = true;
    printf("%s:%d: failed: %s: \"%s\", \"%s\"", file, line, what, a ? a : "(null)",
           b ? b : "(null)");
    va_start(ap, format);
    note(format, ap);
    va_end(ap);
    putchar('\n');
    return false;
}

/* Arguments name the tests to run; none means all. */
int main(int argc, char **argv) {
    int n_passed = 0, n_failed = 0, n_skipped = 0;

    setvbuf(stdout, NULL, _IOLBF, 0);
    for (struct test *t = tests; t; t = t->next) {
        bool wanted = argc < 2;
        for (int i = 1; i < argc; i++)
            wanted |= hai_streq(argv[i], t->name);
        if (!wanted)
            continue;
        failed = skipped = false;
        t->run();
        if (failed)
            printf("FAILED %s\n", t->name);
        else if (skipped)
            printf("skipped %s\n", t->name);
        n_failed += failed;
        n_skipped += !failed && skipped;
        n_passed += !failed && !skipped;
    }
    printf("%d passed, %d failed, %d skipped\n", n_passed, n_failed, n_skipped);
    return n_failed ? 1 : 0;
}
