#include "scheduler/watch.h"

#include "lib/pure/map.h"

struct watch_item {
    struct watch *watch;
    struct watch_item *next, **link; // link: the pointer that points here
    enum watch_topic topic;
    int64_t job;
    struct loop_source *timer;
    void (*fn)(void *data);
    void *data;
};

struct watch {
    struct loop *loop;
    struct map by_job; // job id -> head of its list, a struct watch_item **
    struct watch_item *lists[WATCH_TOPIC_COUNT];
    struct watch_item *ready;
    bool posted;
    size_t n;
};

struct watch *watch_new(struct loop *loop) {
    struct watch *watch = hai_new(struct watch);

    watch->loop = loop;
    return watch;
}

static struct watch_item **list_of(struct watch *watch, enum watch_topic topic, int64_t job,
                                   bool make) {
    if (topic != WATCH_JOB)
        return &watch->lists[topic];
    struct watch_item **head = map_get(&watch->by_job, job);
    if (!head && make) {
        head = hai_new(struct watch_item *);
        map_put(&watch->by_job, job, head);
    }
    return head;
}

static void link_item(struct watch_item **head, struct watch_item *item) {
    item->next = *head;
    item->link = head;
    if (item->next)
        item->next->link = &item->next;
    *head = item;
}

static void unlink_item(struct watch_item *item) {
    *item->link = item->next;
    if (item->next)
        item->next->link = item->link;
}

/* A job's list ends with its last waiter. */
static void drop_empty(struct watch *watch, enum watch_topic topic, int64_t job) {
    struct watch_item **head = topic == WATCH_JOB ? map_get(&watch->by_job, job) : NULL;

    if (head && !*head)
        free(map_remove(&watch->by_job, job));
}

static void free_item(struct watch_item *item) {
    item->watch->n--;
    loop_source_free(item->timer);
    free(item);
}

static void on_time(void *data) {
    struct watch_item *item = data;
    void (*fn)(void *) = item->fn;
    void *fn_data = item->data;

    watch_remove(item);
    fn(fn_data);
}

struct watch_item *watch_add(struct watch *watch, enum watch_topic topic, int64_t job,
                             int64_t wait_us, void (*fn)(void *data), void *data) {
    struct watch_item *item = hai_new(struct watch_item);

    *item = (struct watch_item){.watch = watch, .topic = topic, .job = job, .fn = fn, .data = data};
    link_item(list_of(watch, topic, job, true), item);
    item->timer = loop_timer_new(watch->loop, LOOP_MONOTONIC, on_time, item);
    loop_timer_after(item->timer, wait_us);
    watch->n++;
    return item;
}

void watch_remove(struct watch_item *item) {
    unlink_item(item);
    drop_empty(item->watch, item->topic, item->job);
    free_item(item);
}

static void run_ready(void *data) {
    struct watch *watch = data;

    watch->posted = false;
    while (watch->ready)
        on_time(watch->ready);
}

void watch_wake(struct watch *watch, enum watch_topic topic, int64_t job) {
    struct watch_item **head = list_of(watch, topic, job, false);

    if (!head || !*head)
        return;
    while (*head) {
        struct watch_item *item = *head;
        unlink_item(item);
        link_item(&watch->ready, item);
        loop_timer_stop(item->timer);
    }
    drop_empty(watch, topic, job);
    if (!watch->posted)
        loop_post(watch->loop, run_ready, watch);
    watch->posted = true;
}

size_t watch_count(const struct watch *watch) {
    return watch->n;
}

void watch_free(struct watch *watch) {
    if (!watch)
        return;
    assert(watch->n == 0);
    map_free(&watch->by_job);
    free(watch);
}
