#include "sim/journal.h"

void journal_free(struct journal *journal) {
    free(journal->lines);
    *journal = (struct journal){0};
}

static void add(struct journal *journal, const struct reconcile_key *key, bool removed) {
    if (journal->n == journal->n_max) {
        journal->n_max = MAX(2 * journal->n_max, (size_t)16);
        journal->lines = hai_realloc_array(journal->lines, journal->n_max, sizeof *journal->lines);
    }
    journal->lines[journal->n++] = (struct journal_line){*key, removed};
}

void journal_add(struct journal *journal, const struct reconcile_key *key) {
    add(journal, key, false);
}

void journal_remove(struct journal *journal, const struct reconcile_key *key) {
    add(journal, key, true);
}

void journal_write(struct journal *journal) {
    journal->n_written = journal->n;
}

void journal_sync(struct journal *journal) {
    journal->n_synced = journal->n_written;
}

bool journal_waits(const struct journal *journal) {
    return journal->n_synced < journal->n;
}

void journal_killed(struct journal *journal) {
    journal->n = journal->n_written;
}

void journal_power_off(struct journal *journal, struct rng *rng) {
    size_t n = journal->n_synced;

    for (size_t i = n; i < journal->n_written; i++)
        if (rng_once_in(rng, 2))
            journal->lines[n++] = journal->lines[i];
    journal->n = journal->n_synced = journal->n_written = n;
}

static bool is_marked(const struct journal *journal, size_t at) {
    const struct journal_line *line = &journal->lines[at];

    for (size_t i = at + 1; i < journal->n; i++)
        if (!memcmp(&journal->lines[i].key, &line->key, sizeof line->key))
            return false; // a later line tells
    return !line->removed;
}

void journal_open(struct journal *journal, void (*fn)(const struct reconcile_key *key, void *data),
                  void *data) {
    size_t n = 0;

    for (size_t i = 0; i < journal->n; i++)
        if (is_marked(journal, i))
            journal->lines[n++] = journal->lines[i];
    journal->n = journal->n_synced = journal->n_written = n;
    for (size_t i = 0; i < n; i++)
        fn(&journal->lines[i].key, data);
}
