#include "sim/tempest.h"
#include "sim/touched.h"

void tempest_look(void *tempest, enum entry_kind kind) {
    struct tempest *t = tempest;

    if (kind == ENTRY_QUOTA_SET) // one that was taken away and comes back is another one
        quota_rules_forget(&t->quotas);
    if (t->r == 0)
        tempest_note(t, touched_check(&t->world, &t->agents.shims, t->err));
    if (t->r == 0)
        tempest_note(t, quota_rules_watch(&t->quotas, t->world.state, t->err));
}

int tempest_append(void *tempest, const char *principal, enum entry_kind kind,
                   const void *payload) {
    struct tempest *t = tempest;

    return world_append(&t->world, principal, kind, payload);
}
