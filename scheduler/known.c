#include "scheduler/known.h"

#include "lib/pure/map.h"
#include "scheduler/cluster.h"
#include <stdio.h>

enum { NAMED_MAX = 8 };

/* Names as a hint, each once. */
struct names {
    struct map seen;
    struct buf text;
    size_t n;
};

static void add(struct names *names, const char *name) {
    if (map_get_text(&names->seen, name))
        return;
    map_put_text(&names->seen, name, names);
    if (names->n++ < NAMED_MAX)
        buf_printf(&names->text, "%s%s", names->text.n_bytes ? ", " : "", name);
}

static int unknown(struct names *names, const char *kind, const char *name, struct hai_err *err) {
    char code[32], hint[HAI_ERR_HINT_BYTES];

    if (names->n > NAMED_MAX)
        buf_printf(&names->text, " and %zu more", names->n - NAMED_MAX);
    (void)snprintf(code, sizeof code, "unknown_%s", kind);
    (void)snprintf(hint, sizeof hint, "%ss: %s", kind, names->n ? buf_cstr(&names->text) : "none");
    int r = hai_fail_at(err, -EINVAL, code, kind, hint, "there is no %s %.63s", kind, name);
    map_free(&names->seen);
    buf_free(&names->text);
    return r;
}

int known_user(const struct schedd *s, const char *name, struct hai_err *err) {
    const struct state *state = schedd_state(s);
    struct names names = {0};

    if (state_user_find(state, name))
        return 0;
    for (size_t i = 0; i < state->n_users; i++)
        add(&names, state->users[i].name);
    return unknown(&names, "user", name, err);
}

int known_team(const struct schedd *s, const char *name, struct hai_err *err) {
    const struct state *state = schedd_state(s);
    struct names names = {0};

    if (state_user_find(state, name) || cluster_has_team(&s->cluster, state, name))
        return 0;
    for (const struct job *job = state->jobs_first; job; job = job->next)
        if (!state_job_ended(job) && hai_streq(job->r.spec.team, name))
            return 0;
    for (size_t i = 0; i < state->n_users; i++)
        add(&names, cluster_team(&s->cluster, state->users[i].name));
    return unknown(&names, "team", name, err);
}

int known_group(const struct schedd *s, const char *name, struct hai_err *err) {
    const struct state *state = schedd_state(s);

    return state_group_find(state, name) >= 0 ? 0 : state_no_group(state, "group", name, err);
}
