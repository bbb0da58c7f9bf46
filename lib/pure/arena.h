/* arena.h - many small allocations that end together.
 *
 * Pure. Memory comes zeroed and aligned to 16 bytes and is never moved.
 */
#pragma once
#include "lib/base.h"

struct arena_block;

struct arena {
    struct arena_block *blocks;
    size_t n_bytes; // handed out since the start or the last clear
};

void *arena_alloc(struct arena *a, size_t n_bytes);
void *arena_alloc_array(struct arena *a, size_t n, size_t size); // overflow ends the process
char *arena_strdup(struct arena *a, const char *s);              // NULL gives NULL
char *arena_strndup(struct arena *a, const char *s, size_t n_bytes);
void arena_clear(struct arena *a); // everything handed out ends; keeps the newest block
void arena_free(struct arena *a);
