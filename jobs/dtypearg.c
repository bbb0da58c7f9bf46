#include "jobs/dtypearg.h"
#include "jobs/jobexit.h"

int dtypearg_parse(const char *program, const char *text, enum k_dtype *ret) {
    static const struct {
        const char *name;
        enum k_dtype dtype;
    } types[] = {
        {"f32",  K_F32 },
        {"bf16", K_BF16},
        {"f16",  K_F16 },
    };

    for (size_t i = 0; i < ARRAY_SIZE(types); i++)
        if (hai_streq(text, types[i].name)) {
            *ret = types[i].dtype;
            return 0;
        }
    return jobexit_usage(program, "--dtype is '%s'; expected f32, bf16 or f16", text);
}
