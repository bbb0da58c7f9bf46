#include "wire/messages.h"

DEFINE_ENUM(job_kind, JOB_KIND, JOB_KINDS);
DEFINE_ENUM(stream_kind, STREAM_KIND, STREAM_KINDS);

// clang-format off
#include "lib/pure/schema_tables.h"
#include "wire/messages.def"
#include "lib/pure/schema_undef.h"

#define SCHEMA(name, doc, ...) name##_schema,
static const struct schema *(*const list[])(void) = {
#include "wire/messages.def"
};
// clang-format on

const struct schema *const *messages_all(int *ret_n) {
    static const struct schema *all[ARRAY_SIZE(list)];

    for (size_t i = 0; i < ARRAY_SIZE(list); i++)
        all[i] = list[i]();
    *ret_n = ARRAY_SIZE(list);
    return all;
}
