#include "jobs/modelargs.h"
#include "engine/model/model.h"
#include "jobs/jobexit.h"

#include <math.h>
#include <sched.h>
#include <stdio.h>

int modelargs_backend(const char *program, const char *text, enum k_backend *ret) {
    if (k_backend_parse(text, ret, NULL) < 0)
        return jobexit_usage(program, "--backend is '%s'; expected ref, cpu or cuda", text);
    if (*ret == K_BACKEND_CUDA) {
        fprintf(stderr, "%s: --backend cuda: not built\n", program);
        return JOBEXIT_FAILED;
    }
    return 0;
}

int modelargs_dtype(const char *program, const char *text, enum generate_dtype *ret) {
    if (!hai_streq(text, "f32") && !hai_streq(text, "bf16"))
        return jobexit_usage(program, "--dtype is '%s'; expected f32 or bf16", text);
    *ret = hai_streq(text, "f32") ? GENERATE_F32 : GENERATE_BF16;
    return 0;
}

int modelargs_cache_dtype(const char *program, const char *text, enum k_dtype *ret) {
    static const struct {
        const char *name;
        enum k_dtype dtype;
    } known[] = {
        {"f32",  K_F32 },
        {"f16",  K_F16 },
        {"bf16", K_BF16}
    };

    for (size_t i = 0; i < ARRAY_SIZE(known); i++)
        if (hai_streq(text, known[i].name)) {
            *ret = known[i].dtype;
            return 0;
        }
    return jobexit_usage(program, "--cache-dtype is '%s'; expected f32, f16 or bf16", text);
}

int modelargs_threads(void) {
    cpu_set_t mine;

    // It fails where the machine has more processors than the set has room for.
    if (sched_getaffinity(0, sizeof mine, &mine) < 0)
        return MODEL_THREADS_MAX;
    return MIN(CPU_COUNT(&mine), (int)MODEL_THREADS_MAX);
}

int modelargs_token_ids(const char *program, const char *text, struct token_list *ret) {
    ret->n = 0;
    for (const char *p = text;;) {
        char *end;
        p += strspn(p, " ,\t\n");
        if (!*p)
            break;
        errno = 0;
        long v = strtol(p, &end, 10);
        if (end == p || errno || v < 0 || v > INT32_MAX || (*end && !strchr(" ,\t\n", *end)))
            return jobexit_usage(program, "--token-ids has '%.20s'; expected whole numbers from 0",
                                 p);
        token_list_add(ret, (int32_t)v);
        p = end;
    }
    return ret->n ? 0 : jobexit_usage(program, "--token-ids is empty; expected at least one id");
}

int modelargs_number(const char *program, const char *option, const char *text, double low,
                     double high, bool whole, double *ret) {
    char *end;

    errno = 0;
    *ret = strtod(text, &end);
    if (end == text || *end || errno || !(*ret >= low && *ret <= high) ||
        (whole && *ret != floor(*ret)))
        return jobexit_usage(program, "%s is '%s'; expected a %snumber from %.10g to %.10g", option,
                             text, whole ? "whole " : "", low, high);
    return 0;
}
