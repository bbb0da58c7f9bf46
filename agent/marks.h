/* marks.h - the durable list of attempts that were started here, so that none is started twice.
 *
 * A journal of short lines: a mark is on disk before its attempt is started, whatever happens to
 * the agent or the machine in between. Removing one needs no such care: a mark too many is
 * harmless.
 */
#pragma once
#include "agent/core/reconcile.h"

struct marks;

/* Open or make the journal and call fn for every mark in it. */
int marks_open(const char *path, void (*fn)(const struct reconcile_key *key, void *data),
               void *data, struct marks **ret, struct hai_err *err);
void marks_free(struct marks *marks);
DEFINE_CLEANUP(struct marks *, marks_free)

void marks_add(struct marks *marks, const struct reconcile_key *key);

/* Make all marks added so far durable; only then may their attempts be started. */
int marks_sync(struct marks *marks, struct hai_err *err);

void marks_remove(struct marks *marks, const struct reconcile_key *key);
