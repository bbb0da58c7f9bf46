#include "scheduler/core/entry.h"

DEFINE_ENUM(scope, SCOPE, SCOPES);
DEFINE_ENUM(after_want, AFTER, AFTER_WANTS);
DEFINE_ENUM(job_move, JOB_MOVE, JOB_MOVES);
DEFINE_ENUM(quota_holder, QUOTA_HOLDER, QUOTA_HOLDERS);

// clang-format off
#include "lib/pure/schema_tables.h"
ENTRY_SCHEMAS
#include "lib/pure/schema_undef.h"
// clang-format on

static const struct {
    const char *text;
    const struct schema *(*schema)(void);
    int version;
} kinds[] = {
#define ENTRY_ROW_(suffix, tag, version) [ENTRY_##suffix] = {#tag, tag##_schema, version},
    ENTRY_KINDS(ENTRY_ROW_)
#undef ENTRY_ROW_
};

static bool known(int kind) {
    return kind > ENTRY_NONE && kind < ENTRY_COUNT;
}

const struct schema *entry_schema(int kind) {
    return known(kind) ? kinds[kind].schema() : NULL;
}

int entry_version(int kind) {
    return known(kind) ? kinds[kind].version : 0;
}

const char *entry_kind_text(int kind) {
    return known(kind) ? kinds[kind].text + strlen("entry_") : "?";
}

int entry_kind_parse(const char *text) {
    for (int kind = ENTRY_NONE + 1; kind < ENTRY_COUNT; kind++)
        if (hai_streq(entry_kind_text(kind), text))
            return kind;
    return -EINVAL;
}

enum scope entry_principal(const char *principal, const char **ret_name) {
    const char *colon = principal ? strchr(principal, ':') : NULL;

    *ret_name = "";
    if (!colon)
        return SCOPE_NONE;
    *ret_name = colon + 1;
    size_t n = (size_t)(colon - principal);
    for (int s = SCOPE_NONE + 1; s < SCOPE_COUNT; s++) {
        const char *text = scope_text(s);
        if (!strncmp(text, principal, n) && !text[n])
            return s;
    }
    return SCOPE_NONE;
}
