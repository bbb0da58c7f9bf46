#include "kernels/cuda/cuda.h"

#define HAS(op) .op = k_cuda_##op

/* What is not here, the operators of training, is -ENOTSUP. */
const struct k_table k_cuda_operators = {
    .path = "cuda",
    .device = &k_cuda_device,
    .bind = k_cuda_bind,
    HAS(embed),
    HAS(rmsnorm),
    HAS(linear),
    HAS(linear_heads),
    HAS(linear_heads_dx),
    HAS(sum_rows),
    HAS(quantize),
    HAS(cache_put),
    HAS(rope),
    HAS(attention),
    HAS(swiglu),
    HAS(router),
    HAS(route_sort),
    HAS(gather),
    HAS(combine),
    HAS(cross_entropy),
    HAS(copy),
    HAS(sum_heads),
    HAS(add),
    HAS(attention_workspace),
    HAS(cross_entropy_workspace),
};
