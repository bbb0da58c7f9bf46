/* Memory, streams and weights of a CUDA device. */
#include "kernels/cuda/cuda_impl.cuh"

enum { ALIGN = 256 }; // of a part's values and scales in a weight's copy

static int fail(struct hai_err *err, int r, const char *what, cudaError_t error) {
    (void)cudaGetLastError();
    return hai_fail(err, r, "backend cuda: %s: %s", what, cudaGetErrorString(error));
}

extern "C" int k_cuda_table(const char *path, const struct k_table **ret, struct hai_err *err) {
    cudaDeviceProp properties;
    int n_devices = 0;

    if (path && strcmp(path, "cuda") != 0)
        return hai_fail(err, -ENOTSUP, "kernel path %s: not one of backend cuda (cuda)", path);
    cudaError_t error = cudaGetDeviceCount(&n_devices);
    if (error == cudaErrorInsufficientDriver)
        return fail(err, -ENODEV, "no NVIDIA driver, or one too old", error);
    if (error != cudaSuccess || n_devices == 0)
        return fail(err, -ENODEV, "no GPU", error);
    error = cudaGetDeviceProperties(&properties, 0);
    if (error != cudaSuccess)
        return fail(err, -ENODEV, "GPU 0", error);
    if (properties.major < 9)
        return hai_fail(err, -ENODEV,
                        "backend cuda: %s has compute capability %d.%d; expected 9.0 or above",
                        properties.name, properties.major, properties.minor);
    *ret = &k_cuda_operators;
    return 0;
}

static int memory_new(struct k_ctx *ctx, size_t n_bytes, void **ret, struct hai_err *err) {
    void *memory;
    cudaError_t error = cudaMalloc(&memory, n_bytes);

    if (error != cudaSuccess)
        return fail(err, -ENOMEM, "memory", error);
    error = cudaMemsetAsync(memory, 0, n_bytes, stream_of(ctx));
    if (error != cudaSuccess) {
        cudaFree(memory);
        return fail(err, -EIO, "memory", error);
    }
    *ret = memory;
    return 0;
}

static void memory_free(void *memory) {
    (void)cudaFree(memory);
}

/* From pageable memory: CUDA has read `from` when the call returns. */
static int upload(struct k_ctx *ctx, void *to, const void *from, size_t n_bytes) {
    return cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyHostToDevice, stream_of(ctx)) == cudaSuccess
               ? 0
               : -EIO;
}

static int finish(struct k_ctx *ctx, struct hai_err *err) {
    cudaError_t error = cudaStreamSynchronize(stream_of(ctx));

    return error == cudaSuccess ? 0 : fail(err, -EIO, "the device", error);
}

static int download(struct k_ctx *ctx, void *to, const void *from, size_t n_bytes) {
    if (cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyDeviceToHost, stream_of(ctx)) != cudaSuccess)
        return -EIO;
    return finish(ctx, NULL);
}

static int event_new(struct k_ctx *ctx, void **ret, struct hai_err *err) {
    cudaEvent_t event;
    cudaError_t error = cudaEventCreateWithFlags(&event, cudaEventDisableTiming);

    if (error != cudaSuccess)
        return fail(err, -ENOMEM, "event", error);
    *ret = event;
    return 0;
}

static void event_free(void *event) {
    (void)cudaEventDestroy((cudaEvent_t)event);
}

static int event_record(struct k_ctx *ctx, void *event) {
    return cudaEventRecord((cudaEvent_t)event, stream_of(ctx)) == cudaSuccess ? 0 : -EIO;
}

static int event_wait(struct k_ctx *ctx, void *event) {
    return cudaStreamWaitEvent(stream_of(ctx), (cudaEvent_t)event, 0) == cudaSuccess ? 0 : -EIO;
}

extern "C" const struct k_device k_cuda_device = {
    memory_new, memory_free, upload,       download,   finish,
    event_new,  event_free,  event_record, event_wait,
};

static size_t aligned(size_t n_bytes) {
    return (n_bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static int allocate(struct k_ctx *ctx, struct k_weight *w, size_t n_parts, struct hai_err *err) {
    size_t n_bytes = aligned(n_parts * sizeof *w->parts);

    for (size_t p = 0; p < n_parts; p++) {
        size_t n_scale_bytes, n_value_bytes = k_weight_part_bytes(w, &w->parts[p], &n_scale_bytes);
        n_bytes += aligned(n_value_bytes) + aligned(n_scale_bytes);
    }
    return memory_new(ctx, n_bytes, &w->copy, err);
}

/* The table of parts first, then values and scales of each. */
extern "C" int k_cuda_bind(struct k_ctx *ctx, struct k_weight *w, struct hai_err *err) {
    size_t n_parts = (size_t)w->n_groups * (size_t)w->n_parts;
    int r = w->copy ? 0 : allocate(ctx, w, n_parts, err);

    if (r < 0)
        return r;
    struct k_weight_part *parts = (struct k_weight_part *)hai_alloc(n_parts * sizeof *parts);
    char *at = (char *)w->copy + aligned(n_parts * sizeof *parts);
    for (size_t p = 0; p < n_parts && r == 0; p++) {
        const struct k_weight_part *part = &w->parts[p];
        size_t n_scale_bytes, n_value_bytes = k_weight_part_bytes(w, part, &n_scale_bytes);
        int64_t first_block = part->first_row / K_BLOCK;
        const char *scale = (const char *)part->scale;
        if (w->dtype == K_E4M3 || w->dtype == K_E5M2)
            scale += first_block * ceil_div(w->n_in, K_BLOCK) * (int64_t)sizeof(float);
        parts[p] = *part;
        parts[p].data = at;
        parts[p].scale = part->scale ? at + aligned(n_value_bytes) : NULL;
        parts[p].first_row = part->first_row - first_block * K_BLOCK;
        r = upload(ctx, at, part->data, n_value_bytes);
        if (r == 0 && part->scale)
            r = upload(ctx, at + aligned(n_value_bytes), scale, n_scale_bytes);
        at += aligned(n_value_bytes) + aligned(n_scale_bytes);
    }
    if (r == 0)
        r = upload(ctx, w->copy, parts, n_parts * sizeof *parts);
    w->copy_parts = (struct k_weight_part *)w->copy;
    free(parts);
    return r == 0 ? finish(ctx, err) : hai_fail(err, r, "backend cuda: copying weights failed");
}
