/* imports.h - the files of a code repository in an order that has what is imported first.
 *
 * A scan of lines, no parser: Python's import and from, C's and C++'s #include, JavaScript's and
 * TypeScript's import, export and require of relative paths. What names no file of the repository
 * is passed over. An import inside a comment or a string of several lines may count; the worst that
 * follows is another order. Source of the idea: DeepSeek-Coder, arXiv 2401.14196, section 2.2.
 */
#pragma once
#include "lib/base.h"

struct imports;

/* Paths are relative to the repository, with '/', no two equal; they are copied. */
struct imports *imports_new(const char *const *paths, size_t n);
void imports_free(struct imports *m);
DEFINE_CLEANUP(struct imports *, imports_free)

/* Read what file i imports from its text; nothing for other languages. */
void imports_scan(struct imports *m, size_t i, const char *text, size_t n_bytes);

/* How many files of the repository file i imports; each counts once. */
size_t imports_count(const struct imports *m, size_t i);
bool imports_has(const struct imports *m, size_t i, size_t imported);

/* All files, imported ones before their importers, else by bytes of the path. In a circle the file
 * with the first path, of those that are reached from outside first, comes last. */
void imports_order(const struct imports *m, size_t *ret);

/* How a comment of one line begins in a language, by the name of the file: "#" or "//". */
const char *imports_comment(const char *path);
