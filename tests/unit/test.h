/* test.h - the unit test harness: TEST(name) { CHECK...; } registers and runs itself.
 *
 * One program a module, linked with test_main.c. A failed CHECK prints file, line and values and
 * lets the test go on; the program closes with "N passed, N failed, N skipped".
 */
#pragma once
#include "lib/base.h"
#include <stdio.h>

struct test {
    const char *name;
    void (*run)(void);
    struct test *next;
};

void test_register(struct test *test);
void test_fail(const char *file, int line, const char *format, ...) _printf_(3, 4);
void test_skip(const char *reason);
bool test_failed(void); // has the running test failed so far?

/* Built with the address sanitizer: nothing is timed, and what is slow by nature is done in short.
 */
#ifdef __SANITIZE_ADDRESS__
enum { TEST_SANITIZED = true };
#else
enum { TEST_SANITIZED = false };
#endif

#define TEST(name)                                                                                 \
    static void test_##name(void);                                                                 \
    static struct test entry_##name = {#name, test_##name, NULL};                                  \
    __attribute__((constructor)) static void register_##name(void) {                               \
        test_register(&entry_##name);                                                              \
    }                                                                                              \
    static void test_##name(void)

/* End the running test as skipped; the reason is printed. */
#define SKIP(reason)                                                                               \
    do {                                                                                           \
        test_skip(reason);                                                                         \
        return;                                                                                    \
    } while (0)

/* Optional trailing arguments: a format and values naming the case. */
#define CHECK(condition, ...)                                                                      \
    test_check((condition), __FILE__, __LINE__, #condition, "" __VA_ARGS__)
#define CHECK_EQ(a, b, ...)                                                                        \
    test_check_eq((int64_t)(a), (int64_t)(b), __FILE__, __LINE__, #a " == " #b, "" __VA_ARGS__)
#define CHECK_STR(a, b, ...)                                                                       \
    test_check_str((a), (b), __FILE__, __LINE__, #a " == " #b, "" __VA_ARGS__)

bool test_check(bool ok, const char *file, int line, const char *what, const char *format, ...)
    _printf_(5, 6);
bool test_check_eq(int64_t a, int64_t b, const char *file, int line, const char *what,
                   const char *format, ...) _printf_(6, 7);
bool test_check_str(const char *a, const char *b, const char *file, int line, const char *what,
                    const char *format, ...) _printf_(6, 7);
