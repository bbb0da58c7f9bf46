#include "kernels/ref/ref.h"

const struct k_table k_ref_table = {.path = "ref",
#define X(op) .op = k_ref_##op,
                                    K_OPS(X)
#undef X
                                        .attention_expand_workspace =
                                        k_ref_attention_expand_workspace};
