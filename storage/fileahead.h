/* fileahead.h - mapped files are read ahead of those who will touch them, by a thread beside them.
 *
 * Who reads a mapping front to back has to wait for the disk at every step; asked for early, the
 * disk is never idle while others compute. Advice only: nothing waits for it and it cannot fail.
 */
#pragma once
#include "lib/base.h"

struct fileahead_range {
    const void *bytes; // a mapping
    size_t n_bytes;
};

struct fileahead;

/* Begin to read ranges, one after the other. NULL: together they are more than three quarters of
 * the machine's memory, where the last would push out the first; or no thread could be started. */
struct fileahead *fileahead_new(const struct fileahead_range *ranges, int n);

/* Stop. The ranges may be unmapped after this, not before. NULL does nothing. */
void fileahead_free(struct fileahead *a);
