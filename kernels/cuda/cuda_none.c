#include "kernels/cuda/cuda.h"

int k_cuda_table(const char *path, const struct k_table **ret, struct hai_err *err) {
    return hai_fail(err, -ENOTSUP, "backend cuda: not built");
}
