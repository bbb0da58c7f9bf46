#include "agent/rounds.h"
#include "lib/limits.h"
#include "lib/pure/map.h"
#include <inttypes.h>
#include <stdio.h>

enum { ROUNDS_MAX = 256 }; // of one attempt; RANK_ROUNDS_MAX of one rank

struct round {
    int64_t n_have;
    char **values; // [n_ranks]
};

struct rounds {
    int64_t n_ranks;
    struct map by_name;
};

struct rounds *rounds_new(int64_t n_ranks) {
    struct rounds *rounds = hai_new(struct rounds);

    rounds->n_ranks = n_ranks;
    return rounds;
}

void rounds_free(struct rounds *rounds) {
    struct map_item *item;

    if (!rounds)
        return;
    for (size_t at = 0; (item = map_next(&rounds->by_name, &at));) {
        struct round *round = item->value;
        for (int64_t i = 0; i < rounds->n_ranks; i++)
            free(round->values[i]);
        free(round->values);
        free(round);
    }
    map_free(&rounds->by_name);
    free(rounds);
}

int64_t rounds_n_ranks(const struct rounds *rounds) {
    return rounds->n_ranks;
}

static bool is_hex(const char *hex) {
    size_t n = strspn(hex, "0123456789abcdefABCDEF");

    return !hex[n] && n % 2 == 0 && n <= 2 * RENDEZVOUS_BYTES_MAX;
}

int rounds_add(struct rounds *rounds, const char *name, int64_t rank, const char *hex) {
    if (rank < 0 || rank >= rounds->n_ranks || !is_hex(hex))
        return -EINVAL;
    struct round *round = map_get_text(&rounds->by_name, name);
    if (!round) {
        if (map_count(&rounds->by_name) == ROUNDS_MAX)
            return -ENOBUFS;
        round = hai_new(struct round);
        round->values = hai_new_array(char *, (size_t)rounds->n_ranks);
        map_put_text(&rounds->by_name, name, round);
    }
    if (!round->values[rank]) {
        round->values[rank] = hai_strdup(hex);
        round->n_have++;
    }
    return 0;
}

int rounds_add_lines(struct rounds *rounds, const char *round, const char *lines, size_t n_bytes) {
    const char *end = lines + n_bytes;
    char hex[2 * RENDEZVOUS_BYTES_MAX + 1];

    for (const char *line = lines; line < end;) {
        const char *feed = memchr(line, '\n', (size_t)(end - line));
        const char *space = memchr(line, ' ', (size_t)(end - line));
        if (!feed || !space || space > feed || (size_t)(feed - space) > sizeof hex)
            return -EINVAL;
        memcpy(hex, space + 1, (size_t)(feed - space - 1));
        hex[feed - space - 1] = '\0';
        int r = rounds_add(rounds, round, strtoll(line, NULL, 10), hex);
        if (r < 0)
            return r;
        line = feed + 1;
    }
    return 0;
}

bool rounds_has(const struct rounds *rounds, const char *round, int64_t first, int64_t n) {
    for (int64_t i = first; i < first + n; i++)
        if (!rounds_value(rounds, round, i))
            return false;
    return true;
}

bool rounds_has_all(const struct rounds *rounds, const char *name) {
    const struct round *round = map_get_text(&rounds->by_name, name);

    return round && round->n_have == rounds->n_ranks;
}

const char *rounds_value(const struct rounds *rounds, const char *name, int64_t rank) {
    const struct round *round = map_get_text(&rounds->by_name, name);

    return round && rank >= 0 && rank < rounds->n_ranks ? round->values[rank] : NULL;
}

void rounds_lines(const struct rounds *rounds, const char *round, int64_t first, int64_t n,
                  struct buf *ret) {
    for (int64_t i = first; i < first + n; i++) {
        const char *value = rounds_value(rounds, round, i);
        if (value)
            buf_printf(ret, "%" PRId64 " %s\n", i, value);
    }
}
