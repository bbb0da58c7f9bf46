#include "kernels/device.h"

#include <sys/mman.h>

enum { HUGE_BYTES = 2 << 20 }; // a large page of x86-64; elsewhere the advice may do nothing

struct k_event {
    const struct k_device *device; // NULL: the host, where everything before has happened
    void *event;
};

int k_memory_new(struct k_ctx *ctx, size_t n_bytes, void **ret, struct hai_err *err) {
    const struct k_device *device = ctx->table->device;

    assert(n_bytes > 0);
    if (device)
        return device->memory_new(ctx, n_bytes, ret, err);
    size_t unit = n_bytes < HUGE_BYTES ? 64 : HUGE_BYTES;
    void *memory = aligned_alloc(unit, (n_bytes + unit - 1) / unit * unit);
    if (!memory)
        return hai_fail(err, -ENOMEM, "%zu bytes: %m", n_bytes);
    /* A cached key of one head is in another small page than the next one's: each would be a miss
     * of the translation buffer. All of the block is written here, so this costs no memory. */
    if (unit == HUGE_BYTES)
        (void)madvise(memory, n_bytes / HUGE_BYTES * HUGE_BYTES, MADV_HUGEPAGE);
    memset(memory, 0, n_bytes);
    *ret = memory;
    return 0;
}

void k_memory_free(struct k_ctx *ctx, void *memory) {
    if (memory && ctx->table->device)
        ctx->table->device->memory_free(memory);
    else
        free(memory);
}

int k_upload(struct k_ctx *ctx, void *to, const void *from, size_t n_bytes) {
    if (ctx->table->device)
        return ctx->table->device->upload(ctx, to, from, n_bytes);
    memcpy(to, from, n_bytes);
    return 0;
}

int k_download(struct k_ctx *ctx, void *to, const void *from, size_t n_bytes) {
    if (ctx->table->device)
        return ctx->table->device->download(ctx, to, from, n_bytes);
    memcpy(to, from, n_bytes);
    return 0;
}

int k_finish(struct k_ctx *ctx, struct hai_err *err) {
    return ctx->table->device ? ctx->table->device->finish(ctx, err) : 0;
}

int k_event_new(struct k_ctx *ctx, struct k_event **ret, struct hai_err *err) {
    const struct k_device *device = ctx->table->device;
    void *event = NULL;

    int r = device ? device->event_new(ctx, &event, err) : 0;
    if (r < 0)
        return r;
    *ret = hai_new(struct k_event);
    **ret = (struct k_event){.device = device, .event = event};
    return 0;
}

void k_event_free(struct k_event *event) {
    if (event && event->device)
        event->device->event_free(event->event);
    free(event);
}

int k_event_record(struct k_ctx *ctx, struct k_event *event) {
    return event->device ? event->device->event_record(ctx, event->event) : 0;
}

int k_event_wait(struct k_ctx *ctx, struct k_event *event) {
    return event->device ? event->device->event_wait(ctx, event->event) : 0;
}
