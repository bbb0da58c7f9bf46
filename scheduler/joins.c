#include "scheduler/joins.h"

#include "lib/pure/buf.h"

enum { PIECE_BYTES = 32 << 10, WAITING_BYTES_MAX = 256 << 10, OPEN_US = 10 * 1000 * 1000 };

/* One end: what is waiting to be written to it, and whether it can still give anything. */
struct end {
    struct join *join;
    struct http_raw *raw;
    struct loop_source *source;
    struct buf out;
    bool ended;
};

struct join {
    struct joins *joins;
    struct join *next, **link;
    struct end ends[2];
    struct loop_source *timer; // the second end must come in time
    bool late;                 // it did not: kept for it to come to, and closed then
};

struct joins {
    struct loop *loop;
    struct join *first;
};

struct joins *joins_new(struct loop *loop) {
    struct joins *joins = hai_new(struct joins);

    joins->loop = loop;
    return joins;
}

void joins_close(struct join *join) {
    for (int i = 0; i < 2; i++) {
        struct end *end = &join->ends[i];
        loop_source_free(end->source);
        http_raw_close(end->raw);
        buf_free(&end->out);
    }
    loop_source_free(join->timer);
    *join->link = join->next;
    if (join->next)
        join->next->link = join->link;
    free(join);
}

/* The end that is missing may still come, so the join stays until then. */
static void on_late(void *data) {
    struct join *join = data;

    for (int i = 0; i < 2; i++) {
        http_raw_close(join->ends[i].raw);
        join->ends[i].raw = NULL;
    }
    join->late = true;
}

struct join *joins_open(struct joins *joins) {
    struct join *join = hai_new(struct join);

    join->joins = joins;
    join->next = joins->first;
    join->link = &joins->first;
    if (join->next)
        join->next->link = &join->next;
    joins->first = join;
    join->ends[0].join = join->ends[1].join = join;
    join->timer = loop_timer_new(joins->loop, LOOP_MONOTONIC, on_late, join);
    loop_timer_after(join->timer, OPEN_US);
    return join;
}

static struct end *other_of(struct end *end) {
    return &end->join->ends[end == &end->join->ends[0]];
}

/* Read what is there, unless the other end is slow. False: the end is over. */
static bool read_end(struct end *end) {
    struct buf *to = &other_of(end)->out;

    while (!end->ended && to->n_bytes < WAITING_BYTES_MAX) {
        uint8_t piece[PIECE_BYTES];
        ssize_t n = http_raw_read(end->raw, piece, sizeof piece);
        if (n == -EAGAIN)
            return true;
        if (n <= 0)
            end->ended = true;
        else
            buf_add(to, piece, (size_t)n);
    }
    return !end->ended;
}

static bool write_end(struct end *end) {
    while (end->out.n_bytes) {
        ssize_t n = http_raw_write(end->raw, end->out.data, end->out.n_bytes);
        if (n == -EAGAIN)
            return true;
        if (n <= 0)
            return false;
        buf_drop(&end->out, (size_t)n);
    }
    return true;
}

static void watch_end(struct end *end) {
    bool room = other_of(end)->out.n_bytes < WAITING_BYTES_MAX;

    loop_io_set(end->source,
                (room && !end->ended ? EPOLLIN : 0) | (end->out.n_bytes ? EPOLLOUT : 0));
}

/* Move what can be moved; close the join when an end is over and the other has all of it. */
static void move(struct join *join) {
    bool open = true;

    for (int i = 0; i < 2; i++)
        read_end(&join->ends[i]);
    for (int i = 0; i < 2; i++)
        open = write_end(&join->ends[i]) && open;
    for (int i = 0; i < 2; i++)
        if (join->ends[i].ended && !other_of(&join->ends[i])->out.n_bytes)
            open = false;
    if (!open) {
        joins_close(join);
        return;
    }
    watch_end(&join->ends[0]);
    watch_end(&join->ends[1]);
}

static void on_ready(int fd, uint32_t events, void *data) {
    struct end *end = data;

    move(end->join);
}

void joins_add(struct join *join, int number, struct http_raw *raw) {
    struct end *end = &join->ends[number];

    end->raw = raw;
    if (join->late) {
        joins_close(join);
        return;
    }
    if (!other_of(end)->raw)
        return;
    loop_timer_stop(join->timer);
    for (int i = 0; i < 2; i++)
        join->ends[i].source = loop_io_new(join->joins->loop, http_raw_fd(join->ends[i].raw), 0,
                                           on_ready, &join->ends[i]);
    move(join);
}

void joins_close_all(struct joins *joins) {
    while (joins->first)
        joins_close(joins->first);
}

void joins_free(struct joins *joins) {
    if (!joins)
        return;
    joins_close_all(joins);
    free(joins);
}
