#include "scheduler/live.h"

#include "lib/pure/map.h"

struct item {
    int64_t index;
    int64_t attempt; // that progress is of
    int64_t output_us;
    struct rank_progress *ranks;
    size_t n_ranks;
};

struct live {
    int64_t base_index;
    struct map items; // job id -> struct item
};

struct live *live_new(int64_t base_index) {
    struct live *live = hai_new(struct live);

    live->base_index = base_index;
    return live;
}

static struct item *item_of(struct live *live, int64_t job) {
    struct item *item = map_get(&live->items, job);

    if (!item) {
        item = hai_new(struct item);
        item->index = live->base_index;
        item->output_us = S_ABSENT;
        map_put(&live->items, job, item);
    }
    return item;
}

void live_touch(struct live *live, int64_t job, int64_t index) {
    item_of(live, job)->index = index;
}

int64_t live_index(const struct live *live, int64_t job) {
    const struct item *item = map_get(&live->items, job);

    return item ? item->index : live->base_index;
}

static void drop_progress(struct item *item) {
    for (size_t i = 0; i < item->n_ranks; i++)
        schema_free(rank_progress_schema(), &item->ranks[i]);
    free(item->ranks);
    item->ranks = NULL;
    item->n_ranks = 0;
}

void live_set_progress(struct live *live, const struct rank_progress *progress, int64_t at_us) {
    struct item *item = item_of(live, progress->job);
    size_t rank = (size_t)progress->rank;

    if (progress->attempt < item->attempt)
        return; // late news of an earlier attempt
    if (progress->attempt > item->attempt)
        drop_progress(item);
    item->attempt = progress->attempt;
    if (rank >= item->n_ranks) {
        item->ranks = hai_realloc_array(item->ranks, rank + 1, sizeof *item->ranks);
        for (size_t i = item->n_ranks; i <= rank; i++)
            schema_init(rank_progress_schema(), &item->ranks[i]);
        item->n_ranks = rank + 1;
    }
    struct rank_progress *kept = &item->ranks[rank];
    if (progress->log_bytes > kept->log_bytes)
        item->output_us = at_us;
    schema_free(rank_progress_schema(), kept);
    schema_copy(rank_progress_schema(), kept, progress);
    if (kept->progress.at == S_ABSENT)
        kept->progress.at = at_us;
}

const struct rank_progress *live_progress(const struct live *live, int64_t job, int64_t attempt,
                                          int64_t rank) {
    const struct item *item = map_get(&live->items, job);

    if (!item || item->attempt != attempt || rank < 0 || (size_t)rank >= item->n_ranks ||
        !item->ranks[rank].attempt)
        return NULL;
    return &item->ranks[rank];
}

int64_t live_output_us(const struct live *live, int64_t job) {
    const struct item *item = map_get(&live->items, job);

    return item ? item->output_us : S_ABSENT;
}

void live_end(struct live *live, int64_t job) {
    struct item *item = map_get(&live->items, job);

    /* Rank 0's last step is what `hai status` of an ended job shows. */
    for (size_t i = 1; item && i < item->n_ranks; i++)
        schema_free(rank_progress_schema(), &item->ranks[i]);
    if (item && item->n_ranks > 1)
        item->n_ranks = 1;
}

void live_drop(struct live *live, int64_t job) {
    struct item *item = map_remove(&live->items, job);

    if (item)
        drop_progress(item);
    free(item);
}

void live_free(struct live *live) {
    size_t at = 0;

    if (!live)
        return;
    for (struct map_item *i; (i = map_next(&live->items, &at));) {
        drop_progress(i->value);
        free(i->value);
    }
    map_free(&live->items);
    free(live);
}
