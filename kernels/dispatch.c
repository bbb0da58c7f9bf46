#include "kernels/kernels.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cuda/cuda.h"
#include "kernels/ref/ref.h"
#include "kernels/weight.h"

#include <stdio.h>

static const struct k_operand operands[] = {
#define K_OPERAND(op, name, dims, types, optional)                                                 \
    {K_OP_##op, #name, offsetof(struct k_##op, name), false, dims, types, optional},
#define K_WEIGHT(op, name, dims, types)                                                            \
    {K_OP_##op, #name, offsetof(struct k_##op, name), true, dims, types, false},
#include "kernels/operands.def"
#undef K_OPERAND
#undef K_WEIGHT
};

static const char *const op_names[] = {
#define X(op) #op,
    K_OPS(X)
#undef X
};

static const struct {
    const char *name;
    int n_bits;
} dtypes[] = {
#define X(name, bits) {#name, bits},
    K_DTYPES(X)
#undef X
};

static const char *const backend_names[] = {"ref", "cpu", "cuda"};

const struct k_operand *k_operands(int *ret_n) {
    *ret_n = ARRAY_SIZE(operands);
    return operands;
}

const char *k_op_name(enum k_op op) {
    assert((unsigned)op < K_OP_COUNT);
    return op_names[op];
}

const char *k_dtype_name(enum k_dtype dtype) {
    assert((unsigned)dtype < K_DTYPE_COUNT);
    return dtypes[dtype].name;
}

size_t k_dtype_bytes(enum k_dtype dtype) {
    assert((unsigned)dtype < K_DTYPE_COUNT);
    assert(dtypes[dtype].n_bits % 8 == 0);
    return (size_t)dtypes[dtype].n_bits / 8;
}

size_t k_dtype_n_bytes(enum k_dtype dtype, int64_t n_elements) {
    assert((unsigned)dtype < K_DTYPE_COUNT);
    assert(n_elements * dtypes[dtype].n_bits % 8 == 0);
    return (size_t)n_elements * (size_t)dtypes[dtype].n_bits / 8;
}

/* Is the type one of a list such as "F32 BF16"? */
static bool dtype_listed(const char *types, enum k_dtype dtype) {
    const char *name = dtypes[dtype].name;
    size_t n = strlen(name);

    for (const char *at = types; (at = strstr(at, name)); at += n)
        if ((at == types || at[-1] == ' ') && (!at[n] || at[n] == ' '))
            return true;
    return false;
}

/* A dimension against its letter; sizes[] holds what each stands for so far, -1: nothing. */
static bool size_fits(char letter, int64_t size, int64_t sizes[26]) {
    bool plus_one = letter >= 'a';
    int64_t *known = &sizes[letter - (plus_one ? 'a' : 'A')];

    size -= plus_one;
    if (size < 0 || (*known >= 0 && *known != size))
        return false;
    *known = size;
    return true;
}

/* One operand against its line. */
static bool tensor_fits(const struct k_operand *o, const struct k_tensor *t, int64_t sizes[26]) {
    if (!t->data && o->optional)
        return true;
    int n_dims = (int)strlen(o->dims);
    if (t->n_dims != n_dims || (unsigned)t->dtype >= K_DTYPE_COUNT ||
        !dtype_listed(o->dtypes, t->dtype) || t->stride[n_dims - 1] != 1)
        return false;
    int64_t n_elements = 1;
    for (int d = 0; d < n_dims; d++) {
        if (!size_fits(o->dims[d], t->shape[d], sizes))
            return false;
        n_elements *= t->shape[d];
    }
    return t->data || n_elements == 0;
}

static bool weight_fits(const struct k_operand *o, const struct k_weight *w, int64_t sizes[26]) {
    return w && dtype_listed(o->dtypes, w->dtype) && size_fits(o->dims[0], w->n_groups, sizes) &&
           size_fits(o->dims[1], w->n_out, sizes) && size_fits(o->dims[2], w->n_in, sizes);
}

static int check(enum k_op op, const void *a) {
    int64_t sizes[26];

    for (int i = 0; i < 26; i++)
        sizes[i] = -1;
    for (size_t i = 0; i < ARRAY_SIZE(operands); i++) {
        if (operands[i].op != op)
            continue;
        const void *operand = (const char *)a + operands[i].offset;
        if (operands[i].weight
                ? !weight_fits(&operands[i], *(const struct k_weight *const *)operand, sizes)
                : !tensor_fits(&operands[i], operand, sizes))
            return -EINVAL;
    }
    return 0;
}

_Static_assert(K_OP_COUNT <= 64, "k_ctx.fallback_told has a bit for each");

static void tell_fallback(struct k_ctx *ctx, enum k_op op) {
    uint64_t bit = 1ull << op;

    if (ctx->fallback_told & bit)
        return;
    ctx->fallback_told |= bit;
    if (ctx->on_fallback)
        ctx->on_fallback(ctx->userdata, op_names[op], ctx->path);
}

#define X(op)                                                                                      \
    size_t k_##op##_workspace(const struct k_ctx *ctx, const struct k_##op *a) {                   \
        const struct k_table *t = ctx->table->op ? ctx->table : &k_ref_table;                      \
        return t->op##_workspace ? t->op##_workspace(ctx, a) : 0;                                  \
    }                                                                                              \
    int k_##op(struct k_ctx *ctx, const struct k_##op *a) {                                        \
        int r = check(K_OP_##op, a);                                                               \
        if (r < 0)                                                                                 \
            return r;                                                                              \
        size_t n_bytes = k_##op##_workspace(ctx, a);                                               \
        if (ctx->measuring) {                                                                      \
            ctx->measured_bytes = MAX(ctx->measured_bytes, n_bytes);                               \
            return 0;                                                                              \
        }                                                                                          \
        if (n_bytes > ctx->workspace_bytes)                                                        \
            return -EINVAL;                                                                        \
        r = ctx->table->op ? ctx->table->op(ctx, a) : -ENOTSUP;                                    \
        if (r != -ENOTSUP || ctx->table == &k_ref_table || ctx->table->device)                     \
            return r;                                                                              \
        tell_fallback(ctx, K_OP_##op);                                                             \
        return k_ref_table.op(ctx, a);                                                             \
    }
K_OPS(X)
#undef X

int k_backend_parse(const char *text, enum k_backend *ret, struct hai_err *err) {
    for (int i = 0; i < K_BACKEND_COUNT; i++)
        if (hai_streq(text, backend_names[i])) {
            *ret = (enum k_backend)i;
            return 0;
        }
    return hai_fail(err, -EINVAL, "backend is %s; expected ref, cpu or cuda", text);
}

int k_ctx_init(struct k_ctx *ctx, enum k_backend backend, const char *path, struct hai_err *err) {
    const struct k_table *table = &k_ref_table;

    assert(ctx);
    if (backend == K_BACKEND_CUDA) {
        int r = k_cuda_table(path, &table, err);
        if (r < 0)
            return r;
    }
    if (backend == K_BACKEND_CPU) {
        table = k_cpu_table(path);
        if (!table && path)
            return hai_fail(err, -ENOTSUP,
                            "kernel path %s: not one of this processor's (avx2, avx512, amx)",
                            path);
        if (!table)
            table = &k_ref_table; /* no AVX2: everything falls back */
    }
    *ctx = (struct k_ctx){.backend = backend, .table = table, .path = table->path};
    return 0;
}

struct k_tensor k_tensor_1d(void *data, enum k_dtype dtype, int64_t n0) {
    return (struct k_tensor){
        .data = data, .dtype = dtype, .n_dims = 1, .shape = {n0}, .stride = {1}};
}

struct k_tensor k_tensor_2d(void *data, enum k_dtype dtype, int64_t n0, int64_t n1) {
    return (struct k_tensor){
        .data = data, .dtype = dtype, .n_dims = 2, .shape = {n0, n1},
                   .stride = {n1, 1 }
    };
}

struct k_tensor k_tensor_3d(void *data, enum k_dtype dtype, int64_t n0, int64_t n1, int64_t n2) {
    return (struct k_tensor){
        .data = data,
        .dtype = dtype,
        .n_dims = 3,
        .shape = {n0,      n1, n2},
        .stride = {n1 * n2, n2, 1 }
    };
}

int64_t k_tensor_n_elements(const struct k_tensor *t) {
    int64_t n = 1;

    for (int d = 0; d < t->n_dims; d++)
        n *= t->shape[d];
    return n;
}
