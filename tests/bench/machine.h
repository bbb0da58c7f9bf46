/* machine.h - what the machine allows: bytes read a second (operations: kernels/peak.h). */
#pragma once

#include "kernels/kernels.h"

struct k_pool;

/* Memory larger than any cache, of which each measurement reads the next part. */
struct machine_memory {
    char *data;
    size_t n_bytes; // at least MACHINE_READ_BYTES
    size_t at;      // where the next measurement starts
};

enum { MACHINE_READ_BYTES = 256 << 20 }; // by one measurement

/* Bytes a second that all threads of the pool (NULL: this thread) read together. */
double machine_read(struct k_pool *pool, struct machine_memory *memory);
